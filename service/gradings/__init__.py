"""Gradings: texts, dataset rows and stored completions graded by a rubric version, without a job; and `try`."""
