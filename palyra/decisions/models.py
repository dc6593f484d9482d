"""Exclusion of models: one that fails alone is left out for a while, its provider's circuit stays closed."""

from __future__ import annotations

from palyra.events.models import ModelExcluded, ModelReadmitted
from palyra.projections.catalog import ModelStanding
from palyra.units import US_PER_MS

EXCLUSION_MS = 60_000


def at_failure(
    standing: ModelStanding | None,
    *,
    model_id: str,
    failure_class: str,
    counted: bool,
    provider_streak: int,
    threshold: int,
    now_us: int,
) -> ModelExcluded | None:
    """Return the exclusion that a failure causes.

    A model that its provider does not know is out at once. One whose counted failures in a row reach the threshold
    while other models of the provider answered in between (so the provider's own streak, given as it was before
    this failure, is shorter) fails alone.
    """
    streak = (standing.streak if standing is not None else 0) + counted
    fails_alone = counted and streak >= threshold and provider_streak + 1 < threshold
    if failure_class != "model_unavailable" and not fails_alone:
        return None
    return ModelExcluded(model_id=model_id, until_us=now_us + EXCLUSION_MS * US_PER_MS, reason=failure_class)


def at_success(standing: ModelStanding | None, *, model_id: str) -> ModelReadmitted | None:
    """Return the fact of a model that answers although it was excluded."""
    if standing is None or standing.excluded_until_us == 0:
        return None
    return ModelReadmitted(model_id=model_id)
