"""`models`: what requests can choose from, and how it does."""

from __future__ import annotations

from palyra.engine.console.frame import Params, Sight
from palyra.engine.questions import ModelsAnswer, models_answer


class ModelsParams(Params, frozen=True, kw_only=True):
    """Nothing is chosen."""


def models(sight: Sight, params: ModelsParams) -> ModelsAnswer:
    """Return providers, models and what is wrong with them."""
    return models_answer(sight.state, sight.now_us)
