-- Plans of tenants, and what they used (docs/quotas.md). `_pre_`: the code before this one reads none of
-- it; what it ends is counted all the same, without GPU-seconds, since the trigger does that.
CREATE TABLE tenants (
    tenant      text        COLLATE "C" PRIMARY KEY,
    plan        jsonb       NOT NULL, -- atelier/plan.py; what is not in it is not bounded
    version     bigint      NOT NULL DEFAULT 1,
    update_time timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Device-seconds of all its attempts, as far as they were told. A default: no row is written.
ALTER TABLE generations ADD COLUMN gpu_seconds double precision NOT NULL DEFAULT 0;

-- What ended and is not in `usage` yet. A row of each tenant, day and model would make those that end
-- at the same time wait for each other.
CREATE TABLE usage_entries (
    seq         bigint           GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant      text             COLLATE "C" NOT NULL,
    day         date             NOT NULL, -- of its end, UTC
    model       text             NOT NULL,
    generations bigint           NOT NULL DEFAULT 1,
    succeeded   bigint           NOT NULL,
    gpu_seconds double precision NOT NULL,
    pictures    bigint           NOT NULL,
    videos      bigint           NOT NULL,
    bytes       bigint           NOT NULL
);
CREATE TABLE usage (
    tenant      text             COLLATE "C" NOT NULL,
    day         date             NOT NULL,
    model       text             NOT NULL,
    generations bigint           NOT NULL,
    succeeded   bigint           NOT NULL,
    gpu_seconds double precision NOT NULL,
    pictures    bigint           NOT NULL,
    videos      bigint           NOT NULL,
    bytes       bigint           NOT NULL,
    PRIMARY KEY (tenant, day, model)
);

-- Whatever moves a generation to a final state counts it, in the same statement: once, for it ends
-- once. It outlives the generation.
CREATE FUNCTION count_usage() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO usage_entries (tenant, day, model, succeeded, gpu_seconds, pictures, videos, bytes)
    SELECT NEW.tenant, (NEW.finish_time AT TIME ZONE 'UTC')::date, NEW.model,
           (NEW.state = 'SUCCEEDED')::integer, NEW.gpu_seconds,
           count(*) FILTER (WHERE r ->> 'content_type' LIKE 'image/%'),
           count(*) FILTER (WHERE r ->> 'content_type' LIKE 'video/%'),
           coalesce(sum((r ->> 'size_bytes')::bigint), 0)
    FROM jsonb_array_elements(coalesce(NEW.results, '[]')) AS r
    WHERE NOT coalesce((r ->> 'withheld')::boolean, false);
    RETURN NULL;
END
$$;
CREATE TRIGGER count_usage AFTER UPDATE ON generations FOR EACH ROW
    WHEN (OLD.finish_time IS NULL AND NEW.finish_time IS NOT NULL) EXECUTE FUNCTION count_usage();
