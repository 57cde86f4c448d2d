-- The table from which `cftools bulk-delete collect` takes requests, in the application's own PostgreSQL. Names of
-- table and columns are the defaults of bulk_delete.outboxes.NAME; resources may also be jsonb, json (an array of
-- strings; json can hold names that are not UTF-8, as \udcXX) or text (one name a line).
CREATE TABLE bulk_delete_outbox (
    request text PRIMARY KEY CHECK (char_length(request) BETWEEN 1 AND 200),
    target text NOT NULL,
    resources text[] NOT NULL,
    created timestamptz NOT NULL DEFAULT now(),
    taken timestamptz,
    error text
);

-- What waits is found at once, however many rows were taken before.
CREATE INDEX bulk_delete_outbox_waiting ON bulk_delete_outbox (request) WHERE taken IS NULL AND error IS NULL;

-- The role that collects needs no more than this:
--   GRANT SELECT, UPDATE (taken, error) ON bulk_delete_outbox TO cftools;
-- Rows that were taken are yours to keep or to remove: DELETE FROM bulk_delete_outbox WHERE taken < now() - '30 days'::interval;
-- One that was refused is tried again after: UPDATE bulk_delete_outbox SET error = NULL WHERE request = 'album-7';
