-- Judges asked by many workers: shared limits per endpoint, and cells that are known already.

ALTER TABLE cells ADD COLUMN reply_format text, ADD COLUMN unasked integer NOT NULL DEFAULT 0;
