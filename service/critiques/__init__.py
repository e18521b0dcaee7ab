"""Critiques by judges and people, labels, and what is worth labelling."""
