"""`config`: the configuration that was adopted, as it was recorded."""

from __future__ import annotations

from typing import Any

from palyra.engine.console.frame import Params, Sight
from palyra.engine.questions import Answer


class AdoptedParams(Params, frozen=True, kw_only=True):
    """Nothing is chosen."""


class AdoptedAnswer(Answer, frozen=True, kw_only=True):
    """The configuration in force; generation 0 and an empty tree before the first."""

    generation: int
    effective: dict[str, Any]


def adopted(sight: Sight, params: AdoptedParams) -> AdoptedAnswer:
    """Return the configuration in force."""
    current = sight.state.config
    return AdoptedAnswer(generation=current.generation, effective=current.effective)
