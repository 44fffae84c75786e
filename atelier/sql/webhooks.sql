-- Statements about webhooks, by name. Those of the scheduler, which callers ask for, carry the
-- tenant and ask {fence} first; those of the workers that deliver (webhooks/) are below.

-- name: insert_webhook
-- Nothing where its tenant has as many as it may. Sent again, it finds itself.
WITH new AS (
    INSERT INTO webhooks (id, tenant, url, events, include_prompts, description)
    SELECT %(id)s, %(tenant)s, %(url)s, %(events)s, %(include_prompts)s, %(description)s
    WHERE {fence} AND (SELECT count(*) FROM webhooks WHERE tenant = %(tenant)s) < %(most)s
    ON CONFLICT DO NOTHING
    RETURNING *
), kept AS (
    INSERT INTO webhook_secrets (tenant, owner, secret) SELECT tenant, id, %(secret)s FROM new
)
SELECT * FROM new

-- name: read_webhooks
SELECT * FROM webhooks
WHERE tenant = %(tenant)s AND (%(id)s::uuid IS NULL OR id = %(id)s)
ORDER BY id

-- name: change_webhook
-- What is NULL stays. One that is disabled tells no more, and gives up what it had still to tell.
WITH changed AS (
    UPDATE webhooks SET
        url = coalesce(%(url)s, url), events = coalesce(%(events)s::text[], events),
        include_prompts = coalesce(%(include_prompts)s, include_prompts),
        description = coalesce(%(description)s, description),
        enabled = coalesce(%(enabled)s, enabled),
        disabled_reason = CASE %(enabled)s WHEN true THEN '' WHEN false THEN 'by its tenant'
                          ELSE disabled_reason END,
        update_time = clock_timestamp()
    WHERE id = %(id)s AND tenant = %(tenant)s AND {fence}
    RETURNING *
), ended AS (
    UPDATE webhook_deliveries d SET finish_time = clock_timestamp(), detail = 'webhook disabled'
    FROM changed WHERE d.lane = changed.id::text AND d.finish_time IS NULL AND NOT changed.enabled
)
SELECT * FROM changed

-- name: delete_webhook
WITH gone AS (
    DELETE FROM webhooks WHERE id = %(id)s AND tenant = %(tenant)s AND {fence} RETURNING id
), forgotten AS (
    DELETE FROM webhook_secrets s USING gone WHERE s.tenant = %(tenant)s AND s.owner = gone.id
)
SELECT id FROM gone

-- name: rotate_webhook_secret
-- Of a webhook, or of the tenant itself (the nil UUID). A third one in an overlap ends the first, so
-- that there are two at most.
WITH owner AS (
    SELECT id FROM webhooks WHERE id = %(owner)s AND tenant = %(tenant)s
    UNION ALL SELECT %(owner)s::uuid WHERE %(owner)s::uuid = '00000000-0000-0000-0000-000000000000'
), kept AS (
    INSERT INTO webhook_secrets (tenant, owner, secret)
    SELECT %(tenant)s, id, %(secret)s FROM owner WHERE {fence}
    ON CONFLICT DO NOTHING
), overlapping AS (
    UPDATE webhook_secrets s SET
        expire_time = CASE s.expire_time WHEN 'infinity'
            THEN clock_timestamp() + make_interval(secs => %(overlap_seconds)s) ELSE '-infinity' END
    FROM owner
    WHERE s.tenant = %(tenant)s AND s.owner = owner.id AND s.secret <> %(secret)s
      AND s.expire_time > clock_timestamp()
      AND NOT EXISTS (SELECT FROM webhook_secrets t WHERE t.tenant = %(tenant)s AND t.secret = %(secret)s)
)
SELECT clock_timestamp() + make_interval(secs => %(overlap_seconds)s) AS old_expire_time FROM owner

-- name: insert_test_delivery
-- By an id that was drawn before, so that it can be sent again. In a lane of its own: it waits for
-- nothing, and no further attempt follows it. Whoever deletes the webhook meanwhile is waited for.
INSERT INTO webhook_deliveries (id, tenant, webhook_id, lane, type, data)
SELECT %(id)s, tenant, id, id::text || ' test', 'webhook.test', '{}' FROM webhooks
WHERE id = %(webhook_id)s AND tenant = %(tenant)s AND enabled AND {fence}
FOR KEY SHARE
ON CONFLICT DO NOTHING

-- name: scan_deliveries
-- Newest first, older than `before_id`.
SELECT * FROM webhook_deliveries
WHERE tenant = %(tenant)s
  AND (%(id)s::uuid IS NULL OR id = %(id)s)
  AND (%(webhook_id)s::uuid IS NULL OR webhook_id = %(webhook_id)s)
  AND (%(generation_id)s::uuid IS NULL OR generation_id = %(generation_id)s)
  AND (%(before_id)s::uuid IS NULL OR seq < (
      SELECT seq FROM webhook_deliveries WHERE id = %(before_id)s AND tenant = %(tenant)s))
ORDER BY seq DESC
LIMIT %(limit)s::integer

-- name: redeliver
-- At once, and from the beginning of the schedule; one that waits for its next attempt, too.
UPDATE webhook_deliveries d SET
    attempts = 0, next_time = clock_timestamp(), delivered = false, finish_time = NULL
WHERE id = %(id)s AND tenant = %(tenant)s AND {fence}
  AND (webhook_id IS NULL OR EXISTS (SELECT FROM webhooks w WHERE w.id = d.webhook_id AND w.enabled))
RETURNING *

