"""`palyra approvals` and `budgets override` without a daemon: the journal is changed as a daemon would."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cli_world import Cli


@pytest.fixture
def copied(day: Cli, tmp_path: Path) -> Cli:
    """The day's state with a rule, to be changed."""
    shutil.copytree(day.state_dir, tmp_path / "state")
    cli = Cli(tmp_path / "state", day.now_us, day.head)
    rule = (
        "--scope",
        "global",
        "--daily",
        "--usd",
        "5",
        "--on-hard",
        "approval_required",
        "--on-unpriced",
        "allow",
    )
    assert cli("budgets", "set", "all", *rule).status == 0
    assert (
        cli("budgets", "set", "each", "--scope", "principal", "--id", "*", "--daily", "--tokens", "9").status == 0
    )
    return cli


def test_nobody_asks(day: Cli) -> None:
    """An empty list says so; a name that is none is not found."""
    assert "Nobody asks" in day("approvals", "list").out
    assert day("approvals", "show", "4f1c").status == 8


def test_a_grant_ahead_of_time_is_shown_with_its_bounds(copied: Cli) -> None:
    """Amounts are in the rule's unit, in USD as text; the list shows what is left of it."""
    made = copied("budgets", "override", "all", "--amount", "2.50", "--uses", "3")
    assert made.status == 0
    assert "lets 3 runs of everybody pass all" in made.out
    assert "$2.5" in made.out
    listed = copied("approvals", "list", "--json").data["items"]
    assert [(one["state"], one["amount_max"], one["uses_left"]) for one in listed] == [
        ("granted", 2_500_000_000, 3)
    ]
    name = listed[0]["approval_id"]
    shown = copied("approvals", "show", name[:8])
    assert f"{name} is granted" in shown.out
    assert "3 of 3 uses left" in shown.out
    assert "3 of 3" in copied("approvals", "list", "--state", "granted").out
    assert copied("approvals", "wait", name).status == 0
    again = copied("approvals", "deny", name)
    assert again.status == 7
    assert "granted already" in again.err


def test_tokens_are_granted_in_tokens(copied: Cli) -> None:
    """A rule with a counter of each needs to be told whose; what is no number is refused."""
    made = copied("budgets", "override", "each", "--subject", "key:ci", "--amount", "500", "--json")
    assert (made.data["granted_to"], made.data["amount_max"]) == ("key:ci", 500)
    assert copied("budgets", "override", "each", "--amount", "500").status == 2
    assert copied("budgets", "override", "each", "--subject", "key:ci", "--amount", "a lot").status == 2
    assert copied("budgets", "override", "all", "--amount", "-1").status == 2
    assert copied("budgets", "override", "all", "--until", "soon").status == 2
