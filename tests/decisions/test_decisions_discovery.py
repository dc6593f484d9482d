"""Discovery: what a list changes, which entries it makes, and the names that lead to them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from story import Outcome, Step, World, admit, adopt, given, like, model, provider, registry

from palyra.decisions.discovery import compare, is_discovered, next_us, retry_ms
from palyra.decisions.naming import Resolution, resolve
from palyra.errors import Refusal
from palyra.events.base import Draft
from palyra.events.discovery import DiscoveryCompleted, DiscoveryFailed, ListedModel
from palyra.events.registry import ModelEntry, Registry
from palyra.projections.catalog import list_of, model_entry, registry_once_adopted
from palyra.projections.state import decode_state, encode_state


def template(provider_id: str, role: Any = "chat") -> ModelEntry:
    return msgspec.structs.replace(
        model("", provider_id, role=role), upstream_model="", max_context_tokens=8_192, metadata_source="discovery"
    )


def offer(mode: str = "serve", *models: ModelEntry, **settings: Any) -> Registry:
    """Return a provider `o` that lists models, beside one that is configured whole."""
    rows = [template("o"), template("o", "embeddings")] if mode == "serve" else []
    return registry(
        provider("o", discovery_mode=mode, discovers=rows), provider("a"), model("gpt", "a"), *models, **settings
    )


def listed(name: str, role: str = "chat", **figures: int) -> ListedModel:
    return ListedModel(upstream_model=name, role=role, **figures)


def discover(*names: str | ListedModel, dropped: int = 0) -> Step:
    """Let `o` list these models."""
    models = [listed(one) if isinstance(one, str) else one for one in names]

    def step(world: World) -> Outcome:
        completed = compare(world.state, "o", models, dropped)
        drafts = [] if completed is None else [Draft("provider-o", completed)]
        return Outcome(recorded=world.record(drafts))

    return step


def served(world: World) -> list[str]:
    return [one.model_id for one in world.state.catalog.registry.models if one.provider_id == "o"]


def test_a_list_is_told_when_it_is_another() -> None:
    """The first one whole, then what is new; the same list again is no news."""
    world = given(offer(), discover("one", "two"), discover("two", "one"), discover("one", "two", "three"))
    first, second = world.facts(DiscoveryCompleted)
    assert [one.upstream_model for one in first.added] == ["one", "two"]
    assert [one.upstream_model for one in second.added] == ["three"]
    assert first.digest != second.digest
    assert served(world) == ["one", "two", "three"]


def test_an_empty_list_is_news_once() -> None:
    """It says that there is a list."""
    world = given(offer(), discover(dropped=2), discover(dropped=2))
    (fact,) = world.facts(DiscoveryCompleted)
    assert (fact.models_count, fact.dropped_count) == (0, 2)


def test_a_model_is_gone_when_two_lists_leave_it_out() -> None:
    """One may be an accident; one that comes back counts anew."""
    world = given(offer(), discover("one", "two"))
    world.when(discover("one")).then(like(DiscoveryCompleted, missing=["two"]))
    assert served(world) == ["one", "two"]
    world.do(discover("one", "two"), discover("one"))
    assert served(world) == ["one", "two"]
    world.do(discover("one"))
    assert served(world) == ["one"]
    assert world.facts(DiscoveryCompleted)[-1].removed == ["two"]
    assert world.when(discover("one")).outcome.facts == []


def test_figures_that_change_are_news() -> None:
    """The entry follows."""
    world = given(offer(), discover(listed("one", max_context_tokens=1_000)), discover(listed("one")))
    entry = model_entry(world.state, "chat", "o", "one")
    assert entry is not None
    assert entry.max_context_tokens == 8_192
    world.do(discover(listed("one", max_context_tokens=5, max_output_tokens=3)))
    entry = model_entry(world.state, "chat", "o", "one")
    assert entry is not None
    assert (entry.max_context_tokens, entry.max_output_tokens, entry.metadata_source) == (5, 3, "discovery")


def test_only_what_was_left_open_is_filled() -> None:
    """What somebody has written stands; an entry that overrides leaves nothing open."""
    rows = [
        model("open", "o", left_open=["max_context_tokens", "max_output_tokens"]),
        model("half", "o", max_context_tokens=77, left_open=["max_output_tokens"]),
        model("shut", "o", max_context_tokens=88),
    ]
    figures = {"max_context_tokens": 1_000, "max_output_tokens": 10}
    world = given(offer("list", *rows), discover(*(listed(row.upstream_model, **figures) for row in rows)))
    found = [model_entry(world.state, "chat", "o", row.model_id) for row in rows]
    assert [(one.max_context_tokens, one.max_output_tokens) for one in found if one is not None] == [
        (1_000, 10),
        (77, 10),
        (88, rows[2].max_output_tokens),
    ]
    assert served(world) == ["open", "half", "shut"]


def test_what_is_configured_is_not_listed_twice() -> None:
    """An id equal to the upstream name of an entry fills that entry and makes none."""
    world = given(offer("serve", model("mine", "o", upstream_model="one")), discover("one", "two"))
    assert served(world) == ["mine", "two"]


def test_roles_that_are_not_served_make_no_entry() -> None:
    """They are in the list all the same."""
    world = given(offer(), discover(listed("w", "audio_transcription"), listed("e", "embeddings")))
    assert served(world) == ["e"]
    assert list(list_of(world.state, "o").models) == ["w", "e"]


@pytest.mark.parametrize(
    ("name", "resolved_by", "provider_id"),
    [
        ("llama", "discovered", "o"),
        ("o/llama", "pinned", "o"),
        ("gpt", "model_id", "a"),
        ("o/gpt", "pinned", "o"),
        ("", "virtual", "a"),
        ("mine", "model_alias", "a"),
    ],
)
def test_a_listed_model_is_found_last(name: str, resolved_by: str, provider_id: str) -> None:
    """Whatever is configured goes first; a listed one can be pinned."""
    config = offer(model_aliases={"mine": "gpt"}, default_chat_model_id="gpt")
    world = given(config, discover("llama", "gpt", "mine"))
    found = resolve(world.state, "chat", name)
    assert isinstance(found, Resolution)
    assert (found.resolved_by, found.entries[0].provider_id) == (resolved_by, provider_id)


def test_a_listed_model_can_be_the_default() -> None:
    """By name; and the first that is listed is, where none is configured at all."""
    world = given(offer(default_chat_model_id="o/two"), discover("one", "two"))
    found = resolve(world.state, "chat", "")
    assert isinstance(found, Resolution)
    assert found.model_id == "two"
    alone = registry(provider("o", discovery_mode="serve", discovers=[template("o")]), default_chat_model_id="")
    world = given(alone)
    assert isinstance(resolve(world.state, "chat", ""), Refusal)
    world.do(discover("one", "two"))
    found = resolve(world.state, "chat", "")
    assert isinstance(found, Resolution)
    assert found.model_id == "one"
    assert isinstance(resolve(world.state, "embeddings", ""), Refusal)
    assert world.when(admit("r1", "")).outcome.refusal is None


def test_a_listed_model_serves_a_request() -> None:
    """It has a plan like any other; its near names are offered."""
    world = given(offer(), discover("llama"))
    assert world.when(admit("r1", "llama")).outcome.refusal is None
    assert "'llama'" in world.when(admit("r2", "lama")).refused("model_not_found").message


def test_a_list_holds_while_its_provider_is_the_same() -> None:
    """Another configuration keeps it; another place of the provider does not."""
    world = given(offer(), discover("one"), adopt(offer(model_aliases={"x": "gpt"})))
    assert served(world) == ["one"]
    moved = offer()
    moved = msgspec.structs.replace(
        moved,
        providers=[msgspec.structs.replace(one, base_url="https://else.example/v1") for one in moved.providers],
    )
    world.do(adopt(moved))
    assert served(world) == []
    assert list_of(world.state, "o").models == {}


def test_a_registry_that_has_listed_models_keeps_them() -> None:
    """As in a capsule, which takes the registry as it was used."""
    world = given(offer(), discover("one"))
    again = given(world.state.catalog.registry)
    assert served(again) == ["one"]
    found = resolve(again.state, "chat", "one")
    assert isinstance(found, Resolution)
    assert found.resolved_by == "discovered"


def test_a_registry_is_known_before_it_is_adopted() -> None:
    """With what its providers are known to list, and nothing in force is touched."""
    world, wanted = given(offer(), discover("one")), offer("serve", model("own", "o"))
    before = encode_state(world.state)
    found = registry_once_adopted(world.state, wanted)
    assert encode_state(world.state) == before
    assert found == world.do(adopt(wanted)).state.catalog.registry
    assert [one.model_id for one in found.models if one.metadata_source == "discovery"] == ["one"]


def test_a_failure_keeps_the_list() -> None:
    """The next list that comes ends it, also if it is the same."""
    world = given(offer(), discover("one"))
    failed = DiscoveryFailed(failure_class="dns_failed", next_try_us=1)
    world.record([Draft("provider-o", failed)])
    assert (served(world), list_of(world.state, "o").failure_class) == (["one"], "dns_failed")
    world.do(discover("one"))
    assert list_of(world.state, "o").failure_class == ""
    assert len(world.facts(DiscoveryCompleted)) == 2


def test_the_fold_goes_through_bytes() -> None:
    """A snapshot between two lists changes nothing."""
    world = given(offer(), discover("one", "two"), discover("two"), discover("two", "three"))
    assert encode_state(world.replayed(snapshot_at=5)) == encode_state(world.state)
    assert encode_state(decode_state(encode_state(world.state))) == encode_state(world.state)


def test_who_is_asked() -> None:
    """Not who is disabled, of a kind without a list, or switched off; nobody where the time is 0."""
    world = given(offer())
    (entry, _) = world.state.catalog.registry.providers
    asked = [
        is_discovered(world.state, msgspec.structs.replace(entry, **changes))
        for changes in ({}, {"enabled": False}, {"kind": "deterministic"}, {"discovery_mode": "off"})
    ]
    assert asked == [True, False, False, False]
    assert not is_discovered(given(offer(discovery_ttl_ms=0)).state, entry)


def test_failures_are_tried_again_later_and_later() -> None:
    """After 30 s, then twice as long, up to an hour."""
    assert [retry_ms(count) // 1_000 for count in (1, 2, 3, 7, 8, 99)] == [30, 60, 120, 1_920, 3_600, 3_600]
    world = given(offer(discovery_ttl_ms=300_000))
    assert next_us(world.state, 0, 0) == 300_000_000
    assert next_us(world.state, 0, 2) == 60_000_000
