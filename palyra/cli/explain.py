"""`palyra explain`: why a request was served the way it was, from its own events alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from palyra.cli.account import show_account
from palyra.cli.choice import show_choice
from palyra.cli.command import Call, Command
from palyra.cli.frame import Answer
from palyra.cli.page import Column, Page, Piece, Styled, Text
from palyra.cli.render import ago, count, counted, duration, instant, ms_text, usd
from palyra.cli.words import (
    CANCELLED,
    FAILOVER,
    READINESS,
    RESOLVED,
    VIA,
    circuit_words,
    exclusion_words,
    state_word,
    verdict_words,
    where,
)

if TYPE_CHECKING:
    from palyra.engine.hindsight import SeenAnswer
    from palyra.engine.history import AttemptAnswer, FailoverAnswer, RoutingAnswer, RunReport

_EDITS = {"model": "model name", "stream_options.include_usage": "usage asked for", "max_tokens": "output maximum"}


@click.command(
    cls=Command,
    examples=[
        ("palyra explain last", "the newest run"),
        ("palyra explain last --state", "with circuits, health and holds as they were"),
        ("palyra explain last --json", "the same for a program"),
        ("palyra explain 01JD", "the one run whose id begins so"),
    ],
    exits=(0, 2, 5, 7, 8),
    takes_as_of=True,
)
@click.argument("run", metavar="RUN")
@click.option("--state", "has_state", is_flag=True, help="Add the state that was decided from, folded again.")
def explain(call: Call, run: str, has_state: bool) -> Answer:
    """Tell why a request was served the way it was. RUN is its id, the beginning of it, or `last`.

    Shown is what was recorded: how the name was understood, the plan with the health of each candidate, what was
    left out and why, every attempt, what was held for it and what it used. Behind it stands how the model was
    chosen, decided again from the journal: every model with its figures, and along each axis alone the nearest
    value that would have given another model; then what the rules about usage said, what others held then, and the
    price and cost of each attempt.
    """
    from palyra.cli.asking import ask
    from palyra.engine.console.runs import ExplainParams
    from palyra.engine.console.table import RUN_EXPLAIN

    asked = ask(call, RUN_EXPLAIN, ExplainParams(run=run, state=has_state))
    report = asked.found

    def show(page: Page) -> None:
        _show(page, report, asked.now_us)
        if report.choice is not None:
            show_choice(page, report.choice, report.admitted_us, has_rules=False)
        show_account(page, report.account)
        if report.seen is not None:
            _show_seen(page, report.seen, report)

    return asked.answer(show)


def headline(page: Page, report: RunReport) -> None:
    """Print the run's name and how it ended."""
    took = f" after {duration(report.duration_us)}" if report.state != "refused" else ""
    page.line(Styled(f"Run {report.run_id}", "bold"), " ", state_word(report.state), took)
    page.line()


def asked_fields(page: Page, report: RunReport, now_us: int) -> list[tuple[str, Text]]:
    """Return what was asked, when and by whom."""
    what = [report.endpoint, report.model_requested or "no model named", "streamed" if report.stream else ""]
    fields: list[tuple[str, Text]] = [
        ("asked", " · ".join(part for part in what if part)),
        ("when", f"{instant(report.admitted_us, page.zone)} · {ago(report.admitted_us, now_us)}"),
        ("by", report.principal_id),
    ]
    if report.needs:
        fields.append(("needs", ", ".join(need.replace("_", " ") for need in report.needs)))
    if report.estimated_tokens is not None:
        size = f"about {count(report.estimated_tokens)} tokens, {count(report.estimated_upper_tokens or 0)} at most"
        if report.calibration_bp not in (None, 10_000):
            size += f" · estimate times {(report.calibration_bp or 0) / 10_000:.2f} by what was billed before"
        fields.append(("input", size))
    return fields


def end_words(report: RunReport) -> list[Piece]:
    """Return how the run ended, or that it has not."""
    words: list[Piece] = [state_word(report.state)]
    if report.state == "completed":
        first = f" · first byte after {duration(report.first_byte_us)}" if report.first_byte_us is not None else ""
        cached = f" · from the cache, made for run {report.hit.of_run_id}" if report.hit is not None else ""
        return [*words, f" · stop reason {report.stop}{first}{cached}"]
    if report.state == "cancelled":
        why = f" · {CANCELLED.get(report.code, report.code)}"
        who = f" ({report.cancelled_by})" if report.cancelled_by else ""
        drained = " · the answer was read to its end" if report.is_drained else ""
        return [*words, why, who, drained]
    if report.code:
        cause = f", last failure {report.failure_class}" if report.failure_class else ""
        http = f" · HTTP {report.http_status}" if report.http_status else ""
        return [*words, f" · {report.code}{cause}{http}"]
    return words


