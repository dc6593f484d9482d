"""How far rules are, for people: amounts in the unit of a rule, and a line for each whom it counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from palyra.cli.page import Column, Page, Styled
from palyra.cli.render import ago, counted, usd, usd_about

if TYPE_CHECKING:
    from palyra.engine.budget_questions import BudgetAnswer, BudgetStatus

_STYLES = {"ok": "good", "soft_limit": "warn", "hard_limit": "bad"}


def amount_of(one: BudgetAnswer, amount: int, money: Callable[[int], str] = usd) -> str:
    """Return an amount in the unit of a rule."""
    return money(amount) if one.policy.metric_kind == "usd_cost" else counted(amount, "token")


def show_budget(page: Page, one: BudgetAnswer, now_us: int) -> None:
    """Print what is used and held of a rule."""
    if not one.status:
        page.line(Styled("Nothing used.", "dim"))
        return
    columns = [
        Column("WHO", is_cut=True),
        Column("USED", align="right"),
        Column("HELD", align="right"),
        Column("LEFT", align="right"),
        Column(""),
        Column("ENDS", spare=1),
    ]
    page.table(columns, [_status_row(one, row, now_us) for row in one.status])


def _status_row(one: BudgetAnswer, row: BudgetStatus, now_us: int) -> tuple[Any, ...]:
    return (
        row.subject or "everybody",
        amount_of(one, row.consumed, usd_about),
        amount_of(one, row.reserved, usd_about) if row.reserved else "",
        "" if row.headroom is None else amount_of(one, max(0, row.headroom), usd_about),
        Styled(row.status.replace("_", " "), _STYLES[row.status]),
        ago(row.window_end_us, now_us) if row.window_end_us > now_us else "",
    )
