"""`palyra budgets check`: what rules would say to a request, and what it may cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from palyra.cli.choice import RULES, rule_row
from palyra.cli.command import Call, Command
from palyra.cli.frame import Answer
from palyra.cli.page import Column, Page, Styled
from palyra.cli.render import counted, usd
from palyra.cli.words import ROLES, where

if TYPE_CHECKING:
    from palyra.engine.budget_checks import BudgetCheckAnswer, EstimateAnswer

_TOKENS = click.IntRange(0, 1_000_000_000)
_BASIS = {"agent": "of the agent here", "model": "of the model"}


@click.command(
    "check",
    cls=Command,
    examples=[
        ("palyra budgets check --tokens 4000", "a request that names no model"),
        ("palyra budgets check --model gpt --tokens 90000 --max-output 500", "a long one with a short answer"),
        ("palyra budgets check --tokens 4000 --as-of -2h", "what would have been said two hours ago"),
        ("palyra budgets check --principal key:0123456789AB --tokens 4000", "the same request of somebody else"),
    ],
    exits=(0, 2, 4, 5, 7, 8),
    takes_as_of=True,
)
@click.option("--model", metavar="NAME", default="", help="The name that the request gives; none by default.")
@click.option("--tokens", type=_TOKENS, default=0, help="Size of its input, before it is calibrated.")
@click.option("--role", type=click.Choice(ROLES), default="chat", help="What is asked for.")
@click.option("--max-output", type=_TOKENS, help="The longest answer that it takes.")
@click.option("--choices", type=click.IntRange(1, 128), default=1, help="How many answers it wants.")
@click.option("--max-cost", metavar="USD", help="What it allows itself to cost: 0.05.")
@click.option("--principal", metavar="ID", default="", help="Who pays for it; the operator by default.")
@click.option("--key", metavar="ID", default="", help="The key that it comes with.")
@click.option("--session", metavar="ID", default="", help="The session that it belongs to.")
@click.option("--agent", metavar="ID", default="", help="The agent that asks.")
def check(
    call: Call,
    model: str,
    tokens: int,
    role: str,
    max_output: int | None,
    choices: int,
    max_cost: str | None,
    principal: str,
    key: str,
    session: str,
    agent: str,
) -> Answer:
    """Tell what every rule would say to a request, and what it may cost at each of its models.

    Nothing is held, recorded or sent. What is asked for is the bound that would be held: the input at its upper
    figure, the answer at its maximum.
    """
    from palyra.cli.asking import ask
    from palyra.engine.console.budgets import CheckParams
    from palyra.engine.console.table import BUDGET_CHECK

    params = CheckParams(
        model=model,
        endpoint=role,  # type: ignore[arg-type]
        tokens=tokens,
        max_output=max_output,
        choices=choices,
        max_cost_nanousd=None if max_cost is None else _nanousd(max_cost),
        principal=principal,
        key=key,
        session=session,
        agent=agent,
    )
    asked = ask(call, BUDGET_CHECK, params)
    return asked.answer(lambda page: _show(page, asked.found))


def _nanousd(text: str) -> int:
    from palyra.decisions.overrides import BadAmount, read_usd

    try:
        return read_usd(text)
    except BadAmount as bad:
        raise click.BadParameter(f"{bad}.", param_hint="'--max-cost'") from None


def _show(page: Page, found: BudgetCheckAnswer) -> None:
    if found.refusal_code:
        page.line(Styled("refused", "bad"), f" · {found.refusal_code}")
        page.line(found.refusal_message, indent=2)
    else:
        page.line(Styled("served", "good"), f" · {where(*found.served.split('/', 1))}")
    page.title("May cost")
    columns = [
        Column("PROVIDER / MODEL", is_cut=True),
        *(Column(name, align="right") for name in ("AT LEAST", "EXPECTED", "LIKELY BELOW", "AT MOST")),
        Column("ANSWERS", spare=1),
    ]
    costs = [(one.estimate, where(one.provider_id, one.model_id)) for one in found.models]
    page.table(columns, [(name, *_figures(one), _basis(one)) for one, name in costs])
    rules = [rule_row(model, one) for model in found.models for one in model.evaluations]
    if rules:
        page.title("Rules about usage")
        page.table(RULES, rules)
    else:
        page.line()
        page.line(Styled("No rule applies.", "dim"))


def _figures(one: EstimateAnswer) -> list[str | Styled]:
    figures = (one.lower_nanousd, one.expected_nanousd, one.upper_nanousd, one.worst_nanousd)
    return [Styled("unknown", "dim") if figure is None else usd(figure) for figure in figures]


def _basis(one: EstimateAnswer) -> str:
    if one.basis == "guess":
        return "a guess"
    return f"{counted(one.samples_count, 'answer')} {_BASIS[one.basis]}"
