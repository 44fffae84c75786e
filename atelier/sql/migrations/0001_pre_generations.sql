-- Generations, what happened to them, and who leads.
-- Every transition is a conditional UPDATE (queries.sql); the checks below are the second lock.

CREATE TABLE generations (
    id               uuid        PRIMARY KEY, -- UUIDv7: sorts by time
    tenant           text        NOT NULL,
    model            text        NOT NULL,
    spec             jsonb       NOT NULL,
    state            text        NOT NULL DEFAULT 'QUEUED',
    priority         text        NOT NULL,
    attempt          smallint    NOT NULL DEFAULT 0,
    lease_token      bigint,
    device           text        NOT NULL DEFAULT '',
    cancel_requested boolean     NOT NULL DEFAULT false,
    labels           jsonb       NOT NULL DEFAULT '{}',
    request_id       text        NOT NULL DEFAULT '',
    request_hash     text        NOT NULL DEFAULT '', -- hexadecimal
    deadline         timestamptz,
    create_time      timestamptz NOT NULL,
    start_time       timestamptz,
    finish_time      timestamptz,
    results          jsonb,
    failure          jsonb,
    provenance       jsonb,
    CONSTRAINT state_is_known CHECK
        (state IN ('QUEUED', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED', 'EXPIRED')),
    CONSTRAINT running_has_a_lease CHECK ((state = 'RUNNING') = (lease_token IS NOT NULL)),
    CONSTRAINT final_has_an_end CHECK
        ((state IN ('QUEUED', 'RUNNING')) = (finish_time IS NULL)),
    CONSTRAINT succeeded_has_results CHECK ((state = 'SUCCEEDED') = (results IS NOT NULL)),
    CONSTRAINT failed_says_why CHECK
        ((state IN ('FAILED', 'EXPIRED')) = (failure IS NOT NULL))
) WITH (fillfactor = 70); -- room for updates on the same page

-- One generation for each idempotency key.
CREATE UNIQUE INDEX generations_by_request ON generations (tenant, request_id)
    WHERE request_id <> '';

-- A tenant's list, newest first.
CREATE INDEX generations_by_tenant ON generations (tenant, id DESC);

-- What a scheduler that starts has to take up again.
CREATE INDEX generations_unfinished ON generations (id) WHERE state IN ('QUEUED', 'RUNNING');

CREATE TABLE generation_events (
    generation_id uuid        NOT NULL REFERENCES generations (id) ON DELETE CASCADE,
    seq           bigint      GENERATED ALWAYS AS IDENTITY,
    time          timestamptz NOT NULL DEFAULT clock_timestamp(),
    event         text        NOT NULL,
    attempt       smallint    NOT NULL,
    detail        jsonb       NOT NULL DEFAULT '{}',
    PRIMARY KEY (generation_id, seq)
);

-- Strictly increasing, so that a later attempt always has the higher token.
CREATE SEQUENCE lease_tokens AS bigint;

-- The leader's epoch; a scheduler that starts takes the next one.
CREATE TABLE leader (
    name  text   PRIMARY KEY,
    epoch bigint NOT NULL
);
