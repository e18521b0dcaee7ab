-- What people say of completions: scores and critiques; and what is made of it: calibrations of judges.

-- The current score of one person on one criterion of one text, and those that it has replaced. `subject_id` is the completion
-- that the text was first stored as, so that the label counts wherever the text is graded again; `question` is the hash of what
-- was asked, so that it counts under another version of the rubric with the same words.
CREATE TABLE labels (
    id text PRIMARY KEY,
    project_id text NOT NULL REFERENCES projects (id),
    completion_id text NOT NULL,
    completion_created_at timestamptz NOT NULL,
    subject_id text NOT NULL,
    rubric_id text NOT NULL,
    rubric_version integer NOT NULL,
    criterion text NOT NULL,
    question text NOT NULL,
    person text NOT NULL,
    score double precision CHECK (score >= 0 AND score <= 1),
    blind boolean NOT NULL,
    comment text,
    evidence jsonb NOT NULL,
    corrects text,
    key_id text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    replaced_at timestamptz
);
CREATE UNIQUE INDEX labels_current ON labels (project_id, subject_id, question, person) WHERE replaced_at IS NULL;
CREATE INDEX labels_completion ON labels (completion_id);
CREATE INDEX labels_page ON labels (project_id, id);

-- What people wrote; what judges wrote stands in their cells.
CREATE TABLE critiques (
    id text PRIMARY KEY,
    project_id text NOT NULL REFERENCES projects (id),
    completion_id text NOT NULL,
    completion_created_at timestamptz NOT NULL,
    job_id text,
    grading_id text,
    criterion text NOT NULL,
    text text NOT NULL,
    evidence jsonb NOT NULL,
    score double precision CHECK (score >= 0 AND score <= 1),
    person text NOT NULL,
    corrects text,
    key_id text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX critiques_page ON critiques (project_id, id);
CREATE INDEX critiques_completion ON critiques (completion_id);

-- Of judges' and people's critiques alike.
CREATE TABLE critique_ratings (
    critique_id text NOT NULL,
    person text NOT NULL,
    project_id text NOT NULL REFERENCES projects (id),
    rating smallint NOT NULL CHECK (rating IN (-1, 1)),
    comment text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (critique_id, person)
);
CREATE TABLE hidden_critiques (
    critique_id text PRIMARY KEY,
    project_id text NOT NULL REFERENCES projects (id),
    reason text,
    key_id text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- How much a revision of a judge is to be believed when it says how sure it is. Never changed: another fit is another version.
CREATE TABLE calibrations (
    id text PRIMARY KEY,
    project_id text NOT NULL REFERENCES projects (id),
    judge_id text NOT NULL,
    revision integer NOT NULL,
    version integer NOT NULL,
    method text NOT NULL CHECK (method IN ('isotonic', 'temperature', 'none')),
    labels integer NOT NULL,
    curves jsonb NOT NULL,
    report jsonb NOT NULL,
    author text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (judge_id, version),
    FOREIGN KEY (judge_id, revision) REFERENCES judge_revisions (judge_id, revision)
);

-- What the judge had said before its calibration, and which calibration that was; null without one.
ALTER TABLE cells ADD COLUMN stated_confidence double precision, ADD COLUMN calibration_id text,
    ADD COLUMN calibration_version integer;
CREATE INDEX completions_source ON completions (source_id) WHERE source_id IS NOT NULL;
CREATE TRIGGER keep_calibrations BEFORE UPDATE OR DELETE ON calibrations
    FOR EACH ROW EXECUTE FUNCTION grape_refuse_change();

-- Criteria that a model drafts are asked for, and checked, like everything else that judges are asked.
ALTER TABLE gradings DROP CONSTRAINT gradings_purpose_check;
ALTER TABLE gradings ADD CONSTRAINT gradings_purpose_check
    CHECK (purpose IN ('grading', 'try', 'revision', 'labelling', 'drafting'));
CREATE INDEX gradings_drafts_page ON gradings (project_id, (source ->> 'rubric'), id) WHERE purpose = 'drafting';

-- Which drafts have become criteria: a request that has ended never changes.
CREATE TABLE accepted_drafts (
    request_id text NOT NULL REFERENCES gradings (id) ON DELETE CASCADE,
    draft text NOT NULL,
    rubric_id text NOT NULL REFERENCES rubrics (id),
    version integer NOT NULL,
    criterion text NOT NULL,
    project_id text NOT NULL REFERENCES projects (id),
    override text,
    key_id text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (request_id, draft, version)
);
