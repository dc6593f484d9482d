"""What a run was held to and what it cost, for people: rules, each hold by its age, prices, what failures cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from palyra.cli.page import Column, Page, Styled
from palyra.cli.render import count, counted, duration, usd
from palyra.cli.words import where

if TYPE_CHECKING:
    from palyra.engine.explained import AccountSeen, ChargeSeen, RuleSeen

_RULES = [
    Column("RULE", is_cut=True),
    Column("OF", is_cut=True, spare=1),
    Column("USED", align="right"),
    Column("HELD", align="right"),
    Column("ASKED", align="right"),
    Column("LIMIT", align="right"),
    Column("LEFT", align="right", spare=2),
    Column("SAID"),
]
_HOLDS = [Column("RULE", is_cut=True), Column("HELD BY RUN"), Column("AMOUNT", align="right"), Column("FOR")]
_CHARGES = [
    Column("", align="right"),
    Column("PROVIDER / MODEL", is_cut=True),
    Column("TIER", spare=2),
    Column("PRICE"),
    Column("IN, A MILLION", align="right", spare=1),
    Column("OUT, A MILLION", align="right", spare=1),
    Column("COST", align="right"),
]


def show_account(page: Page, account: AccountSeen) -> None:
    """Print rules, holds and charges; nothing where there were none."""
    if account.rules:
        page.title("Held to")
        page.table(_RULES, [_rule(one) for one in account.rules], indent=2)
    holds = [(rule, hold) for rule in account.rules for hold in rule.holds]
    if holds:
        page.title("Held by others then")
        rows = [
            (rule.policy_id, hold.run_id, _amount(rule, hold.amount), duration(hold.age_us)) for rule, hold in holds
        ]
        page.table(_HOLDS, rows, indent=2)
    if any(one.cost_state or one.price is not None for one in account.charges):
        page.title("Cost")
        page.table(_CHARGES, [_charge(one) for one in account.charges], indent=2)
        page.line(_sum(account), indent=2)


def _sum(account: AccountSeen) -> str:
    """Return what all attempts cost; what is not known is never a zero."""
    unknown = f"{counted(account.unpriced_count, 'attempt')} without a price" if account.unpriced_count else ""
    if unknown and not account.cost_nanousd:
        return unknown
    lost = f"{usd(account.absorbed_nanousd)} of it for failures" if account.absorbed_nanousd else ""
    return " · ".join(part for part in (f"{usd(account.cost_nanousd)} in all", lost, unknown) if part)


def _amount(rule: RuleSeen, value: int | None) -> str:
    if value is None:
        return ""
    return usd(value) if rule.metric_kind == "usd_cost" else count(value)


def _rule(one: RuleSeen) -> tuple[str | Styled, ...]:
    is_stop = one.status in ("blocked", "unpriced", "approval_required")
    style = "bad" if is_stop else "good" if one.status in ("ok", "override_applied") else "warn"
    return (
        one.policy_id,
        one.subject or "everybody",
        _amount(one, one.consumed),
        _amount(one, one.reserved) if one.reserved else "",
        _amount(one, one.requested),
        _amount(one, one.soft_limit if one.hard_limit is None else one.hard_limit),
        _amount(one, one.headroom),
        Styled(one.status.replace("_", " "), style),
    )


def _charge(one: ChargeSeen) -> tuple[str | Styled, ...]:
    price = one.price
    rates: tuple[int | None, ...] = (None, None)
    named = "none"
    if price is not None:
        rates = (price.input_nanousd_per_mtok, price.output_nanousd_per_mtok)
        named = "free" if price.state == "free" else price.price_id
    cost = "unknown" if one.cost_state == "unknown" else "" if one.cost_nanousd is None else usd(one.cost_nanousd)
    return (
        str(one.attempt),
        where(one.provider_id, one.model_id),
        one.variant or one.variant_asked,
        named,
        *("" if rate is None else usd(rate) for rate in rates),
        Styled(f"{cost}, for nothing", "warn") if one.is_absorbed and one.cost_nanousd else cost,
    )
