"""Gradings without a job: texts into groups, groups to their cells and numbers, or numbers from stored cells."""
