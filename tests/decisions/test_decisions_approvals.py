"""Approvals: asked for once, decided once, drawn on by so many runs and no more."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from budget_kit import put, retire, rule
from story import (
    Outcome,
    Step,
    World,
    admission,
    admit,
    boot,
    complete,
    fail,
    given,
    like,
    record,
    recover,
    start,
    succeed,
    wait,
)

from palyra.decisions.approvals import (
    Verdict,
    decide_approval,
    expire,
    hold,
    next_expiry_us,
    override,
    resume,
)
from palyra.decisions.base import Decision
from palyra.decisions.runs import admit as decide_admission
from palyra.errors import Refusal
from palyra.events.accounting import Accounting
from palyra.events.approvals import (
    ApprovalDenied,
    ApprovalExpired,
    ApprovalGranted,
    ApprovalRequested,
    ApprovalUsed,
)
from palyra.events.budgets import BudgetReleased, BudgetReserved, Returned
from palyra.events.config import ConfigAdopted
from palyra.events.runs import RunHeld, RunRefused, RunResumed
from palyra.projections.approvals import Approval, status_of

HOUR_MS = 3_600_000
#: A run asks for 130 tokens at its bound and 50 of output; 180 fit once.
TIGHT = rule("day", hard_limit=200, on_hard="approval_required")
WHO = "key:tester"


def used_up(*more: Any, who: str = WHO) -> World:
    """Return a world in which most of the day is used."""
    return given(None, put(TIGHT), *more, admit("r1", principal_id=who), start("r1"), succeed("r1"))


def newest(world: World) -> Approval:
    return list(world.state.approvals.by_id.values())[-1]


def decide(is_granted: bool = True, by: str = "operator", **verdict: Any) -> Step:
    """Decide about the newest request."""

    def step(world: World) -> Outcome:
        made = decide_approval(
            world.state, newest(world), Verdict(is_granted=is_granted, **verdict), by=by, now_us=world.now_us
        )
        if isinstance(made, Refusal):
            return Outcome(refusal=made)
        return Outcome(recorded=world.record(made, actor=by))

    return step


def ahead(policy_id: str = "day", subject: str = "", is_granted: bool = True, **verdict: Any) -> Step:
    """Grant before anybody asks."""

    def step(world: World) -> Outcome:
        policy = world.state.budgets.policies[policy_id]
        wanted = Verdict(is_granted=is_granted, **verdict)
        made = override(world.state, policy, subject, wanted, now_us=world.now_us)
        if isinstance(made, Refusal):
            return Outcome(refusal=made)
        return Outcome(recorded=world.record(made, actor="operator"))

    return step


def settle(accounting: Accounting) -> Step:
    """Adopt settings."""

    def step(world: World) -> Outcome:
        registry = world.state.catalog.registry
        fact = ConfigAdopted(generation=9, digest="", effective={}, registry=registry, accounting=accounting)
        return record("config", fact)(world)

    return step


def test_what_does_not_fit_is_asked_for_once() -> None:
    """The first run that does not fit asks; those after it are told of the same request, and nothing is written."""
    world = used_up()
    then = world.when(admit("r2"))
    refusal = then.refused("budget_approval_required")
    asked = newest(world)
    assert asked.request == like(ApprovalRequested, principal_id=WHO, requested=180, consumed=110, limit=200)
    told = refusal.details["budget"]
    assert (told["approval_id"], told["policy_id"]) == (asked.approval_id, "day")
    assert asked.approval_id in refusal.message
    assert refusal.retry_after_ms is None
    assert refusal.http_status == 402
    again = world.when(admit("r3"))
    assert again.refused("budget_approval_required").details["budget"]["approval_id"] == asked.approval_id
    assert len(world.facts(ApprovalRequested)) == 1
    # Somebody else asks for themselves.
    world.do(admit("r9", principal_id="key:b"), start("r9"), succeed("r9"), admit("r10", principal_id="key:b"))
    assert [one.principal_id for one in world.facts(ApprovalRequested)] == [WHO, "key:b"]


def test_a_grant_lets_one_run_through_and_no_second() -> None:
    """One use is one run: it is drawn right before the start; what the run has not used comes back as amount."""
    world = used_up(admit("x")).do(admit("r2"), decide(uses_max=1, amount_max=500))
    world.do(admit("r3"))
    started = world.when(start("r3"))
    assert like(ApprovalUsed, run_id="r3", amount=180, uses_left=0, amount_left=320) in started.outcome.facts
    names = [one.name for one in started.outcome.recorded]
    assert names.index("approval.used") < names.index("budget.reserved") < names.index("attempt.started")
    assert world.facts(BudgetReserved)[-1].shares[0].approval_id == newest(world).approval_id
    world.do(succeed("r3"))
    assert (newest(world).uses_left, newest(world).amount_left) == (0, 390)
    world.when(admit("r4")).refused("budget_approval_required")
    assert world.replayed(9) == world.state


def test_a_second_attempt_draws_amount_and_no_use() -> None:
    """A run that fails over goes on with its own use; the amount of the attempt that failed came back."""
    world = used_up().do(admit("r2"), decide(amount_max=500), admit("r3"), start("r3"), fail("r3", "overloaded"))
    world.do(start("r3", candidate=1))
    assert [one.uses_left for one in world.facts(ApprovalUsed)] == [0, 0]
    world.do(succeed("r3"), complete("r3", candidate=1))
    assert newest(world).runs == []
    # 500, less the input of the call that may have been billed, less what the second one used.
    assert newest(world).amount_left == 500 - 100 - 110


def test_a_grant_is_bounded_by_its_amount_and_its_time() -> None:
    """What asks for more than is left of the amount does not pass, nor does anything after its end."""
    world = used_up().do(admit("r2"), decide(uses_max=9, amount_max=179))
    world.when(admit("r3")).refused("budget_approval_required")
    world = used_up().do(admit("r2"), decide(uses_max=9, amount_max=900))
    world.do(lambda w: decide_until(w))
    world.do(admit("r3"))
    assert "r3" in world.state.runs.open
    world.do(wait(ms=25 * HOUR_MS))
    assert status_of(newest(world), world.now_us) == "expired"


def decide_until(world: World) -> Outcome:
    """Nothing is decided twice."""
    refused = decide()(world)
    assert refused.refusal is not None
    assert refused.refusal.code == "already_decided"
    return refused


@pytest.mark.parametrize(
    "verdict",
    [
        {"uses_max": 0},
        {"uses_max": 1_001},
        {"amount_max": 0},
        {"valid_until_us": 5},
        {"valid_until_us": 1 << 60},
    ],
)
def test_a_grant_without_bounds_is_refused(verdict: dict[str, int]) -> None:
    """Uses, amount and time have bounds, and the window's end is the last of them."""
    refusal = used_up(admit("x")).do(admit("r2")).when(decide(**verdict)).refused("invalid_request")
    assert refusal.param in verdict


