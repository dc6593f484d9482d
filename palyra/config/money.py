"""`[[pricing.overrides]]` and `[[budgets.policies]]`: what the user writes down about money, with its places."""

from __future__ import annotations

from collections.abc import Sequence

from palyra.config.schema import is_zone
from palyra.config.values import Reading
from palyra.decisions.overrides import Fault, read_overrides
from palyra.decisions.policies import read_policies

_OVERRIDES, _POLICIES = "pricing.overrides", "budgets.policies"


def resolve_money(reading: Reading) -> None:
    """Put prices and rules in the place of the rows that mean them."""
    root = reading.root
    rows = root.get(_OVERRIDES)
    if rows:
        provider_ids = [provider.get("provider_id") for provider in reading.entries["model_provider.providers"]]
        entries, faults = read_overrides(rows, provider_ids)
        _refuse(reading, _OVERRIDES, faults)
        root.settings[_OVERRIDES] = root.settings[_OVERRIDES]._replace(value=entries)
    rows = root.get(_POLICIES)
    if rows:
        timezone = root.get("budgets.timezone")
        records, faults = read_policies(rows, timezone=timezone, is_zone=is_zone, managed_by="file")
        _refuse(reading, _POLICIES, faults)
        root.settings[_POLICIES] = root.settings[_POLICIES]._replace(value=records)


def _refuse(reading: Reading, name: str, faults: Sequence[Fault]) -> None:
    for fault in faults:
        reading.refuse(fault.code, reading.root, name, fault.message, inside=fault.path)
