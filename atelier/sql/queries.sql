-- Every statement that the store sends, by name. {sources} is filled from the state table
-- (atelier/generation.py), so that code and guards cannot differ. Every write of the scheduler asks
-- {fence} first: is its epoch the present one (migration 0003)?

-- name: insert_generations
-- One group commit of submits; those that are new. A row that is already there (same id after a lost
-- acknowledgement, or same tenant and request_id: take_request_key, migration 0004) is left alone;
-- find_submitted then reads what stands.
WITH new AS (
    INSERT INTO generations (id, tenant, model, spec, priority, labels, request_id, request_hash,
                             deadline, create_time, webhook_url, preset, trace_parent)
    SELECT id, tenant, model, spec, priority, labels, request_id, request_hash, deadline, create_time,
           webhook_url, preset, trace_parent
    FROM jsonb_to_recordset(%(rows)s::jsonb) AS r(
        id uuid, tenant text, model text, spec jsonb, priority text, labels jsonb, request_id text,
        request_hash text, deadline timestamptz, create_time timestamptz, webhook_url text,
        preset text, trace_parent text)
    WHERE {fence}
    ORDER BY id
    ON CONFLICT DO NOTHING
    RETURNING id
), noted AS (
    INSERT INTO generation_events (generation_id, event, attempt)
    SELECT id, 'submit', 0 FROM new
)
SELECT id FROM new

-- name: find_submitted
-- A statement of its own: a new snapshot, which sees what a concurrent insert of the same key left.
SELECT * FROM generations WHERE id = ANY(%(ids)s::uuid[])
UNION ALL
SELECT g.* FROM unnest(%(tenants)s::text[], %(request_ids)s::text[]) AS k(tenant, request_id)
JOIN request_keys r ON r.tenant = k.tenant AND r.request_id = k.request_id
JOIN generations g ON g.id = r.generation_id
WHERE NOT g.id = ANY(%(ids)s::uuid[])

-- name: taken_keys
-- Those that stand for a generation, though it may have been deleted.
SELECT k.tenant, k.request_id FROM unnest(%(tenants)s::text[], %(request_ids)s::text[]) AS k(tenant, request_id)
JOIN request_keys r ON r.tenant = k.tenant AND r.request_id = k.request_id

-- name: find_request
SELECT g.* FROM request_keys r JOIN generations g ON g.id = r.generation_id
WHERE r.tenant = %(tenant)s AND r.request_id = %(request_id)s

-- name: read
SELECT * FROM generations WHERE tenant = %(tenant)s AND id = %(id)s

-- name: look
-- For the scheduler itself, which knows whose it is by its lease.
SELECT * FROM generations WHERE id = %(id)s

-- name: published
-- For a sweep of the object store, which asks by its keys.
SELECT id, finish_time IS NOT NULL AS ended, results FROM generations
WHERE id = ANY(%(ids)s::uuid[])

-- name: requeued_for
-- How often it was queued again for one of these reasons.
SELECT count(*) AS times FROM generation_events
WHERE generation_id = %(id)s AND event = 'requeue' AND detail ->> 'reason' = ANY(%(reasons)s)

-- name: story
-- What was noted of a generation, whoever's it is; nothing of one that is not there.
SELECT e.event, e.attempt, e.time, e.detail, g.model, g.state
FROM generations g JOIN generation_events e ON e.generation_id = g.id
WHERE g.id = %(id)s AND e.generation_id = %(id)s
ORDER BY e.seq

-- name: scan
-- By its values, not by a plan for all: what does not apply falls away, what does finds its index
-- (migration 0009), and times are a range of ids, which leaves out the days beyond.
SELECT * FROM generations
WHERE tenant = %(tenant)s AND id >= %(first)s::uuid AND id < %(beyond)s::uuid
  AND (%(states)s::text[] IS NULL OR state = ANY(%(states)s))
  AND (NOT %(open)s::boolean OR finish_time IS NULL)
  AND (NOT %(in_vain)s::boolean OR failure IS NOT NULL OR cancel_requested)
  AND (%(model)s = '' OR model = %(model)s)
  AND (%(labels)s::jsonb = '{}' OR labels <> '{}' AND labels @> %(labels)s::jsonb)
  AND (%(created_after)s::timestamptz IS NULL OR create_time >= %(created_after)s)
  AND (%(created_before)s::timestamptz IS NULL OR create_time < %(created_before)s)
ORDER BY id DESC
LIMIT %(limit)s

-- name: unfinished
SELECT * FROM generations WHERE finish_time IS NULL AND id > %(after)s::uuid
ORDER BY id
LIMIT %(limit)s::integer