def test_a_denial_sticks_until_the_window_ends() -> None:
    """Who was told no is told no again, and asks anew in the next window; a grant ahead goes first."""
    world = used_up().do(admit("r2"), decide(is_granted=False))
    refusal = world.when(admit("r3")).refused("budget_approval_denied")
    assert "said no" in refusal.message
    world.do(ahead(subject=WHO, amount_max=180))
    world.do(admit("r4"), start("r4"), succeed("r4"))
    world.do(wait(ms=24 * HOUR_MS), admit("r5"), start("r5"), succeed("r5"))
    world.when(admit("r6")).refused("budget_approval_required")


def test_a_request_ends_by_itself() -> None:
    """Past its time it counts as expired, the next one asks anew, and its end is written once."""
    world = used_up(settle(Accounting(approval_ttl_hours=1))).do(admit("r2"))
    assert next_expiry_us(world.state) == world.now_us + HOUR_MS * 1_000
    assert expire(world.state, world.now_us) == []
    world.do(wait(ms=HOUR_MS))
    assert status_of(newest(world), world.now_us) == "expired"
    world.when(decide()).refused("already_decided")
    ended = expire(world.state, world.now_us)
    assert [draft.body for draft in ended] == [ApprovalExpired()]
    world.record(ended)
    assert expire(world.state, world.now_us) == []
    assert next_expiry_us(world.state) is None
    world.do(admit("r3"))
    assert len(world.facts(ApprovalRequested)) == 2


