"""A finding: what somebody should know, whoever found it; `decisions/alerts.py` makes alerts of them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from palyra.events.alerts import AlertSeverity


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that somebody should know, or should still know."""

    kind: str
    #: Behind the kind in the key.
    key: str
    severity: AlertSeverity
    subject_kind: str
    subject_id: str = ""
    facts: dict[str, int | str] = {}
    because: Sequence[int] = ()
    action: str = ""
    until_us: int | None = None
    dry_run: bool = False
    #: Bad enough to be raised; else only too bad to be cleared.
    is_onset: bool = True

    @property
    def dedupe_key(self) -> str:
        return f"{self.kind}:{self.key}"
