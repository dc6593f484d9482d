"""`config`: what was adopted and when, as it was recorded, and reading it again."""

from __future__ import annotations

from typing import Any, Literal

from palyra.decisions.config import changed_keys, leaf_of
from palyra.engine.codec import to_recorded
from palyra.engine.console.changes import Order
from palyra.engine.console.frame import Items, ListParams, Params, Sight
from palyra.engine.console.pages import page_of
from palyra.engine.questions import Answer
from palyra.errors import PalyraError
from palyra.events.config import ConfigAdopted
from palyra.projections.config import Generation


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


class HistoryParams(ListParams, frozen=True, kw_only=True):
    """Which generations."""


class GenerationAnswer(Answer, frozen=True, kw_only=True):
    """One configuration that was adopted."""

    generation: int
    position: int
    adopted_us: int
    digest: str
    #: Keys whose value differs from the generation before.
    changed: list[str]
    #: What it was read from: `file palyra.toml`, `env PALYRA_DAEMON_PORT`.
    sources: list[str]


class DiffParams(Params, frozen=True, kw_only=True):
    """Two generations."""

    a: int
    b: int


class ChangedAnswer(Answer, frozen=True, kw_only=True):
    """One key whose value differs; null where there is none."""

    key: str
    before: Any
    after: Any


class DiffAnswer(Answer, frozen=True, kw_only=True):
    """What differs between two generations."""

    a: int
    b: int
    changed: list[ChangedAnswer]


class ReloadParams(Params, frozen=True, kw_only=True):
    """Nothing is chosen."""


class ReloadAnswer(Answer, frozen=True, kw_only=True):
    """What reading the configuration again has done."""

    outcome: Literal["adopted", "unchanged"]
    generation: int
    changed: list[str]
    #: Keys whose new value waits for the next start.
    pending_restart_keys: list[str]


def history(sight: Sight, params: HistoryParams) -> Items[GenerationAnswer]:
    """Return the newest generations, newest first."""
    newest_first = [_generation(one) for one in reversed(sight.state.config.history)]
    return page_of(newest_first, params, lambda one: (one.generation,), is_falling=True)


def _generation(one: Generation) -> GenerationAnswer:
    return GenerationAnswer(
        generation=one.generation,
        position=one.position,
        adopted_us=one.adopted_us,
        digest=one.digest,
        changed=one.changed,
        sources=[f"{source.kind} {source.name}" for source in one.sources],
    )


def diff(sight: Sight, params: DiffParams) -> DiffAnswer:
    """Return what differs between two generations, from the facts themselves."""
    trees: dict[int, dict[str, Any]] = {}
    for rows in sight.rows.stream("config"):
        for row in rows:
            body = to_recorded(row).body
            if isinstance(body, ConfigAdopted) and body.generation in (params.a, params.b):
                trees[body.generation] = body.effective
    for generation in (params.a, params.b):
        if generation not in trees:
            message = f"There is no generation {generation}."
            raise PalyraError(message, hint="palyra config history shows them", code="position_not_found")
    before, after = trees[params.a], trees[params.b]
    changed = [
        ChangedAnswer(key=key, before=leaf_of(before, key), after=leaf_of(after, key))
        for key in changed_keys(before, after)
    ]
    return DiffAnswer(a=params.a, b=params.b, changed=changed)


async def reload(order: Order, params: ReloadParams) -> ReloadAnswer:
    """Have the daemon read its configuration again and adopt it."""
    answer: ReloadAnswer = await order.desk.reload(order)
    return answer
