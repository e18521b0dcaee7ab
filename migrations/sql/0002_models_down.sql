DROP INDEX cell_batches_claim;
ALTER TABLE cell_batches DROP COLUMN queue;
CREATE INDEX cell_batches_claim ON cell_batches (priority DESC, created_at, id) WHERE status <> 'done';
ALTER TABLE models DROP CONSTRAINT models_kind;
ALTER TABLE models DROP COLUMN normalisation, DROP COLUMN head_revision;
