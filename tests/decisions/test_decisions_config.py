"""Adoption of a configuration: a generation when something differs, and which keys that were."""

from __future__ import annotations

from typing import Any

import pytest
from story import T0_US

from palyra.decisions.config import PROBLEMS_MAX_COUNT, adopt, changed_keys, leaf_of, reject
from palyra.events.accounting import Accounting
from palyra.events.base import Draft, Recorded
from palyra.events.config import ConfigAdopted, ConfigProblem, ConfigRejected, ConfigSource
from palyra.events.registry import Registry
from palyra.events.smart_routing import SmartRouting
from palyra.projections.state import State, evolve

SOURCE = ConfigSource(kind="file", name="palyra.toml", digest="d1")


def adopted(state: State, digest: str, effective: dict[str, Any], *pending: str) -> list[Draft]:
    """Decide and fold an adoption."""
    drafts = adopt(
        state,
        digest=digest,
        effective=effective,
        registry=Registry(),
        accounting=Accounting(),
        routing=SmartRouting(),
        sources=(SOURCE,),
        pending=pending,
    )
    return folded(state, drafts)


def folded(state: State, drafts: list[Draft]) -> list[Draft]:
    """Fold what was decided."""
    for draft in drafts:
        version = state.streams.get(draft.stream, 0) + 1
        evolve(state, Recorded(state.position + 1, draft.stream, version, T0_US, "", "", 0, "", draft.body))
    return drafts


def test_the_first_configuration_is_generation_one() -> None:
    """Everything is new, so nothing is listed as changed."""
    [draft] = adopted(State(), "d1", {"daemon": {"port": 1}})
    assert draft.stream == "config"
    assert draft.body == ConfigAdopted(
        generation=1, digest="d1", sources=[SOURCE], effective={"daemon": {"port": 1}}, registry=Registry()
    )


def test_the_same_configuration_is_not_adopted_twice() -> None:
    """A restart without a change leaves no fact."""
    state = State()
    adopted(state, "d1", {})
    assert adopted(state, "d1", {}) == []


def test_another_configuration_is_the_next_generation_and_says_what_changed() -> None:
    """Dotted keys, sorted."""
    state = State()
    adopted(state, "d1", {"daemon": {"port": 1}})
    [draft] = adopted(state, "d2", {"daemon": {"port": 2}})
    assert isinstance(draft.body, ConfigAdopted)
    assert (draft.body.generation, draft.body.changed) == (2, ["daemon.port"])
    assert [(one.generation, one.digest, one.changed) for one in state.config.history] == [
        (1, "d1", []),
        (2, "d2", ["daemon.port"]),
    ]


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ({}, {}, []),
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, ["a"]),
        ({"a": {"x": 1, "y": 2}}, {"a": {"x": 1, "y": 3}}, ["a.y"]),
        ({"a": {"x": 1}}, {"b": {"x": 1}}, ["a.x", "b.x"]),
        ({"a": [1, 2]}, {"a": [2, 1]}, ["a"]),
        ({"a": None}, {}, ["a"]),
    ],
)
def test_changed_keys_are_those_whose_values_differ(
    before: dict[str, Any], after: dict[str, Any], changed: list[str]
) -> None:
    """Tables are compared key by key, lists whole; a key that came or went has changed."""
    assert changed_keys(before, after) == changed


def test_what_waits_for_a_start_is_a_change_too() -> None:
    """The same configuration is adopted again when other keys wait than before, and when none does any more."""
    state = State()
    adopted(state, "d1", {})
    [draft] = adopted(state, "d1", {}, "daemon.port")
    assert isinstance(draft.body, ConfigAdopted)
    assert (draft.body.generation, draft.body.pending_restart_keys) == (2, ["daemon.port"])
    assert state.config.pending == ["daemon.port"]
    assert adopted(state, "d1", {}, "daemon.port") == []
    adopted(state, "d1", {})
    assert state.config.pending == []


def test_the_same_problems_are_told_once() -> None:
    """The one in force stays; other problems are another fact; an adoption ends it even where nothing differs."""
    state = State()
    adopted(state, "d1", {})
    problems = [ConfigProblem(code="unknown_key", key="prt", message="unknown key")]
    [draft] = folded(state, reject(state, problems))
    assert isinstance(draft.body, ConfigRejected)
    assert (draft.body.kept_generation, draft.body.problems) == (1, problems)
    assert state.config.rejected is not None
    assert reject(state, problems) == []
    many = problems * (PROBLEMS_MAX_COUNT + 3)
    [draft] = folded(state, reject(state, many))
    assert isinstance(draft.body, ConfigRejected)
    assert (len(draft.body.problems), draft.body.omitted_count) == (PROBLEMS_MAX_COUNT, 3)
    [draft] = adopted(state, "d1", {})
    assert state.config.rejected is None


def test_a_key_leads_to_its_value() -> None:
    """By the name that a change has; what is not there is null."""
    tree = {"daemon": {"port": 1}, "list": [1]}
    assert (leaf_of(tree, "daemon.port"), leaf_of(tree, "list"), leaf_of(tree, "daemon.host")) == (1, [1], None)
