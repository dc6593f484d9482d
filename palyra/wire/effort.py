"""How much a model shall think, between dialects that say it by a word, by a number of tokens, or not at all."""

from __future__ import annotations

from palyra.wire.neutral import Thinking

#: Tokens that stand for a word, where a model is told a budget.
_BUDGETS = {"low": 2_048, "medium": 8_192, "high": 24_576, "xhigh": 24_576, "max": 24_576}
#: The other way round a budget means the nearest lower step.
_STEPS = ("high", "medium", "low")


def budget_of(thinking: Thinking) -> int:
    """Return the budget that is meant; a budget of the client's own holds as it is."""
    return thinking.budget_tokens or _BUDGETS.get(thinking.effort, _BUDGETS["medium"])


def effort_of(thinking: Thinking) -> str:
    """Return the word that is meant."""
    if thinking.effort or thinking.budget_tokens is None:
        return thinking.effort
    return next((step for step in _STEPS if thinking.budget_tokens >= _BUDGETS[step]), "low")