def test_another_wording_of_the_rule_voids_what_was_asked_and_granted() -> None:
    """A grant was about the rule as it stood; the next revision starts without any."""
    world = used_up().do(admit("r2"), decide(uses_max=5, amount_max=900))
    world.do(put(msgspec.structs.replace(TIGHT, hard_limit=190)))
    assert newest(world).status == "void"
    world.when(admit("r3")).refused("budget_approval_required")
    assert world.facts(ApprovalRequested)[-1].revision == 2
    world.do(retire("day"))
    assert newest(world).status == "void"


def test_two_rules_need_two_grants() -> None:
    """Each rule asks for itself; one grant alone lets nothing through."""
    world = used_up(put(msgspec.structs.replace(TIGHT, policy_id="all", scope_kind="global", scope_id="")))
    refusal = world.when(admit("r2")).refused("budget_approval_required")
    assert len(refusal.details["budget"]["approval_ids"]) == 2
    first, second = world.state.approvals.by_id.values()
    for one in (first, second):
        world.when(admit(f"try-{one.approval_id}")).refused("budget_approval_required")
        made = decide_approval(world.state, one, Verdict(is_granted=True), by="operator", now_us=world.now_us)
        assert not isinstance(made, Refusal)
        world.record(made)
    world.do(admit("r3"), start("r3"))
    assert len(world.facts(ApprovalUsed)) == 2


def test_a_block_makes_approvals_moot() -> None:
    """Where another rule stops the run for good nobody is asked, and that rule is named."""
    world = used_up(put(rule("block", scope_kind="global", hard_limit=180)))
    refusal = world.when(admit("r2")).refused("budget_blocked")
    assert refusal.details["budget"]["policy_id"] == "block"
    assert refusal.details["budget"]["other_policies"] == ["day"]
    assert world.facts(ApprovalRequested) == []


def test_a_grant_passes_a_rule_that_blocks_as_well() -> None:
    """What is granted ahead of time passes whatever the rule does beyond its limit; each rule has its own grant."""
    world = given(None, put(rule("day", hard_limit=200)), admit("r1"), start("r1"), succeed("r1"))
    world.when(admit("r2")).refused("budget_blocked")
    world.do(ahead(subject=WHO, amount_max=180), admit("r3"), start("r3"))
    assert len(world.facts(ApprovalUsed)) == 1


def test_several_grants_are_used_by_their_ends() -> None:
    """The one that ends first goes first."""
    world = used_up()
    soon, late = world.now_us + 10**9, world.now_us + 2 * 10**9
    world.do(ahead(subject=WHO, amount_max=500, valid_until_us=late), wait(ms=1))
    world.do(ahead(subject=WHO, amount_max=500, valid_until_us=soon))
    ends = newest(world)
    world.do(admit("r2"), start("r2"))
    assert world.state.approvals.by_id[ends.approval_id].uses_left == 0


def test_a_grant_is_for_whom_it_names() -> None:
    """Another principal does not draw on it, unless it is for everybody whom the rule counts."""
    shared = rule("all", scope_kind="global", hard_limit=200, on_hard="approval_required")
    world = given(None, put(shared), admit("r1"), start("r1"), succeed("r1"), admit("r2"), decide())
    world.when(admit("r3", principal_id="key:b")).refused("budget_approval_required")
    world.do(ahead("all", amount_max=400, uses_max=2), admit("r4", principal_id="key:c"), start("r4"))
    assert world.facts(ApprovalUsed)[-1].run_id == "r4"


def test_who_asks_does_not_decide_where_four_eyes_are_wanted() -> None:
    """The setting refuses whoever asked; it is off unless it is set."""
    world = used_up(settle(Accounting(four_eyes=True))).do(admit("r2"))
    assert world.when(decide(by=WHO)).refused("four_eyes").http_status == 403
    world.when(decide(by="operator")).then(like(ApprovalGranted, principal_id=WHO, uses_max=1, amount_max=180))


