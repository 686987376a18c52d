"""Make the keys of a federation and look after them: for TLS, and for nodes that prove who they are."""
