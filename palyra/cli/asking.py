"""How a command asks: the questions of `palyra.engine.console`, answered from the journal file.

The answer is the one that the daemon gives for the same position and instant, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from palyra.cli.command import Call
from palyra.cli.frame import Answer, At, Notice
from palyra.cli.page import Page
from palyra.cli.progress import Progress
from palyra.cli.reading import file_of_journal, origin_of
from palyra.engine.clock import SystemClock
from palyra.engine.console.file import ask_file
from palyra.engine.console.frame import Items, JournalFiles, ListParams, Params, Question, Told
from palyra.engine.questions import Answer as Found
from palyra.journal.lock import read_lock

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

    @property
    def now_us(self) -> int:
        """What stands for now."""
        return self.at.as_of_us

    def answer(self, show: Callable[[Page], None], *, warnings: Sequence[Notice] = ()) -> Answer:
        """Return it as the answer of a command."""
        if self.is_past and self.at.position == 0:
            warnings = [*warnings, Notice(code="before_first_event", message="The journal had no event yet.")]
        return Answer(self.data, show, self.at, self.origin, warnings, is_past=self.is_past)


def ask(call: Call, question: Question[ParamsT, FoundT], params: ParamsT) -> Asked[FoundT]:
    """Ask a question at the moment that the command line names; raises `PalyraError`."""
    paths, now_us = call.paths, SystemClock().now_us()
    journal, lock = file_of_journal(paths), read_lock(paths.lock)
    with Progress() as progress:
        told = ask_file(
            question,
            params,
            files=JournalFiles(journal, paths.vault_key),
            lock=lock,
            at=call.as_of,
            zone=call.loaded.config.cli.timezone,
            now_us=now_us,
            progress=lambda done, total: progress("folding", done, total),
        )
    return _asked(call, question, told, "journal_file", origin_of(lock), now_us)


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
    call: Call, question: Question[Any, FoundT], told: Told, source: str, origin: str, asked_us: int
) -> Asked[FoundT]:
    at = told.at
    return Asked(
        found=msgspec.json.decode(told.data, type=question.reply),
        data=msgspec.json.decode(told.data, type=dict[str, Any]),
        at=At(journal_id=at.journal_id, position=at.position, as_of_us=at.as_of_us, source=source),
        origin=origin,
        asked_us=asked_us,
        is_past=call.as_of is not None,
    )
