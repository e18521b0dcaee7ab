-- What a version resolves to once its includes are flattened: that is what is hashed and graded by. Null: the content itself.

ALTER TABLE rubric_versions ADD COLUMN resolved jsonb;
