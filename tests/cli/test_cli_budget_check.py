"""`palyra budgets check` without a daemon: the journal answers, and nothing is written to it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from budget_kit import price, put, rule
from cli_world import Cli, build
from story import Step, admit, complete, given, start, succeed


@pytest.fixture
def ruled(tmp_path: Path) -> Cli:
    """A rule of 1,000 tokens a day, a price, and twenty answers of 20 tokens."""
    steps: list[Step] = []
    for number in range(20):
        run_id = f"01KA{number:022}"
        steps += [admit(run_id, principal_id="key:y"), start(run_id), succeed(run_id), complete(run_id)]
    world = given(None, price(), *steps, put(rule(hard_limit=1_000)))
    build(tmp_path / "state", world)
    return Cli(tmp_path / "state", world.now_us, len(world.history))


@pytest.fixture
def copied(day: Cli, tmp_path: Path) -> Cli:
    """The day's state on its own: without a daemon a check takes the journal's lock."""
    return Cli(shutil.copytree(day.state_dir, tmp_path / "state"), day.now_us, day.head)


def test_it_tells_rules_and_costs(ruled: Cli) -> None:
    """Who would serve, the four figures and what they are made of, each rule at each model."""
    before = (ruled.state_dir / "journal.db").read_bytes()
    line = ("budgets", "check", "--tokens", "100", "--max-output", "50", "--principal", "key:x")
    ran = ruled(*line)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith("served · ")
    assert "20 answers of the model" in ran.out
    assert "a guess" in ran.out
    assert "Rules about usage" in ran.out
    data = ruled(*line, "--json").data
    assert data["models"][0]["evaluations"][0]["subject"] == "key:x"
    assert (ruled.state_dir / "journal.db").read_bytes() == before


def test_the_status_says_what_each_rule_says(ruled: Cli) -> None:
    """So that nobody has to look up of what there is so much left."""
    assert ruled("budgets", "status").out.startswith("day · principal * · day · hard 1,000 tokens\nWHO")


def test_it_tells_what_stops_it(ruled: Cli) -> None:
    """A refusal is an answer here, not a failure."""
    ran = ruled("budgets", "check", "--tokens", "5000", "--max-output", "50")
    assert (ran.status, ran.out.startswith("refused · budget_request_too_large")) == (0, True)
    ran = ruled("budgets", "check", "--max-cost", "0.00001", "--max-output", "50", "--json")
    assert ran.data["refusal_code"] == "budget_request_too_large"
    assert ruled("budgets", "check", "--max-cost", "much").status == 2
    assert ruled("budgets", "check", "--model", "nobody").status == 8


def test_without_rules_and_prices(copied: Cli) -> None:
    """Unknown is not zero."""
    out = copied("budgets", "check").out
    assert "unknown" in out
    assert "No rule applies." in out
