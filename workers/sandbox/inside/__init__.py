"""What runs in the launcher and behind its walls: the standard library alone, started with `python -I -S`."""
