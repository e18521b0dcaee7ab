"""Functions that return statements. Nothing here runs one."""
