-- What lists are asked for beside the newest: none of these columns changes when a generation is
-- claimed or published, so both go on without touching an index.
-- `_pre_`: the code before this one asks as it did.

-- By model.
CREATE INDEX generations_by_model ON generations (tenant, model, id DESC);

-- By label; most have none, and are not in it.
CREATE INDEX generations_by_label ON generations USING gin (labels jsonb_path_ops)
    WHERE labels <> '{}';

-- Those that came to nothing: few, among many.
CREATE INDEX generations_in_vain ON generations (tenant, id DESC)
    WHERE failure IS NOT NULL OR cancel_requested;
