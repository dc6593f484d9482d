"""`palyra journal`: read the journal and check it; what makes files of it stands in `journal_files`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from palyra.cli.command import Call, Group
from palyra.cli.frame import Answer, print_line_object, to_json
from palyra.cli.journal_files import COMMANDS
from palyra.cli.journal_verify import verify
from palyra.cli.page import Column, Page, Styled, Text
from palyra.cli.render import ago, clean, clock_ms, count, counted, cut, instant, instant_ms, size, width_of

if TYPE_CHECKING:
    from palyra.cli.asking import Asked
    from palyra.engine.console.journal import EventsParams
    from palyra.engine.history import EventAnswer, Wanted
    from palyra.engine.inspection import FiguresAnswer, WitnessAnswer

#: Most names, and the stream of a run.
_NAME_COLUMNS, _STREAM_COLUMNS = 20, 30
_SUMMARY_MIN_COLUMNS = 8


@click.group(
    cls=Group,
    examples=[
        ("palyra journal tail -f", "what happens, as it happens"),
        ("palyra journal verify", "whether the journal is sound"),
    ],
)
def journal() -> None:
    """Read the journal, check it, keep copies of it."""


@journal.command(
    "status",
    examples=[
        ("palyra journal status", "size, head, witness, events by name"),
        ("palyra journal status --json", "the same for a program"),
    ],
    exits=(0, 2, 7),
    takes_as_of=True,
)
def status(call: Call) -> Answer:
    """Show the journal as a file: head, size, witness, snapshots, events by name."""
    from palyra.cli.asking import ask
    from palyra.engine.console.journal import FiguresParams
    from palyra.engine.console.table import JOURNAL_STATUS

    durability = call.loaded.config.journal.durability
    asked = ask(call, JOURNAL_STATUS, FiguresParams())
    return asked.answer(lambda page: _show_figures(page, asked, durability))


def _show_figures(page: Page, asked: Asked[FiguresAnswer], durability: str) -> None:
    figures, now_us = asked.found, asked.now_us
    snapshots = count(figures.snapshots_count) if figures.snapshots_count else "none"
    if figures.newest_snapshot_position is not None:
        snapshots += f" · newest at {count(figures.newest_snapshot_position)} · {size(figures.snapshots_bytes)}"
    of_the_log: list[tuple[str, Text]] = [
        ("journal", Styled(figures.journal_id, "bold")),
        ("made", f"{instant(figures.created_us, page.zone)} · {ago(figures.created_us, now_us)}"),
        ("head", f"position {count(figures.position)} · {ago(figures.last_event_us, now_us)}"),
        ("link", figures.link),
        ("growth", f"{counted(figures.events_last_day_count, 'event')} in the last 24 h"),
    ]
    of_the_file: list[tuple[str, Text]] = [
        ("file", f"{figures.file} · schema {figures.schema}"),
        ("size", f"{size(figures.file_bytes)} · write-ahead log {size(figures.wal_bytes)}"),
        ("durability", durability),
        ("witness", _witness_words(figures.witness, asked.asked_us) if figures.witness is not None else ""),
        ("verified", _verdict_words(figures, asked.asked_us)),
        ("snapshots", snapshots),
    ]
    if asked.is_past:
        # A file has no past: what is told about it is true now.
        page.fields(of_the_log)
        page.title("The file, now")
        page.fields(of_the_file)
    else:
        page.fields([*of_the_log, *of_the_file])
    page.title("Events")
    columns = [Column("NAME"), Column("EVENTS", align="right"), Column("BODIES", align="right"), Column("")]
    rows = [
        (
            one.name,
            count(one.events_count),
            size(one.body_bytes),
            "" if one.is_known else Styled("not known", "warn"),
        )
        for one in figures.names
    ]
    page.table(columns, rows)


def _verdict_words(figures: FiguresAnswer, now_us: int) -> Text:
    if figures.checked_us is None:
        return "never on record: palyra journal verify --record"
    when = ago(figures.checked_us, now_us)
    return [f"{when} · ", Styled("sound", "good") if figures.checked_sound else Styled("damaged", "bad")]


def _witness_words(witness: WitnessAnswer, now_us: int) -> Text:
    problems = [code for code in witness.findings if code != "witness_unkeyed"]
    if witness.position is None or witness.at_us is None:
        return Styled(", ".join(problems), "bad")
    place = f"position {count(witness.position)} · {ago(witness.at_us, now_us)} · "
    if problems:
        return [place, Styled(", ".join(problems), "bad")]
    if witness.findings:
        return [place, Styled("agrees, but its key is missing", "warn")]
    return [place, Styled("agrees", "good")]


@journal.command(
    "tail",
    examples=[
        ("palyra journal tail", "the newest twenty events"),
        ("palyra journal tail -f", "and what comes, until Ctrl-C"),
        ("palyra journal tail -n 50 --names 'attempt.*'", "only of these names"),
        ("palyra journal tail --stream 'provider-*' --json", "only of these streams, for a program"),
        ("palyra journal tail --run last", "the newest run's"),
        ("palyra journal tail --as-of 20", "what was the newest at position 20"),
    ],
    exits=(0, 2, 7, 8),
    takes_as_of=True,
)
@click.option("-n", "number", type=click.IntRange(0, 100_000), default=20, help="How many; 20 by default.")
@click.option("-f", "--follow", "is_followed", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("--names", metavar="GLOB", multiple=True, help="Only these names; can be repeated.")
@click.option("--stream", "streams", metavar="GLOB", multiple=True, help="Only these streams; can be repeated.")
@click.option("--run", metavar="RUN", help="Only this run's stream.")
def tail(
    call: Call,
    number: int,
    is_followed: bool,
    names: tuple[str, ...],
    streams: tuple[str, ...],
    run: str | None,
) -> Answer | int:
    """Show the newest events, in order."""
    if is_followed and call.as_of is not None:
        raise click.UsageError("what comes is not of the past: -f or --as-of", click.get_current_context())
    from palyra.cli.asking import ask_all
    from palyra.engine.console.frame import PAGE_MAX_COUNT
    from palyra.engine.console.journal import EventsParams
    from palyra.engine.console.table import JOURNAL_EVENTS

    params = EventsParams(names=names, stream=streams, run=run or "", limit=max(1, min(number, PAGE_MAX_COUNT)))
    asked = ask_all(call, JOURNAL_EVENTS, params, number)
    events = sorted(asked.found.items, key=lambda event: event.position)[-number:] if number else []
    if is_followed:
        return _follow(call, events, asked.at.position, _wanted(call, params))
    data = {**asked.data, "items": events}
    return asked._replace(data=data).answer(lambda page: _show_events(page, events))


def _wanted(call: Call, params: EventsParams) -> Wanted:
    """Return what is followed; the run is named once and for all."""
    from palyra.cli.asking import ask
    from palyra.engine.console.runs import RunParams
    from palyra.engine.console.table import RUN
    from palyra.engine.history import Wanted

    streams = params.stream
    if params.run:
        streams = (*streams, f"run-{ask(call, RUN, RunParams(run=params.run)).found.run_id}")
    return Wanted(names=params.names, streams=streams)


def _follow(call: Call, events: Sequence[EventAnswer], after: int, wanted: Wanted) -> int:
    """Print events as they come, until somebody interrupts or nobody reads any more."""
    from palyra.cli.following import follow

    page = call.page()
    give_events(call, page, events)
    for fresh in follow(call, after, wanted):
        give_events(call, page, fresh)
    return 0


def give_events(call: Call, page: Page, fresh: Sequence[EventAnswer]) -> None:
    """Print events at once, for whoever follows them."""
    if call.as_json:
        for event in fresh:
            print_line_object(event)
    else:
        _show_events(page, fresh)
        sys.stdout.flush()


def _show_events(page: Page, events: Sequence[EventAnswer]) -> None:
    """Print one line an event. Columns have fixed widths, because lines that come later must fit these."""
    for event in events:
        is_terminal = page.columns is not None
        when = (clock_ms if is_terminal else instant_ms)(event.recorded_at_us, page.zone)
        name, stream = event.name.ljust(_NAME_COLUMNS), clean(event.stream).ljust(_STREAM_COLUMNS)
        head = f"{event.position:>7,}  {when}  "
        summary = clean(_summary(event.body))
        if page.columns is not None:
            room = page.columns - len(head) - len(name) - width_of(stream) - 3
            summary = cut(summary, room) if room >= _SUMMARY_MIN_COLUMNS else ""
        page.line(
            Styled(head, "dim"),
            Styled(name, _name_style(event.name)),
            f" {stream}  ",
            Styled(summary, "dim"),
        )


def _name_style(name: str) -> str:
    happened = name.rpartition(".")[2]
    if happened in ("failed", "abandoned", "crashed", "denied"):
        return "bad"
    if happened in ("refused", "cancelled", "opened", "excluded", "failed_over"):
        return "warn"
    return "accent"


def _summary(body: dict[str, Any] | None) -> str:
    """Return a body's plain values on one line; what is nested shows as its size."""
    if body is None:
        return "(not readable)"
    parts = []
    for key, value in body.items():
        if isinstance(value, (dict, list)):
            parts.append(f"{key}[{len(value)}]")
        else:
            parts.append(f"{key}={value if isinstance(value, str) else to_json(value)}")
    return " ".join(parts)