-- name: standing
-- What to compare memory with; without the specs, so that it can be asked often.
SELECT id::text, lease_token FROM generations WHERE finish_time IS NULL

-- name: claim
-- A fresh token for each attempt; none for a generation that somebody cancelled meanwhile.
WITH moved AS (
    UPDATE generations SET
        state = 'RUNNING', attempt = attempt + 1, lease_token = nextval('lease_tokens'),
        device = %(device)s, start_time = clock_timestamp()
    WHERE id = %(id)s AND {fence} AND state IN ({sources}) AND NOT cancel_requested
    RETURNING *
), noted AS (
    INSERT INTO generation_events (generation_id, event, attempt, detail)
    SELECT id, 'claim', attempt, jsonb_build_object('device', device) FROM moved
)
SELECT * FROM moved

-- name: publish
WITH moved AS (
    UPDATE generations SET
        state = 'SUCCEEDED', lease_token = NULL, finish_time = clock_timestamp(),
        gpu_seconds = gpu_seconds + %(gpu_seconds)s::double precision,
        results = %(results)s::jsonb, provenance = %(provenance)s::jsonb
    WHERE id = %(id)s AND lease_token = %(lease_token)s AND {fence} AND state IN ({sources})
    RETURNING *
), noted AS (
    INSERT INTO generation_events (generation_id, event, attempt)
    SELECT id, 'publish', attempt FROM moved
)
SELECT * FROM moved

-- name: requeue
WITH moved AS (
    UPDATE generations SET
        state = 'QUEUED', lease_token = NULL,
        gpu_seconds = gpu_seconds + %(gpu_seconds)s::double precision
    WHERE id = %(id)s AND lease_token = %(lease_token)s AND {fence} AND state IN ({sources})
      AND NOT cancel_requested
    RETURNING *
), noted AS (
    INSERT INTO generation_events (generation_id, event, attempt, detail)
    SELECT id, 'requeue', attempt, %(detail)s::jsonb FROM moved
)
SELECT * FROM moved

-- name: fail
-- For a queued generation lease_token is NULL on both sides.
WITH moved AS (
    UPDATE generations SET
        state = 'FAILED', lease_token = NULL, finish_time = clock_timestamp(),
        gpu_seconds = gpu_seconds + %(gpu_seconds)s::double precision,
        failure = %(failure)s::jsonb
    WHERE id = %(id)s AND lease_token IS NOT DISTINCT FROM %(lease_token)s
      AND {fence} AND state IN ({sources})
    RETURNING *
), noted AS (
    INSERT INTO generation_events (generation_id, event, attempt, detail)
    SELECT id, 'fail', attempt, %(failure)s::jsonb FROM moved
)
SELECT * FROM moved

-- name: expire
WITH moved AS (
    UPDATE generations SET
        state = 'EXPIRED', lease_token = NULL, finish_time = clock_timestamp(),
        failure = %(failure)s::jsonb
    WHERE id = %(id)s AND {fence} AND state IN ({sources}) AND deadline < clock_timestamp()
    RETURNING *
), noted AS (
    INSERT INTO generation_events (generation_id, event, attempt)
    SELECT id, 'expire', attempt FROM moved
)
SELECT * FROM moved

-- name: request_cancel
-- A queued generation ends here; of a running one the wish is recorded and its agent told.
WITH moved AS (
    UPDATE generations SET
        cancel_requested = true,
        state = CASE state WHEN 'QUEUED' THEN 'CANCELLED' ELSE state END,
        finish_time = CASE state WHEN 'QUEUED' THEN clock_timestamp() END
    WHERE tenant = %(tenant)s AND id = %(id)s AND {fence} AND state IN ({sources})
    RETURNING *
), noted AS (
    INSERT INTO generation_events (generation_id, event, attempt)
    SELECT id, CASE state WHEN 'CANCELLED' THEN 'cancel' ELSE 'cancel_requested' END, attempt
    FROM moved
)
SELECT * FROM moved

-- name: cancel_running
WITH moved AS (
    UPDATE generations SET
        state = 'CANCELLED', lease_token = NULL, finish_time = clock_timestamp(),
        gpu_seconds = gpu_seconds + %(gpu_seconds)s::double precision
    WHERE id = %(id)s AND lease_token = %(lease_token)s AND {fence} AND state IN ({sources})
      AND cancel_requested
    RETURNING *
), noted AS (
    INSERT INTO generation_events (generation_id, event, attempt)
    SELECT id, 'cancel', attempt FROM moved
)
SELECT * FROM moved

