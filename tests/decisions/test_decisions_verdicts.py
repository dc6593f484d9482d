"""What is recorded of a check: soundness always, damage only where the log can go on behind it."""

from __future__ import annotations

import pytest

from palyra.decisions.verdicts import Bad, Check, record_check, record_damage
from palyra.events.base import Draft
from palyra.events.journal import JournalDamageFound, JournalVerified


def test_a_sound_journal_is_recorded_with_what_was_checked() -> None:
    """The range, and how it was looked at."""
    check = Check(first=5, last=9, quick=True, replayed=True)
    assert record_check(check) == [Draft("journal", JournalVerified(first=5, last=9, quick=True, replayed=True))]


def test_damage_in_rows_is_recorded_by_its_first_position() -> None:
    """The first finding with the number of all of them, also of those that are not listed."""
    bad = [Bad(code="link_mismatch", position=7), Bad(code="stream_version_gap", position=9)]
    (draft,) = record_check(Check(first=1, last=9, bad=bad, bad_count=1_002))
    assert draft.body == JournalDamageFound(code="link_mismatch", found_position=7, findings_count=1_002)
    (draft,) = record_damage(bad, 0)
    assert draft.body == JournalDamageFound(code="link_mismatch", found_position=7, findings_count=2)


@pytest.mark.parametrize("code", ["tail_cut", "witness_missing", "witness_mismatch", "structure", "schema_altered"])
def test_what_must_stay_as_it_was_found_gets_no_fact(code: str) -> None:
    """Nothing is written behind a cut tail, into a damaged file, or where nobody vouches for the end."""
    bad = [Bad(code="link_mismatch", position=7), Bad(code=code)]
    assert record_check(Check(first=1, last=9, bad=bad, bad_count=2)) == []
    assert record_damage(bad[1:], 1) == []


def test_damage_that_nobody_can_name_is_not_recorded() -> None:
    """A number alone says nothing."""
    assert record_check(Check(first=1, last=9, bad_count=3)) == []
