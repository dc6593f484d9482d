"""`palyra journal verify`: check the log, fold it anew, and have the verdict written down.

The check reads the file, beside a daemon or without one; only what is written about it has one writer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from palyra.cli.command import Call, Command
from palyra.cli.frame import Answer
from palyra.cli.page import Page, Styled, Text
from palyra.cli.render import count, counted

if TYPE_CHECKING:
    from palyra.cli.reading import Journal
    from palyra.engine.inspection import CheckAnswer
    from palyra.engine.replay import LiveChapter


@click.command(
    "verify",
    cls=Command,
    examples=[
        ("palyra journal verify", "every row, the file, the witness"),
        ("palyra journal verify --quick", "rows since the witness"),
        ("palyra journal verify --replay", "and that folding it again gives the same state"),
        ("palyra journal verify --from 1 --to 1 --json", "a range, for a program"),
        ("palyra journal verify --record", "and write the verdict into the journal"),
    ],
    exits=(0, 2, 7, 8),
)
@click.option(
    "--replay", "is_replayed", is_flag=True, help="Fold it anew; compare snapshots and a daemon's memory."
)
@click.option("--from", "first", type=click.IntRange(min=1), metavar="POSITION", help="First row to check.")
@click.option("--to", "last", type=click.IntRange(min=1), metavar="POSITION", help="Last row to check.")
@click.option("--quick", "is_quick", is_flag=True, help="Only rows since the witness.")
@click.option("--record", "is_recorded", is_flag=True, help="Write the verdict into the journal.")
def verify(
    call: Call, is_replayed: bool, first: int | None, last: int | None, is_quick: bool, is_recorded: bool
) -> Answer:
    """Check the journal: positions, versions, links, times, schema, witness.

    It runs beside the daemon or without one, and changes nothing; with --record the verdict is written down, damage
    only where the log can go on behind it. Anything but information is damage, and exit 7.
    """
    from palyra.auth.keyfiles import witness_key
    from palyra.cli.progress import Progress
    from palyra.cli.reading import Journal
    from palyra.engine.inspection import check_journal
    from palyra.engine.verdicts import check_and_record
    from palyra.errors import JournalDamaged

    if is_quick and (first is not None or last is not None):
        raise click.UsageError("--quick chooses the rows itself", click.get_current_context())
    if first is not None and last is not None and first > last:
        raise click.UsageError("--from must not be after --to", click.get_current_context())
    source = Journal(call)
    is_offline = is_recorded and not source.lock.is_locked
    check: Callable[..., CheckAnswer] = functools.partial(
        check_journal,
        source.paths.journal,
        witness_key=witness_key(source.paths.vault_key, create=False),
        live=_live_chapters(call, source) if is_replayed else (),
    )
    if is_offline:
        check = functools.partial(check_and_record, source.paths)
    with Progress() as progress:
        report = check(first=first, last=last, is_quick=is_quick, is_replayed=is_replayed, progress=progress)
    if is_recorded and not is_offline:
        report = _have_recorded(call, report)
    critical = sum(finding.severity != "info" for finding in report.findings) + report.omitted_count
    failure = None
    if not report.is_sound:
        hint = "keep a copy of the state directory before anything else"
        failure = JournalDamaged(f"The journal is damaged: {counted(critical, 'finding')}.", hint=hint)
    return source.answer(
        report.journal_id, report.head_position, report, lambda page: _show_check(page, report), failure=failure
    )


def _live_chapters(call: Call, source: Journal) -> list[LiveChapter]:
    """Return what the daemon beside the file holds in memory, a chapter at a time; nothing where none answers."""
    import msgspec

    from palyra.cli.door import LONG_S, DoorClosed, find_door
    from palyra.engine.console.journal import DigestAnswer, DigestParams
    from palyra.engine.console.table import JOURNAL_DIGEST
    from palyra.engine.replay import LiveChapter
    from palyra.projections.state import State

    door = find_door(call, source.lock)
    if door is None:
        return []
    found = []
    try:
        for chapter in State.__struct_fields__:
            told = door.ask(JOURNAL_DIGEST.path, DigestParams(chapter=chapter), {}, LONG_S)
            answer = msgspec.json.decode(told.data, type=DigestAnswer)
            found.append(LiveChapter(answer.position, chapter, answer.digest))
    except DoorClosed:
        return []
    return found


def _have_recorded(call: Call, report: CheckAnswer) -> CheckAnswer:
    """Have the daemon write down what was found beside it."""
    import msgspec

    from palyra.cli.asking import change
    from palyra.engine.console.change_table import JOURNAL_VERDICT
    from palyra.engine.console.verdicts import VerdictParams
    from palyra.engine.verdicts import check_of

    params = msgspec.convert(msgspec.to_builtins(check_of(report)), VerdictParams)
    position = change(call, JOURNAL_VERDICT, params).found.position
    return msgspec.structs.replace(report, recorded_position=position)


def _show_check(page: Page, report: CheckAnswer) -> None:
    verdict = Styled("sound", "good") if report.is_sound else Styled("damaged", "bad")
    page.line(Styled(f"Journal {report.journal_id}", "bold"), " is ", verdict)
    page.line()
    rows = counted(report.rows_count, "row")
    if report.rows_count:
        rows += f" · positions {count(report.first_position)} to {count(report.last_position)}"
    fields: list[tuple[str, Text]] = [("checked", rows)]
    if report.replay is not None:
        compared = counted(report.replay.snapshots_count, "snapshot")
        if report.replay.live_count:
            compared += " and the daemon's memory"
        fields.append(("folded", f"{counted(report.replay.events_count, 'event')} · compared with {compared}"))
    if report.recorded_position is not None:
        fields.append(("recorded", f"at position {count(report.recorded_position)}"))
    page.fields(fields)
    for finding in report.findings:
        style = "dim" if finding.severity == "info" else "bad"
        place = f" at position {count(finding.position)}" if finding.position is not None else ""
        page.line()
        page.line(Styled(f"{finding.severity}: {finding.code}", style), place)
        details: list[tuple[str, Text]] = [("means", finding.meaning), ("next", finding.next_step)]
        if finding.expected:
            details.append(("expected", finding.expected))
        if finding.found:
            details.append(("found", finding.found))
        page.fields(details, indent=2)
    if report.omitted_count:
        page.line()
        page.line(f"and {counted(report.omitted_count, 'more finding')}")
