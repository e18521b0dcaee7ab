"""Revisions of stored completions, and pairs that a judge labels."""
