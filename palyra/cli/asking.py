"""How a command asks and changes: by `palyra.engine.console`, of a daemon that runs or of the journal file.

Both give the same answer for the same position and instant, byte for byte, so which of them did only shows at the
foot.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from palyra.cli.command import Call
from palyra.cli.door import LONG_S, SHORT_S, DoorClosed, find_door
from palyra.cli.frame import Answer, At, Notice
from palyra.cli.page import Page
from palyra.cli.progress import Progress
from palyra.cli.reading import file_of_journal, origin_of
from palyra.config.schema import is_zone
from palyra.engine.clock import SystemClock
from palyra.engine.console.changes import Change, DaemonNotRunning
from palyra.engine.console.file import ask_file
from palyra.engine.console.frame import Items, JournalFiles, ListParams, Params, Question, Told
from palyra.engine.questions import Answer as Found
from palyra.errors import JournalLocked, PalyraError
from palyra.journal.lock import LockState, read_lock
from palyra.projections.state import State

#: How often a lock that somebody else holds is looked at.
_LOOK_MS = 20

FoundT = TypeVar("FoundT", bound=Found)
ItemT = TypeVar("ItemT")
ParamsT = TypeVar("ParamsT", bound=Params)
ListParamsT = TypeVar("ListParamsT", bound=ListParams)


class Asked(NamedTuple, Generic[FoundT]):
    """What was answered, and by whom."""

    #: What was found, as it is shown to people.
    found: FoundT
    #: The same as programs get it.
    data: dict[str, Any]
    at: At
    origin: str
    #: When it was asked, which for an answer about the past is not its now.
    asked_us: int
    is_past: bool
    notices: Sequence[Notice] = ()

    @property
    def now_us(self) -> int:
        """What stands for now."""
        return self.at.as_of_us

    def answer(self, show: Callable[[Page], None], *, warnings: Sequence[Notice] = ()) -> Answer:
        """Return it as the answer of a command."""
        warnings = [*self.notices, *warnings]
        if self.is_past and self.at.position == 0:
            warnings = [*warnings, Notice(code="before_first_event", message="The journal had no event yet.")]
        return Answer(self.data, show, self.at, self.origin, warnings, is_past=self.is_past)


def ask(call: Call, question: Question[ParamsT, FoundT], params: ParamsT) -> Asked[FoundT]:
    """Ask a question at the moment that the command line names; raises `PalyraError`.

    A daemon that answers at once is asked about now; about the past the file is, whose fold then is not the
    daemon's to do. `--offline`, `--online` and `--url` choose otherwise.
    """
    now_us, zone = SystemClock().now_us(), zone_name(call)
    lock = LockState(False, None) if call.url else read_lock(call.paths.lock)
    is_wanted = call.source == "online" or bool(call.url)
    if is_wanted or (call.source == "" and call.as_of is None):
        door = find_door(call, lock)
        if door is None and is_wanted:
            raise DaemonNotRunning
        frame = {"zone": zone} | ({"at": call.as_of} if call.as_of is not None else {})
        if door is not None:
            try:
                told = door.ask(question.path, params, frame, LONG_S if is_wanted else SHORT_S, question.method)
                return _asked(call, question, told, "daemon", door.origin, now_us)
            except DoorClosed:
                if is_wanted:
                    raise
    journal = file_of_journal(call.paths)
    notices: list[Notice] = []

    def see(state: State) -> None:
        from palyra.engine.vault_looks import see_vault

        found = see_vault(state, call.paths, now_us)
        notices.extend([] if found is None else [Notice(code=found.code, message=found.message)])

    is_unseen = question.tells_of_secrets and call.as_of is None and not lock.is_locked
    with Progress() as progress:
        told = ask_file(
            question,
            params,
            files=JournalFiles(journal, call.paths.vault_key),
            lock=lock,
            at=call.as_of,
            zone=zone,
            now_us=now_us,
            progress=progress,
            see=see if is_unseen else None,
        )
    return _asked(call, question, told, "journal_file", origin_of(lock), now_us)._replace(notices=notices)


def zone_name(call: Call) -> str:
    """Return the asker's zone by a name that a daemon understands, which may run in another one.

    TZ may hold a file or a rule as well, which have none.
    """
    configured, own = call.loaded.config.cli.timezone, os.environ.get("TZ", "").lstrip(":")
    return own if configured == "local" and own and is_zone(own) else configured


def change(call: Call, change: Change[ParamsT, FoundT], params: ParamsT) -> Asked[FoundT]:
    """Have the daemon change something, or where none runs and none is needed change it in the journal.

    Raises `PalyraError`.
    """
    now_us = SystemClock().now_us()
    lock = LockState(False, None) if call.url else read_lock(call.paths.lock)
    door = find_door(call, lock)
    if door is None and lock.is_locked:
        lock = _wait_for_writer(call)
        door = find_door(call, lock)
    if door is not None:
        told = door.change(change.method, change.path, params)
        return _asked(call, change, told, "daemon", door.origin, now_us)
    if lock.is_locked:
        raise _busy(lock)
    if change.needs_daemon:
        raise DaemonNotRunning
    if change.asks_providers:
        from palyra.alone import ask_providers

        told = ask_providers(call.paths, call.load(), change, params)
        origin = origin_of(lock) if call.paths.journal.exists() else "no journal yet, so nothing was recorded"
        return _asked(call, change, told, "journal_file", origin, now_us)
    if not change.begins:
        file_of_journal(call.paths)
    from palyra.engine.offline_change import change_offline

    told = change_offline(call.paths, call.loaded, change, params)
    return _asked(call, change, told, "journal_file", origin_of(lock), now_us)


def _wait_for_writer(call: Call) -> LockState:
    """Wait until another command is done with the journal, or a daemon that starts can be asked; not for ever."""
    waited_ms, lock = 0, read_lock(call.paths.lock)
    while lock.is_locked and not _is_daemon(lock) and find_door(call, lock) is None:
        if waited_ms >= call.loaded.config.vault.lock_timeout_ms:
            break
        time.sleep(_LOOK_MS / 1_000)
        waited_ms += _LOOK_MS
        lock = read_lock(call.paths.lock)
    return lock


def _is_daemon(lock: LockState) -> bool:
    return lock.holder is not None and bool(lock.holder.http)


def _busy(lock: LockState) -> PalyraError:
    """Return why nothing can be changed while somebody writes who cannot be asked."""
    if _is_daemon(lock):
        hint = "name it with --url, its admin token in PALYRA_TOKEN"
        return DoorClosed("The daemon that runs has no control socket.", hint=hint)
    who = "Another process" if lock.holder is None else f"Process {lock.holder.pid}"
    return JournalLocked(f"{who} is changing this state.", hint="try again when it is done")


def ask_all(
    call: Call, question: Question[ListParamsT, Items[ItemT]], params: ListParamsT, count: int | None = None
) -> Asked[Items[ItemT]]:
    """Ask for a list page by page, up to so many rows (default: all); pages that follow come behind."""
    first = asked = ask(call, question, params)
    pages, rows = [asked.found.items], [asked.data["items"]]
    left = None if count is None else count - len(asked.found.items)
    while asked.found.next_cursor is not None and left != 0:
        limit = params.limit if left is None else min(left, params.limit)
        params = msgspec.structs.replace(params, cursor=asked.found.next_cursor, limit=limit)
        asked = ask(call, question, params)
        pages.append(asked.found.items)
        rows.append(asked.data["items"])
        left = None if left is None else left - len(asked.found.items)
    found = Items(items=[item for page in pages for item in page], next_cursor=asked.found.next_cursor)
    whole = {"items": [row for page in rows for row in page], "next_cursor": asked.found.next_cursor}
    return first._replace(found=found, data={**first.data, **whole})


def _asked(
    call: Call,
    thing: Question[Any, FoundT] | Change[Any, FoundT],
    told: Told,
    source: str,
    origin: str,
    asked_us: int,
) -> Asked[FoundT]:
    at = told.at
    try:
        found = msgspec.json.decode(told.data, type=thing.reply)
    except msgspec.ValidationError as exc:
        raise PalyraError(
            "The daemon that runs is of another release than this program, and answers otherwise.",
            hint="start it again; --offline reads the journal's file meanwhile",
            code="unsupported_version",
        ) from exc
    return Asked(
        found=found,
        data=msgspec.json.decode(told.data, type=dict[str, Any]),
        at=At(journal_id=at.journal_id, position=at.position, as_of_us=at.as_of_us, source=source),
        origin=origin,
        asked_us=asked_us,
        is_past=call.as_of is not None,
    )
