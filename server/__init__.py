"""Process folder of the server. A package, so that no other `server` on the path shadows it."""
