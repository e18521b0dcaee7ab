-- What judges were asked and what that cost, and calls that are set aside before they are made.

-- Null in rows of earlier releases: nobody counted.
ALTER TABLE cells ADD COLUMN calls integer, ADD COLUMN cost_usd double precision,
    ADD COLUMN tokens_estimated boolean NOT NULL DEFAULT false;

-- A row per owner (a job, a grading, or the judge itself: everybody together), judge and writer (a worker's account). Each
-- writer writes what it has counted in all, so that writing twice counts once; who wants to know adds the writers up.
CREATE TABLE judge_spending (
    owner_id text NOT NULL,
    judge_id text NOT NULL REFERENCES judges (id),
    writer text NOT NULL,
    project_id text NOT NULL REFERENCES projects (id),
    calls bigint NOT NULL,
    estimated bigint NOT NULL,
    tokens_in bigint NOT NULL,
    tokens_out bigint NOT NULL,
    cost_usd double precision,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (owner_id, judge_id, writer)
);
-- What a worker has set aside of an owner's and a judge's budgets, until its lease ends.
CREATE TABLE judge_reservations (
    owner_id text NOT NULL,
    judge_id text NOT NULL REFERENCES judges (id),
    worker_id text NOT NULL,
    process text,
    calls bigint NOT NULL CHECK (calls >= 0),
    cost_usd double precision NOT NULL CHECK (cost_usd >= 0),
    timeout_s double precision NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (owner_id, judge_id, worker_id)
);
CREATE INDEX judge_reservations_judge ON judge_reservations (judge_id);
