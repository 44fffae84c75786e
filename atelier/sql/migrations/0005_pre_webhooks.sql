-- Webhooks: where tenants want to hear what became of their generations, and what they are still to
-- be told (docs/webhooks.md). `_pre_`: what the code before this one finishes is told too, by the
-- trigger below.

CREATE TABLE webhooks (
    id              uuid        PRIMARY KEY,
    tenant          text        NOT NULL,
    url             text        NOT NULL,
    events          text[]      NOT NULL CHECK (cardinality(events) > 0), -- final states
    include_prompts boolean     NOT NULL DEFAULT false,
    description     text        NOT NULL DEFAULT '',
    enabled         boolean     NOT NULL DEFAULT true,
    disabled_reason text        NOT NULL DEFAULT '',
    create_time     timestamptz NOT NULL DEFAULT clock_timestamp(),
    update_time     timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX webhooks_by_tenant ON webhooks (tenant, id);

-- With which keys to sign: all that have not expired. `owner` is a webhook's id, or the nil UUID: the
-- tenant's own, for URLs of single requests.
CREATE TABLE webhook_secrets (
    tenant      text        NOT NULL,
    owner       uuid        NOT NULL,
    secret      text        NOT NULL,
    create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
    expire_time timestamptz NOT NULL DEFAULT 'infinity',
    PRIMARY KEY (tenant, owner, secret)
);

-- The outbox. A row has all that it takes to deliver it, so that the generation may go meanwhile.
-- `lane`: whom it goes to. One worker at a time works in a lane, so that who is slow delays nobody
-- else: the webhook's id, or of the URL of a single request its tenant and its host.
CREATE TABLE webhook_deliveries (
    id            uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    seq           bigint      GENERATED ALWAYS AS IDENTITY,
    tenant        text        NOT NULL,
    webhook_id    uuid        REFERENCES webhooks ON DELETE CASCADE,
    url           text, -- of a single request; NULL: the webhook's, as it is by then
    lane          text        NOT NULL,
    type          text        NOT NULL,
    generation_id uuid,
    data          jsonb       NOT NULL,
    attempts      smallint    NOT NULL DEFAULT 0,
    next_time     timestamptz NOT NULL DEFAULT clock_timestamp(),
    status        integer     NOT NULL DEFAULT 0, -- of HTTP, in the latest attempt
    detail        text        NOT NULL DEFAULT '', -- what came back, or went wrong
    attempt_time  timestamptz,
    delivered     boolean     NOT NULL DEFAULT false,
    create_time   timestamptz NOT NULL DEFAULT clock_timestamp(),
    finish_time   timestamptz, -- delivered, or given up
    CONSTRAINT goes_somewhere CHECK ((webhook_id IS NULL) = (url IS NOT NULL)),
    CONSTRAINT delivered_is_an_end CHECK (NOT delivered OR finish_time IS NOT NULL)
);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (lane, next_time, seq)
    WHERE finish_time IS NULL;
CREATE INDEX webhook_deliveries_by_tenant ON webhook_deliveries (tenant, seq DESC);
CREATE INDEX webhook_deliveries_by_webhook ON webhook_deliveries (webhook_id);
CREATE INDEX webhook_deliveries_ended ON webhook_deliveries (finish_time)
    WHERE finish_time IS NOT NULL;

-- Made by workers, not by the trigger: what ends generations never waits for what delivers.
CREATE TABLE webhook_lanes (
    lane         text        PRIMARY KEY,
    lease_token  bigint      NOT NULL DEFAULT 0,
    leased_until timestamptz NOT NULL DEFAULT '-infinity',
    failures     integer     NOT NULL DEFAULT 0, -- in a row
    closed_until timestamptz NOT NULL DEFAULT '-infinity'
);
CREATE SEQUENCE webhook_leases AS bigint;

-- The URL that this one generation is to be told to; '': none. A default: no row is written.
ALTER TABLE generations ADD COLUMN webhook_url text NOT NULL DEFAULT '';

-- Whatever moves a generation to a final state writes its outbox in the same statement.
CREATE FUNCTION tell_webhooks() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO webhook_deliveries (tenant, webhook_id, url, lane, type, generation_id, data)
    SELECT NEW.tenant, t.id, t.url, t.lane, 'generation.' || lower(NEW.state), NEW.id,
           jsonb_build_object(
               'id', NEW.id, 'model', NEW.model, 'state', NEW.state, 'labels', NEW.labels,
               'request_id', NEW.request_id, 'create_time', NEW.create_time,
               'finish_time', NEW.finish_time)
           || CASE WHEN NEW.results IS NULL THEN '{}' ELSE jsonb_build_object('results', NEW.results) END
           || CASE WHEN NEW.failure IS NULL THEN '{}' ELSE jsonb_build_object('failure', NEW.failure) END
           || CASE WHEN t.include_prompts THEN jsonb_build_object(
                  'prompt', NEW.spec -> 'prompt', 'negative_prompt', NEW.spec -> 'negative_prompt')
              ELSE '{}' END
    FROM (
        SELECT w.id, NULL AS url, w.id::text AS lane, w.include_prompts FROM webhooks w
        WHERE w.tenant = NEW.tenant AND w.enabled AND NEW.state = ANY(w.events)
        UNION ALL
        SELECT NULL, NEW.webhook_url, NEW.tenant || ' ' || split_part(NEW.webhook_url, '/', 3), false
        WHERE NEW.webhook_url <> ''
    ) AS t;
    RETURN NULL;
END
$$;
CREATE TRIGGER tell_webhooks AFTER UPDATE ON generations FOR EACH ROW
    WHEN (OLD.finish_time IS NULL AND NEW.finish_time IS NOT NULL) EXECUTE FUNCTION tell_webhooks();
