"""`palyra approvals`: requests to pass a limit, and what is said to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from palyra.cli.command import Call, Group
from palyra.cli.frame import Answer
from palyra.cli.page import Column, Page, Styled
from palyra.cli.render import ago, count, counted, instant, usd, usd_about

if TYPE_CHECKING:
    from palyra.engine.console.approvals import ApprovalView

_STYLES = {"open": "warn", "granted": "good", "denied": "bad", "expired": "dim", "void": "dim"}


@click.group(
    cls=Group,
    examples=[
        ("palyra approvals list --state open", "what waits for somebody"),
        ("palyra approvals grant 4f1c", "let one run through"),
        ("palyra approvals deny 4f1c", "say no until the window ends"),
    ],
)
def approvals() -> None:
    """Decide who may pass a limit."""


@approvals.command(
    "list",
    examples=[
        ("palyra approvals list", "all requests, newest first"),
        ("palyra approvals list --state open --json", "what waits, for a program"),
        ("palyra approvals list --as-of -1d", "those of yesterday"),
    ],
    exits=(0, 2, 5, 7),
    takes_as_of=True,
)
@click.option(
    "--state",
    type=click.Choice(["open", "granted", "denied", "expired", "void"]),
    help="Only those that stand like this.",
)
def list_approvals(call: Call, state: Any) -> Answer:
    """Show who wants to pass which limit."""
    from palyra.cli.asking import ask_all
    from palyra.engine.console.approvals import ApprovalsParams
    from palyra.engine.console.table import APPROVALS

    asked = ask_all(call, APPROVALS, ApprovalsParams(state=state or ""))

    def row(one: ApprovalView) -> tuple[Any, ...]:
        return (
            one.approval_id,
            Styled(one.state, _STYLES[one.state]),
            one.policy_id,
            one.principal_id,
            amount_of(one, one.requested, usd_about),
            "" if one.uses_left is None else f"{one.uses_left} of {one.uses_max}",
            ago(one.requested_us, asked.now_us),
        )

    def show_all(page: Page) -> None:
        if not asked.found.items:
            page.line(Styled("Nobody asks to pass a limit.", "dim"))
            return
        columns = [
            Column("REQUEST"),
            Column(""),
            Column("RULE", is_cut=True),
            Column("WHO", is_cut=True),
            Column("WANTS", align="right"),
            Column("LEFT", spare=1),
            Column("ASKED"),
        ]
        page.table(columns, [row(one) for one in asked.found.items])

    return asked.answer(show_all)


def amount_of(one: ApprovalView, amount: int, money: Callable[[int], str] = usd) -> str:
    """Return an amount in the unit of the rule."""
    return money(amount) if one.metric == "usd_cost" else counted(amount, "token")


@approvals.command(
    "show",
    examples=[
        ("palyra approvals show 4f1c", "one request with all its figures"),
        ("palyra approvals show 4f1c --json", "the same for a program"),
    ],
    exits=(0, 2, 5, 7, 8),
    takes_as_of=True,
)
@click.argument("approval")
def show(call: Call, approval: str) -> Answer:
    """Show one request."""
    from palyra.cli.asking import ask
    from palyra.engine.console.approvals import OneApprovalParams
    from palyra.engine.console.table import APPROVAL

    asked = ask(call, APPROVAL, OneApprovalParams(approval=approval))
    return asked.answer(lambda page: _show(page, asked.found))


def _show(page: Page, one: ApprovalView) -> None:
    page.line(Styled(one.approval_id, "bold"), " is ", Styled(one.state, _STYLES[one.state]))
    page.line()
    fields = [
        ("rule", f"{one.policy_id}, revision {one.revision}"),
        ("counts", one.subject or "everybody"),
        ("asked by", one.principal_id + (f" · run {one.run_id}" if one.run_id else "")),
        ("wants", amount_of(one, one.requested)),
        ("used", f"{amount_of(one, one.consumed)} of {amount_of(one, one.limit)}"),
        ("expires", instant(one.expires_us, page.zone)),
    ]
    if one.decided_us is not None:
        fields.append(("decided", f"{instant(one.decided_us, page.zone)} by {one.decided_by}"))
    if one.uses_max is not None and one.amount_left is not None and one.amount_max is not None:
        uses = f"{count(one.uses_left or 0)} of {counted(one.uses_max, 'use')} left"
        left = f"{amount_of(one, one.amount_left)} of {amount_of(one, one.amount_max)} left"
        fields.append(("granted", f"to {one.granted_to}: {uses}, {left}"))
        fields.append(("until", instant(one.valid_until_us or 0, page.zone)))
    page.fields(fields)


@approvals.command(
    "grant",
    examples=[
        ("palyra approvals grant 4f1c", "one run, as much as it asked for"),
        ("palyra approvals grant 4f1c --uses 5 --amount 2.50", "five runs, together 2.50 USD"),
        ("palyra approvals grant 4f1c --until 2030-01-01T12:00Z --principal '*'", "until noon, for everybody"),
    ],
    exits=(0, 2, 4, 6, 7, 8),
    is_change=True,
)
@click.argument("approval")
@click.option("--uses", type=int, metavar="N", help="So many runs; else one.")
@click.option("--amount", metavar="AMOUNT", help="So much together, in the rule's unit; else what was asked for.")
@click.option("--until", metavar="WHEN", help="An instant or a date; else the end of the rule's window.")
@click.option("--principal", metavar="WHO", help="Somebody else than who asked, or '*' for everybody.")
@click.option("--note", metavar="CODE", default="", help="A word that is recorded with it.")
def grant(
    call: Call,
    approval: str,
    uses: int | None,
    amount: str | None,
    until: str | None,
    principal: str | None,
    note: str,
) -> Answer:
    """Let runs pass a limit."""
    from palyra.cli.asking import ask, change
    from palyra.engine.console.approvals import DecideParams, OneApprovalParams
    from palyra.engine.console.change_table import APPROVAL_DECIDE
    from palyra.engine.console.table import APPROVAL

    metric = "tokens"
    if amount is not None:
        metric = ask(call, APPROVAL, OneApprovalParams(approval=approval)).found.metric
    params = DecideParams(
        approval=approval,
        decision="grant",
        uses_max=uses,
        amount_max=read_amount(amount, metric),
        valid_until_us=read_until(until),
        principal_id=principal or "",
        note_code=note,
    )
    asked = change(call, APPROVAL_DECIDE, params)
    return asked.answer(lambda page: _show(page, asked.found))


def read_amount(text: str | None, metric: str) -> int | None:
    """Return an amount in a rule's unit; raises `UsageError`."""
    from palyra.decisions.overrides import BadAmount, read_usd

    if text is None:
        return None
    if metric == "tokens":
        if not text.isdecimal():
            raise click.UsageError("The amount must be a whole number of tokens.")
        return int(text)
    try:
        return read_usd(text, max_usd=1_000_000_000)
    except BadAmount as bad:
        raise click.UsageError(f"The amount {bad}.") from None