-- The workers'. What a lane's lease guards is who works in it; what a worker says about a delivery
-- is taken by the number of attempts that it began from.

-- name: claim_lanes
-- Lanes in which something is due, who waits longest first; without a token those that were new, and
-- can be leased by the next look. The walk from lane to lane touches one entry of the index each,
-- however much waits in it.
WITH RECURSIVE waiting(lane, next_time) AS (
    (SELECT lane, next_time FROM webhook_deliveries WHERE finish_time IS NULL
     ORDER BY lane, next_time LIMIT 1)
    UNION ALL
    SELECT n.lane, n.next_time FROM waiting w CROSS JOIN LATERAL (
        SELECT d.lane, d.next_time FROM webhook_deliveries d
        WHERE d.finish_time IS NULL AND d.lane > w.lane
        ORDER BY d.lane, d.next_time LIMIT 1) n
), made AS (
    INSERT INTO webhook_lanes (lane)
    SELECT lane FROM waiting w
    WHERE NOT EXISTS (SELECT FROM webhook_lanes l WHERE l.lane = w.lane)
    ON CONFLICT DO NOTHING
    RETURNING lane
), free AS MATERIALIZED (
    SELECT l.lane FROM webhook_lanes l JOIN waiting w USING (lane)
    WHERE l.leased_until <= clock_timestamp() AND l.closed_until <= clock_timestamp()
      AND w.next_time <= clock_timestamp()
    ORDER BY w.next_time
    LIMIT %(limit)s::integer
    FOR UPDATE OF l SKIP LOCKED
), taken AS (
    UPDATE webhook_lanes l SET
        lease_token = nextval('webhook_leases'),
        leased_until = clock_timestamp() + make_interval(secs => %(lease_seconds)s)
    FROM free WHERE l.lane = free.lane
    RETURNING l.lane, l.lease_token, l.failures
)
SELECT lane, lease_token, failures FROM taken
UNION ALL SELECT lane, NULL, 0 FROM made

-- name: due_deliveries
-- Of a lane that is leased, in order. A webhook that was disabled while this was written is told so.
SELECT d.*, coalesce(d.url, w.url) AS target, coalesce(w.enabled, true) AS enabled,
       s.secrets
FROM webhook_deliveries d
LEFT JOIN webhooks w ON w.id = d.webhook_id
CROSS JOIN LATERAL (
    SELECT array_agg(secret ORDER BY create_time DESC) AS secrets FROM webhook_secrets s
    WHERE s.tenant = d.tenant AND s.expire_time > clock_timestamp()
      AND s.owner = coalesce(d.webhook_id, '00000000-0000-0000-0000-000000000000')) s
WHERE d.lane = %(lane)s AND d.finish_time IS NULL AND d.next_time <= clock_timestamp()
ORDER BY d.next_time, d.seq
LIMIT %(limit)s::integer

-- name: attempted
-- NULL for `again_seconds`: no further attempt.
UPDATE webhook_deliveries SET
    attempts = attempts + 1, attempt_time = clock_timestamp(), status = %(status)s,
    detail = %(detail)s, delivered = %(delivered)s,
    finish_time = CASE WHEN %(again_seconds)s::float8 IS NULL THEN clock_timestamp() END,
    next_time = coalesce(clock_timestamp() + make_interval(secs => %(again_seconds)s::float8), next_time)
WHERE id = %(id)s AND attempts = %(attempts)s AND finish_time IS NULL
RETURNING id

-- name: webhook_is_gone
-- It said so itself (410).
WITH gone AS (
    UPDATE webhooks SET enabled = false, disabled_reason = 'it answered 410 Gone',
                        update_time = clock_timestamp()
    WHERE id = %(id)s AND enabled RETURNING id
)
UPDATE webhook_deliveries d SET finish_time = clock_timestamp(), detail = 'webhook disabled'
FROM gone WHERE d.lane = gone.id::text AND d.finish_time IS NULL

-- name: release_lane
UPDATE webhook_lanes SET leased_until = clock_timestamp(), failures = %(failures)s,
    closed_until = clock_timestamp() + make_interval(secs => %(closed_seconds)s)
WHERE lane = %(lane)s AND lease_token = %(lease_token)s

-- name: outbox_age
-- Seconds for which something could have been delivered and no worker came: not while its receiver is
-- left alone, or another of its lane is under way. And how many wait for anything.
SELECT count(*) AS waiting,
       greatest(0, extract(epoch FROM clock_timestamp()
           - min(greatest(d.next_time, l.closed_until, l.leased_until))))::float8 AS oldest_seconds
FROM webhook_deliveries d LEFT JOIN webhook_lanes l USING (lane)
WHERE d.finish_time IS NULL

-- name: forget_deliveries
-- That ended so long ago; and lanes in which nothing is left.
WITH gone AS (
    DELETE FROM webhook_deliveries WHERE id = ANY(ARRAY(
        SELECT id FROM webhook_deliveries
        WHERE finish_time < clock_timestamp() - make_interval(hours => 24 * %(days)s::integer)
        LIMIT %(limit)s::integer))
    RETURNING id
), empty AS (
    DELETE FROM webhook_lanes l
    WHERE l.leased_until < clock_timestamp() - interval '1 hour'
      AND l.closed_until < clock_timestamp() - interval '1 hour'
      AND NOT EXISTS (SELECT FROM webhook_deliveries d WHERE d.lane = l.lane AND d.finish_time IS NULL)
), expired AS (
    DELETE FROM webhook_secrets WHERE expire_time < clock_timestamp() - interval '1 hour'
)
SELECT count(*) AS forgotten FROM gone
