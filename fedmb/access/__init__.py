"""Who comes in: keys and certificates, the nodes' door before Flower's server, and the knock by which a client asks."""
