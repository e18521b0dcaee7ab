-- Reward models: the constants that turn their outputs into scores. Name and constants may change, hence the ETag's revision.

ALTER TABLE models ADD COLUMN normalisation jsonb;
ALTER TABLE models ADD COLUMN head_revision integer NOT NULL DEFAULT 1;
ALTER TABLE models ADD CONSTRAINT models_kind CHECK (kind IN ('policy', 'reward'));

-- Cells that a model of this machine grades wait for the workers that hold such models.
ALTER TABLE cell_batches ADD COLUMN queue text NOT NULL DEFAULT 'grading';
DROP INDEX cell_batches_claim;
CREATE INDEX cell_batches_claim ON cell_batches (queue, priority DESC, created_at, id) WHERE status <> 'done';
