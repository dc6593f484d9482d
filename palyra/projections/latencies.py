"""How long models took for their newest answers: what they are compared by when somebody waits.

Whole steps alone and a few of the newest answers of each model, so that the middle one follows a model that gets
slower within some requests and no hiccup turns an order round. Source: governance specification 9.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from palyra.events import attempts
from palyra.events.base import Recorded
from palyra.projections.base import Chapter
from palyra.projections.runs import Run
from palyra.units import US_PER_MS, ceil_div

if TYPE_CHECKING:
    from palyra.projections.state import State

#: Models that are nearer to each other than this are equally fast.
STEP_MS = 250
_STEP_US = STEP_MS * US_PER_MS
#: Answers of a model that count.
RECENT_COUNT = 32
#: Models that are kept; the one that answered longest ago goes first.
KEEP_COUNT = 1_024


class LatenciesState(msgspec.Struct, kw_only=True):
    """Steps that the newest answers of models took, rounded up and the newest last."""

    #: By `provider_id/model_id`, the one that answered last at the end.
    by_model: dict[str, list[int]] = {}


CHAPTER = Chapter()


def recent_latency_ms(state: State, provider_id: str, model_id: str) -> int | None:
    """Return what half of a model's newest answers took at most; None where it has given none."""
    steps = state.latencies.by_model.get(f"{provider_id}/{model_id}")
    return None if steps is None else sorted(steps)[(len(steps) - 1) // 2] * STEP_MS


@CHAPTER.of_run(attempts.AttemptSucceeded)
def _succeeded(state: State, recorded: Recorded, body: attempts.AttemptSucceeded, run: Run) -> None:
    if run.attempt is None:
        return
    models, key = state.latencies.by_model, f"{run.attempt.provider_id}/{run.attempt.model_id}"
    steps = models.pop(key, None)
    if steps is None:
        steps = []
        if len(models) >= KEEP_COUNT:
            del models[next(iter(models))]
    models[key] = steps
    steps.append(ceil_div(body.duration_us, _STEP_US) if body.duration_us > 0 else 0)
    if len(steps) > RECENT_COUNT:
        del steps[0]
