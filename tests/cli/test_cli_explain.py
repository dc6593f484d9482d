"""`palyra explain` about money: what rules said, who held what then, by which price, and what failures cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from budget_kit import price, put, rule
from cli_world import Cli, build
from registries import THREE
from story import World, admission, admit, complete, fail, given, go_on, start, succeed, wait

from palyra.decisions.approvals import hold, resume
from palyra.decisions.runs import admit as decide
from palyra.decisions.usage import Metered
from palyra.usage import TokenUsage

FIRST, SECOND, TOLD = (f"01K{letter}{0:022}" for letter in "ABC")


def told_world() -> World:
    """Return a world in which a run was decided while two others held something, and failed over."""
    used = Metered(reported=TokenUsage(input_tokens=100, output_tokens=10))
    cut = Metered(reported=TokenUsage(input_tokens=100), output_estimate_tokens=3)
    return given(
        THREE,
        price(),
        put(rule("each", hard_limit=5_000, soft_limit=400)),
        put(rule("all", scope_kind="global", metric_kind="usd_cost", hard_limit=10**9)),
        *(admit("01KX0"), start("01KX0"), succeed("01KX0", used), complete("01KX0")),
        *(admit(FIRST), start(FIRST), wait(ms=2_000)),
        *(admit(SECOND), start(SECOND), wait(ms=3_000)),
        *(admit(TOLD), start(TOLD)),
        fail(TOLD, "stream_truncated", phase="body", status=200, metered=cut, may_retry=False),
        *(go_on(TOLD), start(TOLD, candidate=1), succeed(TOLD, used), complete(TOLD, candidate=1)),
    )


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    world = told_world()
    directory: Path = tmp_path_factory.mktemp("told") / "state"
    build(directory, world)
    return Cli(directory, world.now_us, world.state.position)


def test_rules_are_told_with_each_hold_by_its_age(told: Cli) -> None:
    """What was settled and every single hold make up what admission saw."""
    account: dict[str, Any] = told("explain", TOLD, "--json").data["account"]
    each, all_ = sorted(account["rules"], key=lambda one: str(one["subject"]), reverse=True)
    assert (each["policy_id"], each["subject"], each["status"]) == ("each", "key:tester", "soft_limit")
    assert (each["consumed"], each["reserved"], each["requested"], each["headroom"]) == (110, 360, 180, 4_350)
    assert [(one["run_id"], one["amount"], one["age_us"]) for one in each["holds"]] == [
        (FIRST, 180, 5_000_000),
        (SECOND, 180, 3_000_000),
    ]
    assert all_["metric_kind"] == "usd_cost"
    assert sum(one["amount"] for one in all_["holds"]) == all_["reserved"]
    page = told("explain", TOLD).out
    assert "Held by others then" in page
    assert "soft limit" in page


def test_each_attempt_names_the_price_that_it_was_charged_by(told: Cli) -> None:
    """With its rates, and what the failed ones cost for nothing."""
    account = told("explain", TOLD, "--json").data["account"]
    lost, paid = account["charges"]
    assert lost["is_absorbed"] is True
    assert paid["is_absorbed"] is False
    assert paid["price"]["price_id"]
    assert paid["cost_nanousd"] == 110 * paid["price"]["input_nanousd_per_mtok"] // 1_000_000
    assert account["absorbed_nanousd"] == lost["cost_nanousd"] > 0
    assert account["cost_nanousd"] == lost["cost_nanousd"] + paid["cost_nanousd"]
    assert "of it for failures" in told("explain", TOLD).out


def test_a_held_run_is_explained_as_of_its_resumption(tmp_path: Path) -> None:
    """It was decided anew then, from another state and for another window; deciding again gives the same."""
    asked = rule("ask", hard_limit=100, on_hard="approval_required", shrink_output=False)
    world = given(THREE, put(asked))
    command, held_us = admission(TOLD), world.now_us
    held = hold(world.state, TOLD, decide(world.state, command, held_us), held_us, held_us + 60_000_000)
    assert held is not None
    world.record(held)
    world.do(wait(ms=5_000), put(rule("ask", hard_limit=900)))
    world.record(resume(TOLD, decide(world.state, command, world.now_us), 5_000_000))
    build(tmp_path / "state", world)
    choice = Cli(tmp_path / "state", world.now_us)("explain", TOLD, "--json").data["choice"]
    assert (choice["is_reproduced"], choice["served"]) == (True, "a/gpt")


def test_a_refused_run_names_subject_and_window_itself(tmp_path: Path) -> None:
    """Nothing was held that could tell them; its own limit is told too."""
    world = given(THREE, price(), put(rule("each", hard_limit=3)), admit(TOLD, max_cost_nanousd=7))
    build(tmp_path / "state", world)
    rules = Cli(tmp_path / "state", world.now_us)("explain", TOLD, "--json").data["account"]["rules"]
    by_name = {one["policy_id"]: one for one in rules}
    assert (by_name["each"]["subject"], by_name["each"]["blocked_by"]) == ("key:tester", "request")
    assert by_name["each"]["window_end_us"] > world.now_us
    assert (by_name["request.max_cost"]["hard_limit"], by_name["request.max_cost"]["status"]) == (7, "blocked")