@journal.command(
    "show",
    examples=[
        ("palyra journal show 1", "the first event"),
        ("palyra journal show daemon", "every event of a stream"),
        ("palyra journal show daemon:1 --json", "the first of a stream, for a program"),
        ("palyra journal show 1 --raw", "its body, byte for byte"),
    ],
    exits=(0, 2, 7, 8),
    takes_as_of=True,
)
@click.argument("event", metavar="POSITION|STREAM[:VERSION]")
@click.option("--raw", "is_raw", is_flag=True, help="Print the stored bytes of the bodies, a line each.")
def show(call: Call, event: str, is_raw: bool) -> Answer | int:
    """Show events whole: envelope, body, link."""
    if is_raw and call.as_json:
        raise click.UsageError("--raw and --json exclude each other", click.get_current_context())
    if is_raw:
        return _show_raw(call, event)
    from palyra.cli.asking import ask_all
    from palyra.engine.console.journal import EventParams
    from palyra.engine.console.table import JOURNAL_EVENT

    asked = ask_all(call, JOURNAL_EVENT, EventParams(event=event))

    def show_found(page: Page) -> None:
        for number, one in enumerate(asked.found.items):
            if number:
                page.line()
            _show_event(page, one.event, one.link, asked.now_us)

    return asked.answer(show_found)