def read_until(text: str | None) -> int | None:
    """Return an instant; raises `UsageError`."""
    from palyra.decisions.overrides import BadAmount, read_instant_us

    if text is None:
        return None
    try:
        return read_instant_us(text)
    except BadAmount:
        raise click.UsageError("--until must be a date or an RFC 3339 instant.") from None


@approvals.command(
    "deny",
    examples=[
        ("palyra approvals deny 4f1c", "say no until the window ends"),
        ("palyra approvals deny 4f1c --note too_late", "with a word of why"),
    ],
    exits=(0, 2, 4, 6, 7, 8),
    is_change=True,
)
@click.argument("approval")
@click.option("--note", metavar="CODE", default="", help="A word that is recorded with it.")
def deny(call: Call, approval: str, note: str) -> Answer:
    """Say no: whoever asked is told so until the rule's window ends."""
    from palyra.cli.asking import change
    from palyra.engine.console.approvals import DecideParams
    from palyra.engine.console.change_table import APPROVAL_DECIDE

    params = DecideParams(approval=approval, decision="deny", note_code=note)
    asked = change(call, APPROVAL_DECIDE, params)
    return asked.answer(lambda page: _show(page, asked.found))


@approvals.command(
    "wait",
    examples=[
        ("palyra approvals wait 4f1c", "until somebody has decided"),
        ("palyra approvals wait 4f1c --timeout 60", "at most a minute"),
    ],
    exits=(0, 2, 5, 6, 7, 8),
    is_followed=True,
)
@click.argument("approval")
@click.option("--timeout", type=click.IntRange(0), metavar="SECONDS", help="Give up after that; else never.")
def wait(call: Call, approval: str, timeout: int | None) -> Answer:
    """Wait until a request is granted; ends with 6 when it is denied or nobody has decided."""
    from palyra.cli.asking import ask
    from palyra.cli.following import follow
    from palyra.engine.console.approvals import OneApprovalParams
    from palyra.engine.console.table import APPROVAL
    from palyra.engine.history import Wanted
    from palyra.errors import PalyraError
    from palyra.units import US_PER_S

    params = OneApprovalParams(approval=approval)
    asked = ask(call, APPROVAL, params)
    if asked.found.state == "open":
        # It ends by itself too, which nothing tells in time.
        left_us = max(0, asked.found.expires_us - asked.now_us)
        streams = (f"approval-{asked.found.approval_id}", f"budget-{asked.found.policy_id}")
        within_us = left_us if timeout is None else min(timeout * US_PER_S, left_us)
        for _ in follow(call, asked.at.position, Wanted(streams=streams), within_us=within_us):
            asked = ask(call, APPROVAL, params)
            if asked.found.state != "open":
                break
        else:
            asked = ask(call, APPROVAL, params)
    found = asked.found
    if found.state != "granted":
        code = "budget_approval_denied" if found.state == "denied" else "budget_approval_required"
        said = "nobody has decided yet" if found.state == "open" else f"it is {found.state}"
        raise PalyraError(f"The request {found.approval_id} was not granted: {said}.", code=code)
    return asked.answer(lambda page: _show(page, found))
