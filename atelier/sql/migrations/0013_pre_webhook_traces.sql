-- What a delivery's span needs, so that it is in its generation's trace, whose row may be gone by then:
-- the caller's span, and how many attempts were made (a trace of several is kept).
-- `_pre_`: the code before this one neither reads nor writes it. Defaults: no row is written.
ALTER TABLE webhook_deliveries
    ADD COLUMN trace_parent text    NOT NULL DEFAULT '',
    ADD COLUMN tries        integer NOT NULL DEFAULT 0; -- attempts at the generation

-- As it was, with those two, and with a lock: whoever ends a generation waits for a webhook that is being
-- deleted meanwhile, and leaves it out. Without it that was still seen, and by the time that the row was
-- written its webhook was gone: the foreign key refused the whole statement, and with it the generation's
-- end. Whoever changes a webhook is not waited for.
CREATE OR REPLACE FUNCTION tell_webhooks() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO webhook_deliveries (tenant, webhook_id, url, lane, type, generation_id, data,
                                    trace_parent, tries)
    SELECT NEW.tenant, t.id, t.url, t.lane, 'generation.' || lower(NEW.state), NEW.id,
           jsonb_build_object(
               'id', NEW.id, 'model', NEW.model, 'state', NEW.state, 'labels', NEW.labels,
               'request_id', NEW.request_id, 'create_time', NEW.create_time,
               'finish_time', NEW.finish_time)
           || CASE WHEN NEW.results IS NULL THEN '{}' ELSE jsonb_build_object('results', NEW.results) END
           || CASE WHEN NEW.failure IS NULL THEN '{}' ELSE jsonb_build_object('failure', NEW.failure) END
           || CASE WHEN t.include_prompts THEN jsonb_build_object(
                  'prompt', NEW.spec -> 'prompt', 'negative_prompt', NEW.spec -> 'negative_prompt')
              ELSE '{}' END,
           NEW.trace_parent, NEW.attempt
    FROM (
        SELECT locked.id, NULL AS url, locked.id::text AS lane, locked.include_prompts FROM (
            SELECT w.id, w.include_prompts FROM webhooks w
            WHERE w.tenant = NEW.tenant AND w.enabled AND NEW.state = ANY(w.events)
            FOR KEY SHARE
        ) AS locked
        UNION ALL
        SELECT NULL, NEW.webhook_url, NEW.tenant || ' ' || split_part(NEW.webhook_url, '/', 3), false
        WHERE NEW.webhook_url <> ''
    ) AS t;
    RETURN NULL;
END
$$;
