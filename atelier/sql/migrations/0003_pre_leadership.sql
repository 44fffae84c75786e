-- Who leads, by a lease; and the fence that keeps out whoever led before.

ALTER TABLE leader
    ADD COLUMN holder     text        NOT NULL DEFAULT '',
    ADD COLUMN expires_at timestamptz NOT NULL DEFAULT '-infinity';

-- Elections update it. Were it inserted by the first, two firsts would meet in the index below.
INSERT INTO leader (name, epoch) VALUES ('scheduler', 0) ON CONFLICT DO NOTHING;

-- Makes the epoch a key column: taking over conflicts with the lock below, renewing does not.
CREATE UNIQUE INDEX leader_epoch ON leader (name, epoch);

-- Whether the writer's epoch is the present one; an error where it is not. The lock is held until
-- the writer's statement has committed, so whoever takes over waits for it, and a writer that waits
-- for the one who takes over finds its epoch gone. A sub-select would be no fence: it is not looked
-- at again after a wait for the row to be written. NULL writes unfenced: a tool, no scheduler.
CREATE FUNCTION fenced(wanted bigint) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF wanted IS NOT NULL THEN
        PERFORM FROM leader WHERE name = 'scheduler' AND epoch = wanted FOR KEY SHARE;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'epoch % is over', wanted USING ERRCODE = 'AT001';
        END IF;
    END IF;
    RETURN true;
END
$$;
