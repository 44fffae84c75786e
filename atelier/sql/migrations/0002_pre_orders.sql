-- What operators ordered. A device is only a name here: the orders wait for it where it is away.

CREATE TABLE drained_devices (
    device_id   text        PRIMARY KEY,
    reason      text        NOT NULL CHECK (reason <> ''),
    create_time timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE pinned_models (
    device_id   text        NOT NULL,
    model       text        NOT NULL,
    create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (device_id, model)
);
