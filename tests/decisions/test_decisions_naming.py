"""What a requested model name stands for: every row of the rule, in order, and the names that lead nowhere."""

from __future__ import annotations

import pytest
from hypothesis import given as generated
from hypothesis import settings
from hypothesis import strategies as st
from registries import model, provider, registry
from story import admit, given

from palyra.decisions.naming import Resolution, near_names, resolve
from palyra.errors import Refusal
from palyra.events.registry import Registry

CONFIG = registry(
    provider("a"),
    provider("b"),
    provider("off", enabled=False),
    model("gpt", "a", priority=20, aliases=["smart"]),
    model("gpt", "b", priority=10),
    model("b/odd", "a"),
    model("mini", "b", aliases=["smart", "odd"]),
    model("asleep", "a", enabled=False),
    model("far", "off"),
    model("embed", "a", role="embeddings"),
    default_embeddings_model_id="embed",
    model_aliases={
        "gpt-4": "mini",
        "gpt-4*": "gpt",
        "gpt-4-turbo*": "b/odd",
        "direct": "a/gpt",
        "vectors": "embed",
    },
)


def resolved(name: str, role: str = "chat", config: Registry = CONFIG) -> Resolution:
    found = resolve(given(config).state, role, name)
    assert isinstance(found, Resolution), found
    return found


def refused(name: str, role: str = "chat", config: Registry = CONFIG) -> Refusal:
    found = resolve(given(config).state, role, name)
    assert isinstance(found, Refusal), found
    return found


def places(found: Resolution) -> list[str]:
    return [f"{entry.provider_id}:{entry.model_id}" for entry in found.entries]


@pytest.mark.parametrize(
    ("name", "resolved_by", "leads_to"),
    [
        ("gpt", "model_id", ["b:gpt", "a:gpt"]),
        ("b/odd", "model_id", ["a:b/odd"]),
        ("odd", "alias", ["b:mini"]),
        ("gpt-4", "model_alias", ["b:mini"]),
        ("gpt-4o", "model_alias", ["b:gpt", "a:gpt"]),
        ("gpt-4-turbo-2024", "model_alias", ["a:b/odd"]),
        ("direct", "pinned", ["a:gpt"]),
        ("a/gpt", "pinned", ["a:gpt"]),
        ("a/smart", "pinned", ["a:gpt"]),
        ("", "virtual", ["b:gpt", "a:gpt"]),
        ("  ", "virtual", ["b:gpt", "a:gpt"]),
        ("palyra/default", "virtual", ["b:gpt", "a:gpt"]),
        ("palyra/auto", "virtual", ["b:gpt", "a:gpt"]),
    ],
)
def test_the_first_rule_that_matches_wins(name: str, resolved_by: str, leads_to: list[str]) -> None:
    """Model id, alias, exact model alias, longest prefix alias, pinned, virtual: the first that fits."""
    found = resolved(name)
    assert (found.resolved_by, places(found)) == (resolved_by, leads_to)
    assert found.model_id == found.entries[0].model_id
    assert found.is_pinned == (resolved_by == "pinned")


def test_an_alias_of_two_models_stands_for_the_first_by_priority() -> None:
    """`smart` is an alias at two models: the one with the lower priority number is meant, and only that one."""
    assert places(resolved("smart")) == ["a:gpt"]


def test_an_id_with_a_slash_is_a_model_id_before_it_is_a_pin() -> None:
    """`b/odd` is an id at provider a although a provider b exists that knows `odd`."""
    assert places(resolved("b/odd")) == ["a:b/odd"]


def test_each_role_has_its_own_default() -> None:
    """No name and role embeddings: the default embeddings model."""
    assert places(resolved("", "embeddings")) == ["a:embed"]


def test_a_default_may_be_pinned_to_a_provider() -> None:
    """A default written as provider/model leads to that provider's entry."""
    config = registry(provider("a"), model("gpt", "a"), default_chat_model_id="a/gpt")
    assert places(resolved("", config=config)) == ["a:gpt"]