-- name: erase
-- What has ended goes, with its story and what was told of it; what is still to be told, is. A
-- request_id that is kept makes nothing new (it goes with its day).
WITH gone AS (
    DELETE FROM generations
    WHERE tenant = %(tenant)s AND id = ANY(%(ids)s::uuid[]) AND finish_time IS NOT NULL AND {fence}
    RETURNING id
), events AS (
    DELETE FROM generation_events
    WHERE generation_id = ANY(%(ids)s::uuid[]) AND generation_id IN (SELECT id FROM gone)
), keys AS (
    DELETE FROM request_keys
    WHERE generation_id IN (SELECT id FROM gone) AND NOT %(keep_keys)s::boolean
), told AS (
    DELETE FROM webhook_deliveries
    WHERE generation_id = ANY(%(ids)s::uuid[]) AND generation_id IN (SELECT id FROM gone)
      AND finish_time IS NOT NULL
)
SELECT id FROM gone

-- name: past_of_tenant
-- What it asked for so many days ago, and has ended; the oldest first.
SELECT id, results FROM generations
WHERE tenant = %(tenant)s AND finish_time IS NOT NULL
  AND id < id_at(now() - make_interval(hours => 24 * %(retention_days)s::integer))
ORDER BY id
LIMIT %(limit)s::integer

-- name: leader
-- Asked often by who stands by: it locks nothing. A lease of 3 s that has half of it left was renewed
-- by somebody who lives, or ended a moment ago.
SELECT epoch, holder, expires_at > clock_timestamp() AS leads,
       expires_at > clock_timestamp() + interval '1.5 s' AS fresh, expires_at::text AS until
FROM leader
WHERE name = 'scheduler'

-- name: lead
-- The row is there (migration 0003): of two that take it at once, the second finds it taken.
UPDATE leader SET
    epoch = epoch + 1, holder = %(holder)s,
    expires_at = clock_timestamp() + make_interval(secs => %(lease_seconds)s)
WHERE name = 'scheduler'
  AND (expires_at <= clock_timestamp()
       OR (holder = %(holder)s AND expires_at <= clock_timestamp() + interval '1.5 s')
       OR expires_at::text = %(unrenewed)s)
RETURNING epoch

-- name: renew
-- Also after it ran out, if nobody took over meanwhile: then nobody can have written either.
UPDATE leader SET expires_at = clock_timestamp() + make_interval(secs => %(lease_seconds)s)
WHERE name = 'scheduler' AND epoch = %(epoch)s
RETURNING epoch

-- name: resign
UPDATE leader SET expires_at = '-infinity' WHERE name = 'scheduler' AND epoch = %(epoch)s

-- name: standing_orders
-- Drains have no model.
SELECT device_id, NULL AS model, reason FROM drained_devices
UNION ALL
SELECT device_id, model, NULL FROM pinned_models

-- name: next_order
-- Its number (migration 0011). From now on no earlier order can be written: one that is under way
-- holds the row until it is there to be seen, and one that comes later finds its number gone. A
-- statement of its own, so that the order's sees what it waited for.
UPDATE last_order SET number = number + 1 WHERE {fence} RETURNING number

-- name: drain
-- It tells, as those below do, whether the number is still the latest.
WITH latest AS (
    SELECT number FROM last_order WHERE number = %(number)s AND {fence} FOR SHARE
), done AS (
    INSERT INTO drained_devices (device_id, reason)
    SELECT %(device_id)s, %(reason)s FROM latest
    ON CONFLICT (device_id) DO UPDATE SET reason = excluded.reason
    RETURNING device_id
)
SELECT EXISTS (SELECT FROM latest) AS is_latest, EXISTS (SELECT FROM done) AS changed

-- name: undrain
WITH latest AS (
    SELECT number FROM last_order WHERE number = %(number)s AND {fence} FOR SHARE
), done AS (
    DELETE FROM drained_devices WHERE device_id = %(device_id)s AND EXISTS (SELECT FROM latest)
    RETURNING device_id
)
SELECT EXISTS (SELECT FROM latest) AS is_latest, EXISTS (SELECT FROM done) AS changed

-- name: pin
WITH latest AS (
    SELECT number FROM last_order WHERE number = %(number)s AND {fence} FOR SHARE
), done AS (
    INSERT INTO pinned_models (device_id, model) SELECT %(device_id)s, %(model)s FROM latest
    ON CONFLICT DO NOTHING
    RETURNING device_id
)
SELECT EXISTS (SELECT FROM latest) AS is_latest, EXISTS (SELECT FROM done) AS changed

-- name: unpin
WITH latest AS (
    SELECT number FROM last_order WHERE number = %(number)s AND {fence} FOR SHARE
), done AS (
    DELETE FROM pinned_models
    WHERE device_id = %(device_id)s AND model = %(model)s AND EXISTS (SELECT FROM latest)
    RETURNING model
)
SELECT EXISTS (SELECT FROM latest) AS is_latest, EXISTS (SELECT FROM done) AS changed

