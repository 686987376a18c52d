"""Streams that clients learn from: one file for each word that may follow `fedmb stream`."""
