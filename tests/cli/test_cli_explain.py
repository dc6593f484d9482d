"""`palyra explain` about money: what rules said, who held what then, by which price, and what failures cost."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from budget_kit import price, put, rule
from cli_world import Cli, build
from registries import THREE, model, provider, registry
from story import (
    T0_US,
    World,
    admission,
    admit,
    complete,
    fail,
    given,
    go_on,
    record,
    start,
    succeed,
    wait,
)

from palyra.decisions.approvals import hold, resume
from palyra.decisions.runs import admit as decide
from palyra.decisions.usage import Metered
from palyra.events.auth import AuthProfileConnected, AuthProfileCooledDown
from palyra.units import US_PER_S
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


def test_keys_are_told_that_a_run_was_tried_with(tmp_path: Path) -> None:
    """The one of each attempt with its revision, and why another one was passed over."""
    registered = registry(provider("a", auth_scheme="bearer", auth_provider_kind="a"), model("gpt", "a"))
    fields: dict[str, Any] = {"provider": "a", "audience": "https://a.example:443", "vault_revision": 2}
    world = given(
        registered,
        *(
            record(f"credential-{name}", AuthProfileConnected(profile_name=name, **fields))
            for name in ("first", "second", "third")
        ),
        record(
            "credential-second",
            AuthProfileCooledDown(kind="quota", until_us=T0_US + 3_600 * US_PER_S, streak_count=1),
        ),
        *(admit(TOLD), start(TOLD), fail(TOLD, "rate_limited", status=429)),
        *(start(TOLD, credential="third"), succeed(TOLD), complete(TOLD)),
    )
    build(tmp_path / "state", world)
    cli = Cli(tmp_path / "state", world.now_us, world.state.position)
    report = cli("explain", TOLD, "--json").data
    assert [(one["credential_ref"], one["credential_revision"]) for one in report["attempts"]] == [
        ("first", 2),
        ("third", 2),
    ]
    (passed,) = report["routing"]["verdicts"]
    assert (passed["credential_ref"], passed["verdict"]) == ("second", "cooling_down")
    shown = cli("explain", TOLD).out
    assert re.search(r"key +first, revision 2", shown)
    assert re.search(r"a / gpt +second +cooling down for ", shown)
