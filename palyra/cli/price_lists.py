"""`palyra pricing diff` and `import`: what a list has otherwise than another, and prices out of a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from palyra.cli.command import Call, Command
from palyra.cli.frame import Answer
from palyra.cli.page import Column, Page, Styled
from palyra.cli.render import count, counted, instant, usd

if TYPE_CHECKING:
    from palyra.engine.price_questions import PriceChange, PriceListHead
    from palyra.events.pricing import PriceEntry

_STYLES = {"new": "good", "changed": "warn", "gone": "bad", "same": "dim"}


@click.command(
    "diff",
    cls=Command,
    examples=[
        ("palyra pricing diff 1 1", "a list beside itself: nothing"),
        ("palyra pricing diff 1 2 --json", "what the second list has otherwise, every rate"),
    ],
    exits=(0, 2, 5, 7, 8),
    takes_as_of=True,
)
@click.argument("before", metavar="V1", type=click.IntRange(min=1))
@click.argument("after", metavar="V2", type=click.IntRange(min=1))
def diff(call: Call, before: int, after: int) -> Answer:
    """Show what price list V2 has otherwise than V1, both as they were recorded.

    The samples are what 1,000 tokens in and 1,000 tokens out cost together.
    """
    from palyra.cli.asking import ask
    from palyra.engine.console.pricing import DiffParams
    from palyra.engine.console.table import PRICING_DIFF

    asked = ask(call, PRICING_DIFF, DiffParams(a=before, b=after))
    found = asked.found

    def show_diff(page: Page) -> None:
        page.fields([("before", _head(page, found.before)), ("after", _head(page, found.after))])
        page.line()
        if found.changes:
            columns = [
                Column("MODEL", is_cut=True),
                Column("PROVIDER", is_cut=True),
                Column("VARIANT"),
                Column(""),
                Column("1K + 1K", align="right"),
                Column("WAS", align="right"),
                Column("SINCE", spare=1),
            ]
            page.table(columns, [_change_row(page, one) for one in found.changes])
            page.line()
        page.line(Styled(f"{counted(found.same_count, 'entry', 'entries')} the same", "dim"))

    return asked.answer(show_diff)


def _head(page: Page, head: PriceListHead) -> str:
    catalogue = f" · {head.catalogue_name} {head.catalogue_version}" if head.catalogue_name else ""
    return f"version {count(head.price_version)} · {instant(head.adopted_us, page.zone)}{catalogue}"


def _change_row(page: Page, one: PriceChange) -> tuple[Any, ...]:
    change = "new" if one.before is None else "gone" if one.after is None else "changed"
    return (
        one.model_id,
        one.provider_id,
        "" if one.variant == "standard" else one.variant,
        Styled(change, _STYLES[change]),
        _sample(one.after, one.sample_after_nanousd),
        _sample(one.before, one.sample_before_nanousd),
        instant(one.effective_from_us, page.zone) if one.effective_from_us else "",
    )


def _sample(entry: PriceEntry | None, nanousd: int | None) -> str:
    if entry is None:
        return ""
    return "free" if entry.state == "free" else "unknown" if nanousd is None else usd(nanousd)


@click.command(
    "import",
    cls=Command,
    examples=[
        ("palyra pricing import prices.toml", "what would be written, and what it costs"),
        ("palyra pricing import prices.json --apply", "write it into the configuration"),
    ],
    exits=(0, 2, 4, 5, 7, 8),
    is_change=True,
)
@click.argument("price_path", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--apply", "is_applied", is_flag=True, help="Write the prices into the configuration file.")
def import_prices(call: Call, price_path: Path, is_applied: bool) -> Answer:
    """Take prices of your own out of a file: [[pricing.overrides]] as in the configuration, in TOML or JSON.

    All of them are checked before one is written. A row takes the place of the one for the same model, variant and
    beginning. A running daemon reads them at once; what was used before keeps its price (palyra pricing recost).
    """
    from palyra.cli.frame import to_plain
    from palyra.cli.model_config import reload_config
    from palyra.config.document import locate, user_directory
    from palyra.config.prices import PriceEdit, check_price_rows, price_edits, read_price_rows
    from palyra.config.write import edit_config_file
    from palyra.decisions.pricing import sample_nanousd

    rows = read_price_rows(price_path)
    providers = call.loaded.config.model_provider.registry.providers
    entries = check_price_rows(price_path, rows, [one.provider_id for one in providers])
    became: list[PriceEdit] = []

    def edits(text: str) -> list[Any]:
        became[:] = price_edits(text, rows)
        return [edit for one in became for edit in one.edits]

    file = locate(os.environ, call.config_file) or user_directory("config", os.environ) / "palyra.toml"
    written = edit_config_file(file, edits, environ=os.environ, is_dry_run=not is_applied)
    is_live = is_applied and written.is_changed and reload_config(call)
    changes = [one.change for one in became]
    items = [
        {"change": change, "entry": to_plain(entry), "sample_nanousd": sample_nanousd(entry)}
        for change, entry in zip(changes, entries, strict=True)
    ]
    data = {
        "file": written.file,
        "items": items,
        "is_applied": is_applied and written.is_changed,
        "is_live": is_live,
    }

    def show(page: Page) -> None:
        columns = [
            Column("MODEL", is_cut=True),
            Column("PROVIDER", is_cut=True),
            Column("VARIANT"),
            Column(""),
            Column("INPUT/M", align="right"),
            Column("OUTPUT/M", align="right"),
            Column("1K + 1K", align="right"),
        ]
        page.table(columns, [_import_row(*one) for one in zip(changes, entries, strict=True)])
        page.line()
        if not written.is_changed:
            page.line(Styled(f"nothing to change in {written.file}", "dim"))
        elif is_applied:
            when = "" if is_live else "; it acts at the next start"
            page.line(Styled(f"written to {written.file}{when}", "dim"))
        else:
            page.line(f"--apply writes it into {written.file}.")

    return Answer(data, show)


def _import_row(change: str, entry: PriceEntry) -> tuple[Any, ...]:
    from palyra.decisions.pricing import sample_nanousd

    rates = (entry.input_nanousd_per_mtok, entry.output_nanousd_per_mtok)
    return (
        entry.model_id,
        entry.provider_id,
        "" if entry.variant == "standard" else entry.variant,
        Styled(change, _STYLES[change]),
        *("" if rate is None else usd(rate) for rate in rates),
        _sample(entry, sample_nanousd(entry)),
    )