def _show_raw(call: Call, event: str) -> int:
    """Print stored bytes, which only the file has."""
    from palyra.cli.reading import Journal
    from palyra.engine.history import events_at

    with Journal(call).rows() as reader:
        for row in events_at(reader, event):
            sys.stdout.buffer.write(row.body + b"\n")
    return 0


def _show_event(page: Page, event: EventAnswer, link: str, now_us: int) -> None:
    page.line(Styled(event.name, _name_style(event.name)), Styled(f" · position {count(event.position)}", "bold"))
    when = f"{instant_ms(event.recorded_at_us, page.zone)} · {ago(event.recorded_at_us, now_us)}"
    fields: list[tuple[str, Text]] = [
        ("recorded", when),
        ("stream", f"{event.stream} · version {count(event.version)}"),
        ("by", event.actor),
        ("schema", str(event.schema)),
    ]
    if event.correlation:
        fields.append(("belongs to", event.correlation))
    if event.causation:
        fields.append(("caused by", f"position {count(event.causation)}"))
    if event.command_key:
        fields.append(("command key", event.command_key))
    page.fields([*fields, ("link", link)], indent=2)
    if event.body is None:
        page.line(Styled("the body is no JSON object; --raw shows its bytes", "warn"), indent=2)
        return
    for line in to_json(event.body, indent=2).split("\n"):
        page.line(line, indent=2)


for _command in (verify, *COMMANDS):
    journal.add_command(_command)
