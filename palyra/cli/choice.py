"""Why a model was chosen, for people: the score, every model in its order, the rules, and what would flip it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from palyra.cli.page import Column, Page, Piece, Styled
from palyra.cli.render import clock, count, ms_text, usd
from palyra.cli.words import exclusion_words, where

if TYPE_CHECKING:
    from palyra.engine.budget_checks import CheckedModel
    from palyra.engine.choices import ChoiceAnswer, EvaluationAnswer, FlipAnswer, RankedAnswer

_STATUS = {"blocked": "bad", "unpriced": "bad", "soft_limit": "warn", "would_block": "warn", "hard_limit": "warn"}
_STATUS |= {"downgraded": "warn", "would_downgrade": "warn"}
ACTIONS = {
    "proceed": "what was asked for is served",
    "switch": "another model of the same cost",
    "degrade": "a cheaper model, or a lesser one",
    "upgrade": "a dearer model",
    "failover": "another provider, because the first is out",
    "blocked": "nobody serves it",
    "approval_required": "somebody has to let it pass a limit",
}
STRATEGIES = {
    "cheapest": "the cheapest model",
    "fastest": "the fastest model",
    "balanced": "the default model, or a cheaper one as good",
    "best": "the best model",
}
_AXES = {
    "price": "price",
    "budget": "budget",
    "circuit": "time",
    "complexity": "complexity",
    "context": "size",
}
_WHY = {
    "nothing_compared": "had no part in it",
    "no_value_flips": "no value alone changes the decision",
    "price_unknown": "{subject} has no price, and one could change the decision",
}


def show_choice(page: Page, choice: ChoiceAnswer, decided_us: int, *, has_rules: bool = True) -> None:
    """Print how the model was chosen, with what rules about usage say where nobody else tells it."""
    page.title("Choice")
    rows: list[tuple[str, str | list[Piece]]] = [
        ("mode", f"{choice.mode.replace('_', ' ')} · {choice.task_class}"),
        ("does", ACTIONS.get(choice.action, choice.action)),
    ]
    if choice.strategy:
        rows.append(("looks for", STRATEGIES.get(choice.strategy, choice.strategy)))
    if choice.complexity_bp is not None:
        parts = ", ".join(f"{name} {count(part)}" for name, part in choice.score_parts.items() if part)
        rows.append(("complexity", f"{count(choice.complexity_bp)} of 10,000{f' · {parts}' if parts else ''}"))
    if choice.recommended and choice.recommended != choice.served:
        rows.append(("would take", choice.recommended))
    if choice.reason_codes:
        rows.append(("because", ", ".join(code.replace("_", " ") for code in choice.reason_codes)))
    if choice.is_reproduced is False:
        words = Styled("deciding again gives something else than was recorded", "bad")
        rows.append(("proof", [words]))
    page.fields(rows, indent=2)
    if choice.models:
        page.title("Models")
        page.table(_COLUMNS, [_model(one, decided_us, page) for one in choice.models], indent=2)
    rules = {one.policy_id: (model, one) for model in reversed(choice.models) for one in model.evaluations}
    if rules and has_rules:
        page.title("Rules about usage")
        page.table(RULES, [rule_row(model, one) for model, one in rules.values()], indent=2)
    if choice.flips:
        _show_flips(page, choice)


_COLUMNS = [
    Column("", align="right"),
    Column("PROVIDER / MODEL", is_cut=True, least=16),
    Column("EXPECTED", align="right"),
    Column("QUALITY", align="right", spare=2),
    Column("LATENCY", align="right", spare=3),
    Column("LEFT OUT", is_cut=True, spare=1, least=24),
]
#: Columns of what rules say to models; `rule_row` gives the rows.
RULES = [
    Column("RULE", is_cut=True),
    Column("AT", is_cut=True, spare=2),
    Column("USED", align="right"),
    Column("HELD", align="right", spare=3),
    Column("ASKED", align="right"),
    Column("LIMIT", align="right"),
    Column("LEFT", align="right", spare=1),
    Column("SAYS"),
]


def _model(one: RankedAnswer, decided_us: int, page: Page) -> tuple[str | Styled, ...]:
    return (
        "" if one.rank is None else str(one.rank),
        where(one.provider_id, one.model_id),
        Styled("unknown", "dim") if one.expected_nanousd is None else usd(one.expected_nanousd),
        str(one.quality),
        ms_text(one.latency_ms),
        exclusion_words(one.excluded_by, one.figures, decided_us, page.zone) if one.excluded_by else "",
    )


def rule_row(model: RankedAnswer | CheckedModel, one: EvaluationAnswer) -> tuple[str | Styled, ...]:
    """Return what one rule says to a model."""

    def amount(value: int | None) -> str:
        if value is None:
            return ""
        return usd(value) if one.metric_kind == "usd_cost" else count(value)

    return (
        one.policy_id,
        where(model.provider_id, model.model_id),
        amount(one.consumed_value),
        amount(one.reserved_value) if one.reserved_value else "",
        amount(one.requested_value),
        amount(one.soft_limit_value if one.hard_limit_value is None else one.hard_limit_value),
        amount(one.headroom_value),
        Styled(one.status.replace("_", " "), _STATUS.get(one.status, "good")),
    )


def _show_flips(page: Page, choice: ChoiceAnswer) -> None:
    page.title("What would flip it")
    page.fields([(_AXES[one.axis], _flip(one, choice, page)) for one in choice.flips if one.value is not None], 2)
    idle: dict[str, list[str]] = {}
    for one in choice.flips:
        if one.value is None:
            why = _WHY.get(one.why, one.why).format(subject=one.subject)
            idle.setdefault(why, []).append(_AXES[one.axis])
    for why, axes in idle.items():
        page.line(Styled(f"{', '.join(axes)}: {why}", "dim"), indent=2)


def _flip(one: FlipAnswer, choice: ChoiceAnswer, page: Page) -> list[Piece]:
    then = f"would recommend {one.recommended}"
    if one.served != choice.served:
        is_model = "/" in one.served
        then = f"{where(*one.served.split('/', 1))} would serve" if is_model else f"refused with {one.served}"
    return [_change(one, page), " ", Styled("→", "accent"), " ", then]


def _change(one: FlipAnswer, page: Page) -> str:
    now, value = one.now or 0, one.value or 0
    match one.axis:
        case "price":
            instead = "where no price is known" if one.now is None else f"instead of {usd(now)}"
            return f"{one.subject} at {usd(value)} {instead}"
        case "budget":
            amount = usd if one.unit == "nanousd" else count
            return f"limit of {one.subject} at {amount(value)} instead of {amount(now)}"
        case "circuit":
            return f"at {clock(value, page.zone)}, when {one.subject} is tried again"
        case "complexity":
            return f"a complexity of {count(value)} instead of {count(now)}"
        case _:
            return f"an input of about {count(value)} tokens instead of {count(now)}"
