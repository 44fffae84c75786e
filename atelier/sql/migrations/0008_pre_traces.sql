-- The caller's span (W3C traceparent), below which a generation's trace hangs; '': it has its own.
-- `_pre_`: the code before this one neither reads nor writes it. A default: no row is written.
ALTER TABLE generations ADD COLUMN trace_parent text NOT NULL DEFAULT '';