-- name: make_days
-- Tables for the days to come (migration 0004); how many were made.
SELECT make_days(%(ahead)s, %(span)s) AS made WHERE {fence}

-- name: past_day
-- The oldest that may go: it ended so many days ago, and all of it is finished. From its beginning
-- to its end, as ids.
SELECT d.name, id_at(d.since) AS first, id_at(d.until) AS beyond FROM generation_days d
WHERE d.until <= clock_timestamp() - make_interval(hours => 24 * %(retention_days)s::integer)
  AND NOT EXISTS (SELECT FROM generations g WHERE g.finish_time IS NULL
                  AND g.id >= id_at(d.since) AND g.id < id_at(d.until))
ORDER BY d.until
LIMIT 1

-- name: forget_keys
-- Some of a past day's. Few enough at a time that nobody waits for the disk.
DELETE FROM request_keys WHERE generation_id = ANY(ARRAY(
    SELECT generation_id FROM request_keys
    WHERE generation_id >= %(first)s AND generation_id < %(beyond)s
    LIMIT %(limit)s::integer)) AND {fence}
RETURNING generation_id

-- name: drop_day
SELECT drop_day(%(name)s, %(retention_days)s) AS dropped WHERE {fence}

-- name: create_preset
-- Nothing where it is there, or its tenant has as many as it may. Of two at once, the second waits
-- for the first, and finds its version taken.
WITH new AS (
    INSERT INTO preset_versions (tenant, model, name, version, description, kind, spec)
    SELECT %(tenant)s, %(model)s, %(name)s,
           1 + coalesce((SELECT max(version) FROM preset_versions
                         WHERE tenant = %(tenant)s AND model = %(model)s AND name = %(name)s), 0),
           %(description)s, %(kind)s, %(spec)s::jsonb
    WHERE {fence}
      AND NOT EXISTS (SELECT FROM presets
                      WHERE tenant = %(tenant)s AND model = %(model)s AND name = %(name)s)
      AND (SELECT count(*) FROM presets WHERE tenant = %(tenant)s) < %(most)s
    ON CONFLICT DO NOTHING
    RETURNING *
), stands AS (
    INSERT INTO presets SELECT tenant, model, name, version FROM new
)
SELECT * FROM new

-- name: update_preset
-- Nothing where another version stands.
WITH before AS (
    SELECT version FROM presets
    WHERE tenant = %(tenant)s AND model = %(model)s AND name = %(name)s AND version = %(follows)s
    FOR UPDATE
), new AS (
    INSERT INTO preset_versions (tenant, model, name, version, description, kind, spec)
    SELECT %(tenant)s, %(model)s, %(name)s, version + 1, %(description)s, %(kind)s, %(spec)s::jsonb
    FROM before WHERE {fence}
    ON CONFLICT DO NOTHING
    RETURNING *
), stands AS (
    UPDATE presets p SET version = new.version FROM new
    WHERE p.tenant = new.tenant AND p.model = new.model AND p.name = new.name
), gone AS (
    DELETE FROM preset_versions v USING new
    WHERE v.tenant = new.tenant AND v.model = new.model AND v.name = new.name
      AND v.version <= new.version - %(kept)s::integer
)
SELECT * FROM new

-- name: delete_preset
DELETE FROM presets
WHERE tenant = %(tenant)s AND model = %(model)s AND name = %(name)s
  AND (%(only)s::integer = 0 OR version = %(only)s) AND {fence}
RETURNING version

-- name: had_preset
SELECT version FROM preset_versions
WHERE tenant = %(tenant)s AND model = %(model)s AND name = %(name)s
LIMIT 1

-- name: read_presets
SELECT v.*, k.version AS asked
FROM unnest(%(tenants)s::text[], %(models)s::text[], %(names)s::text[], %(versions)s::integer[])
    AS k(tenant, model, name, version)
LEFT JOIN presets p ON p.tenant = k.tenant AND p.model = k.model AND p.name = k.name
JOIN preset_versions v ON v.tenant = k.tenant AND v.model = k.model AND v.name = k.name
    AND v.version = coalesce(nullif(k.version, 0), p.version)

-- name: scan_presets
SELECT v.* FROM presets p JOIN preset_versions v USING (tenant, model, name, version)
WHERE p.tenant IN (%(tenant)s, '') AND (%(model)s = '' OR p.model = %(model)s)
  AND (p.model, p.name, p.tenant = '') > (%(after_model)s, %(after_name)s, %(after_shared)s::boolean)
ORDER BY p.model, p.name, p.tenant = ''
LIMIT %(limit)s::integer
