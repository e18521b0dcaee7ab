"""Formats of other projects: rows of datasets (`rows`) and rubrics (`rubrics`), read into ours and written back."""
