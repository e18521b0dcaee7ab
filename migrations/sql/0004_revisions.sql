-- Revisions of completions, and pairs that a judge labels: requests are leased like gradings, and every outcome is kept.

ALTER TABLE gradings DROP CONSTRAINT gradings_purpose_check;
ALTER TABLE gradings ADD CONSTRAINT gradings_purpose_check
    CHECK (purpose IN ('grading', 'try', 'revision', 'labelling'));
CREATE INDEX gradings_revisions_page ON gradings (project_id, purpose, id) WHERE purpose IN ('revision', 'labelling');

-- A revision's group is `asked` while its reviser writes, and `compared` while what was written is graded.
ALTER TABLE grading_groups DROP CONSTRAINT grading_groups_status_check;
ALTER TABLE grading_groups ADD CONSTRAINT grading_groups_status_check
    CHECK (status IN ('waiting', 'asked', 'compared', 'done'));

ALTER TABLE completions ADD COLUMN revision_of text;

-- What became of each: accepted, or rejected with a reason. The rows that it gives to datasets stand here until (and after) they
-- are published. Null rewards: something had no score.
CREATE TABLE revision_results (
    id text PRIMARY KEY,
    project_id text NOT NULL REFERENCES projects (id),
    request_id text REFERENCES gradings (id) ON DELETE CASCADE,
    job_id text REFERENCES jobs (id),
    fence bigint NOT NULL,
    attempt integer NOT NULL,
    step integer NOT NULL,
    position integer NOT NULL,
    kind text NOT NULL CHECK (kind IN ('revision', 'group_pair', 'label')),
    original_id text NOT NULL,
    better_id text,
    accepted boolean NOT NULL,
    reason text,
    message text,
    original_reward double precision,
    better_reward double precision,
    difference double precision,
    standard_error double precision,
    threshold double precision,
    data jsonb NOT NULL,
    preference jsonb,
    demonstration jsonb,
    published_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (num_nonnulls(request_id, job_id) = 1),
    CHECK (accepted = (reason IS NULL)),
    CHECK (accepted OR (preference IS NULL AND demonstration IS NULL))
);
CREATE UNIQUE INDEX revision_results_request ON revision_results (request_id, position) WHERE request_id IS NOT NULL;
CREATE INDEX revision_results_job ON revision_results (job_id, step, position, id) WHERE job_id IS NOT NULL;
