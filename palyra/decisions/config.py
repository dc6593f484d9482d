"""Adoption of a configuration: a new generation when it differs from the one in force, else nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from palyra.events.accounting import Accounting
from palyra.events.base import Draft
from palyra.events.config import ConfigAdopted, ConfigSource
from palyra.events.registry import Registry
from palyra.projections.state import State


def adopt(
    state: State,
    *,
    digest: str,
    effective: dict[str, Any],
    registry: Registry,
    accounting: Accounting,
    sources: Sequence[ConfigSource],
) -> list[Draft]:
    """Return the adoption, or nothing when this very configuration is in force."""
    if state.config.generation and state.config.digest == digest:
        return []
    adopted = ConfigAdopted(
        generation=state.config.generation + 1,
        digest=digest,
        sources=list(sources),
        effective=effective,
        changed=changed_keys(state.config.effective, effective) if state.config.generation else [],
        registry=registry,
        accounting=accounting,
    )
    return [Draft("config", adopted)]


def changed_keys(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return the dotted keys whose values differ, sorted; lists are compared whole."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    return sorted(key for key in {**old, **new} if old.get(key, ...) != new.get(key, ...))


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
