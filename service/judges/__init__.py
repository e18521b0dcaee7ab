"""Judges and their immutable revisions."""
