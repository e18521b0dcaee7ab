-- The application's role reads and writes rows; it owns nothing, and never changes what is immutable.

DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'grape_app') THEN
        CREATE ROLE grape_app NOLOGIN;
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'no role grape_app: everything runs as the owner';
END $$;
DO $$
DECLARE frozen text;
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'grape_app') THEN
        GRANT USAGE ON SCHEMA public TO grape_app;
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO grape_app;
        ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO grape_app;
        FOREACH frozen IN ARRAY ARRAY['rubric_versions', 'judge_revisions', 'dataset_batches', 'dataset_rows',
                                      'job_events'] LOOP
            EXECUTE format('REVOKE UPDATE, DELETE ON %I FROM grape_app', frozen);
        END LOOP;
    END IF;
END $$;
