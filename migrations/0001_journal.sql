-- The journal: one row an event, appended and never changed.
PRAGMA application_id = 0x50414c59;  -- "PALY"

CREATE TABLE journal (
    only_row       INTEGER PRIMARY KEY CHECK (only_row = 1),
    journal_id     TEXT    NOT NULL,  -- the genesis link is derived from it
    created_at_us  INTEGER NOT NULL
) STRICT;

CREATE TABLE event (
    position        INTEGER PRIMARY KEY,  -- 1, 2, 3, ... over the whole journal
    stream          TEXT    NOT NULL,
    version         INTEGER NOT NULL,     -- 1, 2, 3, ... within the stream
    name            TEXT    NOT NULL,
    schema          INTEGER NOT NULL,
    recorded_at_us  INTEGER NOT NULL,
    actor           TEXT    NOT NULL,
    correlation     TEXT,                 -- NULL: the stream itself
    causation       INTEGER,              -- NULL: nothing that is recorded
    command_key     TEXT,                 -- NULL: not the first event of a command with a key
    body            TEXT    NOT NULL,     -- JSON
    link            BLOB    NOT NULL      -- SHA-256 over the previous link and this row
) STRICT;

CREATE UNIQUE INDEX event_stream_version ON event (stream, version);

-- Guards against a slip of the hand in a SQL shell; who means harm drops them, and the chain shows it.
CREATE TRIGGER event_position_continues BEFORE INSERT ON event
WHEN NEW.position <> (SELECT coalesce(max(position), 0) + 1 FROM event)
BEGIN SELECT raise(ABORT, 'the journal goes on at the next position only'); END;

CREATE TRIGGER event_is_never_changed BEFORE UPDATE ON event
BEGIN SELECT raise(ABORT, 'the journal is append-only'); END;

CREATE TRIGGER event_is_never_deleted BEFORE DELETE ON event
BEGIN SELECT raise(ABORT, 'the journal is append-only'); END;

CREATE TRIGGER journal_is_never_changed BEFORE UPDATE ON journal
BEGIN SELECT raise(ABORT, 'a journal keeps its identity'); END;

CREATE TRIGGER journal_is_never_deleted BEFORE DELETE ON journal
BEGIN SELECT raise(ABORT, 'a journal keeps its identity'); END;
