-- Gradings: texts, rows or stored completions graded by a rubric version, without a job.

ALTER TABLE cells ADD COLUMN steps jsonb;

CREATE TABLE gradings (
    id text PRIMARY KEY,
    project_id text NOT NULL REFERENCES projects (id),
    purpose text NOT NULL CHECK (purpose IN ('grading', 'try')),
    status text NOT NULL CHECK (status IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    status_reason text,
    error jsonb,
    source jsonb NOT NULL,
    resolved jsonb NOT NULL,
    reuse_cells boolean NOT NULL DEFAULT false,
    expanded integer NOT NULL DEFAULT 0,
    planned boolean NOT NULL DEFAULT false,
    cells integer,
    done integer NOT NULL DEFAULT 0,
    failed integer NOT NULL DEFAULT 0,
    summary jsonb,
    result jsonb,
    fence bigint NOT NULL DEFAULT 0,
    failures integer NOT NULL DEFAULT 0,
    worker_id text,
    lease_expires_at timestamptz,
    next_run_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at timestamptz,
    finished_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK ((finished_at IS NOT NULL) = (status IN ('succeeded', 'failed', 'cancelled'))),
    CHECK ((error IS NOT NULL) = (status = 'failed'))
);
CREATE INDEX gradings_page ON gradings (project_id, id) WHERE purpose = 'grading';
CREATE INDEX gradings_claim ON gradings (created_at, id) WHERE status IN ('queued', 'running');
CREATE INDEX gradings_tries ON gradings (created_at) WHERE purpose = 'try';

-- What is graded, in input order: a text of its own, or a stored completion's.
CREATE TABLE grading_items (
    grading_id text NOT NULL REFERENCES gradings (id) ON DELETE CASCADE,
    position integer NOT NULL,
    project_id text NOT NULL REFERENCES projects (id),
    group_key text NOT NULL,
    prompt jsonb,
    text text,
    completion_id text,
    completion_created_at timestamptz,
    PRIMARY KEY (grading_id, position),
    CHECK ((completion_id IS NULL) = (text IS NOT NULL AND prompt IS NOT NULL)),
    CHECK ((completion_id IS NULL) = (completion_created_at IS NULL))
);
CREATE INDEX grading_items_group ON grading_items (grading_id, group_key, position);
CREATE TABLE grading_groups (
    grading_id text NOT NULL REFERENCES gradings (id) ON DELETE CASCADE,
    number integer NOT NULL,
    project_id text NOT NULL REFERENCES projects (id),
    group_key text NOT NULL,
    size integer NOT NULL,
    status text NOT NULL CHECK (status IN ('waiting', 'asked', 'done')),
    PRIMARY KEY (grading_id, number)
);
CREATE INDEX grading_groups_open ON grading_groups (grading_id, status, number) WHERE status <> 'done';

CREATE FUNCTION grape_keep_grading() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.status IN ('succeeded', 'failed', 'cancelled')
       AND (NEW.status, NEW.error, NEW.summary, NEW.result, NEW.finished_at, NEW.fence)
           IS DISTINCT FROM (OLD.status, OLD.error, OLD.summary, OLD.result, OLD.finished_at, OLD.fence) THEN
        RAISE EXCEPTION 'grading % is %, and a terminal state never changes', OLD.id, OLD.status
            USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.fence < OLD.fence THEN
        RAISE EXCEPTION 'the fence of grading % never goes back', OLD.id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER keep_grading BEFORE UPDATE ON gradings FOR EACH ROW EXECUTE FUNCTION grape_keep_grading();

-- Batches of judged cells belong to a job or to a grading; people who wait for a `try` go first.
ALTER TABLE cell_batches ALTER COLUMN job_id DROP NOT NULL;
ALTER TABLE cell_batches ADD COLUMN grading_id text REFERENCES gradings (id) ON DELETE CASCADE;
ALTER TABLE cell_batches ADD COLUMN priority smallint NOT NULL DEFAULT 0;
ALTER TABLE cell_batches ADD CONSTRAINT cell_batches_owner CHECK (num_nonnulls(job_id, grading_id) = 1);
ALTER TABLE cell_batches ADD CONSTRAINT cell_batches_grading_id_key_key UNIQUE (grading_id, key);
DROP INDEX cell_batches_claim;
CREATE INDEX cell_batches_claim ON cell_batches (priority DESC, created_at, id) WHERE status <> 'done';

-- So do completions and cells. A completion that was aggregated anew has no cells of its own: `cells_of` names whose they
-- are, and `reused` which of them count.
ALTER TABLE completions ALTER COLUMN job_id DROP NOT NULL;
ALTER TABLE completions ALTER COLUMN finish_reason DROP NOT NULL;
ALTER TABLE completions ADD COLUMN imputed jsonb NOT NULL DEFAULT '{}';
ALTER TABLE completions ADD COLUMN grading_id text;
ALTER TABLE completions ADD COLUMN position integer;
ALTER TABLE completions ADD COLUMN source_id text;
ALTER TABLE completions ADD COLUMN cells_of text;
ALTER TABLE completions ADD COLUMN cells_created_at timestamptz;
ALTER TABLE completions ADD COLUMN reused text[];
ALTER TABLE completions ADD CONSTRAINT completions_owner CHECK (num_nonnulls(job_id, grading_id) = 1);
ALTER TABLE completions ADD CONSTRAINT completions_position CHECK ((grading_id IS NULL) = (position IS NULL));
CREATE INDEX completions_grading ON completions (grading_id, position) WHERE grading_id IS NOT NULL;
ALTER TABLE cells ALTER COLUMN job_id DROP NOT NULL;
ALTER TABLE cells ADD COLUMN grading_id text;
ALTER TABLE cells ADD CONSTRAINT cells_owner CHECK (num_nonnulls(job_id, grading_id) = 1);
CREATE INDEX cells_critique_grading ON cells (grading_id, critique_id)
    WHERE critique_id IS NOT NULL AND grading_id IS NOT NULL;
