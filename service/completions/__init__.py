"""Sampled completions with their cells and arithmetic."""
