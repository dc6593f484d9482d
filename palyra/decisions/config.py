"""Adoption of a configuration: a new generation when it differs from the one in force, else nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from palyra.events.accounting import Accounting
from palyra.events.base import Draft
from palyra.events.config import ConfigAdopted, ConfigProblem, ConfigRejected, ConfigSource
from palyra.events.registry import Registry
from palyra.events.smart_routing import SmartRouting
from palyra.projections.state import State

#: Problems that a fact lists; the rest is counted.
PROBLEMS_MAX_COUNT = 20


def adopt(
    state: State,
    *,
    digest: str,
    effective: dict[str, Any],
    registry: Registry,
    accounting: Accounting,
    routing: SmartRouting,
    sources: Sequence[ConfigSource],
    pending: Sequence[str] = (),
) -> list[Draft]:
    """Return the adoption, or nothing when this very configuration is in force and nothing else was refused since.

    `pending` are the keys whose new value waits for the next start.
    """
    current = state.config
    is_known = current.generation and current.digest == digest and current.pending == list(pending)
    if is_known and current.rejected is None:
        return []
    adopted = ConfigAdopted(
        generation=state.config.generation + 1,
        digest=digest,
        sources=list(sources),
        effective=effective,
        changed=changed_keys(state.config.effective, effective) if state.config.generation else [],
        registry=registry,
        accounting=accounting,
        routing=routing,
        pending_restart_keys=list(pending),
    )
    return [Draft("config", adopted)]


def reject(state: State, problems: Sequence[ConfigProblem]) -> list[Draft]:
    """Return the fact that a configuration was not adopted, or nothing where the same was said last."""
    digest = hashlib.sha256(msgspec.json.encode(list(problems))).hexdigest()
    if state.config.rejected is not None and state.config.rejected.digest == digest:
        return []
    rejected = ConfigRejected(
        digest=digest,
        kept_generation=state.config.generation,
        problems=list(problems[:PROBLEMS_MAX_COUNT]),
        omitted_count=max(0, len(problems) - PROBLEMS_MAX_COUNT),
    )
    return [Draft("config", rejected)]


def changed_keys(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return the dotted keys whose values differ, sorted; lists are compared whole."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    return sorted(key for key in {**old, **new} if old.get(key, ...) != new.get(key, ...))


def leaf_of(tree: dict[str, Any], key: str) -> Any:
    """Return the value of a dotted key as `changed_keys` names it, None where there is none."""
    return dict(_leaves(tree)).get(key)


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
