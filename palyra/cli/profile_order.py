"""`palyra auth order` and `cooldown`: which profile is tried first, and an end to the pauses of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from palyra.cli.command import Call, Group
from palyra.cli.frame import Answer
from palyra.cli.page import Page, Styled
from palyra.cli.profile_changes import clear_cooldown, scope_of

if TYPE_CHECKING:
    from palyra.engine.console.auth_views import OrderView

_EXITS = (0, 2, 3, 4, 6, 7, 8)
_READ_EXITS = (0, 2, 5, 7, 8)


@click.group(
    "order",
    cls=Group,
    examples=[
        ("palyra auth order show openai", "in which order profiles are tried"),
        ("palyra auth order set openai work home", "another one"),
    ],
)
def order() -> None:
    """Show and set in which order profiles are tried."""


@order.command(
    "show",
    examples=[
        ("palyra auth order show openai", "the order of all"),
        ("palyra auth order show openai --agent coder", "that of an agent"),
    ],
    exits=_READ_EXITS,
    takes_as_of=True,
)
@click.argument("provider", metavar="PROVIDER")
@click.option("--agent", default="", metavar="ID", help="As a run of this agent sees it.")
def show_order(call: Call, provider: str, agent: str) -> Answer:
    """Show in which order the profiles of a provider are tried."""
    from palyra.cli.asking import ask
    from palyra.engine.console.auth_views import OrderParams
    from palyra.engine.console.table import AUTH_ORDER

    asked = ask(call, AUTH_ORDER, OrderParams(provider=provider, agent_id=agent))
    return asked.answer(lambda page: _show_order(page, asked.found))


def _show_order(page: Page, found: OrderView) -> None:
    page.fields(
        [
            ("provider", found.provider),
            ("for", found.scope.agent_id or "all"),
            ("strategy", found.strategy.replace("_", " ")),
            ("order", " ".join(found.profile_ids) or Styled("none", "dim")),
        ]
    )


@order.command(
    "set",
    examples=[
        ("palyra auth order set openai work home", "try these two, in this order, and no others"),
        ("palyra auth order set openai a b --strategy least_recently_used", "take turns"),
    ],
    exits=_EXITS,
    is_change=True,
)
@click.argument("provider", metavar="PROVIDER")
@click.argument("profiles", metavar="ID...", nargs=-1, required=True)
@click.option("--agent", default="", metavar="ID", help="For runs of this agent.")
@click.option(
    "--strategy",
    type=click.Choice(["sticky", "least_recently_used"]),
    default="sticky",
    help="The first that may be used, or take turns.",
)
def set_order(call: Call, provider: str, profiles: tuple[str, ...], agent: str, strategy: Any) -> Answer:
    """Replace order and strategy; what is not named is not used."""
    from palyra.cli.asking import change
    from palyra.engine.console.auth import OrderParams
    from palyra.engine.console.change_table import AUTH_ORDER_SET

    params = OrderParams(provider=provider, profile_ids=list(profiles), scope=scope_of(agent), strategy=strategy)
    done = change(call, AUTH_ORDER_SET, params)
    return done.answer(lambda page: page.line(f"{provider}: {' '.join(profiles)}"))


@click.group(
    "cooldown",
    cls=Group,
    examples=[
        ("palyra auth cooldown clear work-openai", "use it now, whatever its provider asked for"),
        ("palyra auth cooldown clear config:groq", "of a key that the configuration names"),
    ],
)
def cooldown() -> None:
    """End the pauses of a credential."""


cooldown.add_command(clear_cooldown)