def test_nobody_asks_and_grants_ahead_where_four_eyes_are_wanted() -> None:
    """One asks and another grants, whoever it is for; in one step it would be one of them alone."""
    world = given(None, settle(Accounting(four_eyes=True)), put(TIGHT))
    world.when(ahead(subject=WHO, amount_max=180)).refused("four_eyes")
    world.do(ahead(subject=WHO, amount_max=180, is_granted=False))
    assert newest(world).asked_by != WHO
    world.when(decide(by=newest(world).asked_by)).refused("four_eyes")
    world.when(decide(by="operator:other")).then(like(ApprovalGranted, principal_id=WHO))


def test_a_rule_for_each_request_is_passed_by_a_later_one() -> None:
    """A run that was refused does not come back, so its grant is about whom the rule counts, for a day."""
    world = given(None, put(rule("big", interval_kind="per_run", hard_limit=100, on_hard="approval_required")))
    world.when(admit("r1")).refused("budget_approval_required")
    asked = newest(world)
    assert (asked.request.subject, asked.request.window_start_us) == (WHO, 0)
    assert asked.request.window_end_us == world.now_us + 24 * HOUR_MS * 1_000
    world.do(decide(), admit("r2"), start("r2"), succeed("r2"))
    world.when(admit("r3")).refused("budget_approval_required")


def test_a_rolling_rule_is_decided_about_for_a_day() -> None:
    """A window that moves has no end, so a denial holds a day."""
    rolling = rule("roll", interval_kind="rolling", rolling_hours=100, hard_limit=200, on_hard="approval_required")
    world = given(None, put(rolling), admit("r1"), start("r1"), succeed("r1"), admit("r2"), decide(False))
    world.when(admit("r3")).refused("budget_approval_denied")
    world.do(wait(ms=24 * HOUR_MS))
    world.when(admit("r4")).refused("budget_approval_required")


@pytest.mark.parametrize("mode", ["dry_run", "suggest"])
def test_a_rule_on_trial_asks_nobody(mode: str) -> None:
    """A dry run says that approval would have been needed, a suggestion warns; both let the run pass."""
    world = given(None, put(msgspec.structs.replace(TIGHT, mode=mode, hard_limit=10)), admit("r1"), start("r1"))
    assert world.facts(ApprovalRequested) == []
    told = [one.body.verdict for one in world.history if one.name == "budget.hard_limit_reached"]
    assert told == (["would_require_approval"] if mode == "dry_run" else [])


def test_a_cap_that_makes_it_fit_goes_before_an_approval() -> None:
    """Where the client named no maximum the answer is kept short, and nobody is asked."""
    world = given(None, put(msgspec.structs.replace(TIGHT, hard_limit=2_000)))
    world.do(admit("r1", output_max_tokens=None), start("r1"))
    assert world.facts(ApprovalRequested) == []


