"""Rubric contents as authors write them: what they resolve to, and what is refused before they are published or tried."""
