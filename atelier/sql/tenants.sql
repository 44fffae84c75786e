-- Statements about plans and usage, by name. Those that write ask {fence} first.

-- name: plans
SELECT * FROM tenants ORDER BY tenant

-- name: set_plan
-- Sent again, it finds what it wrote.
INSERT INTO tenants (tenant, plan) SELECT %(tenant)s, %(plan)s::jsonb WHERE {fence}
ON CONFLICT (tenant) DO UPDATE SET
    plan = excluded.plan, version = tenants.version + 1, update_time = clock_timestamp()
RETURNING *

-- name: unset_plan
DELETE FROM tenants WHERE tenant = %(tenant)s AND {fence}

-- name: roll_up_usage
-- Entries become sums, or stay: in one statement, so that none counts twice.
WITH gone AS (
    DELETE FROM usage_entries
    WHERE seq IN (SELECT seq FROM usage_entries ORDER BY seq LIMIT %(limit)s) AND {fence}
    RETURNING *
), sums AS (
    SELECT tenant, day, model, sum(generations) AS generations, sum(succeeded) AS succeeded,
           sum(gpu_seconds) AS gpu_seconds, sum(pictures) AS pictures, sum(videos) AS videos,
           sum(bytes) AS bytes
    FROM gone
    GROUP BY tenant, day, model
), summed AS (
    INSERT INTO usage (tenant, day, model, generations, succeeded, gpu_seconds, pictures, videos, bytes)
    SELECT tenant, day, model, generations, succeeded, gpu_seconds, pictures, videos, bytes FROM sums
    ON CONFLICT (tenant, day, model) DO UPDATE SET
        generations = usage.generations + excluded.generations,
        succeeded = usage.succeeded + excluded.succeeded,
        gpu_seconds = usage.gpu_seconds + excluded.gpu_seconds,
        pictures = usage.pictures + excluded.pictures,
        videos = usage.videos + excluded.videos,
        bytes = usage.bytes + excluded.bytes
)
SELECT count(*) AS taken FROM gone

-- name: read_usage
-- The sums, and what is not in them yet: one statement sees each once.
SELECT day, model, sum(generations)::bigint AS generations, sum(succeeded)::bigint AS succeeded,
       sum(gpu_seconds) AS gpu_seconds, sum(pictures)::bigint AS pictures,
       sum(videos)::bigint AS videos, sum(bytes)::bigint AS bytes
FROM (
    SELECT tenant, day, model, generations, succeeded, gpu_seconds, pictures, videos, bytes
    FROM usage
    UNION ALL
    SELECT tenant, day, model, generations, succeeded, gpu_seconds, pictures, videos, bytes
    FROM usage_entries
) AS u
WHERE tenant = %(tenant)s AND day >= %(first)s::date AND day <= %(last)s::date
  AND (%(model)s = '' OR model = %(model)s)
GROUP BY day, model
ORDER BY day DESC, model
