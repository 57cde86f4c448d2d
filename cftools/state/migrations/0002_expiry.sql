-- Of a deletion: the last second, on the server's own clock, in which it may happen.
ALTER TABLE journal ADD COLUMN expires INTEGER NOT NULL DEFAULT 0;
-- Those of before were asked without one: they are given a day.
UPDATE journal SET expires = CAST(at AS INTEGER) + 86400 WHERE verb = 'delete' AND state = 'intended';

-- The last history on whose word copies of a kind (duplicate, disk) were deleted.
CREATE TABLE history_acted (
    path TEXT NOT NULL,
    reason TEXT NOT NULL,
    generation INTEGER NOT NULL,
    size INTEGER NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (path, reason)
);

DROP INDEX journal_arrivals;
CREATE INDEX journal_copies ON journal (finished) WHERE verb = 'copy';
CREATE INDEX journal_by_time ON journal (at);
