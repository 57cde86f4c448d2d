-- What an application asked to delete; `key` is its own name for the request.
CREATE TABLE bulk_request (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    target TEXT NOT NULL,
    resources INTEGER NOT NULL,
    digest TEXT NOT NULL,
    origin TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'done', 'failed', 'restored')),
    accepted REAL NOT NULL,
    finished REAL
);
CREATE INDEX bulk_request_by_state ON bulk_request (state, finished);

-- Its files in the order of the request, in blocks: bytes, NUL after each name.
CREATE TABLE bulk_block (
    request INTEGER NOT NULL REFERENCES bulk_request (id),
    number INTEGER NOT NULL,
    names BLOB NOT NULL,
    PRIMARY KEY (request, number)
);

-- What a server is still to be asked: some places of a block, such as 0-499,503. A row goes when all of it is settled.
CREATE TABLE bulk_work (
    id INTEGER PRIMARY KEY,
    request INTEGER NOT NULL REFERENCES bulk_request (id),
    block INTEGER NOT NULL,
    target TEXT NOT NULL,
    server TEXT NOT NULL,
    places TEXT NOT NULL,
    resources INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    due REAL NOT NULL,
    claimed_by INTEGER NOT NULL DEFAULT 0,
    lease REAL NOT NULL DEFAULT 0,
    error TEXT NOT NULL DEFAULT ''
);
CREATE INDEX bulk_work_in_order ON bulk_work (target, server, request, block, id);
CREATE INDEX bulk_work_by_request ON bulk_work (request);

CREATE TABLE bulk_progress (
    request INTEGER NOT NULL REFERENCES bulk_request (id),
    server TEXT NOT NULL,
    done INTEGER NOT NULL,
    already INTEGER NOT NULL,
    PRIMARY KEY (request, server)
);

-- Files that were given up on.
CREATE TABLE bulk_dead (
    request INTEGER NOT NULL REFERENCES bulk_request (id),
    server TEXT NOT NULL,
    block INTEGER NOT NULL,
    place INTEGER NOT NULL,
    name TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    error TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (request, server, block, place)
);

-- Servers that could not be asked, since when, and until when they rest.
CREATE TABLE bulk_pause (
    target TEXT NOT NULL,
    server TEXT NOT NULL,
    failures INTEGER NOT NULL,
    since REAL NOT NULL,
    until REAL NOT NULL,
    error TEXT NOT NULL,
    PRIMARY KEY (target, server)
);

-- How fast a server went lately, files a second.
CREATE TABLE bulk_pace (
    target TEXT NOT NULL,
    server TEXT NOT NULL,
    pace REAL NOT NULL,
    PRIMARY KEY (target, server)
);

-- The folder a requested deletion is below; empty for those of the node's own files.
ALTER TABLE journal ADD COLUMN root TEXT NOT NULL DEFAULT '';
