"""`palyra runs`: requests, open and done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from palyra.cli.command import Call, Group
from palyra.cli.frame import Answer
from palyra.cli.page import Column, Page, Styled
from palyra.cli.render import ago, count, duration, instant_ms
from palyra.cli.words import state_word, where

if TYPE_CHECKING:
    from palyra.engine.history import RunReport
    from palyra.engine.questions import RunAnswer


@click.group(
    cls=Group,
    examples=[
        ("palyra runs list", "open and recent runs"),
        ("palyra runs show last", "the newest one from its admission to its end"),
    ],
)
def runs() -> None:
    """Show requests, open and done."""


@runs.command(
    "list",
    examples=[
        ("palyra runs list", "the newest twenty"),
        ("palyra runs list --open", "those that are not done"),
        ("palyra runs list --limit 100 --json", "a hundred for a program"),
        ("palyra runs list --open --as-of -5m", "what was open five minutes ago"),
    ],
    exits=(0, 2, 5, 7),
    takes_as_of=True,
)
@click.option("--limit", type=click.IntRange(1, 250), default=20, help="How many at most; 20 by default.")
@click.option("--open", "is_open", is_flag=True, help="Only runs that have not ended.")
def list_runs(call: Call, limit: int, is_open: bool) -> Answer:
    """Show open and recent runs, newest first.

    The newest 200 runs that have ended are at hand; older ones are found by their id with `palyra runs show`.
    """
    from palyra.cli.asking import ask
    from palyra.engine.console.runs import RunsParams
    from palyra.engine.console.table import RUNS

    asked = ask(call, RUNS, RunsParams(limit=limit, open=is_open))
    found = asked.found.items

    def show(page: Page) -> None:
        if found:
            show_runs(page, found, asked.now_us)
        else:
            page.line(Styled("No run is open." if is_open else "No request was made yet.", "dim"))

    return asked.answer(show)


@runs.command(
    "show",
    examples=[
        ("palyra runs show last", "the newest run"),
        ("palyra runs show last --json", "the same for a program"),
        ("palyra runs show 01JD", "the one run whose id begins so"),
    ],
    exits=(0, 2, 5, 7, 8),
    takes_as_of=True,
)
@click.argument("run", metavar="RUN")
def show_run(call: Call, run: str) -> Answer:
    """Show one run: attempts, usage, times. RUN is its id, the beginning of it, or `last`."""
    from palyra.cli.asking import ask
    from palyra.engine.console.runs import RunParams
    from palyra.engine.console.table import RUN

    asked = ask(call, RUN, RunParams(run=run))
    return asked.answer(lambda page: _show_report(page, asked.found, asked.now_us))


@runs.command(
    "follow",
    examples=[
        ("palyra runs follow last", "the newest run, until it ends"),
        ("palyra runs follow 01JD --json", "the one whose id begins so, an event a line"),
    ],
    exits=(0, 2, 4, 5, 7, 8),
    is_followed=True,
)
@click.argument("run", metavar="RUN")
def follow_run(call: Call, run: str) -> int:
    """Show the events of a run as they come, until it ends. RUN is its id, the beginning of it, or `last`."""
    from palyra.cli.asking import ask
    from palyra.cli.following import follow
    from palyra.cli.journal import give_events
    from palyra.engine.console.runs import RunParams
    from palyra.engine.console.table import RUN
    from palyra.engine.history import Wanted

    report = ask(call, RUN, RunParams(run=run)).found
    page = call.page()
    for fresh in follow(call, report.first_position - 1, Wanted(streams=(f"run-{report.run_id}",))):
        give_events(call, page, fresh)
        if any(event.name in _ENDS for event in fresh):
            break
    return 0


_ENDS = ("run.completed", "run.failed", "run.cancelled", "run.refused")


@runs.command(
    "cancel",
    examples=[
        ("palyra runs cancel last", "end the newest run that is open"),
        ("palyra runs cancel 01JD --json", "end the one whose id begins so, for a program"),
    ],
    exits=(0, 2, 4, 7, 8),
    is_change=True,
)
@click.argument("run", metavar="RUN")
def cancel_run(call: Call, run: str) -> Answer:
    """End an open run now. RUN is its id, the beginning of it, or `last`.

    What it has used is recorded; its client is told that it was cancelled.
    """
    from palyra.cli.asking import change
    from palyra.engine.console.change_table import RUN_CANCEL
    from palyra.engine.console.runs import CancelParams

    done = change(call, RUN_CANCEL, CancelParams(run=run))
    return done.answer(
        lambda page: page.line(Styled(f"Run {done.found.run_id}", "bold"), " ", state_word(done.found.state))
    )


def show_runs(page: Page, rows: Sequence[RunAnswer], now_us: int) -> None:
    """Print the table of runs."""
    from palyra.cli.usage_tables import money

    columns = [
        Column("RUN"),
        Column("WHEN"),
        Column("STATE"),
        Column("MODEL", is_cut=True),
        Column("BY", is_cut=True, spare=3),
        Column("IN", align="right"),
        Column("OUT", align="right"),
        Column("COST", align="right"),
        Column("TOOK", align="right", spare=1),
        Column("TRIES", align="right", spare=4),
        Column("WHY", is_cut=True, spare=2),
    ]
    page.table(
        columns,
        [
            (
                one.run_id,
                ago(one.admitted_us, now_us),
                state_word(one.state),
                one.model_requested or one.model_id,
                where(one.provider_id, one.model_id),
                count(one.input_tokens) if one.input_tokens else "",
                count(one.output_tokens) if one.output_tokens else "",
                money(one.known_nanousd, is_complete=not one.unpriced_count) if one.attempts_count else "",
                duration(one.duration_us) if one.duration_us else "",
                count(one.attempts_count) if one.attempts_count else "",
                one.code,
            )
            for one in rows
        ],
    )


def _show_report(page: Page, report: RunReport, now_us: int) -> None:
    from palyra.cli.explain import asked_fields, end_words, headline, usage_words

    headline(page, report)
    fields = asked_fields(page, report, now_us)
    if report.session_id or report.agent_id:
        fields.append(("for", " · ".join(part for part in (report.session_id, report.agent_id) if part)))
    fields += [
        ("end", end_words(report)),
        ("usage", usage_words(report)),
        ("events", f"positions {count(report.first_position)} to {count(report.last_position)}"),
    ]
    page.fields(fields)
    if not report.attempts:
        return
    page.title("Attempts")
    columns = [
        Column("", align="right"),
        Column("STARTED", spare=3),
        Column("PROVIDER / MODEL", is_cut=True),
        Column("END"),
        Column("WHY", is_cut=True),
        Column("FIRST BYTE", align="right", spare=2),
        Column("TOOK", align="right"),
        Column("IN", align="right", spare=1),
        Column("OUT", align="right", spare=1),
    ]
    rows = [
        (
            str(one.attempt),
            instant_ms(one.started_us, page.zone),
            where(one.provider_id, one.model_id),
            state_word(one.state),
            one.failure_class or one.stop,
            duration(one.first_byte_us) if one.first_byte_us is not None else "",
            duration(one.duration_us) if one.duration_us is not None else "",
            count(one.input_tokens) if one.input_tokens is not None else "",
            count(one.output_tokens) if one.output_tokens is not None else "",
        )
        for one in report.attempts
    ]
    page.table(columns, rows)
