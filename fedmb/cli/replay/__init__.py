"""Replay tables for many processes: one file for each word that may follow `fedmb replay`."""
