"""Config history: which configuration was in force when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from palyra.events import config
from palyra.events.accounting import Accounting
from palyra.events.base import Recorded
from palyra.events.smart_routing import SmartRouting
from palyra.projections.base import Chapter

if TYPE_CHECKING:
    from palyra.projections.state import State

HISTORY_COUNT = 100


class Generation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One adopted configuration."""

    generation: int
    digest: str
    adopted_us: int
    position: int
    changed: list[str] = []
    sources: list[config.ConfigSource] = []


class Rejection(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A configuration that was not adopted."""

    digest: str
    at_us: int
    problems: list[config.ConfigProblem] = []
    omitted_count: int = 0


class ConfigState(msgspec.Struct, kw_only=True):
    """The configuration in force and the newest generations, oldest first."""

    generation: int = 0
    digest: str = ""
    effective: dict[str, Any] = {}
    accounting: Accounting = Accounting()
    routing: SmartRouting = SmartRouting()
    #: Keys whose new value waits for the next start.
    pending: list[str] = []
    #: The last configuration that was not adopted, until one is.
    rejected: Rejection | None = None
    history: list[Generation] = []


CHAPTER = Chapter()


@CHAPTER.on(config.ConfigAdopted)
def _adopted(state: State, recorded: Recorded, body: config.ConfigAdopted) -> None:
    current = state.config
    current.generation, current.digest, current.effective = body.generation, body.digest, body.effective
    current.accounting, current.routing = body.accounting, body.routing
    current.pending, current.rejected = body.pending_restart_keys, None
    entry = Generation(
        generation=body.generation,
        digest=body.digest,
        adopted_us=recorded.recorded_at_us,
        position=recorded.position,
        changed=body.changed,
        sources=body.sources,
    )
    current.history = [*current.history[-(HISTORY_COUNT - 1) :], entry]


@CHAPTER.on(config.ConfigRejected)
def _rejected(state: State, recorded: Recorded, body: config.ConfigRejected) -> None:
    state.config.rejected = Rejection(
        digest=body.digest,
        at_us=recorded.recorded_at_us,
        problems=body.problems,
        omitted_count=body.omitted_count,
    )
