"""`journal`: the journal's figures, and its events."""

from __future__ import annotations

from collections import deque

from palyra.auth.keyfiles import witness_key
from palyra.engine.console.frame import Items, ListParams, Params, Sight
from palyra.engine.console.pages import page_of, read_cursor, write_cursor
from palyra.engine.history import EventAnswer, Wanted, event_answer, events_at, find_run, last_events
from palyra.engine.inspection import FiguresAnswer, journal_figures
from palyra.engine.questions import Answer
from palyra.errors import PalyraError
from palyra.journal.port import Row
from palyra.projections.state import State, digest_in


class FiguresParams(Params, frozen=True, kw_only=True):
    """Nothing is chosen."""


class EventsParams(ListParams, frozen=True, kw_only=True):
    """Which events; patterns as of a shell."""

    names: tuple[str, ...] = ()
    stream: tuple[str, ...] = ()
    #: Only this run's stream: its id, the beginning of it, or `last`.
    run: str = ""
    #: Those that follow this position; left out, the newest ones.
    after: int | None = None


class EventParams(ListParams, frozen=True, kw_only=True):
    """Which events: a position, `STREAM:VERSION`, or a whole stream."""

    event: str


class DigestParams(Params, frozen=True, kw_only=True):
    """Which chapter of the state, by its field."""

    chapter: str


class DigestAnswer(Answer, frozen=True, kw_only=True):
    """What is held of a chapter after a position: two folds of one log hold the same bytes."""

    chapter: str
    position: int
    #: SHA-256 of its canonical bytes, hexadecimal.
    digest: str


class LinkedEvent(Answer, frozen=True, kw_only=True):
    """An event with the link that chains it, hexadecimal."""

    event: EventAnswer
    link: str


def figures(sight: Sight, params: FiguresParams) -> FiguresAnswer:
    """Return head, size, witness, snapshots, events by name."""
    files = sight.files
    return journal_figures(
        sight.rows,
        path=files.path if files is not None else None,
        witness_key=witness_key(files.key_path, create=False) if files is not None else None,
        now_us=sight.now_us,
    )


def digest(sight: Sight, params: DigestParams) -> DigestAnswer:
    """Return the digest of one chapter; one at a time, so that no answer encodes all that is known."""
    if params.chapter not in State.__struct_fields__:
        message = f"'{params.chapter}' is no chapter of the state."
        raise PalyraError(message, hint=", ".join(State.__struct_fields__), code="invalid_query")
    return DigestAnswer(
        chapter=params.chapter, position=sight.position, digest=digest_in(sight.state, params.chapter)
    )


def events(sight: Sight, params: EventsParams) -> Items[EventAnswer]:
    """Return events in order: those after a position, or else the newest, whose next pages are older ones."""
    streams = params.stream
    if params.run:
        streams = (*streams, f"run-{find_run(sight.rows, params.run)}")
    wanted = Wanted(names=params.names, streams=streams)
    if params.after is not None:
        after = read_cursor(params.cursor, int) if params.cursor else params.after
        return _following(sight, after, params.limit, wanted)
    upto = read_cursor(params.cursor, int) if params.cursor else sight.position
    found = last_events(sight.rows, upto, params.limit, wanted)
    has_more = len(found) == params.limit and found[0].position > 1
    return Items(items=found, next_cursor=write_cursor(found[0].position - 1) if has_more else None)


def _following(sight: Sight, after: int, limit: int, wanted: Wanted) -> Items[EventAnswer]:
    found: deque[Row] = deque()
    for rows in sight.rows.rows(after):
        found.extend(row for row in rows if wanted.takes(row))
        if len(found) > limit:
            break
    page = [event_answer(row) for row in list(found)[:limit]]
    is_last = len(found) <= limit
    return Items(items=page, next_cursor=None if is_last else write_cursor(page[-1].position))


def event(sight: Sight, params: EventParams) -> Items[LinkedEvent]:
    """Return events whole: envelope, body, link."""
    rows = sight.rows
    page = page_of(events_at(rows, params.event), params, lambda row: (row.position,))
    linked = [
        LinkedEvent(event=event_answer(row), link=(rows.link(row.position) or b"").hex()) for row in page.items
    ]
    return Items(items=linked, next_cursor=page.next_cursor)
