"""Models: registered with the hashes of their files."""
