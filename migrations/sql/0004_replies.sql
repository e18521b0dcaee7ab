-- What judges replied, word for word, and what their endpoints can do.

-- A row has everything that was replied to one question: by every vote and attempt, on a step criterion for every step. The cells
-- that share the question name it; so do cells of the cache, and completions that are aggregated anew have no rows of their own.
CREATE TABLE judge_replies (
    id text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    project_id text NOT NULL,
    job_id text,
    grading_id text,
    judge_id text NOT NULL,
    judge_revision integer NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (id, created_at),
    CHECK (num_nonnulls(job_id, grading_id) = 1)
) PARTITION BY RANGE (created_at);
CREATE TABLE judge_replies_default PARTITION OF judge_replies DEFAULT;
ALTER TABLE judge_replies ALTER COLUMN body SET STORAGE EXTERNAL;  -- the writer has compressed it
CREATE INDEX judge_replies_created ON judge_replies (created_at);

ALTER TABLE cells ADD COLUMN replies_id text;
CREATE INDEX cells_replies ON cells (replies_id) WHERE replies_id IS NOT NULL;
CREATE INDEX cells_agreement ON cells (judge_id, created_at) WHERE votes > 1 AND replies_id IS NOT NULL;

-- Replies go with the last cell that names them.
CREATE FUNCTION grape_drop_replies() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM judge_replies r
    WHERE r.id IN (SELECT g.replies_id FROM gone g WHERE g.replies_id IS NOT NULL)
      AND NOT EXISTS (SELECT FROM cells c WHERE c.replies_id = r.id);
    RETURN NULL;
END $$;
CREATE TRIGGER drop_replies AFTER DELETE ON cells REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION grape_drop_replies();

-- What asking an endpoint's model has shown: name of an ability -> whether it is there.
CREATE TABLE endpoint_abilities (
    project_id text NOT NULL REFERENCES projects (id),
    base_url text NOT NULL,
    model text NOT NULL,
    learned jsonb NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (project_id, base_url, model)
);

CREATE OR REPLACE FUNCTION grape_make_partitions(ahead integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    parent text;
    month date;
    made integer := 0;
BEGIN
    FOREACH parent IN ARRAY ARRAY['completions', 'cells', 'judge_replies', 'job_metrics', 'job_events', 'job_logs'] LOOP
        FOR n IN 0..ahead LOOP
            month := (date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => n))::date;
            IF to_regclass(format('%I', parent || to_char(month, '_YYYY_MM'))) IS NULL THEN
                BEGIN
                    EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)',
                                   parent || to_char(month, '_YYYY_MM'), parent,
                                   month::timestamp AT TIME ZONE 'UTC',
                                   (month + interval '1 month')::timestamp AT TIME ZONE 'UTC');
                    made := made + 1;
                EXCEPTION WHEN check_violation THEN
                    RAISE WARNING 'rows of % for % stay in the default partition', parent, month;
                END;
            END IF;
        END LOOP;
    END LOOP;
    RETURN made;
END $$;
SELECT grape_make_partitions(12);
