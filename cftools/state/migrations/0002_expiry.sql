-- The last second, on the server's own clock, in which the deletion may happen; null for copies.
ALTER TABLE journal ADD COLUMN expires INTEGER;

-- The last history on whose word copies of a kind (duplicate, disk) were deleted.
CREATE TABLE history_acted (
    path TEXT NOT NULL,
    reason TEXT NOT NULL,
    generation INTEGER NOT NULL,
    size INTEGER NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (path, reason)
);
