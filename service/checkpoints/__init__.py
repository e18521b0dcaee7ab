"""Checkpoints: manifests, files, promotion to models."""
