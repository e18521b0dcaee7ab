"""Datasets: rows in published batches."""
