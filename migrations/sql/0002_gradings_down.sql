-- What belongs to gradings goes with them; what belongs to jobs stays.

DELETE FROM cells WHERE grading_id IS NOT NULL;
ALTER TABLE cells DROP CONSTRAINT cells_owner;
ALTER TABLE cells DROP COLUMN grading_id;
ALTER TABLE cells ALTER COLUMN job_id SET NOT NULL;
DELETE FROM completions WHERE grading_id IS NOT NULL;
ALTER TABLE completions DROP CONSTRAINT completions_owner;
ALTER TABLE completions DROP CONSTRAINT completions_position;
ALTER TABLE completions DROP COLUMN imputed, DROP COLUMN grading_id, DROP COLUMN position, DROP COLUMN source_id, DROP COLUMN cells_of,
    DROP COLUMN cells_created_at, DROP COLUMN reused;
ALTER TABLE completions ALTER COLUMN finish_reason SET NOT NULL;
ALTER TABLE completions ALTER COLUMN job_id SET NOT NULL;
DELETE FROM cell_batches WHERE grading_id IS NOT NULL;
DROP INDEX cell_batches_claim;
ALTER TABLE cell_batches DROP CONSTRAINT cell_batches_owner;
ALTER TABLE cell_batches DROP COLUMN grading_id, DROP COLUMN priority;
ALTER TABLE cell_batches ALTER COLUMN job_id SET NOT NULL;
CREATE INDEX cell_batches_claim ON cell_batches (created_at, id) WHERE status <> 'done';
DROP TABLE grading_groups;
DROP TABLE grading_items;
DROP TABLE gradings;
DROP FUNCTION grape_keep_grading();
ALTER TABLE cells DROP COLUMN steps;
