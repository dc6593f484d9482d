"""A configuration in the form in which it is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from palyra.config.effective import config_digest, recordable_registry, recordable_tree
from palyra.config.tree import Config, RoutingClassesConfig, RoutingConfig
from palyra.decisions.config import adopt
from palyra.events.accounting import Accounting
from palyra.events.base import Draft
from palyra.events.budgets import UsageBudgetPolicyRecord
from palyra.events.config import ConfigSource
from palyra.events.pricing import PriceEntry
from palyra.events.registry import Registry
from palyra.events.smart_routing import TASK_CLASSES, ScoreWeights, SmartRouting
from palyra.projections.state import State


class Adoptable(msgspec.Struct, frozen=True, kw_only=True):
    """A loaded configuration in the form in which it is recorded."""

    digest: str
    effective: dict[str, Any]
    registry: Registry
    accounting: Accounting = Accounting()
    routing: SmartRouting = SmartRouting()
    sources: Sequence[ConfigSource] = ()
    overrides: Sequence[PriceEntry] = ()
    policies: Sequence[UsageBudgetPolicyRecord] = ()

    def adoption(self, state: State, *, pending: Sequence[str] = ()) -> list[Draft]:
        """Return its adoption, nothing where it is in force; `pending` keys act from the next start on."""
        return adopt(
            state,
            digest=self.digest,
            effective=self.effective,
            registry=self.registry,
            accounting=self.accounting,
            routing=self.routing,
            sources=self.sources,
            pending=pending,
        )


def adoptable_of(config: Config, sources: list[ConfigSource]) -> Adoptable:
    """Return a configuration in the form in which it is recorded."""
    return Adoptable(
        digest=config_digest(config),
        effective=recordable_tree(config),
        registry=recordable_registry(config.model_provider.registry),
        sources=sources,
        accounting=Accounting(
            unknown_outcome=config.usage.unknown_outcome,
            abandoned=config.usage.abandoned,
            default_output_cap_tokens=config.budgets.default_output_cap_tokens,
            timezone=config.budgets.timezone,
            approval_ttl_hours=config.approvals.request_ttl_hours,
            four_eyes=config.approvals.four_eyes,
        ),
        routing=smart_routing_of(config.routing),
        overrides=config.pricing.overrides,
        policies=config.budgets.policies,
    )


def smart_routing_of(config: RoutingConfig) -> SmartRouting:
    """Return `[routing]` in the form in which decisions read it."""
    given = msgspec.structs.asdict(config)
    classes: RoutingClassesConfig = given.pop("classes")
    by_class = {name: getattr(classes, name).min_quality for name in TASK_CLASSES}
    given["weights"] = msgspec.convert(config.weights, ScoreWeights, from_attributes=True)
    return SmartRouting(**given, min_quality={name: least for name, least in by_class.items() if least})
