"""`palyra usage insights`: what the figures say about models, work, providers, routing and estimates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from palyra.cli.command import Call, Command
from palyra.cli.frame import Answer
from palyra.cli.page import Column, Page, Text
from palyra.cli.render import count, ms_text, share
from palyra.cli.usage_window import flat, window_line, window_options, window_params
from palyra.cli.words import circuit_words, state_word

if TYPE_CHECKING:
    from palyra.engine.console.insights import CalibrationAnswer, InsightsAnswer, ProviderShare


@click.command(
    "insights",
    cls=Command,
    examples=[
        ("palyra usage insights", "models, kinds of work, providers, routing, and how good estimates are"),
        ("palyra usage insights --from 2026-11-01 --json", "since then, for a program"),
    ],
    exits=(0, 2, 4, 5, 7),
    takes_as_of=True,
)
@window_options
def insights(call: Call, **window: str | None) -> Answer:
    """Show what the figures say about models, work, providers, routing and estimates."""
    from palyra.cli.asking import ask
    from palyra.engine.console.insights import InsightsParams
    from palyra.engine.console.table import USAGE_INSIGHTS

    asked = ask(call, USAGE_INSIGHTS, InsightsParams(**window_params(window)))
    return asked.answer(lambda page: _show(page, asked.found, asked.now_us))


_SHARES = [
    Column("RUNS", align="right"),
    Column("TOKENS", align="right"),
    Column("SHARE", align="right"),
    Column("COST", align="right"),
]


def _figures(one: Any) -> list[Text]:
    from palyra.cli.usage_tables import money
    from palyra.units import BP_PER_UNIT

    cost = money(one.cost_nanousd, is_complete=one.cost_complete)
    return [count(one.runs), count(one.tokens), share(one.share_bp, BP_PER_UNIT), cost]


def _show(page: Page, found: InsightsAnswer, now_us: int) -> None:
    from palyra.cli.alerts import show_alerts
    from palyra.cli.routing import show_figures
    from palyra.cli.usage_tables import show_budgets, show_totals

    show_totals(page, flat(found.totals), window_line(page, found.window))
    if found.alerts:
        page.title("Alerts")
        show_alerts(page, found.alerts, now_us)
    if found.model_mix:
        page.title("Models")
        rows = [[one.model_id, one.provider_id, *_figures(one)] for one in found.model_mix]
        page.table([Column("MODEL", is_cut=True), Column("PROVIDER", is_cut=True), *_SHARES], rows)
    if found.scope_mix:
        page.title("Kinds of work")
        page.table([Column("FROM"), *_SHARES], [[one.name, *_figures(one)] for one in found.scope_mix])
    if [one.name for one in found.class_mix] != [one.name for one in found.scope_mix]:
        page.title("As routing took it")
        page.table([Column("CLASS"), *_SHARES], [[one.name, *_figures(one)] for one in found.class_mix])
    if found.providers:
        _show_providers(page, found.providers)
    if found.routing.decisions:
        page.title("Routing")
        show_figures(page, found.routing)
    if found.calibration:
        _show_calibration(page, found.calibration)
    if found.budgets:
        page.title("Budgets")
        show_budgets(page, found.budgets)


def _show_providers(page: Page, found: list[ProviderShare]) -> None:
    from palyra.cli.usage_tables import money

    page.title("Providers")
    columns = [
        Column("PROVIDER", is_cut=True),
        *_SHARES,
        Column("ATTEMPTS", align="right", spare=3),
        Column("ABSORBED", align="right", spare=2),
        Column("P50", align="right", spare=4),
        Column("HEALTH"),
        Column("CIRCUIT", spare=1),
    ]
    rows = [
        [
            one.provider_id,
            *_figures(one),
            count(one.attempts),
            money(one.absorbed_nanousd) if one.absorbed_nanousd else "",
            "" if one.latency_ms.p50 is None else ms_text(one.latency_ms.p50),
            "" if one.health is None else state_word(one.health),
            "" if one.circuit is None else circuit_words(one.circuit, None, 0),
        ]
        for one in found
    ]
    page.table(columns, rows)


def _show_calibration(page: Page, found: list[CalibrationAnswer]) -> None:
    from palyra.units import BP_PER_UNIT

    known = [one for one in found if one.samples or one.cost_samples]
    known.sort(key=lambda one: -one.samples)
    if not known:
        return
    page.title("Estimates beside what came of them")
    columns = [
        Column("MODEL", is_cut=True),
        Column("PROVIDER", is_cut=True),
        Column("SAMPLES", align="right"),
        Column("COUNTED / ESTIMATED", align="right", spare=1),
        Column("INPUT P50", align="right"),
        Column("P95", align="right"),
        Column("COST P50", align="right"),
        Column("P95", align="right"),
    ]

    def error(bp: int | None) -> str:
        return "" if bp is None else "exact" if bp == 0 else f"± {count(max(1, bp * 100 // BP_PER_UNIT))} %"

    rows = [
        [
            one.model_id,
            one.provider_id,
            count(one.samples),
            f"{one.ratio_bp / BP_PER_UNIT:.2f}" if one.samples else "",
            error(one.error_p50_bp),
            error(one.error_p95_bp),
            error(one.cost_error_p50_bp),
            error(one.cost_error_p95_bp),
        ]
        for one in known
    ]
    page.table(columns, rows)
