"""Rubrics: heads, immutable versions, aliases."""
