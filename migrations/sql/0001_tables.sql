-- The first tables: tenants, what people author, jobs, and what grows (partitioned by time).

CREATE TABLE projects (
    id text PRIMARY KEY,
    name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE api_keys (
    id text PRIMARY KEY,
    project_id text NOT NULL REFERENCES projects (id),
    name text NOT NULL,
    prefix text NOT NULL,
    hash text NOT NULL UNIQUE,
    scopes text[] NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX api_keys_page ON api_keys (project_id, id);
CREATE TABLE idempotency_keys (
    project_id text NOT NULL REFERENCES projects (id),
    method text NOT NULL,
    path text NOT NULL,
    key text NOT NULL,
    body_hash text NOT NULL,
    status integer NOT NULL,
    headers jsonb NOT NULL,
    body bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (project_id, method, path, key)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);

CREATE TABLE rubrics (
    id text PRIMARY KEY,
    project_id text NOT NULL REFERENCES projects (id),
    name text NOT NULL,
    category text,
    description text NOT NULL DEFAULT '',
    latest_version integer NOT NULL,
    head_revision integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX rubrics_page ON rubrics (project_id, id);
CREATE TABLE rubric_versions (
    rubric_id text NOT NULL REFERENCES rubrics (id),
    version integer NOT NULL CHECK (version >= 1),
    project_id text NOT NULL REFERENCES projects (id),
    content jsonb NOT NULL,
    hash text NOT NULL,
    message text NOT NULL DEFAULT '',
    author text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (rubric_id, version)
);
CREATE TABLE rubric_aliases (
    rubric_id text NOT NULL,
    alias text NOT NULL,
    project_id text NOT NULL REFERENCES projects (id),
    version integer NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (rubric_id, alias),
    FOREIGN KEY (rubric_id) REFERENCES rubrics (id),
    FOREIGN KEY (rubric_id, version) REFERENCES rubric_versions (rubric_id, version)
);
CREATE TABLE judges (
    id text PRIMARY KEY,
    project_id text NOT NULL REFERENCES projects (id),
    name text NOT NULL,
    revision integer NOT NULL,
    head_revision integer NOT NULL DEFAULT 1,
    limits jsonb NOT NULL,
    secret bytea,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX judges_page ON judges (project_id, id);
CREATE TABLE judge_revisions (
    judge_id text NOT NULL REFERENCES judges (id),
    revision integer NOT NULL CHECK (revision >= 1),
    project_id text NOT NULL REFERENCES projects (id),
    config jsonb NOT NULL,
    fingerprint text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (judge_id, revision)
);
CREATE TABLE models (
    id text PRIMARY KEY,
    project_id text NOT NULL REFERENCES projects (id),
    name text NOT NULL,
    kind text NOT NULL,
    source jsonb NOT NULL,
    status text NOT NULL CHECK (status IN ('registering', 'ready', 'failed')),
    error text,
    location text,
    base_model_id text,
    sha256 text,
    files jsonb,
    config jsonb,
    lease_expires_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX models_page ON models (project_id, id);
CREATE INDEX models_registering ON models (id) WHERE status = 'registering';
CREATE TABLE datasets (
    id text PRIMARY KEY,
    project_id text NOT NULL REFERENCES projects (id),
    name text NOT NULL,
    kind text NOT NULL,
    batches integer NOT NULL DEFAULT 0,
    rows bigint NOT NULL DEFAULT 0,
    last_seq bigint NOT NULL DEFAULT 0,
    hash text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX datasets_page ON datasets (project_id, id);
CREATE TABLE dataset_batches (
    id text PRIMARY KEY,
    dataset_id text NOT NULL REFERENCES datasets (id),
    project_id text NOT NULL REFERENCES projects (id),
    number integer NOT NULL,
    first_seq bigint NOT NULL,
    last_seq bigint NOT NULL,
    rows integer NOT NULL,
    hash text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (dataset_id, number)
);
CREATE TABLE dataset_rows (
    dataset_id text NOT NULL REFERENCES datasets (id),
    seq bigint NOT NULL,
    project_id text NOT NULL REFERENCES projects (id),
    batch_id text NOT NULL REFERENCES dataset_batches (id),
    content jsonb NOT NULL,
    content_hash bytea NOT NULL,
    PRIMARY KEY (dataset_id, seq)
);
CREATE UNIQUE INDEX dataset_rows_content ON dataset_rows (dataset_id, content_hash);

CREATE TABLE jobs (
    id text PRIMARY KEY,
    project_id text NOT NULL REFERENCES projects (id),
    name text NOT NULL,
    algorithm text NOT NULL,
    status text NOT NULL CHECK (status IN ('queued', 'starting', 'running', 'finalizing', 'pausing', 'paused',
                                           'retry_wait', 'succeeded', 'failed', 'cancelled')),
    status_reason text,
    error jsonb,
    spec jsonb NOT NULL,
    resolved jsonb NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    priority integer NOT NULL DEFAULT 0,
    processes integer NOT NULL DEFAULT 1,
    fence bigint NOT NULL DEFAULT 0,
    attempt integer NOT NULL DEFAULT 0,
    failures integer NOT NULL DEFAULT 0,
    event_seq bigint NOT NULL DEFAULT 0,
    progress_step integer NOT NULL DEFAULT 0,
    progress_steps integer,
    result jsonb,
    next_run_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at timestamptz,
    finished_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK ((finished_at IS NOT NULL) = (status IN ('succeeded', 'failed', 'cancelled'))),
    CHECK ((error IS NOT NULL) = (status = 'failed'))
);
CREATE INDEX jobs_page ON jobs (project_id, id);
CREATE INDEX jobs_status_page ON jobs (project_id, status, id);
CREATE INDEX jobs_claim ON jobs (priority DESC, created_at, id) WHERE status = 'queued';
CREATE INDEX jobs_retry ON jobs (next_run_at) WHERE status = 'retry_wait';
CREATE TABLE attempts (
    job_id text NOT NULL REFERENCES jobs (id),
    fence bigint NOT NULL,
    project_id text NOT NULL REFERENCES projects (id),
    attempt integer NOT NULL,
    worker_id text NOT NULL,
    host text NOT NULL,
    lease_expires_at timestamptz NOT NULL,
    resumed_from_step integer,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz,
    end_reason text,
    PRIMARY KEY (job_id, fence)
);
CREATE INDEX attempts_held ON attempts (lease_expires_at) WHERE ended_at IS NULL;
CREATE TABLE checkpoints (
    id text PRIMARY KEY,
    project_id text NOT NULL REFERENCES projects (id),
    job_id text NOT NULL REFERENCES jobs (id),
    fence bigint NOT NULL,
    step integer NOT NULL,
    kind text NOT NULL CHECK (kind IN ('full', 'adapter')),
    location text NOT NULL,
    files jsonb NOT NULL,
    metrics jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (job_id, step)
);
CREATE INDEX checkpoints_page ON checkpoints (job_id, id);
CREATE TABLE outbox (
    id text PRIMARY KEY,
    subject_id text NOT NULL,
    task text NOT NULL,
    queue text NOT NULL,
    send_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX outbox_due ON outbox (send_at);
CREATE INDEX outbox_subject ON outbox (subject_id);
CREATE TABLE cell_batches (
    id text PRIMARY KEY,
    project_id text NOT NULL REFERENCES projects (id),
    job_id text NOT NULL REFERENCES jobs (id),
    key text NOT NULL,
    status text NOT NULL CHECK (status IN ('queued', 'running', 'done')),
    payload jsonb NOT NULL,
    fence bigint NOT NULL DEFAULT 0,
    lease_expires_at timestamptz,
    worker_id text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    UNIQUE (job_id, key)
);
CREATE INDEX cell_batches_claim ON cell_batches (created_at, id) WHERE status <> 'done';
CREATE TABLE cell_requests (
    batch_id text NOT NULL REFERENCES cell_batches (id) ON DELETE CASCADE,
    completion_index integer NOT NULL,
    criterion text NOT NULL,
    project_id text NOT NULL REFERENCES projects (id),
    cell jsonb,
    PRIMARY KEY (batch_id, completion_index, criterion)
);

CREATE TABLE completions (
    id text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    project_id text NOT NULL,
    job_id text NOT NULL,
    fence bigint NOT NULL,
    attempt integer NOT NULL,
    step integer NOT NULL,
    purpose text NOT NULL,
    group_id text NOT NULL,
    group_index integer NOT NULL,
    idx integer NOT NULL,
    prompt jsonb NOT NULL,
    text text NOT NULL,
    token_ids integer[] NOT NULL,
    logprobs real[] NOT NULL,
    finish_reason text NOT NULL,
    member boolean NOT NULL,
    coverage double precision NOT NULL,
    reward double precision,
    plain_reward double precision,
    unscaled_advantage double precision,
    scale_factor double precision,
    advantage double precision,
    parts jsonb NOT NULL,
    weighting jsonb NOT NULL,
    signal text NOT NULL,
    rubric_id text NOT NULL,
    rubric_version integer NOT NULL,
    PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);
CREATE INDEX completions_page ON completions (job_id, purpose, step, group_index, idx, fence);
CREATE TABLE cells (
    completion_id text NOT NULL,
    criterion text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    project_id text NOT NULL,
    job_id text NOT NULL,
    critique_id text,
    status text NOT NULL,
    family text,
    reason text,
    score double precision CHECK (score >= 0 AND score <= 1),
    confidence double precision CHECK (confidence >= 0 AND confidence <= 1),
    confidence_source text,
    reasoning text,
    votes integer NOT NULL,
    vote_variance double precision,
    grader text NOT NULL,
    judge_id text,
    judge_revision integer,
    fingerprint text,
    cached boolean NOT NULL DEFAULT false,
    attempts integer NOT NULL,
    latency_ms double precision NOT NULL,
    tokens_in integer NOT NULL,
    tokens_out integer NOT NULL,
    audit boolean NOT NULL,
    PRIMARY KEY (completion_id, criterion, created_at),
    CHECK ((status = 'ok') = (score IS NOT NULL))
) PARTITION BY RANGE (created_at);
CREATE INDEX cells_critique ON cells (critique_id) WHERE critique_id IS NOT NULL;
CREATE INDEX cells_critique_page ON cells (project_id, job_id, critique_id) WHERE critique_id IS NOT NULL;
CREATE TABLE job_metrics (
    job_id text NOT NULL,
    name text NOT NULL,
    step integer NOT NULL,
    fence bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    project_id text NOT NULL,
    attempt integer NOT NULL,
    value double precision NOT NULL,
    PRIMARY KEY (job_id, name, step, fence, created_at)
) PARTITION BY RANGE (created_at);
CREATE TABLE job_events (
    job_id text NOT NULL,
    seq bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    id text NOT NULL,
    project_id text NOT NULL,
    type text NOT NULL,
    attempt integer NOT NULL,
    data jsonb NOT NULL,
    PRIMARY KEY (job_id, seq, created_at)
) PARTITION BY RANGE (created_at);
CREATE TABLE job_logs (
    job_id text NOT NULL,
    fence bigint NOT NULL,
    seq integer NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    project_id text NOT NULL,
    text text NOT NULL,
    PRIMARY KEY (job_id, fence, seq, created_at)
) PARTITION BY RANGE (created_at);
