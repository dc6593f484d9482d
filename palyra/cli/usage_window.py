"""Which requests a command is about: the options that say so, and how they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from palyra.cli.usage_report import FILTERS

if TYPE_CHECKING:
    from palyra.cli.page import Page
    from palyra.engine.console.usage import WindowAnswer
    from palyra.engine.reports.figures import Totals

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def window_options(command: CommandT) -> CommandT:
    """Give a command the options that say which requests it is about."""
    options = [
        click.option(
            "--from", "from_", metavar="WHEN", help="Requests since then; 30 days before --to by default."
        ),
        click.option("--to", metavar="WHEN", help="Requests before then; now by default."),
        click.option("--timezone", metavar="ZONE", help="Where days begin; as configured by default."),
        *(click.option(f"--{name}", metavar="ID", help=f"Only this {name}.") for name in FILTERS),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def window_params(window: dict[str, str | None]) -> dict[str, str]:
    """Return the options about requests by the names of the parameters."""
    ids = {name: f"{name}_id" for name in FILTERS if name not in ("endpoint", "origin")}
    return {ids.get(name, name): text for name, text in window.items() if text}


def window_line(page: Page, window: WindowAnswer) -> str:
    """Return a window as people read it."""
    from palyra.cli.render import instant

    start, end = (instant(us, page.zone) for us in (window.from_us, window.to_us))
    return f"{start} to {end}"


def flat(totals: Totals) -> dict[str, Any]:
    """Return totals as plain cells."""
    from palyra.engine.reports.figures import flat_totals

    return flat_totals(totals)
