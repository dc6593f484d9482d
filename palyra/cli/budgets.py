"""`palyra budgets`: rules about usage, what is used of them, what is held."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from palyra.cli.budget_check import check
from palyra.cli.command import Call, Group
from palyra.cli.frame import Answer
from palyra.cli.page import Column, Page, Styled
from palyra.cli.render import ago, count, counted, instant, usd, usd_about

if TYPE_CHECKING:
    from palyra.engine.budget_questions import BudgetAnswer, BudgetStatus, HoldAnswer

_STYLES = {"ok": "good", "soft_limit": "warn", "hard_limit": "bad"}


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
        "" if record.soft_limit is None else _amount(one, record.soft_limit),
        "" if record.hard_limit is None else _amount(one, record.hard_limit),
        Styled(mode, "good" if mode == "enforced" else "warn"),
        record.managed_by,
    )


def _interval(one: BudgetAnswer) -> str:
    record = one.policy
    if record.interval_kind == "rolling":
        return f"{record.rolling_hours} h rolling"
    return {"daily": "day", "weekly": "week", "monthly": "month", "per_run": "request"}[record.interval_kind]


def _amount(one: BudgetAnswer, amount: int, money: Callable[[int], str] = usd) -> str:
    return money(amount) if one.policy.metric_kind == "usd_cost" else counted(amount, "token")


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
        return asked.answer(lambda page: _show_budget(page, asked.found, asked.now_us))
    all_ = ask(call, BUDGETS, BudgetsParams())

    def show_all(page: Page) -> None:
        for number, one in enumerate(all_.found.items):
            if number:
                page.line()
            page.line(Styled(one.policy.policy_id, "bold"))
            _show_budget(page, one, all_.now_us)
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
        _show_budget(page, asked.found, asked.now_us)

    return asked.answer(show_rule)


def _said(one: BudgetAnswer, name: str, value: Any) -> str:
    """Return what a rule says of one thing, as people read it."""
    if name.endswith("_limit"):
        return _amount(one, value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} = {exact}" for key, exact in value.items())
    return str(value)


def _show_budget(page: Page, one: BudgetAnswer, now_us: int) -> None:
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
        _amount(one, row.consumed, usd_about),
        _amount(one, row.reserved, usd_about) if row.reserved else "",
        "" if row.headroom is None else _amount(one, max(0, row.headroom), usd_about),
        Styled(row.status.replace("_", " "), _STYLES[row.status]),
        ago(row.window_end_us, now_us) if row.window_end_us > now_us else "",
    )


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


@budgets.command(
    "set",
    examples=[
        ("palyra budgets set all-month --scope global --monthly --usd 100 --soft 80", "one limit for everything"),
        ("palyra budgets set each-hour --scope session --id '*' --rolling 1 --tokens 200000", "for each session"),
        ("palyra budgets set trial --scope model --id gpt-4o --daily --usd 1 --mode dry_run", "only to see"),
    ],
    exits=(0, 2, 4, 6, 7),
    is_change=True,
)
@click.argument("policy")
@click.option(
    "--scope",
    type=click.Choice(["global", "principal", "session", "agent", "provider", "model"]),
    required=True,
    help="What is counted.",
)
@click.option("--id", "scope_id", metavar="ID", help="The one that is counted, or '*' for a counter of each.")
@click.option("--daily", "interval", flag_value="daily", help="A limit for each day.")
@click.option("--weekly", "interval", flag_value="weekly", help="A limit for each week.")
@click.option("--monthly", "interval", flag_value="monthly", help="A limit for each month.")
@click.option("--per-run", "interval", flag_value="per_run", help="A limit for each request.")
@click.option("--rolling", type=click.IntRange(1, 744), metavar="HOURS", help="A limit for the last so many hours.")
@click.option("--usd", metavar="AMOUNT", help="The hard limit in USD: 5.00.")
@click.option("--tokens", type=click.IntRange(min=0), metavar="N", help="The hard limit in tokens.")
@click.option("--soft", metavar="AMOUNT", help="A limit that only warns, in the same unit.")
@click.option("--timezone", metavar="ZONE", help="Where its days begin: Europe/Prague; else UTC.")
@click.option("--mode", type=click.Choice(["enforced", "dry_run", "suggest"]), help="Two of them stop nobody.")
@click.option("--on-hard", type=click.Choice(["block", "approval_required"]), help="What happens past the limit.")
@click.option(
    "--downgrade-to", multiple=True, metavar="MODEL", help="What is left past the limit: a model, or free."
)
@click.option("--ceiling", metavar="AMOUNT", help="The limit that stops even those, in the same unit.")
@click.option("--on-unpriced", type=click.Choice(["deny", "allow"]), help="What becomes of models without a price.")
def set_budget(
    call: Call,
    policy: str,
    scope: str,
    scope_id: str | None,
    interval: str | None,
    rolling: int | None,
    usd: str | None,
    tokens: int | None,
    soft: str | None,
    timezone: str | None,
    mode: str | None,
    on_hard: str | None,
    downgrade_to: tuple[str, ...],
    ceiling: str | None,
    on_unpriced: str | None,
) -> Answer:
    """Put a rule in force, or change it. What its window holds already counts, also what was used before it."""
    from palyra.cli.asking import change
    from palyra.engine.console.budgets import SetParams
    from palyra.engine.console.table import BUDGET_SET

    if (interval is None) == (rolling is None):
        raise click.UsageError("Say how often: one of --daily, --weekly, --monthly, --per-run, --rolling HOURS.")
    if usd is not None and tokens is not None:
        raise click.UsageError("A rule counts USD or tokens, not both: --usd or --tokens.")
    is_money = tokens is None and usd is not None

    def amount(text: str | None) -> str | int | None:
        return int(text) if text is not None and not is_money and text.isdecimal() else text

    wanted = {
        "scope_kind": scope,
        "scope_id": scope_id,
        "metric_kind": "usd_cost" if is_money else "tokens",
        "interval_kind": interval or "rolling",
        "rolling_hours": rolling,
        "hard_limit": usd if is_money else tokens,
        "soft_limit": amount(soft),
        "on_hard": "downgrade" if downgrade_to else on_hard,
        "downgrade_to": list(downgrade_to) or None,
        "ceiling_limit": amount(ceiling),
        "timezone": timezone,
        "mode": mode,
        "on_unpriced": on_unpriced,
    }
    rule = {name: value for name, value in wanted.items() if value is not None}
    asked = change(call, BUDGET_SET, SetParams(policy=policy, rule=rule))
    return asked.answer(lambda page: _show_set(page, asked.found, asked.now_us))


def _show_set(page: Page, one: BudgetAnswer, now_us: int) -> None:
    page.line(Styled(one.policy.policy_id, "bold"), f" is in force, revision {one.revision}")
    page.line()
    _show_budget(page, one, now_us)


@budgets.command(
    "retire",
    examples=[
        ("palyra budgets retire each-day", "take a rule out of force"),
        ("palyra budgets retire each-hour --json", "with the rule as it was"),
    ],
    exits=(0, 2, 4, 6, 7, 8),
    is_change=True,
)
@click.argument("policy")
def retire(call: Call, policy: str) -> Answer:
    """Take a rule out of force; what was counted stays in the journal."""
    from palyra.cli.asking import change
    from palyra.engine.console.budgets import RetireParams
    from palyra.engine.console.table import BUDGET_RETIRE

    asked = change(call, BUDGET_RETIRE, RetireParams(policy=policy))
    return asked.answer(lambda page: page.line(Styled(policy, "bold"), " is in force no more"))


@budgets.command(
    "override",
    examples=[
        ("palyra budgets override all-month --amount 5.00", "one run past the limit of everything"),
        ("palyra budgets override each-day --subject key:ci --amount 2.50 --uses 3", "three runs of one key"),
        ("palyra budgets override each-day --subject key:ci --until 2030-01-01T12:00Z", "until noon"),
    ],
    exits=(0, 2, 4, 6, 7, 8),
    is_change=True,
)
@click.argument("policy")
@click.option("--subject", metavar="WHO", default="", help="Whom the rule counts, where it counts each by itself.")
@click.option("--amount", metavar="AMOUNT", help="So much together, in the rule's unit; else as much as its limit.")
@click.option("--uses", type=int, default=1, metavar="N", help="So many runs; else one.")
@click.option("--until", metavar="WHEN", help="An instant or a date; else the end of the rule's window.")
@click.option("--principal", metavar="WHO", default="", help="Only runs of this principal.")
def override(
    call: Call, policy: str, subject: str, amount: str | None, uses: int, until: str | None, principal: str
) -> Answer:
    """Let runs pass a limit before anybody has to ask."""
    from palyra.cli.approvals import amount_of, read_amount, read_until
    from palyra.cli.asking import ask, change
    from palyra.engine.console.approvals import OverrideParams
    from palyra.engine.console.budgets import OneBudgetParams
    from palyra.engine.console.table import BUDGET, BUDGET_OVERRIDE

    metric = ask(call, BUDGET, OneBudgetParams(policy=policy)).found.policy.metric_kind if amount else ""
    params = OverrideParams(
        policy=policy,
        subject=subject,
        amount=read_amount(amount, metric),
        uses=uses,
        until_us=read_until(until),
        principal_id=principal,
    )
    asked = change(call, BUDGET_OVERRIDE, params)
    one = asked.found

    def show_grant(page: Page) -> None:
        who = "everybody" if one.granted_to == "*" else one.granted_to
        page.line(
            Styled(one.approval_id, "bold"), f" lets {counted(one.uses_max or 0, 'run')} of {who} pass {policy}"
        )
        page.fields(
            [
                ("amount", amount_of(one, one.amount_max or 0)),
                ("until", instant(one.valid_until_us or 0, page.zone)),
            ]
        )

    return asked.answer(show_grant)


@budgets.command(
    "backtest",
    examples=[
        ("palyra budgets backtest policy.toml", "what a rule would have stopped"),
        ("palyra budgets backtest policy.toml --from 2026-11-01", "since a day"),
    ],
    exits=(0, 2, 7, 8),
)
@click.argument("policy_path", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--from", "from_", metavar="WHEN", help="Only requests from then on; older ones are counted.")
@click.option("--as-of", metavar="WHEN", help="Of the journal as it was then: a position, an instant, -2h.")
def backtest(call: Call, policy_path: Path, from_: str | None) -> Answer:
    """Tell when rules would have warned or stopped somebody, had they been in force beside the others.

    One that has the name of another stands in its place. FILE holds one rule, or [[budgets.policies]] as in the
    configuration. Nothing is written.
    """
    from palyra.cli.reading import Journal
    from palyra.cli.replay import decide_again
    from palyra.decisions.what_if import OtherRules
    from palyra.engine.what_if import read_policy_file

    added = read_policy_file(policy_path)
    return decide_again(call, Journal(call), OtherRules(added=added), from_, None)


budgets.add_command(check)
