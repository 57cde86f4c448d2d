CREATE TABLE run (
    id INTEGER PRIMARY KEY,
    command TEXT NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    started REAL NOT NULL,
    finished REAL,
    exit_code INTEGER,
    note TEXT NOT NULL DEFAULT ''
);

CREATE TABLE task (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES run (id),
    copy TEXT NOT NULL,
    name TEXT NOT NULL,
    size INTEGER NOT NULL,
    source TEXT NOT NULL,
    source_path TEXT NOT NULL,
    destination TEXT NOT NULL,
    rank INTEGER NOT NULL,
    hits INTEGER NOT NULL,
    reason TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('ready', 'working', 'done', 'failed', 'timeout', 'cancelled')),
    detail TEXT NOT NULL DEFAULT '',
    created REAL NOT NULL,
    started REAL,
    finished REAL,
    journal INTEGER
);
-- One file is copied once at a time, and one source serves one copy at a time, whatever processes run.
-- (A plain index of PostgreSQL takes no entry over 2704 bytes; names may be longer.)
-- postgresql: CREATE UNIQUE INDEX task_one_per_name ON task (md5(name)) WHERE state IN ('ready', 'working')
CREATE UNIQUE INDEX task_one_per_name ON task (name) WHERE state IN ('ready', 'working');
CREATE UNIQUE INDEX task_one_per_source ON task (source) WHERE state = 'working';
CREATE INDEX task_by_state ON task (state, finished);

CREATE TABLE journal (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES run (id),
    verb TEXT NOT NULL CHECK (verb IN ('copy', 'delete')),
    server TEXT NOT NULL,
    name TEXT NOT NULL,
    size INTEGER NOT NULL,
    reason TEXT NOT NULL,
    keeper TEXT NOT NULL DEFAULT '',
    source TEXT NOT NULL DEFAULT '',
    rank INTEGER NOT NULL DEFAULT 0,
    state TEXT NOT NULL CHECK (state IN ('intended', 'done', 'already', 'skipped', 'refused', 'failed')),
    detail TEXT NOT NULL DEFAULT '',
    at REAL NOT NULL,
    finished REAL
);
CREATE INDEX journal_unsettled ON journal (verb, server) WHERE state = 'intended';
-- postgresql: CREATE INDEX journal_by_name ON journal USING hash (name)
CREATE INDEX journal_by_name ON journal (name, id);
CREATE INDEX journal_arrivals ON journal (finished) WHERE verb = 'copy' AND state = 'done';

CREATE TABLE heartbeat (
    server TEXT PRIMARY KEY,
    role TEXT NOT NULL,
    ok INTEGER NOT NULL,
    milliseconds INTEGER NOT NULL,
    error TEXT NOT NULL,
    at REAL NOT NULL
);

CREATE TABLE cooldown (
    source TEXT NOT NULL,
    destination TEXT NOT NULL,
    failures INTEGER NOT NULL,
    until REAL NOT NULL,
    PRIMARY KEY (source, destination)
);

CREATE TABLE inventory_seen (
    server TEXT PRIMARY KEY,
    files INTEGER NOT NULL,
    at REAL NOT NULL
);

CREATE TABLE history_seen (
    path TEXT PRIMARY KEY,
    generation INTEGER NOT NULL,
    files INTEGER NOT NULL,
    destinations TEXT NOT NULL,
    at REAL NOT NULL
);