@pytest.mark.parametrize(("role", "settings_"), [("chat", {"default_chat_model_id": "gone"}), ("embeddings", {})])
def test_no_default_is_a_refusal_that_says_what_to_set(role: str, settings_: dict[str, str]) -> None:
    """A default that is unset or leads nowhere is model_not_found and names the key."""
    refusal = refused("", role, registry(provider("a"), model("gpt", "a"), **settings_))
    assert refusal.code == "model_not_found"
    assert f"default_{role}_model_id" in refusal.message


@pytest.mark.parametrize("name", ["asleep", "far", "a/asleep"])
def test_a_disabled_model_is_not_an_unknown_one(name: str) -> None:
    """A model that is switched off, itself or with its provider, is model_disabled."""
    assert refused(name).code == "model_disabled"


def test_only_the_enabled_entries_of_a_name_are_left() -> None:
    """Of two providers of a model, the disabled one is not a candidate."""
    config = registry(provider("a", enabled=False), provider("b"), model("gpt", "a"), model("gpt", "b"))
    assert places(resolved("gpt", config=config)) == ["b:gpt"]


@pytest.mark.parametrize("name", ["embed", "a/embed", "vectors"])
def test_a_name_of_another_role_is_a_mismatch(name: str) -> None:
    """A chat request for an embeddings model, pinned or by a model alias too, says which role it serves."""
    refusal = refused(name)
    assert (refusal.code, refusal.param) == ("model_role_mismatch", "model")
    assert "embeddings" in refusal.message


def test_an_unknown_name_gets_near_names() -> None:
    """A typing error away from a model, its alias or a model alias: the refusal offers them, nearest first."""
    refusal = refused("smort")
    assert refusal.code == "model_not_found"
    assert refusal.details == {"near": ["smart"]}
    assert "'smart'" in refusal.message
    assert refused("direkt").details == {"near": ["direct"]}


@pytest.mark.parametrize("name", ["nothing-like-it", "c/none", "a/none", "x" * 5_000])
def test_a_name_like_no_other_points_to_the_list(name: str) -> None:
    """Far from every name there is nothing to offer but the list; a huge name is cut."""
    refusal = refused(name)
    assert (refusal.code, refusal.details) == ("model_not_found", {})
    assert "GET /v1/models" in refusal.message
    assert len(refusal.message) < 400


def test_the_policy_default_serves_unknown_names_with_the_default() -> None:
    """unknown_model_policy = "default": a stranger's name means the role's default, and says so."""
    found = resolved("claude-9", config=registry(provider("a"), model("gpt", "a"), unknown_model_policy="default"))
    assert (found.resolved_by, places(found)) == ("default", ["a:gpt"])


def test_a_name_that_leads_nowhere_is_refused_on_the_record() -> None:
    """A request for an unknown model leaves `run.refused` and nothing else."""
    told = given(CONFIG).when(admit("r1", "nothing-like-it"))
    assert [type(fact).__name__ for fact in told.outcome.facts] == ["RunRefused"]
    told.refused("model_not_found")


def test_at_most_three_near_names_are_offered() -> None:
    """Nearest first, equals by name, three at most."""
    assert near_names("ab", ["abcd", "ab1", "abc", "a", "zzzzz"]) == ["a", "ab1", "abc"]


def edit_distance(left: str, right: str) -> int:
    """The textbook recursion, slow and plainly right."""
    if not left or not right:
        return len(left) + len(right)
    if left[0] == right[0]:
        return edit_distance(left[1:], right[1:])
    return 1 + min(
        edit_distance(left[1:], right), edit_distance(left, right[1:]), edit_distance(left[1:], right[1:])
    )


@settings(max_examples=100)
@generated(st.text("ab-", max_size=5), st.text("ab-", max_size=5))
def test_nearness_is_the_edit_distance(left: str, right: str) -> None:
    """A name is near exactly if two edits turn one into the other."""
    assert bool(near_names(left, [right])) == (edit_distance(left, right) <= 2)
