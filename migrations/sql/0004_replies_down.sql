DROP TRIGGER drop_replies ON cells;
DROP FUNCTION grape_drop_replies();
DROP TABLE endpoint_abilities;
DROP TABLE judge_replies;
ALTER TABLE cells DROP COLUMN replies_id;
CREATE OR REPLACE FUNCTION grape_make_partitions(ahead integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    parent text;
    month date;
    made integer := 0;
BEGIN
    FOREACH parent IN ARRAY ARRAY['completions', 'cells', 'job_metrics', 'job_events', 'job_logs'] LOOP
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
