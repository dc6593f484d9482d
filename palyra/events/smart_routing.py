"""`[routing]`: how a model is chosen for those who leave it open, as decisions read it."""

from __future__ import annotations

from typing import Literal

import msgspec

#: suggest names a better model, dry_run records what would be done, enforced does it.
RoutingMode = Literal["suggest", "dry_run", "enforced"]
MODES: tuple[RoutingMode, ...] = ("suggest", "dry_run", "enforced")
TaskClass = Literal["interactive", "background", "auxiliary"]
TASK_CLASSES: tuple[TaskClass, ...] = ("interactive", "background", "auxiliary")
#: Words that tell of work for a large model; `stem*` is a word that begins so.
KEYWORDS = ("analyze", "architecture", "investigate", "regression", "security", "prove", "optimize", "migrate")


class ScoreWeights(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """How much of each part of the score counts, in basis points of what the scorer gives it."""

    length_bp: int = 10_000
    tools_bp: int = 10_000
    json_bp: int = 10_000
    images_bp: int = 10_000
    keywords_bp: int = 10_000


class SmartRouting(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`[routing]`, resolved."""

    enabled: bool = True
    mode: RoutingMode = "suggest"
    #: Whether summaries, recall and the like are routed, or get the default model.
    auxiliary_enabled: bool = True
    #: Name of the formula; another formula has another name.
    scorer: Literal["palyra-complexity-1"] = "palyra-complexity-1"
    #: Up to the first score a request is simple, from the second on it is worth the best; both inclusive.
    simple_at_bp: int = 3_500
    premium_at_bp: int = 7_500
    #: Share of a hard limit from which on models are chosen more cheaply.
    budget_pressure_bp: int = 8_000
    #: Whether a plain model name may be overridden too, or only a name that leaves it open.
    override_requested: Literal["always", "virtual_only"] = "always"
    keywords: list[str] = msgspec.field(default_factory=lambda: list(KEYWORDS))
    weights: ScoreWeights = ScoreWeights()
    #: Quality that a model should have, by task class.
    min_quality: dict[str, int] = {}
    #: Modes of agents that differ.
    agents: dict[str, RoutingMode] = {}
