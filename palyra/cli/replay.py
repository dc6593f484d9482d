"""`palyra replay --what-if`: what other rules would have made of everything that was asked. Nothing is spent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from palyra.cli.command import Call, Command
from palyra.cli.frame import Answer
from palyra.cli.page import Column, Page, Styled
from palyra.cli.render import count, counted, instant, usd

if TYPE_CHECKING:
    from palyra.cli.reading import Journal
    from palyra.decisions.what_if import OtherRules, WhatIfReport
    from palyra.decisions.what_if_report import Differing

_WORDS = {
    "same": "as it was",
    "rerouted": "another model",
    "newly_blocked": "refused now",
    "newly_approval": "would need an approval",
    "newly_admitted": "admitted now",
    "undecidable": "cannot be told",
}
_STYLES = {"same": "good", "newly_blocked": "bad", "newly_approval": "warn", "rerouted": "warn"}
#: Runs that a page shows; `--json` has them all.
_SHOWN_COUNT = 20


@click.command(
    cls=Command,
    examples=[
        ("palyra replay --what-if other.toml", "another configuration"),
        ("palyra replay --policies strict.toml", "other rules about usage, all else as it was"),
        ("palyra replay --what-if other.toml --from 2026-11-01 --json", "since a day, for a program"),
    ],
    exits=(0, 2, 7, 8),
)
@click.option(
    "--what-if", "config_path", type=click.Path(path_type=Path), metavar="FILE", help="Other configuration."
)
@click.option("--prices", "prices_path", type=click.Path(path_type=Path), metavar="FILE", help="Other prices.")
@click.option("--policies", "policies_path", type=click.Path(path_type=Path), metavar="FILE", help="Other rules.")
@click.option("--from", "from_", metavar="WHEN", help="Only requests from then on.")
@click.option("--to", metavar="WHEN", help="Only requests before then.")
@click.option("--as-of", metavar="WHEN", help="Of the journal as it was then: a position, an instant, -2h.")
def replay(
    call: Call,
    config_path: Path | None,
    prices_path: Path | None,
    policies_path: Path | None,
    from_: str | None,
    to: str | None,
) -> Answer:
    """Decide every recorded request again, under other rules, and tell what would have been.

    First it is proven that the recorded rules give the recorded decisions; if they do not, the exit status is 7.
    Consumption is that of the other rules, how providers did is as it was, and tokens that were used stand for the
    same request elsewhere. Nothing is sent, nothing is written, nothing is spent.
    """
    import msgspec

    from palyra.cli.reading import Journal
    from palyra.decisions.what_if import OtherRules
    from palyra.engine.what_if import (
        read_policy_file,
        read_price_file,
        recorded_registry,
        recorded_timezone,
        rules_of,
    )

    if config_path is None and prices_path is None and policies_path is None:
        raise click.UsageError("name other rules: --what-if, --prices or --policies", click.get_current_context())
    source = Journal(call)
    other = OtherRules()
    if config_path is not None:
        import os

        from palyra.config.load import load_given
        from palyra.engine.adoptable import adoptable_of

        loaded = load_given(config_path, os.environ, {})
        with source.rows() as rows:
            other = rules_of(adoptable_of(loaded.config, loaded.sources), rows)
    if prices_path is not None:
        with source.rows() as rows:
            registry = other.registry or recorded_registry(rows)
        other = msgspec.structs.replace(other, prices=read_price_file(prices_path, registry))
    if policies_path is not None:
        with source.rows() as rows:
            timezone = recorded_timezone(rows)
        other = msgspec.structs.replace(other, policies=read_policy_file(policies_path, timezone))
    return decide_again(call, source, other, from_, to)


def decide_again(call: Call, source: Journal, other: OtherRules, from_: str | None, to: str | None) -> Answer:
    """Return the report of a journal under other rules; it fails where the recorded ones are not reproduced."""
    from palyra.cli.progress import Progress
    from palyra.engine.console.supposing import not_faithful
    from palyra.engine.reports.scope import instant_in
    from palyra.engine.what_if import END_US, what_if
    from palyra.engine.zones import find_zone

    zone = find_zone(call.loaded.config.cli.timezone)
    from_us = instant_in(from_, "from", zone, source.now_us) if from_ else 0
    to_us = instant_in(to, "to", zone, source.now_us) if to else END_US
    with source.rows() as rows, Progress() as progress:
        journal_id = rows.journal_id
        position, report = what_if(rows, other, from_us=from_us, to_us=to_us, progress=progress)
    failure = not_faithful(report) if report.unfaithful_count else None
    return source.answer(journal_id, position, report, lambda page: show_report(page, report), failure=failure)


def show_report(page: Page, report: WhatIfReport) -> None:
    """Print what would have been."""
    changed = report.runs - report.counts["same"]
    head = "Nothing would have been different" if not changed else f"{counted(changed, 'request')} would differ"
    page.line(Styled(head, "bold"), f" of {count(report.runs)} decided again")
    page.line()
    rows = [
        (_WORDS[name], Styled(count(number), _STYLES.get(name, "accent") if number else "dim"))
        for name, number in report.counts.items()
    ]
    if report.degraded:
        by_rule = f", {count(report.downgraded)} of them by a rule about usage" if report.downgraded else ""
        rows.append(("to a lesser model", Styled(f"{count(report.degraded)}{by_rule}", "warn")))
    page.fields(rows)
    page.title("Cost")
    sign = "+" if report.delta_nanousd > 0 else ""
    delta = f"{sign}{usd(report.delta_nanousd)}"
    if report.delta_lower_nanousd != report.delta_upper_nanousd:
        delta += f" · between {usd(report.delta_lower_nanousd)} and {usd(report.delta_upper_nanousd)}"
    fields = [
        ("then", usd(report.cost_before_nanousd)),
        ("would be", usd(report.cost_after_nanousd)),
        ("change", delta),
    ]
    if report.unpriced_before or report.unpriced_after:
        fields.append(("unpriced", f"{counted(report.unpriced_before, 'row')} then, {report.unpriced_after} now"))
    page.fields(fields, indent=2)
    _show_sums(page, report)
    if report.limits:
        page.title("Limits that would have been passed")
        columns = [Column("WHEN"), Column("RULE", is_cut=True), Column("FOR", is_cut=True), Column("LIMIT")]
        told = [
            (instant(one.at_us, page.zone), one.policy_id, one.subject or "everybody", one.kind)
            for one in report.limits[:_SHOWN_COUNT]
        ]
        page.table(columns, told, indent=2)
        _say_left(page, len(report.limits))
    if report.differing:
        page.title("What would differ")
        page.table(_COLUMNS, [_row(one, page) for one in report.differing[:_SHOWN_COUNT]], indent=2)
        _say_left(page, len(report.differing) + report.omitted_count)


def _say_left(page: Page, number: int) -> None:
    if number > _SHOWN_COUNT:
        page.line(Styled(f"and {count(number - _SHOWN_COUNT)} more; --json lists them", "dim"), indent=2)


def _show_sums(page: Page, report: WhatIfReport) -> None:
    for title, sums in (("By model", report.by_model), ("By rule", report.by_policy)):
        if sums:
            page.title(title)
            columns = [
                Column("", is_cut=True),
                Column("RUNS", align="right"),
                Column("THEN", align="right"),
                Column("WOULD BE", align="right"),
            ]
            rows = [
                (name, count(one.runs), usd(one.before_nanousd), usd(one.after_nanousd))
                for name, one in sums.items()
            ]
            page.table(columns, rows, indent=2)


_COLUMNS = [
    Column("WHEN"),
    Column("RUN", spare=3),
    Column("ASKED BY", is_cut=True, spare=2),
    Column("THEN", is_cut=True, least=18),
    Column("WOULD BE", is_cut=True, least=18),
    Column("BECAUSE", is_cut=True, spare=1),
]


def _row(one: Differing, page: Page) -> tuple[str | Styled, ...]:
    reasons = [reason for reason in one.reasons_after if reason not in one.reasons_before]
    why = one.policy_id or ", ".join(reason.replace("_", " ") for reason in reasons)
    after = Styled(one.after, _STYLES.get(one.verdict, "accent"))
    return (instant(one.at_us, page.zone), one.run_id, one.principal_id, one.before, after, why)
