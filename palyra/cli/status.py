"""`palyra status`: everything at a glance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from palyra.cli.command import Call, Command
from palyra.cli.frame import Answer
from palyra.cli.page import Column, Page, Styled, Text
from palyra.cli.render import ago, count, counted, duration
from palyra.cli.words import state_word

if TYPE_CHECKING:
    from palyra.engine.questions import UsageAnswer
    from palyra.engine.status_questions import DaemonAnswer, StatusAnswer


@click.command(
    cls=Command,
    examples=[
        ("palyra status", "how the gateway is doing"),
        ("palyra status --json", "the same for a program"),
        ("palyra status --as-of -1h", "how it was doing an hour ago"),
    ],
    exits=(0, 2, 5, 7),
    takes_as_of=True,
)
def status(call: Call) -> Answer:
    """Show what runs, what fails and what is used."""
    from palyra.cli.asking import ask
    from palyra.engine.console.status import StatusParams
    from palyra.engine.console.table import STATUS

    asked = ask(call, STATUS, StatusParams())
    found, now_us = asked.found, asked.now_us

    def show(page: Page) -> None:
        _show_daemon(page, found.daemon, now_us, is_past=asked.is_past)
        page.line()
        page.fields(_fields(found, now_us))
        _show_parts(page, found, now_us)

    return asked.answer(show)


def _show_daemon(page: Page, daemon: DaemonAnswer, now_us: int, *, is_past: bool) -> None:
    release = f"Palyra {daemon.release}" if daemon.release else "Palyra"
    if not daemon.is_running:
        what, style = ("has crashed", "bad") if daemon.phase == "crashed" else ("is not running", "warn")
        then = "palyra serve settles what it left open" if daemon.phase == "crashed" else "palyra serve starts it"
        ended = f"stopped {ago(daemon.stopped_us, now_us)}" if daemon.stopped_us else ""
        more = [ended, "" if is_past else then]
        page.line(Styled(release, "bold"), " ", Styled(what, style), *(f" · {part}" for part in more if part))
        return
    facts = [
        daemon.http or "",
        f"pid {daemon.pid}" if daemon.pid else "",
        f"up {duration(now_us - daemon.started_us)}" if daemon.started_us else "",
    ]
    style = "good" if daemon.phase == "ready" else "warn"
    page.line(
        Styled(release, "bold"), " is ", Styled(daemon.phase, style), *(f" · {fact}" for fact in facts if fact)
    )


def _fields(answer: StatusAnswer, now_us: int) -> list[tuple[str, Text]]:
    totals = answer.totals
    runs = [f"{len(answer.open_runs)} open"]
    runs += [f"{count(totals[name])} {name}" for name in _OUTCOMES if totals.get(name)]
    refused = ", ".join(f"{code} {count(number)}" for code, number in sorted(answer.refusals.items()))
    adopted = answer.config.adopted_us
    held = answer.reserved_tokens
    last = f" · last {ago(answer.last_event_us, now_us)}" if answer.position else ""
    return [
        ("journal", counted(answer.position, "event") + last),
        (
            "config",
            f"generation {answer.config.generation} · adopted {ago(adopted, now_us)}"
            if adopted
            else "none adopted",
        ),
        *_config_troubles(answer, now_us),
        *([("content", _CAPTURED)] if answer.captures_content else []),
        ("runs", " · ".join(runs)),
        *([("refused", refused)] if refused else []),
        *([("held", f"{counted(held, 'token')} for open attempts")] if held else []),
        ("today", _usage(answer.usage_today)),
        ("in all", _usage(answer.usage_total)),
        *([("alerts", Styled(_alerts(answer), "warn"))] if answer.alerts else []),
        ("incidents", f"{len(answer.incidents)} open" if answer.incidents else "none"),
    ]


def _config_troubles(answer: StatusAnswer, now_us: int) -> list[tuple[str, Text]]:
    """Return what of the configuration is not in force: what waits, and what was refused."""
    troubles: list[tuple[str, Text]] = []
    if answer.config.pending_restart_keys:
        waiting = ", ".join(answer.config.pending_restart_keys)
        troubles.append(("waiting", Styled(f"{waiting}: until the next start", "warn")))
    rejected = answer.config.rejected
    if rejected is not None:
        problems = counted(len(rejected.problems) + rejected.omitted_count, "problem")
        text = f"{problems}, {ago(rejected.at_us, now_us)}: palyra config check"
        troubles.append(("refused", Styled(text, "bad")))
    return troubles


_CAPTURED = Styled("prompts and answers are kept in content.db", "bad")


def _alerts(answer: StatusAnswer) -> str:
    kinds = ", ".join(dict.fromkeys(one.kind.replace("_", " ") for one in answer.alerts))
    return f"{len(answer.alerts)} open ({kinds}): palyra alerts list"


_OUTCOMES = ("completed", "failed", "cancelled", "refused")


def _usage(usage: UsageAnswer) -> Text:
    from palyra.cli.usage_tables import money

    if not usage.rows_count:
        return "nothing used"
    tokens = f"{count(usage.input_tokens)} tokens in · {count(usage.output_tokens)} out"
    attempts = counted(usage.rows_count, "attempt")
    attempts += f" ({count(usage.estimated_count)} estimated)" if usage.estimated_count else ""
    cost = money(usage.cost_nanousd, is_complete=not usage.unpriced_count)
    return [cost, f" · {tokens} · {attempts}"]


def _show_parts(page: Page, answer: StatusAnswer, now_us: int) -> None:
    from palyra.cli.models import show_providers
    from palyra.cli.runs import show_runs

    if answer.incidents:
        page.title("Incidents")
        columns = [Column("SEVERITY"), Column("WHAT"), Column("SUBJECT", is_cut=True), Column("SINCE")]
        rows = [
            (state_word(one.severity), one.kind, f"{one.subject_kind} {one.subject_id}", ago(one.opened_us, now_us))
            for one in answer.incidents
        ]
        page.table(columns, rows)
    if answer.open_runs:
        page.title("Open runs")
        show_runs(page, answer.open_runs[:_OPEN_SHOWN_COUNT], now_us)
    if answer.providers:
        page.title("Providers")
        show_providers(page, answer.providers, now_us)


_OPEN_SHOWN_COUNT = 10
