"""`palyra alerts`: a table and a page that people can read, and a note that somebody has seen it."""

from __future__ import annotations

from pathlib import Path

import pytest
from budget_kit import price, put, rule
from cli_world import Cli, build
from story import World, admit, complete, given, serve, start, succeed

from palyra.decisions.alerts import evaluate_alerts
from palyra.units import US_PER_S


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Two customers past a soft limit in USD, one past a limit in tokens that is tried out."""
    world: World = given(
        None, price(), put(rule("money", metric_kind="usd_cost", soft_limit=50_000, hard_limit=10**9))
    )
    world.do(put(rule("tokens", scope_id="key:b", hard_limit=120, mode="dry_run")))
    world.do(serve("01KA", principal_id="key:a"), serve("01KB", principal_id="key:b"))
    world.do(admit("01KC", principal_id="key:b"), start("01KC"), succeed("01KC"), complete("01KC"))
    world.record(evaluate_alerts(world.state, world.now_us))
    build(tmp_path / "state", world)
    return Cli(tmp_path / "state", world.now_us + 10 * US_PER_S, len(world.history))


def test_alerts_are_told_apart_by_whom_they_are_about(cli: Cli) -> None:
    """One rule counts many: each has an alert of its own, and a name in the table, here and in the report."""
    page = cli("alerts", "list", columns=80, environ={"NO_COLOR": "1"})
    assert all(who in page.out for who in ("money · key:a", "money · key:b", "tokens · key:b"))
    assert "budget hard (trial)" in page.out
    assert all(len(line) <= 80 for line in page.out.splitlines())
    told = cli("usage", "report", "--dataset", "alerts", "--json").document["rows"]
    assert sorted((one["subject_id"], one["counted_subject"]) for one in told) == [
        ("money", "key:a"), ("money", "key:b"), ("tokens", "key:b"),
    ]  # fmt: skip
    assert "key:a" in cli("usage", "report", "--dataset", "alerts", columns=100).out


def test_figures_have_the_unit_of_the_rule(cli: Cli) -> None:
    """Money is money and tokens are a count; the way out is a command."""
    found = {one["subject_id"]: one for one in cli("alerts", "list", "--json").data["items"]}
    money = cli("alerts", "show", found["money"]["alert_id"]).out
    assert "limit      $0.00005" in money
    assert "raise the limit, or palyra budgets override" in money
    tokens = cli("alerts", "show", found["tokens"]["alert_id"]).out
    assert "limit      120" in tokens
    assert "tokens · key:b" in tokens


def test_what_was_seen_says_by_whom(cli: Cli) -> None:
    """It stays in the list; one that is not there is not found."""
    name = cli("alerts", "list", "--json").data["items"][0]["alert_id"]
    seen = cli("alerts", "ack", name[:8])
    assert (seen.status, "seen by" in seen.out) == (0, True)
    assert "acknowledged" in cli("alerts", "list", columns=120).out
    assert cli("alerts", "show", "4f1c").status == 8
