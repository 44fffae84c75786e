-- Generations and their events by days, so that old ones go by dropping a table (docs/store.md).
-- A UUIDv7 begins with the time, so days are a range of ids, and a look by id reads one table.
-- `_pre_`: the code before this one goes on beside it, and its inserts find keys by the trigger.

-- One generation for each key, over all days: an index of a partitioned table cannot say that.
CREATE TABLE request_keys (
    tenant        text NOT NULL,
    request_id    text NOT NULL,
    generation_id uuid NOT NULL,
    PRIMARY KEY (tenant, request_id)
);
CREATE INDEX request_keys_by_generation ON request_keys (generation_id);
INSERT INTO request_keys SELECT tenant, request_id, id FROM generations WHERE request_id <> '';

-- Skips a generation whose key another has, as ON CONFLICT DO NOTHING does. It waits for one that
-- takes the same key at the same moment.
CREATE FUNCTION take_request_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO request_keys VALUES (NEW.tenant, NEW.request_id, NEW.id) ON CONFLICT DO NOTHING;
    RETURN CASE WHEN FOUND THEN NEW END;
END
$$;

-- What was there becomes the first day's tables.
ALTER TABLE generation_events
    DROP CONSTRAINT generation_events_generation_id_fkey, -- their rows are written in one statement
    ALTER COLUMN seq DROP IDENTITY;
ALTER TABLE generations RENAME TO generations_before;
ALTER INDEX generations_pkey RENAME TO generations_before_pkey;
ALTER INDEX generations_by_tenant RENAME TO generations_before_by_tenant;
ALTER TABLE generation_events RENAME TO generation_events_before;
ALTER INDEX generation_events_pkey RENAME TO generation_events_before_pkey;

CREATE TABLE generations (LIKE generations_before INCLUDING DEFAULTS INCLUDING CONSTRAINTS)
    PARTITION BY RANGE (id);
ALTER TABLE generations ADD PRIMARY KEY (id);
CREATE INDEX generations_by_tenant ON generations (tenant, id DESC);
-- What is unfinished. By finish_time and not by state, which each claim and requeue would write
-- into the index: as it is they touch no index at all, and stay on their page (HOT).
CREATE INDEX generations_open ON generations (id) WHERE finish_time IS NULL;
CREATE TRIGGER take_request_key BEFORE INSERT ON generations FOR EACH ROW
    WHEN (NEW.request_id <> '') EXECUTE FUNCTION take_request_key();

CREATE SEQUENCE generation_events_order AS bigint;
SELECT setval('generation_events_order', max(seq)) FROM generation_events_before;
ALTER TABLE generation_events_before
    ALTER COLUMN seq SET DEFAULT nextval('generation_events_order');
CREATE TABLE generation_events (LIKE generation_events_before INCLUDING DEFAULTS)
    PARTITION BY RANGE (generation_id);
ALTER TABLE generation_events ADD PRIMARY KEY (generation_id, seq);

-- Which tables there are: generations_NAME and generation_events_NAME, of whole days each. They
-- leave no gap.
CREATE TABLE generation_days (
    name  text        PRIMARY KEY, -- the last day in it, in UTC: 20261122
    since timestamptz NOT NULL UNIQUE,
    until timestamptz NOT NULL UNIQUE CHECK (since < until)
);

-- The lowest UUIDv7 of a moment.
CREATE FUNCTION id_at(moment timestamptz) RETURNS uuid LANGUAGE sql STABLE STRICT AS $$
    SELECT (lpad(to_hex((extract(epoch FROM moment) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

CREATE FUNCTION day_name(until timestamptz) RETURNS text LANGUAGE sql STABLE STRICT AS $$
    SELECT to_char((until - interval '24 hours') AT TIME ZONE 'UTC', 'YYYYMMDD')
$$;

-- Attaching locks out nobody who reads or writes; CREATE TABLE ... PARTITION OF would.
CREATE FUNCTION attach_day(since timestamptz, until timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    parent text;
BEGIN
    FOREACH parent IN ARRAY ARRAY['generations', 'generation_events'] LOOP
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                       parent, parent || '_' || day_name(until), id_at(since), id_at(until));
    END LOOP;
    INSERT INTO generation_days VALUES (day_name(until), since, until);
END
$$;

CREATE FUNCTION make_day(since timestamptz, until timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE TABLE %I (LIKE generations INCLUDING ALL) WITH (fillfactor = 70,'
                   ' autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000)',
                   'generations_' || day_name(until));
    EXECUTE format('CREATE TABLE %I (LIKE generation_events INCLUDING ALL)',
                   'generation_events_' || day_name(until));
    PERFORM attach_day(since, until);
END
$$;

-- What is missing up to that many days after today, so many days in one; how many were made. The
-- first one after a long stop begins where the last one ended.
CREATE FUNCTION make_days(ahead integer, span integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    today timestamptz := date_trunc('day', clock_timestamp(), 'UTC');
    since timestamptz;
    made  integer := 0;
BEGIN
    LOOP
        SELECT coalesce(max(d.until), to_timestamp(0)) INTO since FROM generation_days d;
        EXIT WHEN since > today + make_interval(hours => 24 * ahead);
        PERFORM make_day(since, greatest(since, today) + make_interval(hours => 24 * span));
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;

-- Drop a day that ended so many days ago, if all of it is finished. That wants the whole table for
-- a moment: if somebody reads for long it gives up at once rather than let all others wait.
CREATE FUNCTION drop_day(wanted text, retention_days integer) RETURNS boolean
LANGUAGE plpgsql SET lock_timeout = '100ms' AS $$
DECLARE
    day generation_days;
BEGIN
    DELETE FROM generation_days d
    WHERE d.name = wanted AND retention_days > 0
      AND d.until <= clock_timestamp() - make_interval(hours => 24 * retention_days)
      AND NOT EXISTS (SELECT FROM generations g WHERE g.finish_time IS NULL
                      AND g.id >= id_at(d.since) AND g.id < id_at(d.until))
    RETURNING * INTO day;
    IF day IS NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('DROP TABLE %I, %I', 'generations_' || wanted, 'generation_events_' || wanted);
    RETURN true;
END
$$;

DO $$
DECLARE
    newest uuid;
    until  timestamptz := date_trunc('day', clock_timestamp(), 'UTC') + interval '24 hours';
BEGIN
    SELECT id INTO newest FROM generations_before ORDER BY id DESC LIMIT 1;
    IF newest IS NULL THEN
        DROP TABLE generations_before, generation_events_before;
    ELSE
        -- Its clock may have been ahead.
        until := greatest(until, interval '24 hours' + date_trunc('day', to_timestamp(
            ('x' || left(replace(newest::text, '-', ''), 12))::bit(48)::bigint / 1000.0), 'UTC'));
        EXECUTE format('ALTER TABLE generations_before RENAME TO %I', 'generations_' || day_name(until));
        EXECUTE format('ALTER TABLE generation_events_before RENAME TO %I',
                       'generation_events_' || day_name(until));
        PERFORM attach_day(to_timestamp(0), until);
    END IF;
    PERFORM make_days(2, 1);
END
$$;
