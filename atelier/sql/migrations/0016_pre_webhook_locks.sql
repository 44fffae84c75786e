-- Whoever ends a generation waits for a webhook that is being deleted meanwhile, and leaves it out.
-- Without the lock it was still seen, and by the time that the row was written its webhook was gone: the
-- foreign key refused the whole statement, and with it the generation's end.
-- `_pre_`: the code before this one calls it as before. Whoever changes a webhook is not waited for.
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
