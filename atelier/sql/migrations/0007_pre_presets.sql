-- Presets of tenants and of everybody, by versions; and which one a generation took.
-- `_pre_`: the code before this one neither reads nor writes any of it.

CREATE TABLE preset_versions (
    tenant      text        COLLATE "C" NOT NULL, -- '': everybody's
    model       text        COLLATE "C" NOT NULL,
    name        text        COLLATE "C" NOT NULL,
    version     integer     NOT NULL CHECK (version > 0),
    description text        NOT NULL,
    kind        text        NOT NULL CHECK (kind IN ('image', 'video')),
    spec        jsonb       NOT NULL, -- the fields that it sets, as protobuf writes JSON
    create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant, model, name, version)
);

-- Those that stand, each by its newest version. One that is deleted is gone from here only, so that
-- a version never means two things.
CREATE TABLE presets (
    tenant  text    COLLATE "C" NOT NULL,
    model   text    COLLATE "C" NOT NULL,
    name    text    COLLATE "C" NOT NULL,
    version integer NOT NULL,
    PRIMARY KEY (tenant, model, name),
    FOREIGN KEY (tenant, model, name, version) REFERENCES preset_versions
);

-- NAME@VERSION, as a request can name it; '': none. A default: no row is written.
ALTER TABLE generations ADD COLUMN preset text NOT NULL DEFAULT '';
