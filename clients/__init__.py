"""Process folder of a client. A package, so that no other `clients` on the path shadows it."""
