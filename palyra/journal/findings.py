"""What a check of a journal can find: a code, what it means, what to do next."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a check found. Anything but `info` means that the journal is damaged."""

    code: str
    severity: Literal["info", "critical"]
    #: Where it was seen; None when it concerns the file and no row.
    position: int | None = None
    expected: str = ""
    found: str = ""
    meaning: str
    next_step: str


class _Kind(NamedTuple):
    severity: Literal["info", "critical"]
    meaning: str
    next_step: str


_RESTORE = "Keep a copy of the file, then restore a backup or accept the fork at the position before."
_KINDS = {
    "link_mismatch": _Kind("critical", "This row or its link was changed after it was written.", _RESTORE),
    "position_gap": _Kind("critical", "Rows between these positions are missing.", _RESTORE),
    "stream_version_gap": _Kind("critical", "Events of this stream are missing or out of order.", _RESTORE),
    "time_backwards": _Kind(
        "info", "The clock was set back between this row and the one before.", "Nothing; order is by position."
    ),
    "tail_cut": _Kind("critical", "Rows that the witness has seen are missing at the end.", _RESTORE),
    "witness_missing": _Kind(
        "critical",
        "There is no note of the head outside the journal, so a cut tail cannot be seen.",
        "Compare with a copy of the note, then witness the head anew.",
    ),
    "witness_mismatch": _Kind(
        "critical", "The note of the head does not belong to this journal as it is now.", _RESTORE
    ),
    "witness_unkeyed": _Kind(
        "info",
        "The note of the head was compared by its link alone; whoever rewrote the journal could rewrite the note.",
        "Restore the vault's key, or compare with a copy of the note.",
    ),
    "schema_altered": _Kind(
        "critical",
        "A table, an index or a guard of the journal is not as the migrations made it.",
        "Find out who changed it; a backup has it as it was.",
    ),
    "structure": _Kind("critical", "SQLite finds the file itself damaged.", _RESTORE),
}


def finding(code: str, *, position: int | None = None, expected: object = "", found: object = "") -> Finding:
    """Return the finding of this code with its fixed words."""
    kind = _KINDS[code]
    return Finding(
        code=code,
        severity=kind.severity,
        position=position,
        expected=str(expected),
        found=str(found),
        meaning=kind.meaning,
        next_step=kind.next_step,
    )
