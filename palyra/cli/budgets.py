"""`palyra budgets`: rules about usage, what is used of them, what is held. What changes them is next door."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from palyra.cli.budget_changes import backtest, override, retire, set_budget
from palyra.cli.budget_check import check
from palyra.cli.budget_tables import amount_of, show_budget
from palyra.cli.command import Call, Group
from palyra.cli.frame import Answer
from palyra.cli.page import Column, Page, Styled
from palyra.cli.render import ago, count, counted, instant, usd

if TYPE_CHECKING:
    from palyra.engine.budget_questions import BudgetAnswer, HoldAnswer


@click.group(
    cls=Group,
    examples=[
        (
            "palyra budgets set each-day --scope principal --id '*' --daily --usd 5.00",
            "for each key",
        ),
        ("palyra budgets status", "how far everybody is"),
        ("palyra budgets holds each-day", "what open requests hold"),
    ],
)
def budgets() -> None:
    """Limit what may be used, and see what is."""


@budgets.command(
    "list",
    examples=[
        ("palyra budgets list", "all rules"),
        ("palyra budgets list --json", "the same for a program"),
        ("palyra budgets list --as-of -7d", "those of a week ago"),
    ],
    exits=(0, 2, 5, 7),
    takes_as_of=True,
)
def list_budgets(call: Call) -> Answer:
    """Show the rules in force."""
    from palyra.cli.asking import ask
    from palyra.engine.console.budgets import BudgetsParams
    from palyra.engine.console.table import BUDGETS

    asked = ask(call, BUDGETS, BudgetsParams())

    def show_rules(page: Page) -> None:
        if not asked.found.items:
            page.line("No rules, so nothing is limited. ", Styled("palyra budgets set makes one.", "dim"))
            return
        columns = [
            Column("RULE", is_cut=True),
            Column("FOR", is_cut=True),
            Column("EVERY"),
            Column("SOFT", align="right"),
            Column("HARD", align="right"),
            Column("MODE"),
            Column("FROM", spare=1),
        ]
        page.table(columns, [_rule_row(one) for one in asked.found.items])

    return asked.answer(show_rules)


def _rule_row(one: BudgetAnswer) -> tuple[Any, ...]:
    record = one.policy
    mode = record.mode if record.enabled else "off"
    return (
        record.policy_id,
        f"{record.scope_kind} {record.scope_id}".strip(),
        _interval(one),
        "" if record.soft_limit is None else amount_of(one, record.soft_limit),
        "" if record.hard_limit is None else amount_of(one, record.hard_limit),
        Styled(mode, "good" if mode == "enforced" else "warn"),
        record.managed_by,
    )


def _in_short(one: BudgetAnswer) -> str:
    """Return what a rule says, in a few words."""
    record = one.policy
    limits = [
        f"{name} {amount_of(one, limit)}"
        for name, limit in (("soft", record.soft_limit), ("hard", record.hard_limit))
        if limit is not None
    ]
    mode = record.mode.replace("_", " ") if record.enabled else "off"
    words = [f"{record.scope_kind} {record.scope_id}".strip(), _interval(one), *limits]
    return " · ".join([*words, *([] if mode == "enforced" else [mode])])


def _interval(one: BudgetAnswer) -> str:
    record = one.policy
    if record.interval_kind == "rolling":
        return f"{record.rolling_hours} h rolling"
    return {"daily": "day", "weekly": "week", "monthly": "month", "per_run": "request"}[record.interval_kind]


@budgets.command(
    "status",
    examples=[
        ("palyra budgets status", "all rules"),
        ("palyra budgets status each-day", "everybody whom one rule counts"),
        ("palyra budgets status --as-of run:last", "when the newest run ended"),
    ],
    exits=(0, 2, 5, 7, 8),
    takes_as_of=True,
)
@click.argument("policy", required=False)
def status(call: Call, policy: str | None) -> Answer:
    """Show what is used and held in the windows that are open now."""
    from palyra.cli.asking import ask
    from palyra.engine.console.budgets import BudgetsParams, OneBudgetParams
    from palyra.engine.console.table import BUDGET, BUDGETS

    if policy is not None:
        asked = ask(call, BUDGET, OneBudgetParams(policy=policy))
        return asked.answer(lambda page: show_budget(page, asked.found, asked.now_us))
    all_ = ask(call, BUDGETS, BudgetsParams())

    def show_all(page: Page) -> None:
        for number, one in enumerate(all_.found.items):
            if number:
                page.line()
            page.line(Styled(one.policy.policy_id, "bold"), Styled(f" · {_in_short(one)}", "dim"))
            show_budget(page, one, all_.now_us)
        if not all_.found.items:
            page.line("No rules, so nothing is limited. ", Styled("palyra budgets set makes one.", "dim"))

    return all_.answer(show_all)


@budgets.command(
    "show",
    examples=[
        ("palyra budgets show each-day", "one rule with everything that it says"),
        ("palyra budgets show each-day --json", "the same for a program"),
    ],
    exits=(0, 2, 5, 7, 8),
    takes_as_of=True,
)
@click.argument("policy")
def show(call: Call, policy: str) -> Answer:
    """Show one rule."""
    from palyra.cli.asking import ask
    from palyra.cli.frame import to_plain
    from palyra.engine.console.budgets import OneBudgetParams
    from palyra.engine.console.table import BUDGET

    asked = ask(call, BUDGET, OneBudgetParams(policy=policy))

    def show_rule(page: Page) -> None:
        said = to_plain(asked.found.policy)
        rows = [(name.replace("_", " "), _said(asked.found, name, value)) for name, value in said.items()]
        rows += [("revision", count(asked.found.revision)), ("since", instant(asked.found.set_us, page.zone))]
        page.fields(rows)
        page.line()
        show_budget(page, asked.found, asked.now_us)

    return asked.answer(show_rule)


def _said(one: BudgetAnswer, name: str, value: Any) -> str:
    """Return what a rule says of one thing, as people read it."""
    if name.endswith("_limit"):
        return amount_of(one, value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} = {exact}" for key, exact in value.items())
    return str(value)


@budgets.command(
    "holds",
    examples=[
        ("palyra budgets holds each-day", "what open requests hold of a rule"),
        ("palyra budgets holds each-day --json", "the same for a program"),
        ("palyra budgets holds each-day --as-of -5m", "what was held five minutes ago"),
    ],
    exits=(0, 2, 5, 7, 8),
    takes_as_of=True,
)
@click.argument("policy")
def holds(call: Call, policy: str) -> Answer:
    """Show what open requests hold of a rule: with what was used, this is what admission sees."""
    from palyra.cli.asking import ask
    from palyra.engine.console.budgets import OneBudgetParams
    from palyra.engine.console.table import BUDGET_HOLDS

    asked = ask(call, BUDGET_HOLDS, OneBudgetParams(policy=policy))

    def row(one: HoldAnswer) -> tuple[Any, ...]:
        is_money = asked.found.metric_kind == "usd_cost"
        amount = usd(one.amount) if is_money else counted(one.amount, "token")
        return (one.run_id, count(one.attempt), one.subject, amount, ago(one.since_us, asked.now_us))

    def show_holds(page: Page) -> None:
        if not asked.found.items:
            page.line(Styled("Nothing is held.", "dim"))
            return
        columns = [
            Column("RUN"),
            Column("ATTEMPT", align="right"),
            Column("WHO", is_cut=True),
            Column("HELD", align="right"),
            Column("SINCE"),
        ]
        page.table(columns, [row(one) for one in asked.found.items])

    return asked.answer(show_holds)


for _command in (set_budget, retire, override, backtest, check):
    budgets.add_command(_command)
