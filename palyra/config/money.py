"""`[[pricing.overrides]]` and `[[budgets.policies]]`: what the user writes down about money, with its places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
        _check_models_left(reading, rows)
        root.settings[_POLICIES] = root.settings[_POLICIES]._replace(value=records)


def _check_models_left(reading: Reading, rows: Sequence[dict[str, Any]]) -> None:
    """Refuse names that no model has: nothing would be left past the limit."""
    models = reading.entries["model_provider.models"]
    ids = [(entry.get("provider_id"), entry.get("model_id")) for entry in models]
    known = ["free", *(model_id for _, model_id in ids), *(f"{at}/{model_id}" for at, model_id in ids)]
    for index, row in enumerate(rows):
        names = row.get("downgrade_to", [])
        for place, name in enumerate(names if isinstance(names, list) else []):
            if name not in known:
                message = f"no model is called {name!r}"
                reading.refuse(
                    "unknown_model", reading.root, _POLICIES, message, inside=(index, "downgrade_to", place)
                )


def _refuse(reading: Reading, name: str, faults: Sequence[Fault]) -> None:
    for fault in faults:
        reading.refuse(fault.code, reading.root, name, fault.message, inside=fault.path)
