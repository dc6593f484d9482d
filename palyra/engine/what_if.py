"""What-if over a journal's file: the other rules out of files, and the fold that shows what they would have made.

The file is opened read-only, beside a daemon or without one; nothing is sent, and nothing is written.
"""

from __future__ import annotations

import asyncio
import heapq
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from palyra.config.schema import is_zone
from palyra.decisions.overrides import Fault, read_overrides
from palyra.decisions.policies import read_policies
from palyra.decisions.what_if import OtherRules, WhatIf, WhatIfReport
from palyra.engine.adoptable import Adoptable
from palyra.engine.codec import to_known
from palyra.engine.prices import make_price_list
from palyra.errors import PalyraError
from palyra.events.budgets import UsageBudgetPolicyRecord
from palyra.events.pricing import PriceEntry
from palyra.events.registry import Registry
from palyra.journal.port import Reader, Row
from palyra.projections.catalog import registry_once_adopted
from palyra.projections.pricing import entries_in_force
from palyra.projections.state import State, evolve

#: Told what is being done, how much of it is done, and of how much.
Progress = Callable[[str, int, int], None]
#: The streams and names by which registry and prices change.
_CHANGES = {"config": "config.adopted", "pricing": "price_list.adopted", "provider-*": "discovery.completed"}
#: Later than any request.
END_US = 1 << 62


def rules_of(adoptable: Adoptable, rows: Reader) -> OtherRules:
    """Return a whole configuration as other rules. Prices count as other ones only where they are."""
    known = _recorded_rules(rows)
    registry = registry_once_adopted(known, adoptable.registry)
    made = asyncio.run(make_price_list(registry, adoptable.overrides)).entries
    recorded = [entry for entry in entries_in_force(known) if not entry.retained]
    return OtherRules(
        registry=adoptable.registry,
        accounting=adoptable.accounting,
        routing=adoptable.routing,
        prices=None if made == recorded else made,
        file_policies=list(adoptable.policies),
    )


def recorded_registry(rows: Reader) -> Registry:
    """Return the registry that a journal has in force at its end."""
    return _recorded_rules(rows).catalog.registry


def recorded_timezone(rows: Reader) -> str:
    """Return where the days of a rule begin that names no zone, by a journal's end."""
    return _recorded_rules(rows).config.accounting.timezone


def _recorded_rules(rows: Reader) -> State:
    """Fold what was adopted, and nothing else: enough to know registry and prices at the end."""
    state = State()
    found = (_named(rows, stream, name) for stream, name in _CHANGES.items())
    for row in heapq.merge(*found, key=lambda row: row.position):
        evolve(state, to_known(row))
    return state


def _named(rows: Reader, stream: str, name: str) -> Iterator[Row]:
    return (row for batch in rows.stream(stream) for row in batch if row.name == name)


def read_policy_file(path: Path, timezone: str) -> list[UsageBudgetPolicyRecord]:
    """Return the rules of a file: `[[budgets.policies]]` as in the configuration, or one rule by itself.

    `timezone` is that of rules which name none, where the file says nothing about it.
    """
    tree = _read(path)
    rows = [tree] if "policy_id" in tree else tree.get("budgets", {}).get("policies", [])
    if not rows:
        raise PalyraError(f"{path} has no rules.", hint="write [[budgets.policies]]", code="config_invalid")
    timezone = tree.get("budgets", {}).get("timezone", timezone)
    records, faults = read_policies(rows, timezone=timezone, is_zone=is_zone, managed_by="file")
    _refuse(path, "budgets.policies", faults)
    return records


def read_price_file(path: Path, registry: Registry) -> list[PriceEntry]:
    """Return the whole list that a file of `[[pricing.overrides]]` gives together with the catalogue."""
    rows = _read(path).get("pricing", {}).get("overrides", [])
    if not rows:
        raise PalyraError(f"{path} has no prices.", hint="write [[pricing.overrides]]", code="config_invalid")
    overrides, faults = read_overrides(rows, [provider.provider_id for provider in registry.providers])
    _refuse(path, "pricing.overrides", faults)
    return asyncio.run(make_price_list(registry, overrides)).entries


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise PalyraError(f"{path} cannot be read: {exc}.", code="config_invalid") from exc


def _refuse(path: Path, key: str, faults: Sequence[Fault]) -> None:
    if faults:
        told = [f"{key}[{'.'.join(map(str, fault.path))}]: {fault.message}" for fault in faults]
        raise PalyraError(f"{path}: {'; '.join(told)}", code="config_invalid")


def what_if(
    rows: Reader,
    other: OtherRules,
    *,
    from_us: int = 0,
    to_us: int = END_US,
    progress: Progress | None = None,
) -> tuple[int, WhatIfReport]:
    """Return the position up to which a journal was read, and what the other rules would have made of it."""
    folding = WhatIf(other, from_us=from_us, to_us=to_us)
    head = rows.head().position
    for batch in rows.rows(upto=head):
        for row in batch:
            folding.add(to_known(row))
        if progress is not None:
            progress("deciding again", batch[-1].position, head)
    return head, folding.report()
