"""`palyra alerts`: what somebody should know."""

from __future__ import annotations

from datetime import tzinfo
from typing import TYPE_CHECKING, Any

import click

from palyra.cli.command import Call, Group
from palyra.cli.frame import Answer
from palyra.cli.page import Column, Page, Styled
from palyra.cli.render import ago, count, counted, instant, share, usd_about
from palyra.units import BP_PER_UNIT

if TYPE_CHECKING:
    from palyra.engine.questions import AlertAnswer

_STYLES = {"info": "dim", "warning": "warn", "danger": "bad", "critical": "bad"}
#: Figures in the metric of a rule.
_AMOUNTS = ("limit", "consumed", "reserved", "requested")
_ACTIONS = {
    "add_price": "give the model a price in [[pricing.overrides]]",
    "check_credential": "palyra auth health, and what the provider's own account allows",
    "check_provider": "palyra models status",
    "give_credential": "palyra auth health says which; set the variable, mend the file, or palyra auth connect",
    "look_at_usage": "palyra usage report --group-by principal,model",
    "open_vault": "palyra vault status says what is wrong with it",
    "raise_or_grant": "raise the limit, or palyra budgets override",
    "renew_certificate": "renew the certificate; a changed file is used at once",
    "use_tls": "set daemon.tls_cert_file and daemon.tls_key_file",
}


@click.group(
    cls=Group,
    examples=[
        ("palyra alerts list", "what somebody should know"),
        ("palyra alerts ack 4f1c", "it was seen"),
    ],
)
def alerts() -> None:
    """Show what somebody should know."""


@alerts.command(
    "list",
    examples=[
        ("palyra alerts list", "what is open"),
        ("palyra alerts list --all --json", "also what has ended, for a program"),
        ("palyra alerts list --as-of -1d", "what was open yesterday"),
    ],
    exits=(0, 2, 5, 7),
    takes_as_of=True,
)
@click.option("--all", "is_all", is_flag=True, help="Also what has ended.")
def list_alerts(call: Call, is_all: bool) -> Answer:
    """Show alerts, newest first."""
    from palyra.cli.asking import ask_all
    from palyra.engine.console.alerts import AlertsParams
    from palyra.engine.console.table import ALERTS

    asked = ask_all(call, ALERTS, AlertsParams())
    shown = [one for one in asked.found.items if is_all or one.state != "ended"]

    def show_all(page: Page) -> None:
        if not shown:
            page.line(Styled("Nothing that somebody should know.", "good"))
            return
        show_alerts(page, shown, asked.now_us)

    return asked.answer(show_all)


def show_alerts(page: Page, shown: list[AlertAnswer], now_us: int) -> None:
    """Print a table of alerts."""
    columns = [
        Column("ALERT"),
        Column("SEVERITY"),
        Column("WHAT", is_cut=True, least=11),
        Column("ABOUT", is_cut=True, least=22),
        Column("", spare=1),
        Column("SINCE"),
    ]
    page.table(columns, [_row(one, now_us) for one in shown])


def _row(one: AlertAnswer, now_us: int) -> tuple[Any, ...]:
    return (
        one.alert_id,
        Styled(one.severity, _STYLES[one.severity]),
        one.kind.replace("_", " ") + (" (trial)" if one.dry_run else ""),
        _about(one),
        "" if one.state == "open" else one.state,
        ago(one.raised_us, now_us),
    )


def _about(one: AlertAnswer) -> str:
    """Return what an alert is about: of a rule also whom it counts."""
    whom = one.facts.get("subject", "")
    return f"{one.subject_id} · {whom}" if whom else one.subject_id


@alerts.command(
    "show",
    examples=[
        ("palyra alerts show 4f1c", "one alert with its figures"),
        ("palyra alerts show 4f1c --json", "the same for a program"),
    ],
    exits=(0, 2, 5, 7, 8),
    takes_as_of=True,
)
@click.argument("alert")
def show(call: Call, alert: str) -> Answer:
    """Show one alert."""
    from palyra.cli.asking import ask
    from palyra.engine.console.alerts import OneAlertParams
    from palyra.engine.console.table import ALERT

    asked = ask(call, ALERT, OneAlertParams(alert=alert))
    return asked.answer(lambda page: _show(page, asked.found))


def _show(page: Page, one: AlertAnswer) -> None:
    page.line(Styled(one.alert_id, "bold"), " ", Styled(one.severity, _STYLES[one.severity]), f" · {one.state}")
    page.line()
    fields = [("what", one.kind), ("about", _about(one)), ("since", instant(one.raised_us, page.zone))]
    if one.valid_until_us is not None:
        fields.append(("until", instant(one.valid_until_us, page.zone)))
    fields += [_fact(one, name, page.zone) for name in one.facts if name not in ("subject", "metric")]
    if one.recurrence:
        fields.append(("before", counted(one.recurrence, "time")))
    if one.recommended_action in _ACTIONS:
        fields.append(("way out", _ACTIONS[one.recommended_action]))
    if one.acknowledged_by:
        fields.append(("seen by", one.acknowledged_by))
    page.fields(fields)


def _fact(one: AlertAnswer, name: str, zone: tzinfo | None) -> tuple[str, str]:
    """Return what an alert says of one thing, in the unit that its name or the rule's metric gives."""
    value = one.facts[name]
    head, _, unit = name.rpartition("_")
    if not isinstance(value, int):
        return name.replace("_", " "), value
    if unit == "nanousd" or (name in _AMOUNTS and one.facts.get("metric") == "usd_cost"):
        return (head or "cost" if unit == "nanousd" else name).replace("_", " "), usd_about(value)
    if unit == "us":
        return head.replace("_", " "), instant(value, zone)
    if unit == "bp":
        return head.replace("_", " "), share(value, BP_PER_UNIT) or "0 %"
    return name.replace("_", " "), count(value)


@alerts.command(
    "ack",
    examples=[
        ("palyra alerts ack 4f1c", "it was seen; it stays until its cause has gone"),
        ("palyra alerts ack 4f1c --json", "the same for a program"),
    ],
    exits=(0, 2, 4, 6, 7, 8),
    is_change=True,
)
@click.argument("alert")
def ack(call: Call, alert: str) -> Answer:
    """Say that an alert was seen."""
    from palyra.cli.asking import change
    from palyra.engine.console.alerts import AlertParams
    from palyra.engine.console.change_table import ALERT_ACK

    asked = change(call, ALERT_ACK, AlertParams(alert=alert))
    return asked.answer(lambda page: _show(page, asked.found))