def test_too_many_requests_ask_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the bound a run is refused without a request, and told that others wait already."""
    monkeypatch.setattr("palyra.decisions.approvals.APPROVALS_OPEN_MAX_COUNT", 0)
    refusal = used_up().when(admit("r2")).refused("budget_approval_required")
    assert "too many" in refusal.message
    assert "approval_id" not in refusal.details["budget"]


@pytest.mark.parametrize(
    ("policy", "subject", "param"),
    [
        (rule("day", hard_limit=None, soft_limit=5), WHO, "policy"),
        (TIGHT, "", "subject"),
        (rule("day", scope_kind="global"), "somebody", "subject"),
    ],
)
def test_a_grant_ahead_names_somebody_whom_the_rule_counts(policy: Any, subject: str, param: str) -> None:
    """A rule without a hard limit has nothing to pass, and one with a counter of each needs a name."""
    world = given(None, put(policy))
    assert world.when(ahead(subject=subject, amount_max=5)).refused("invalid_request").param == param


def test_a_grant_ahead_keeps_its_bounds_and_may_only_be_asked_for() -> None:
    """Bounds hold ahead of time too; without the right to grant it stays a request."""
    world = given(None, put(TIGHT))
    world.when(ahead(subject=WHO, amount_max=5, uses_max=0)).refused("invalid_request")
    world.when(ahead(subject=WHO, is_granted=False)).then(
        like(ApprovalRequested, requested=200, run_id="", principal_id=WHO)
    )


# -- held requests


def held(world: World, run_id: str = "r2", until_us: int | None = None) -> list[Any] | None:
    """Return the facts of a request that may wait."""
    decision = decision_of(world, run_id)
    until_us = world.now_us + 10**6 if until_us is None else until_us
    return hold(world.state, run_id, decision, world.now_us, until_us)


def decision_of(world: World, run_id: str) -> Decision:
    return decide_admission(world.state, admission(run_id), world.now_us)


def test_a_request_that_may_wait_is_held_instead_of_refused() -> None:
    """It is no run yet: what it waits for is asked for, and once that is granted it is admitted for then."""
    world = used_up()
    drafts = held(world)
    assert drafts is not None
    assert [one.body for one in drafts][-1] == like(RunHeld, held_until_us=world.now_us + 10**6)
    world.record(drafts)
    assert list(world.state.approvals.held) == ["r2"]
    assert held(world) == []
    world.do(decide())
    assert held(world) is None
    resumed = resume("r2", decision_of(world, "r2"), 5_000)
    assert resumed[0].body == RunResumed(waited_ms=5)
    world.record(resumed)
    assert world.state.approvals.held == {}
    assert world.run("r2").admitted_us == world.now_us


def test_a_request_that_waited_for_nothing_is_refused() -> None:
    """After a no, or when its time is over, it is refused like any other."""
    world = used_up()
    world.record(held(world) or [])
    world.do(decide(is_granted=False))
    decision = decision_of(world, "r2")
    assert held(world) is None
    world.record(resume("r2", decision, 5_000))
    assert world.facts(RunRefused)[-1].code == "budget_approval_denied"
    assert world.facts(RunResumed) == []
    assert world.state.approvals.held == {}
    assert held(used_up(), until_us=0) is None


def test_only_so_many_requests_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the bound a request is refused at once."""
    monkeypatch.setattr("palyra.decisions.approvals.HELD_RUNS_MAX_COUNT", 0)
    assert held(used_up()) is None


def test_a_start_refuses_what_an_older_process_held() -> None:
    """Held requests die with their process; they have billed nothing."""
    world = used_up()
    world.record(held(world) or [])
    world.do(boot(), recover())
    assert world.facts(RunRefused)[-1].code == "interrupted"
    assert world.state.approvals.held == {}


def test_the_fold_takes_any_order() -> None:
    """Facts about what is not there change nothing."""
    world = given(
        None,
        record("approval-x", ApprovalGranted(principal_id="a", amount_max=1, valid_until_us=1), ApprovalDenied()),
        record("approval-y", ApprovalUsed(run_id="r", amount=1, uses_left=0, amount_left=0), ApprovalExpired()),
    )
    assert world.state.approvals.by_id == {}


def test_what_is_told_twice_or_of_nobody_changes_nothing() -> None:
    """A request that is there already stays; what nobody drew comes back to nobody; what ended by itself has."""
    world = used_up()
    world.do(admit("r2"))
    asked = newest(world)
    world.do(record(f"approval-{asked.approval_id}", msgspec.structs.replace(asked.request, requested=1)))
    assert newest(world).request == asked.request
    returned = Returned(approval_id="nobody", amount=5)
    world.do(record("run-r9", BudgetReleased(attempt=1, because="settled", returned=[returned])))
    assert list(world.state.approvals.by_id) == [asked.approval_id]
    world.do(record(f"approval-{asked.approval_id}", ApprovalExpired()), retire("day"))
    assert newest(world).status == "expired"


def test_approvals_that_hold_no_more_are_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest of them go when the next one is asked for; what is open or granted stays."""
    monkeypatch.setattr("palyra.projections.approvals._ENDED_COUNT", 2)
    world = used_up(settle(Accounting(approval_ttl_hours=1)))
    for number in range(2, 6):
        world.do(admit(f"r{number}"), wait(ms=HOUR_MS))
    assert len(world.state.approvals.by_id) == 3
    assert world.state.approvals.by_policy["day"] == list(world.state.approvals.by_id)
    world.do(put(msgspec.structs.replace(TIGHT, hard_limit=190)), admit("r9"), put(TIGHT), admit("r10"))
    assert [one.status for one in world.state.approvals.by_id.values()].count("open") == 1
    assert world.replayed(11) == world.state
