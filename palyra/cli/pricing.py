"""`palyra pricing`: what models cost, and which of them nobody knows the price of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from palyra.cli.command import Call, Group
from palyra.cli.frame import Answer
from palyra.cli.page import Column, Page, Styled
from palyra.cli.price_lists import diff, import_prices
from palyra.cli.render import count, counted, instant, rfc3339, usd

if TYPE_CHECKING:
    from palyra.cli.asking import Asked
    from palyra.engine.price_questions import PriceAnswer, PricingAnswer


@click.group(
    cls=Group,
    examples=[
        ("palyra pricing show", "every model with what 1,000 tokens in and out cost"),
        ("palyra pricing missing", "models without a price"),
    ],
)
def pricing() -> None:
    """Show what models cost."""


@pricing.command(
    "show",
    examples=[
        ("palyra pricing show", "all models"),
        ("palyra pricing show --json", "every rate, for a program"),
        ("palyra pricing show --as-of run:last", "the list in force when the newest run ended"),
    ],
    exits=(0, 2, 5, 7, 8),
    takes_as_of=True,
)
@click.argument("model", required=False)
def show(call: Call, model: str | None) -> Answer:
    """Show the price list in force.

    The last column is what 1,000 tokens in and 1,000 tokens out cost together: a slip of the unit is seen there.
    """
    from palyra.errors import PalyraError

    asked = _ask(call)
    answer = asked.found
    items = [one for one in answer.items if model in (None, one.entry.model_id)]
    if model is not None and not items:
        raise PalyraError(f"There is no price of a model '{model}'.", code="model_not_found")

    def show_list(page: Page) -> None:
        _show_head(page, answer)
        _show_items(page, items)
        if model is not None:
            for one in items:
                page.title(f"{one.entry.provider_id}/{one.entry.model_id}")
                page.fields([(name, usd(rate)) for name, rate in one.rates.items()])
        elif answer.missing:
            page.line()
            page.line(Styled(f"{counted(len(answer.missing), 'model')} without a price", "warn"))

    return asked.answer(show_list)


@pricing.command(
    "missing",
    examples=[
        ("palyra pricing missing", "models whose cost is unknown"),
        ("palyra pricing missing --json", "the same for a program"),
    ],
    exits=(0, 2, 5, 7),
    takes_as_of=True,
)
def missing(call: Call) -> Answer:
    """Show models without a price; what they cost is unknown, and never counted as nothing."""
    asked = _ask(call)
    answer = asked.found

    def show_missing(page: Page) -> None:
        if not answer.missing:
            page.line(Styled("Every model has a price.", "good"))
            return
        page.table(
            [Column("MODEL", is_cut=True), Column("PROVIDER", is_cut=True)],
            [(one.model_id, one.provider_id) for one in answer.missing],
        )
        page.line()
        page.line("A price goes into [[pricing.overrides]]; a provider that costs nothing")
        page.line('is declared with pricing = "free".')

    return asked.answer(show_missing)


@pricing.command(
    "recost",
    examples=[
        ("palyra pricing recost", "what the list in force makes of all rows; nothing is written"),
        ("palyra pricing recost --from 2026-11-01 --to 2026-12-01", "of one month"),
        ("palyra pricing recost --apply", "write the corrections"),
    ],
    exits=(0, 2, 4, 6, 7),
    is_change=True,
)
@click.option("--from", "from_", metavar="WHEN", default="", help="Requests since then; all by default.")
@click.option("--to", metavar="WHEN", default="", help="Requests before then.")
@click.option("--apply", "is_applied", is_flag=True, help="Write the corrections; the rows stay as they are.")
def recost(call: Call, from_: str, to: str, is_applied: bool) -> Answer:
    """Price what was used by the list in force: for a price that was wrong, or came late.

    Budgets count the difference at once.
    """
    from palyra.cli.asking import change
    from palyra.engine.console.change_table import PRICING_RECOST
    from palyra.engine.console.pricing import RecostParams

    asked = change(
        call, PRICING_RECOST, RecostParams(from_=_exact(call, from_), to=_exact(call, to), apply=is_applied)
    )
    found = asked.found

    unpriced = f"{count(found.unpriced_before_count)} before, {count(found.unpriced_after_count)} after"

    def show_recosted(page: Page) -> None:
        page.fields(
            [
                ("rows", count(found.rows_count)),
                ("corrected" if found.is_applied else "to correct", count(found.corrected_count)),
                ("cost before", usd(found.cost_before_nanousd)),
                ("cost after", usd(found.cost_after_nanousd)),
                ("unpriced", unpriced),
            ]
        )
        if found.corrected_count and not found.is_applied:
            page.line()
            page.line("--apply writes it.")

    return asked.answer(show_recosted)


def _exact(call: Call, text: str) -> str:
    """Return an instant as every machine understands it, whatever its zone."""
    if not text:
        return ""
    from palyra.engine.clock import SystemClock
    from palyra.engine.reports.scope import instant_in
    from palyra.engine.zones import find_zone

    zone = find_zone(call.loaded.config.cli.timezone)
    return rfc3339(instant_in(text, "from", zone, SystemClock().now_us()))


def _ask(call: Call) -> Asked[PricingAnswer]:
    from palyra.cli.asking import ask
    from palyra.engine.console.pricing import PricingParams
    from palyra.engine.console.table import PRICING

    return ask(call, PRICING, PricingParams())


def _show_head(page: Page, answer: PricingAnswer) -> None:
    catalogue = f"{answer.catalogue_name} {answer.catalogue_version}" if answer.catalogue_name else "not needed"
    since = instant(answer.adopted_us, page.zone) if answer.adopted_us else "never"
    page.fields([("list", f"version {count(answer.price_version)} · since {since}"), ("catalogue", catalogue)])
    page.line()


def _show_items(page: Page, items: Sequence[PriceAnswer]) -> None:
    columns = [
        Column("MODEL", is_cut=True),
        Column("PROVIDER", is_cut=True),
        Column("SOURCE"),
        Column("INPUT/M", align="right"),
        Column("OUTPUT/M", align="right"),
        Column("1K + 1K", align="right"),
        Column("SINCE", spare=1),
    ]
    rows = []
    for one in items:
        entry = one.entry
        is_free = entry.state == "free"
        sample = "unknown" if one.sample_nanousd is None else usd(one.sample_nanousd)
        rows.append(
            (
                entry.model_id,
                entry.provider_id,
                entry.source.replace("_", " ") + (" (retained)" if entry.retained else ""),
                "" if is_free or entry.input_nanousd_per_mtok is None else usd(entry.input_nanousd_per_mtok),
                "" if is_free or entry.output_nanousd_per_mtok is None else usd(entry.output_nanousd_per_mtok),
                Styled("free", "good") if is_free else sample,
                instant(entry.effective_from_us, page.zone) if entry.effective_from_us else "",
            )
        )
    page.table(columns, rows)


for _command in (diff, import_prices):
    pricing.add_command(_command)
