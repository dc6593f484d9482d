"""`palyra budgets set`, `retire`, `override` and `backtest`: rules come, change and go, or are only tried."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from palyra.cli.budget_tables import show_budget
from palyra.cli.command import Call, Command
from palyra.cli.frame import Answer
from palyra.cli.page import Page, Styled
from palyra.cli.render import counted, instant, rfc3339

if TYPE_CHECKING:
    from palyra.engine.budget_questions import BudgetAnswer

_POLICIES = ("budgets", "policies")


@click.command(
    "set",
    cls=Command,
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
@click.option(
    "--soft", metavar="AMOUNT", help="A limit that only warns, in the same unit; alone 4000 tokens or $4."
)
@click.option("--timezone", metavar="ZONE", help="Where its days begin; else as budgets.timezone says.")
@click.option("--mode", type=click.Choice(["enforced", "dry_run", "suggest"]), help="Two of them stop nobody.")
@click.option("--on-hard", type=click.Choice(["block", "approval_required"]), help="What happens past the limit.")
@click.option(
    "--downgrade-to", multiple=True, metavar="MODEL", help="What is left past the limit: a model, or free."
)
@click.option("--ceiling", metavar="AMOUNT", help="The limit that stops even those, in the same unit.")
@click.option("--on-unpriced", type=click.Choice(["deny", "allow"]), help="What becomes of models without a price.")
@click.option("--from-now", is_flag=True, help="Do not count what was used before.")
@click.option(
    "--with",
    "more",
    multiple=True,
    metavar="KEY=TOML",
    help="Any other key of a rule: match.origin=cron, month_day=15.",
)
@click.option(
    "--write-config", is_flag=True, help="Write the rule into the configuration file, not into the journal."
)
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
    from_now: bool,
    more: tuple[str, ...],
    write_config: bool,
) -> Answer:
    """Put a rule in force, or change it. What its window holds already counts, also what was used before it.

    A rule that stands in the configuration file is changed there: --write-config.
    """
    from palyra.cli.asking import change
    from palyra.engine.clock import SystemClock
    from palyra.engine.console.budgets import SetParams
    from palyra.engine.console.change_table import BUDGET_SET

    if (interval is None) == (rolling is None):
        raise click.UsageError("Say how often: one of --daily, --weekly, --monthly, --per-run, --rolling HOURS.")
    if usd is not None and tokens is not None:
        raise click.UsageError("A rule counts USD or tokens, not both: --usd or --tokens.")
    is_money = usd is not None or (tokens is None and (soft or "").startswith("$"))

    def amount(text: str | None) -> str | int | None:
        if text is None or is_money:
            return text.removeprefix("$") if text else None
        return int(text) if text.isdecimal() else text

    wanted = {
        "scope_kind": scope,
        "scope_id": scope_id,
        "metric_kind": "usd_cost" if is_money else "tokens",
        "interval_kind": interval or "rolling",
        "rolling_hours": rolling,
        "hard_limit": amount(usd) if is_money else tokens,
        "soft_limit": amount(soft),
        "on_hard": "downgrade" if downgrade_to else on_hard,
        "downgrade_to": list(downgrade_to) or None,
        "ceiling_limit": amount(ceiling),
        "timezone": timezone,
        "mode": mode,
        "on_unpriced": on_unpriced,
        "effective_from": rfc3339(SystemClock().now_us()) if from_now else None,
        **_more(more),
    }
    rule = {name: value for name, value in wanted.items() if value is not None}
    if write_config:
        return _write(call, {"policy_id": policy, **rule})
    asked = change(call, BUDGET_SET, SetParams(policy=policy, rule=rule))
    return asked.answer(lambda page: _show_set(page, asked.found, asked.now_us))


def _more(given: tuple[str, ...]) -> dict[str, Any]:
    """Return keys of a rule that have no option; what is no TOML is a text. Raises `UsageError`."""
    import tomllib

    found: dict[str, Any] = {}
    for one in given:
        key, mark, text = one.partition("=")
        if not mark or not key:
            raise click.UsageError(f"'{one}' is not KEY=TOML.")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        table, dot, name = key.partition(".")
        if dot:
            found.setdefault(table, {})[name] = value
        else:
            found[key] = value
    return found


def _write(call: Call, rule: dict[str, Any]) -> Answer:
    """Write a rule into the configuration file, in place of one of its name; a running daemon takes it up."""
    import tomllib

    from palyra.cli.model_config import reload_config
    from palyra.config.document import locate, user_directory
    from palyra.config.edit import Append, Edit, entry_edits
    from palyra.config.write import edit_config_file

    def edits(text: str) -> list[Edit]:
        policies = tomllib.loads(text).get("budgets", {}).get("policies", [])
        at = next((at for at, one in enumerate(policies) if one.get("policy_id") == rule["policy_id"]), None)
        if at is None:
            return [Append(path=_POLICIES, entry=rule)]
        return entry_edits((*_POLICIES, at), policies[at], rule)

    file = locate(os.environ, call.config_file) or user_directory("config", os.environ) / "palyra.toml"
    written = edit_config_file(file, edits, environ=os.environ)
    is_live = written.is_changed and reload_config(call)
    data = {"file": written.file, "rule": rule, "is_changed": written.is_changed, "is_live": is_live}

    def show(page: Page) -> None:
        if not written.is_changed:
            page.line(Styled(f"Nothing to change in {written.file}.", "dim"))
            return
        when = "is in force" if is_live else "acts at the next start"
        page.line(Styled(rule["policy_id"], "bold"), f" {when}")
        page.line(Styled(f"Written to {written.file}.", "dim"))

    return Answer(data, show)


def _show_set(page: Page, one: BudgetAnswer, now_us: int) -> None:
    page.line(Styled(one.policy.policy_id, "bold"), f" is in force, revision {one.revision}")
    page.line()
    show_budget(page, one, now_us)


@click.command(
    "retire",
    cls=Command,
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
    from palyra.engine.console.change_table import BUDGET_RETIRE

    asked = change(call, BUDGET_RETIRE, RetireParams(policy=policy))
    return asked.answer(lambda page: page.line(Styled(policy, "bold"), " is in force no more"))


@click.command(
    "override",
    cls=Command,
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
@click.option("--ask", "is_asked", is_flag=True, help="Only ask; somebody else grants it (approvals.four_eyes).")
def override(
    call: Call,
    policy: str,
    subject: str,
    amount: str | None,
    uses: int,
    until: str | None,
    principal: str,
    is_asked: bool,
) -> Answer:
    """Let runs pass a limit before anybody has to ask."""
    from palyra.cli.approvals import amount_of, read_amount, read_until
    from palyra.cli.asking import ask, change
    from palyra.engine.console.approvals import OverrideParams
    from palyra.engine.console.budgets import OneBudgetParams
    from palyra.engine.console.change_table import BUDGET_OVERRIDE
    from palyra.engine.console.table import BUDGET

    metric = ask(call, BUDGET, OneBudgetParams(policy=policy)).found.policy.metric_kind if amount else ""
    params = OverrideParams(
        policy=policy,
        subject=subject,
        amount=read_amount(amount, metric),
        uses=uses,
        until_us=read_until(until),
        principal_id=principal,
        grant=not is_asked,
    )
    asked = change(call, BUDGET_OVERRIDE, params)
    one = asked.found

    def show_grant(page: Page) -> None:
        if is_asked:
            page.line(f"asked: palyra approvals grant {one.approval_id}")
            return
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


@click.command(
    "backtest",
    cls=Command,
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
    from palyra.engine.what_if import read_policy_file, recorded_timezone

    source = Journal(call)
    with source.rows() as rows:
        timezone = recorded_timezone(rows)
    added = read_policy_file(policy_path, timezone)
    return decide_again(call, source, OtherRules(added=added), from_, None)