def usage_words(report: RunReport) -> str:
    """Return what all attempts used together, beside what was held for them."""
    if report.hit is not None:
        saved_in, saved_out = count(report.hit.saved_input_tokens), count(report.hit.saved_output_tokens)
        worth = f", {usd(report.hit.saved_nanousd)}," if report.hit.saved_nanousd else ""
        return f"nothing spent · {saved_in} tokens in and {saved_out} out{worth} saved"
    if not any(one.input_tokens is not None for one in report.attempts):
        return "nothing recorded"
    used = f"{count(report.input_tokens)} tokens in · {count(report.output_tokens)} out"
    return f"{used} · {count(report.reserved_tokens)} were held" if report.reserved_tokens else used


def _show(page: Page, report: RunReport, now_us: int) -> None:
    headline(page, report)
    page.fields(asked_fields(page, report, now_us))
    if report.routing is not None:
        _show_routing(page, report.routing, report)
    if report.attempts:
        page.title("Attempts")
        failovers = {one.from_attempt: one for one in report.failovers}
        for attempt in report.attempts:
            _show_attempt(page, attempt)
            if attempt.attempt in failovers:
                _show_failover(page, failovers[attempt.attempt], report)
    page.title("End")
    page.line(*_pieces(end_words(report)), indent=2)
    if report.attempts or report.hit is not None:
        page.line(usage_words(report), indent=2)
    elif report.state == "refused":
        page.line(Styled("Nothing was sent to a provider.", "dim"), indent=2)


def _pieces(text: Text) -> list[str | Styled]:
    return [text] if isinstance(text, (str, Styled)) else list(text)


def _show_routing(page: Page, routing: RoutingAnswer, report: RunReport) -> None:
    page.title("Name")
    page.fields(
        [
            ("means", f"{routing.model_id} · {RESOLVED.get(routing.resolved_by, routing.resolved_by)}"),
            ("failover", FAILOVER.get(routing.failover, routing.failover)),
        ],
        indent=2,
    )
    if routing.plan:
        _show_plan(page, routing)
    if routing.excluded:
        page.title("Left out")
        page.fields(
            (
                (
                    where(one.provider_id, one.model_id),
                    exclusion_words(one.excluded_by, one.figures, report.admitted_us, page.zone),
                )
                for one in routing.excluded
            ),
            indent=2,
        )
    if routing.verdicts:
        _show_credentials(page, routing, report.admitted_us)


def _show_plan(page: Page, routing: RoutingAnswer) -> None:
    page.title("Plan")
    columns = [
        Column("", align="right"),
        Column("PROVIDER / MODEL", is_cut=True),
        Column("HEALTH"),
        Column("READINESS", spare=1),
        Column("IN THE PLAN AS"),
    ]
    rows = [
        (
            str(number),
            where(step.provider_id, step.model_id),
            state_word(step.health),
            READINESS.get(step.readiness, str(step.readiness)),
            VIA.get(step.via, step.via),
        )
        for number, step in enumerate(routing.plan, 1)
    ]
    page.table(columns, rows, indent=2)
    if routing.output_requested_tokens is not None:
        asked, cap = routing.output_requested_tokens, routing.output_cap_tokens
        lowered = f", lowered to {count(cap)}" if cap is not None and cap < asked else ""
        page.line(f"output maximum {count(asked)} tokens{lowered}", indent=2)


def _show_credentials(page: Page, routing: RoutingAnswer, then_us: int) -> None:
    page.title("Credentials passed over")
    columns = [Column("PROVIDER / MODEL", is_cut=True), Column("CREDENTIAL", is_cut=True), Column("BECAUSE")]
    rows = [
        (
            where(one.provider_id, one.model_id),
            one.credential_ref,
            verdict_words(one.verdict, one.until_us, then_us),
        )
        for one in routing.verdicts
    ]
    page.table(columns, rows, indent=2)


