"""Judges held against people: agreement, calibrations of their confidence."""
