-- Judges asked by many workers: shared limits per endpoint, and cells that are known already.

ALTER TABLE cells ADD COLUMN reply_format text, ADD COLUMN unasked integer NOT NULL DEFAULT 0;

-- An endpoint is an address, a model and a key. Its row says what it takes now: a ceiling after a 429 (and when it was cut),
-- a hold, and from when on the next paced request may start.
CREATE TABLE judge_endpoints (
    id text PRIMARY KEY,
    base_url text NOT NULL,
    model text NOT NULL,
    ceiling double precision,
    cut_at timestamptz,
    held_until timestamptz,
    requests_at timestamptz,
    tokens_at timestamptz,
    used_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
-- What each worker may have in flight there, until the lease ends.
CREATE TABLE judge_shares (
    endpoint_id text NOT NULL REFERENCES judge_endpoints (id) ON DELETE CASCADE,
    worker_id text NOT NULL,
    process text,
    concurrency integer NOT NULL,
    timeout_s double precision NOT NULL,
    demand integer NOT NULL,
    slots integer NOT NULL CHECK (slots >= 0),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (endpoint_id, worker_id)
);

-- Cells that are known already, by everything that they depend on. Never failures.
CREATE TABLE cell_cache (
    project_id text NOT NULL REFERENCES projects (id),
    key bytea NOT NULL,
    cell jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (project_id, key)
);
CREATE INDEX cell_cache_age ON cell_cache (created_at);
