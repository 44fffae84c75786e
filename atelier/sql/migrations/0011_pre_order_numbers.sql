-- Orders come to stand in the order in which they were given. One whose answer was lost may be under
-- way still, and be carried out after the order that followed it; so each has a number, and what is
-- not the latest is not written.

CREATE TABLE last_order (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    number   bigint  NOT NULL
);

INSERT INTO last_order (number) VALUES (0);
