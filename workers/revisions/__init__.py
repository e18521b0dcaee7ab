"""From critiques to training data: revisions asked for, graded afresh beside their originals, kept if better (grape.md §7)."""
