"""`palyra budgets set` and `backtest`: rules in the journal and in the file, with every key that a rule has."""

from __future__ import annotations

from pathlib import Path

import pytest
from budget_kit import put, rule
from cli_world import Cli, build
from story import World, given, record, serve, wait

from palyra.events.accounting import Accounting
from palyra.events.config import ConfigAdopted
from palyra.units import US_PER_S

#: What `serve` uses.
USED = 110
DAY = ("--scope", "global", "--daily")
FILE = """# ours
[[budgets.policies]]
policy_id = "old" # kept
scope_kind = "global"
metric_kind = "tokens"
interval_kind = "daily"
hard_limit = 5
mode = "dry_run"
"""


@pytest.fixture
def world() -> World:
    """One request, under a configuration whose days begin in Prague."""
    made = given(None, serve("01KA"))
    adopted = ConfigAdopted(
        generation=made.state.config.generation + 1,
        digest="",
        effective={},
        registry=made.state.catalog.registry,
        accounting=Accounting(timezone="Europe/Prague"),
    )
    return made.do(record("config", adopted))


@pytest.fixture
def cli(world: World, tmp_path: Path) -> Cli:
    build(tmp_path / "state", world)
    return Cli(tmp_path / "state", world.now_us + 10 * US_PER_S, len(world.history))


def test_a_rule_counts_what_was_before_it_or_from_now_on(cli: Cli) -> None:
    """What is used already is shown as it is set; --from-now leaves it out."""
    assert "110 tokens" in cli("budgets", "set", "all", *DAY, "--tokens", "500").out
    late = cli("budgets", "set", "late", *DAY, "--tokens", "500", "--from-now", "--json")
    assert (late.data["status"], late.data["policy"]["timezone"]) == ([], "Europe/Prague")
    assert late.data["policy"]["effective_from_us"] == cli.now_us


def test_any_key_of_a_rule_can_be_set(cli: Cli) -> None:
    """As TOML, or as a plain text; what no rule has is refused by its name."""
    more = ("--with", "month_day=15", "--with", "match.origin=cron", "--with", "token_count='output'")
    made = cli("budgets", "set", "jobs", "--scope", "global", "--monthly", "--tokens", "9", *more, "--json")
    record_ = made.data["policy"]
    assert (record_["month_day"], record_["match"], record_["token_count"]) == (15, {"origin": "cron"}, "output")
    for wrong, said in (("colour=red", "colour"), ("month_day", "not KEY=TOML"), ("=1", "not KEY=TOML")):
        refused = cli("budgets", "set", "jobs", *DAY, "--tokens", "9", "--with", wrong)
        assert (refused.status, said in refused.err) == (2, True)


def test_a_limit_that_only_warns_has_a_unit(cli: Cli) -> None:
    """That of the hard one; alone it is tokens, or money where it says so."""
    for amounts, metric, soft in (
        (("--soft", "$4"), "usd_cost", 4 * 10**9),
        (("--soft", "4"), "tokens", 4),
        (("--soft", "$4", "--usd", "$5"), "usd_cost", 4 * 10**9),
        (("--soft", "4", "--tokens", "5"), "tokens", 4),
    ):
        made = cli("budgets", "set", "soft", *DAY, *amounts, "--json").data["policy"]
        assert (made["metric_kind"], made["soft_limit"]) == (metric, soft)
    assert cli("budgets", "set", "soft", *DAY, "--soft", "$4", "--tokens", "5").status == 2


def test_a_grant_ahead_can_only_be_asked_for(cli: Cli) -> None:
    """Where two have to decide somebody else grants it; the page says how."""
    assert cli("budgets", "set", "all", *DAY, "--tokens", "500").status == 0
    asked = cli("budgets", "override", "all", "--amount", "100", "--ask")
    (name,) = [one["approval_id"] for one in cli("approvals", "list", "--state", "open", "--json").data["items"]]
    assert f"palyra approvals grant {name}" in asked.out
    assert cli("approvals", "grant", name).status == 0


def test_a_rule_is_written_into_the_file(cli: Cli, tmp_path: Path) -> None:
    """It is put behind the others, or in the place of the one of its name; comments stay, twice is once."""
    file = tmp_path / "palyra.toml"
    file.write_text(FILE)
    file.chmod(0o600)
    to_file = ("--write-config", "--config", str(file))
    done = cli("budgets", "set", "new", *DAY, "--usd", "5.00", *to_file)
    assert (done.status, "new acts at the next start" in done.out) == (0, True), done.err
    assert cli("budgets", "set", "old", *DAY, "--tokens", "7", *to_file, "--json").data["is_changed"] is True
    assert file.read_text().startswith('# ours\n[[budgets.policies]]\npolicy_id = "old" # kept\n')
    assert "hard_limit = 7\n" in file.read_text()
    assert "dry_run" not in file.read_text()
    assert 'hard_limit = "5.00"' in file.read_text()
    assert "Nothing to change" in cli("budgets", "set", "old", *DAY, "--tokens", "7", *to_file).out
    wrong = cli("budgets", "set", "new", *DAY, "--usd", "5.00", "--soft", "6", *to_file)
    assert (wrong.status, "soft_above_hard" in wrong.err) == (2, True)
    assert cli("config", "check", "--config", str(file)).status == 0


def test_a_rule_of_the_file_is_changed_there(world: World, tmp_path: Path) -> None:
    """The refusal says how."""
    world.do(put(rule("filed", managed_by="file")))
    build(tmp_path / "state", world)
    cli = Cli(tmp_path / "state", world.now_us + 10 * US_PER_S)
    refused = cli("budgets", "set", "filed", *DAY, "--tokens", "9")
    assert (refused.status, "palyra budgets set --write-config" in refused.err) == (7, True)


def test_a_rule_that_is_tried_has_the_zone_of_the_others(world: World, tmp_path: Path) -> None:
    """Half past eleven and ten past midnight in Prague are one day in UTC, where the third is one too many."""
    world.do(wait(ms=52_200_000), serve("01KB"), wait(ms=2_400_000), serve("01KC"))
    build(tmp_path / "state", world)
    cli = Cli(tmp_path / "state", world.now_us + 10 * US_PER_S)
    file = tmp_path / "rule.toml"
    text = 'policy_id = "day"\nscope_kind = "global"\nmetric_kind = "tokens"\ninterval_kind = "daily"\n'
    for zone, blocked_count in (("", 0), ('timezone = "UTC"\n', 1)):
        file.write_text(f"{text}hard_limit = 300\n{zone}")
        for command in (("budgets", "backtest", str(file)), ("replay", "--policies", str(file))):
            assert cli(*command, "--json").data["counts"]["newly_blocked"] == blocked_count
