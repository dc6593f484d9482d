"""The set of open providers: what a changed registry keeps, opens and gives back."""

from __future__ import annotations

import pytest
from provider_calls import base_of, call
from upstream import HANG, Behaviour, Upstream

from palyra.errors import TransportFailed
from palyra.providers.deterministic import DeterministicProvider, DeterministicSettings
from palyra.providers.http import HttpProvider, HttpSettings
from palyra.providers.registry import ProviderSet, build_provider, close_all
from palyra.wire.script import parse_rule


def scripted(text: str) -> DeterministicSettings:
    return DeterministicSettings(rules=(parse_rule({"reply": {"text": text}}),))


def at(url: str, **settings: object) -> HttpSettings:
    return HttpSettings(base=base_of(url), allow_private=True, **settings)  # type: ignore[arg-type]


def test_each_kind_of_settings_has_its_provider() -> None:
    """The settings' type says which provider is built."""
    assert isinstance(build_provider(at("https://api.example")), HttpProvider)
    assert isinstance(build_provider(scripted("a")), DeterministicProvider)


async def test_equal_settings_keep_a_provider() -> None:
    """Only what changed is replaced; what left is given back, still open, and what is unknown is not there."""
    providers = ProviderSet()
    assert providers.adopt({"a": scripted("a"), "b": scripted("b"), "c": at("https://c.example")}) == []
    a, b, c = providers["a"], providers["b"], providers["c"]
    wanted = {"a": scripted("a"), "b": scripted("changed"), "d": at("https://d.example")}
    assert providers.adopt(wanted) == [b, c]
    assert providers["a"] is a
    assert providers["b"] is not b
    assert "c" not in providers
    with pytest.raises(KeyError):
        providers["c"]
    await providers.close()
    assert "a" not in providers


async def test_a_provider_that_left_serves_its_calls_until_it_is_closed() -> None:
    """A call in flight outlives a change of the registry; closing ends it and frees its connections."""
    async with Upstream() as up:
        providers = ProviderSet()
        providers.adopt({"a": at(up.url)})
        up.reply_with(Behaviour(after={1: HANG}))
        answer = await providers["a"].send(call(stream=True), None)
        left = providers.adopt({"a": at(up.url, user_agent="changed")})
        assert await answer.chunk()
        await close_all(left)
        with pytest.raises(TransportFailed):
            await answer.chunk()
        fresh = await providers["a"].send(call(), None)
        assert await fresh.body(10_000)
        await providers.close()
        await up.connections_closed()
