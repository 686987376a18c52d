"""Records in, mini-batches out: logs, codecs, assembly, dead letters."""
