-- Statements about API keys, by name. Those that write ask {fence} first.

-- name: insert_key
-- Sent again, it finds itself. The one that it takes the place of, if any, ends after an overlap, or
-- sooner where it did already.
WITH new AS (
    INSERT INTO api_keys (id, tenant, secret_hash, scopes, description, expire_time)
    SELECT %(id)s, %(tenant)s, %(secret_hash)s, %(scopes)s, %(description)s, %(expire_time)s
    WHERE {fence} AND (SELECT count(*) FROM api_keys WHERE tenant = %(tenant)s) < %(most)s
    ON CONFLICT DO NOTHING
    RETURNING *
), replaced AS (
    UPDATE api_keys SET expire_time = least(
        expire_time, clock_timestamp() + make_interval(secs => %(overlap_seconds)s))
    WHERE id = %(replaces)s AND EXISTS (SELECT FROM new)
)
SELECT * FROM new

-- name: read_key
SELECT * FROM api_keys WHERE id = %(id)s

-- name: use_key
-- As read_key, for a call that showed it. That it was used is written once an hour, no more.
UPDATE api_keys SET last_use_time = date_trunc('hour', clock_timestamp())
WHERE id = %(id)s AND {fence}
  AND last_use_time IS DISTINCT FROM date_trunc('hour', clock_timestamp())
RETURNING id

-- name: scan_keys
SELECT * FROM api_keys WHERE %(tenant)s = '' OR tenant = %(tenant)s
ORDER BY create_time DESC, id LIMIT %(limit)s

-- name: revoke_key
UPDATE api_keys SET revoke_time = coalesce(revoke_time, clock_timestamp())
WHERE id = %(id)s AND {fence}
RETURNING *
