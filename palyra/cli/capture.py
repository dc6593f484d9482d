"""`palyra capture`: take one run out of the journal, and decide it again anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from palyra.cli.command import Call, Group
from palyra.cli.frame import Answer, Notice, to_json
from palyra.cli.output import out_option, output
from palyra.cli.page import Page, Styled
from palyra.cli.render import count, counted, size

if TYPE_CHECKING:
    from palyra.decisions.capsule import Capsule
    from palyra.decisions.redecide import Difference, Verdict


class _Capture(Group):
    """Takes a first word that is no command for a run."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = [name for parameter in self.get_params(ctx) for name in parameter.opts]
        if args and args[0] not in (*self.commands, *own):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=_Capture,
    examples=[
        ("palyra capture run last -o run.json", "the newest run, into a file"),
        ("palyra capture replay run.json", "decide it again, here or anywhere"),
    ],
)
def capture() -> None:
    """Take one run out of the journal, and decide it again anywhere.

    A capsule holds a run's events and what its decisions read: configuration, circuits, health, exclusions. Who
    asked is a token in it; texts, addresses, credentials and headers are left out.

    `palyra capture RUN` is short for `palyra capture run RUN`.
    """


@capture.command(
    "run",
    examples=[
        ("palyra capture run last -o run.json", "the newest run, into a file"),
        ("palyra capture run last", "the capsule itself, to standard output"),
        ("palyra capture run 01JD -o run.json", "the one run whose id begins so"),
    ],
    exits=(0, 2, 5, 7, 8),
)
@click.argument("run", metavar="RUN")
@out_option("Write it here instead of to standard output.")
def run_(call: Call, run: str, out: str | None) -> Answer | int:
    """Write a run's capsule. RUN is its id, the beginning of it, or `last`."""
    from palyra.cli.reading import Journal
    from palyra.decisions.redecide import redecide
    from palyra.engine.capture import capture as capture_run
    from palyra.engine.capture import encode_capsule
    from palyra.engine.history import find_run

    journal = Journal(call)
    with journal.rows() as reader:
        run_id, journal_id = find_run(reader, run), reader.journal_id
        position = reader.head().position
    capsule = capture_run(journal.paths.journal, run_id)
    text = encode_capsule(capsule)
    verdict = redecide(capsule)
    if out is not None or not call.as_json:
        with output(out) as target:
            target.write(text)
    if out is None and not call.as_json:
        return 0
    data = {
        **_figures(capsule, verdict),
        "capsule_bytes": len(text),
        "file": out,
        "capsule": capsule if out is None else None,
    }

    def show(page: Page) -> None:
        page.line(Styled(f"Run {run_id}", "bold"), f" is in {out}")
        page.line()
        ground = counted(max(len(capsule.ground) - 1, 0), "change")
        page.fields(
            [
                ("events", f"{count(len(capsule.events))} · {size(len(text))}"),
                ("ground", f"what its decisions read · {ground} by others meanwhile"),
                (
                    "replay",
                    Styled("decided again, the same", "good")
                    if not verdict.difference
                    else Styled("decided otherwise", "bad"),
                ),
            ]
        )

    warnings = [Notice(code="capsule_differs", message=_sentence(verdict.difference))] if verdict.difference else []
    return journal.answer(journal_id, position, data, show, warnings=warnings)


@capture.command(
    "replay",
    examples=[
        ("palyra capture replay run.json", "whether this release decides the same"),
        ("palyra capture replay run.json --json", "the same for a program"),
    ],
    exits=(0, 2, 5, 7),
    is_configured=False,
)
@click.argument("file", metavar="FILE")
def replay(call: Call, file: str) -> Answer:
    """Decide a capsule's run again, without journal, configuration or network, and compare event by event.

    The first event that is decided otherwise is shown, and the exit is 7.
    """
    from palyra.decisions.redecide import redecide
    from palyra.engine.capture import read_capsule
    from palyra.errors import PalyraError

    capsule = read_capsule(Path(file))
    verdict = redecide(capsule)
    failure = None
    if verdict.difference is not None:
        hint = f"release {capsule.release} recorded it; another one may decide otherwise"
        failure = PalyraError(_sentence(verdict.difference), hint=hint, code="capsule_differs")
    return Answer(_figures(capsule, verdict), lambda page: _show_verdict(page, capsule, verdict), failure=failure)


def _figures(capsule: Capsule, verdict: Verdict) -> dict[str, Any]:
    return {
        "run_id": capsule.run_id,
        "release": capsule.release,
        "events_count": len(capsule.events),
        "decided_count": verdict.decided_count,
        "given_count": verdict.given_count,
        "difference": verdict.difference,
    }


def _show_verdict(page: Page, capsule: Capsule, verdict: Verdict) -> None:
    same = Styled("decided again, the same", "good")
    differs = Styled("decided otherwise", "bad")
    page.line(Styled(f"Run {capsule.run_id}", "bold"), " is ", differs if verdict.difference else same)
    page.line()
    given = f" · {count(verdict.given_count)} taken as given" if verdict.given_count else ""
    compared = f"{count(verdict.decided_count)} of {count(len(capsule.events))}"
    page.fields([("events", f"{compared} decided again{given}"), ("recorded", f"by release {capsule.release}")])
    if verdict.difference is not None:
        _show_difference(page, verdict.difference)


def _show_difference(page: Page, difference: Difference) -> None:
    page.title(f"First difference, at position {count(difference.position)}")
    if difference.recorded != difference.decided:
        page.fields(
            [("recorded", difference.recorded or "nothing"), ("decided", difference.decided or "nothing")], indent=2
        )
    for field in difference.fields:
        page.line(f"{difference.recorded} ", Styled(field.field, "bold"), indent=2)
        page.fields([("recorded", to_json(field.recorded)), ("decided", to_json(field.decided))], indent=4)


def _sentence(difference: Difference) -> str:
    place = f"At position {count(difference.position)}"
    if difference.recorded == difference.decided:
        fields = ", ".join(field.field for field in difference.fields)
        return f"{place} {difference.recorded} is decided otherwise: {fields}."
    return f"{place} {difference.recorded or 'nothing'} was recorded, {difference.decided or 'nothing'} is decided."
