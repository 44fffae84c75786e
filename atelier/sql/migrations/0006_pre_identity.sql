-- API keys: who may call, and as whom (docs/identity.md). Of a secret its SHA-256 is kept: it is 256
-- random bits, so nothing is gained by a slow hash. `_pre_`: the code before this one reads none of it.
CREATE TABLE api_keys (
    id            text        COLLATE "C" PRIMARY KEY, -- shown in the key itself
    tenant        text        COLLATE "C" NOT NULL,
    secret_hash   bytea       NOT NULL CHECK (length(secret_hash) = 32),
    scopes        text[]      NOT NULL CHECK (cardinality(scopes) > 0),
    description   text        NOT NULL DEFAULT '',
    create_time   timestamptz NOT NULL DEFAULT clock_timestamp(),
    expire_time   timestamptz, -- NULL: never
    revoke_time   timestamptz,
    last_use_time timestamptz  -- to the hour
);
CREATE INDEX api_keys_by_tenant ON api_keys (tenant, create_time);
