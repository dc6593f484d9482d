"""What is recorded of a check of the journal: that it was sound, or damage, where the log can go on behind it.

Only a row that was changed, left out or moved lets the log go on: its file is whole, and the note outside of it has
seen no more than is there. Behind a cut tail a new fact would take the position of one that was acknowledged, and
a damaged file is evidence; both stay exactly as they were found.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from palyra.events.base import Draft
from palyra.events.journal import JournalDamageFound, JournalVerified

#: Findings about rows; the file, the witness and the schema are another matter.
_ABOUT_ROWS = ("link_mismatch", "position_gap", "stream_version_gap", "fold_divergence")


class Bad(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A finding that is more than information."""

    code: str
    #: Where it was seen; null when it concerns the file and no row.
    position: int | None = None


class Check(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was checked and what it came to; both ends of the range belong to it."""

    first: int
    last: int
    quick: bool = False
    replayed: bool = False
    #: In the order of being found.
    bad: list[Bad] = []
    #: All of them, also those that are not listed.
    bad_count: int = 0


def record_check(check: Check) -> list[Draft]:
    """Return the verdict as a fact, or nothing where the journal must stay as it was found."""
    if not check.bad_count:
        verified = JournalVerified(first=check.first, last=check.last, quick=check.quick, replayed=check.replayed)
        return [Draft("journal", verified)]
    return record_damage(check.bad, check.bad_count)


def record_damage(bad: Sequence[Bad], bad_count: int) -> list[Draft]:
    """Return the damage as a fact, or nothing where the journal must stay as it was found."""
    if not bad or any(each.code not in _ABOUT_ROWS for each in bad):
        return []
    found = JournalDamageFound(
        code=bad[0].code, found_position=bad[0].position, findings_count=max(bad_count, len(bad))
    )
    return [Draft("journal", found)]
