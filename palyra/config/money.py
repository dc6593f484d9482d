"""`[[pricing.overrides]]`: prices that the user writes down, read and refused with their places."""

from __future__ import annotations

from palyra.config.values import Reading
from palyra.decisions.overrides import read_overrides

_OVERRIDES = "pricing.overrides"


def resolve_overrides(reading: Reading) -> None:
    """Put the entries that the rows mean in the place of the rows."""
    root = reading.root
    rows = root.get(_OVERRIDES)
    if not rows:
        return
    provider_ids = [provider.get("provider_id") for provider in reading.entries["model_provider.providers"]]
    entries, faults = read_overrides(rows, provider_ids)
    for fault in faults:
        reading.refuse(fault.code, root, _OVERRIDES, fault.message, inside=fault.path)
    root.settings[_OVERRIDES] = root.settings[_OVERRIDES]._replace(value=entries)
