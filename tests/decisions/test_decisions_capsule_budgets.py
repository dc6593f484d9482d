"""Capsules of runs under rules and of answers that were kept: decided again the same, and nobody is named."""

from __future__ import annotations

import msgspec
import pytest
from budget_kit import price, put, rule
from story import (
    Outcome,
    Step,
    World,
    admission,
    admit,
    boot,
    complete,
    given,
    go_on,
    record,
    recover,
    serve,
    start,
    succeed,
    wait,
)
from test_decisions_approvals import TIGHT, ahead, decide, decision_of, held
from test_decisions_capsule import TOUCHY, broken, capsule_of, note, ok, same

from palyra.decisions.approvals import resume
from palyra.decisions.cache import Cached, Place, admit_hit, place_of
from palyra.decisions.redecide import redecide
from palyra.decisions.runs import CacheAsk
from palyra.decisions.usage import Metered
from palyra.events.cache import CacheStored

SEEN = Metered(output_estimate_tokens=9)
RULED = [
    put(rule("each", soft_limit=150, hard_limit=600)),
    put(rule("all", scope_kind="global", hard_limit=10_000, match={"principal_id": "key:tester"})),
    put(rule("place", scope_kind="session", hard_limit=500)),
    put(rule("one", interval_kind="per_run", hard_limit=400)),
    put(rule("hour", scope_kind="provider", interval_kind="rolling", rolling_hours=1, hard_limit=5_000)),
]


@pytest.mark.parametrize(
    "story",
    [
        [admit("r1"), start("r1"), ok("r1")],
        [serve("r0"), admit("r1", session_id="s"), start("r1"), ok("r1")],
        [admit("r1", output_max_tokens=None), start("r1"), ok("r1")],
        [admit("r1", output_max_tokens=5_000)],
        [serve("r0"), serve("r2"), serve("r3"), admit("r1")],
        [
            admit("r1"),
            start("r1"),
            broken("r1", "timeout_idle", phase="body", is_over=True, status=200, metered=SEEN),
        ],
    ],
    ids=["served", "another session", "kept short", "too large", "used up", "cut"],
)
def test_a_run_under_rules_is_decided_again(story: list[Step]) -> None:
    """Holds, limits that were told and refusals come out the same, and nobody is named."""
    world = given(TOUCHY, price(), *RULED, *story)
    text = msgspec.json.encode(same(world))
    for name in (b"key:tester", b'"s"'):
        assert name not in text


def hold(run_id: str) -> Step:
    """Let a request wait for whoever may let it pass."""
    return lambda world: Outcome(recorded=world.record(held(world, run_id) or []))


def resumed(run_id: str) -> Step:
    """Admit or refuse a request that has waited."""

    def step(world: World) -> Outcome:
        return Outcome(recorded=world.record(resume(run_id, decision_of(world, run_id), 5_000)))

    return step


#: Everything but the last use of what is granted is drawn by others.
USED_UP = [put(TIGHT), serve("r0")]
ASKED: dict[str, list[Step]] = {
    "asked and refused": [admit("r1")],
    "told of what was asked": [admit("r2"), admit("r1")],
    "asked for somebody else too": [
        *(serve("r3", principal_id="key:b"), admit("r4", principal_id="key:b")),
        admit("r1"),
    ],
    "granted": [admit("r2"), decide(amount_max=500), admit("r1"), start("r1"), ok("r1")],
    "granted, and failed over": [
        admit("r2"),
        decide(amount_max=500),
        admit("r1"),
        start("r1"),
        broken("r1"),
        start("r1", retry=1),
        broken("r1", is_over=True),
        start("r1", candidate=1),
        ok("r1", candidate=1, at="b"),
    ],
    "granted to everybody": [ahead(subject="key:tester", amount_max=500), admit("r1"), start("r1"), ok("r1")],
    "held and granted": [hold("r1"), wait(ms=3), decide(amount_max=500), resumed("r1"), start("r1"), ok("r1")],
    "held and denied": [hold("r1"), decide(is_granted=False), resumed("r1")],
    "held, and stopped by a second rule": [
        hold("r1"),
        decide(amount_max=500),
        put(rule("later", hard_limit=0, on_hard="approval_required")),
        hold("r1"),
        decide(amount_max=500),
        resumed("r1"),
        start("r1"),
        ok("r1"),
    ],
    "held when the process died": [hold("r1"), boot(), recover()],
    "let in, and overtaken": [
        admit("r3"),
        decide(amount_max=500),
        admit("r1"),
        admit("r2"),
        start("r2"),
        go_on("r1", "budget_excluded", phase="connect"),
        go_on("r1", "budget_excluded", phase="connect", after=1),
    ],
}


@pytest.mark.parametrize("story", ASKED)
def test_what_was_asked_held_and_granted_is_decided_again(story: str) -> None:
    """From the capsule alone; it names neither who asked nor who said yes."""
    world = given(TOUCHY, *USED_UP, *ASKED[story])
    text = msgspec.json.encode(same(world))
    for name in (b"key:tester", b"operator"):
        assert name not in text


def hit(run_id: str) -> Step:
    """Answer a request with what another run was told."""

    def step(world: World) -> Outcome:
        command = admission(run_id, cache=CacheAsk(body_digest="x"))
        place = place_of(world.state, command)
        assert isinstance(place, Place)
        told = Cached(
            key_digest=place.key_digest,
            run_id="r0",
            provider_id="a",
            model_id="gpt",
            stop="stop",
            stored_us=world.now_us,
            input_tokens=90,
            output_tokens=20,
            known_nanousd=0,
        )
        return Outcome(recorded=world.record(admit_hit(world.state, command, place, told, world.now_us).drafts))

    return step


def test_what_memory_held_is_given() -> None:
    """That an answer was kept, and the three facts of a run that got it, are taken as they were recorded."""
    stored = CacheStored(key_digest="d", size_bytes=9, until_us=1)
    world = given(TOUCHY, admit("r0"), start("r0"), succeed("r0"), record("run-r0", stored), complete("r0"))
    world.do(note("a", "success", "r0"), hit("r1"))
    assert redecide(capsule_of(world, "r0")).difference is None
    assert redecide(capsule_of(world, "r1")) == (0, 3, None)
    assert world.state.cache.hits_count == 1
