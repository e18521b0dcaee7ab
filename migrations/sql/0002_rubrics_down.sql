ALTER TABLE rubric_versions DROP COLUMN resolved;
