-- Gradings: texts, rows or stored completions graded by a rubric version, without a job.

ALTER TABLE cells ADD COLUMN steps jsonb;
