-- Terminal states and versions stay as they are.

CREATE FUNCTION grape_keep_terminal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.status IN ('succeeded', 'failed', 'cancelled')
       AND (NEW.status, NEW.error, NEW.result, NEW.finished_at, NEW.fence)
           IS DISTINCT FROM (OLD.status, OLD.error, OLD.result, OLD.finished_at, OLD.fence) THEN
        RAISE EXCEPTION 'job % is %, and a terminal state never changes', OLD.id, OLD.status
            USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.fence < OLD.fence OR NEW.event_seq < OLD.event_seq THEN
        RAISE EXCEPTION 'the fence and the event sequence of job % never go back', OLD.id
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER keep_terminal BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION grape_keep_terminal();
CREATE FUNCTION grape_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% rows never change', TG_TABLE_NAME USING ERRCODE = 'check_violation';
END $$;