def _show_attempt(page: Page, attempt: AttemptAnswer) -> None:
    name = Styled(where(attempt.provider_id, attempt.model_id), "bold")
    took = f" after {duration(attempt.duration_us)}" if attempt.duration_us is not None else ""
    page.line(f"{attempt.attempt}  ", name, " ", state_word(attempt.state), took, indent=2)
    fields: list[tuple[str, Text]] = []
    if attempt.state == "failed":
        cause = [
            attempt.failure_class,
            f"phase {attempt.phase}",
            f"HTTP {attempt.status}" if attempt.status else "",
        ]
        cause.append("counted by the circuit" if attempt.is_counted else "not counted by the circuit")
        fields.append(("cause", " · ".join(part for part in cause if part)))
        if attempt.message:
            fields.append(("said", attempt.message))
        if attempt.wait_ms is not None:
            fields.append(("then", f"tried again after {ms_text(attempt.wait_ms)}"))
    if attempt.state == "abandoned":
        fields.append(("cause", "the daemon died while the call was open"))
    if attempt.is_trial:
        fields.append(("trial", "the one call that a half-open circuit lets pass"))
    if attempt.credential_ref:
        revision = f", revision {attempt.credential_revision}" if attempt.credential_revision else ""
        fields.append(("key", f"{attempt.credential_ref}{revision}"))
    if attempt.queue_wait_ms:
        fields.append(("waited", f"{ms_text(attempt.queue_wait_ms)} for a free slot"))
    if not attempt.is_passthrough:
        fields.append(("asked in", f"{attempt.api}, translated"))
    if attempt.dropped:
        fields.append(("dropped", ", ".join(attempt.dropped)))
    if attempt.answer_dropped:
        fields.append(("lost", f"{', '.join(attempt.answer_dropped)}, which the client's dialect cannot say"))
    if attempt.edits:
        fields.append(("changed", ", ".join(_EDITS.get(edit, edit) for edit in attempt.edits)))
    page.fields([*fields, *_token_fields(attempt)], indent=5)


def _token_fields(attempt: AttemptAnswer) -> list[tuple[str, Text]]:
    fields: list[tuple[str, Text]] = []
    held_in, held_out = attempt.reserved_input_tokens, attempt.reserved_output_tokens
    held_for = f"for {', '.join(attempt.reserved_for)}" if attempt.reserved_for else "no budget applied"
    fields.append(("held", f"{count(held_in)} tokens in · {count(held_out)} out · {held_for}"))
    if attempt.input_tokens is not None and attempt.output_tokens is not None:
        used = f"{count(attempt.input_tokens)} tokens in · {count(attempt.output_tokens)} out"
        if attempt.usage_source != "provider":
            used += f" · {attempt.usage_source}"
        if attempt.billed == "unknown":
            used += " · may not have been billed"
        if attempt.overshoot_tokens:
            used += f" · {counted(attempt.overshoot_tokens, 'token')} beyond what was held"
        fields.append(("used", used))
    return fields


def _show_failover(page: Page, failover: FailoverAnswer, report: RunReport) -> None:
    to = where(failover.provider_id, failover.model_id)
    rest = f"{counted(failover.remaining_count, 'candidate')} left behind it"
    page.line(Styled("→", "accent"), f"  {failover.trigger}: on to {to}, {rest}", indent=2)
    for one in failover.skipped:
        why = exclusion_words(one.excluded_by, one.figures, report.admitted_us, page.zone)
        page.line(f"passed over {where(one.provider_id, one.model_id)}: {why}", indent=5)


def _show_seen(page: Page, seen: SeenAnswer, report: RunReport) -> None:
    page.title("What the decision saw")
    held = f" · {counted(seen.held_tokens, 'token')} held" if seen.held_tokens else ""
    runs = counted(seen.open_runs_count, "open run")
    page.line(f"position {count(seen.position)} · generation {seen.config_generation} · {runs}{held}", indent=2)
    if not seen.candidates:
        page.line(Styled("No candidate was looked at.", "dim"), indent=2)
        return
    columns = [
        Column("PROVIDER / MODEL", is_cut=True),
        Column("HEALTH"),
        Column("CIRCUIT"),
        Column("FAILURES", align="right", spare=1),
        Column("MODEL OUT", spare=2),
        Column("CALIBRATION", align="right", spare=4),
        Column("OPEN", align="right", spare=3),
        Column("HELD", align="right", spare=3),
    ]
    now_us = report.admitted_us
    rows = [
        (
            where(one.provider_id, one.model_id),
            state_word(one.health),
            circuit_words(one.circuit, one.circuit_until_us, now_us),
            f"{one.failures_count} of {one.failures_threshold_count}" if one.failures_count else "",
            f"{one.excluded_reason}, back {ago(one.excluded_until_us, now_us)}" if one.excluded_until_us else "",
            f"{one.calibration_bp / 10_000:.2f} to {one.upper_bp / 10_000:.2f}",
            count(one.open_attempts_count) if one.open_attempts_count else "",
            count(one.held_tokens) if one.held_tokens else "",
        )
        for one in seen.candidates
    ]
    page.table(columns, rows, indent=2)
