"""The guard: what is dialled, and that nothing else is."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

import pytest
from provider_calls import Answers, call, provider_at, unchecked
from upstream import Behaviour, Upstream

from palyra.errors import TransportFailed
from palyra.providers import guard as guard_module
from palyra.providers.guard import (
    AddressBlocked,
    Guard,
    look_up,
    vet,
)

PUBLIC = "93.184.216.34"

#: Ways to reach 127.0.0.1 or something as bad, each of which was reachable without the guard.
DISGUISES = (
    "127.0.0.1 ::1 ::ffff:127.0.0.1 169.254.169.254 100.64.0.1 64:ff9b::7f00:1 64:ff9b:1::7f00:1 2002:7f00:1::"
    " fd00::1 fe80::1 0.0.0.0 :: ::127.0.0.1 255.255.255.255 10.0.0.1"
).split()


async def failure_of(sending: object) -> TransportFailed:
    with pytest.raises(TransportFailed) as caught:
        await sending  # type: ignore[misc]
    return caught.value


@pytest.mark.parametrize("address", DISGUISES)
async def test_refused_literals_are_never_dialled(address: str) -> None:
    """A literal of a refused class gets no socket, although the resolver never sees it."""
    async with Upstream() as up:
        async with provider_at(unchecked("https", address, up.port), allow_private=False) as provider:
            failed = await failure_of(provider.send(call(), None))
    assert (failed.failure_class, failed.phase) == ("netguard_blocked", "connect")
    assert up.connections_made_count == 0


@pytest.mark.parametrize("address", DISGUISES)
async def test_names_that_lead_to_refused_addresses(address: str) -> None:
    """A name is as good as its address."""
    base = unchecked("https", "inner.example", 443)
    async with provider_at(base, allow_private=False, lookup=Answers([address])) as provider:
        failed = await failure_of(provider.send(call(), None))
    assert failed.failure_class == "netguard_blocked"
    assert "inner.example" in failed.message


async def test_a_name_that_changes_its_answer_sends_no_byte() -> None:
    """DNS rebinding: public when it was checked, loopback when it is dialled."""
    lookup = Answers([PUBLIC], ["127.0.0.1"])
    guard = Guard(scheme="https", allow_private=False)
    assert await vet(guard, "rebind.example", lookup) == [PUBLIC]
    async with Upstream() as up:
        base = unchecked("https", "rebind.example", up.port)
        async with provider_at(base, allow_private=False, lookup=lookup) as provider:
            failed = await failure_of(provider.send(call(), None))
        assert failed.failure_class == "netguard_blocked"
        assert up.connections_made_count == 0


@pytest.mark.parametrize(
    ("scheme", "allow_private", "answers"),
    [
        ("https", False, [PUBLIC, "127.0.0.1"]),
        ("https", False, ["10.0.0.1", PUBLIC]),
        ("http", True, ["127.0.0.1", "169.254.169.254"]),
        ("http", True, ["127.0.0.1", PUBLIC]),
    ],
)
async def test_one_refused_address_refuses_the_name(scheme: str, allow_private: bool, answers: list[str]) -> None:
    """Of mixed answers not even the good ones are dialled; plain http to a public address is a bad one."""
    async with Upstream() as up:
        base = unchecked(scheme, "mixed.example", up.port)
        async with provider_at(base, allow_private=allow_private, lookup=Answers(answers)) as provider:
            failed = await failure_of(provider.send(call(), None))
        assert failed.failure_class == "netguard_blocked"
        assert up.connections_made_count == 0


async def test_an_allowed_private_name_is_dialled() -> None:
    """With the setting a name on the private network works, over http too; its answer is kept for a while."""
    lookup = Answers(["127.0.0.1"])
    async with Upstream() as up:
        base = unchecked("http", "ollama.lan", up.port)
        async with provider_at(base, lookup=lookup) as provider:
            for _ in range(3):
                answer = await provider.send(call(), None)
                assert await answer.body(10_000)
        assert up.requests[0].headers["host"] == f"ollama.lan:{up.port}"
        assert lookup.asked == ["ollama.lan"]


@pytest.mark.parametrize("name", ["localhost", "api.localhost"])
async def test_local_names_are_dialled_without_a_question(name: str) -> None:
    """A local name is 127.0.0.1, then ::1, whatever a resolver would say."""
    lookup = Answers([PUBLIC])
    async with Upstream() as up:
        async with provider_at(unchecked("http", name, up.port), lookup=lookup) as provider:
            answer = await provider.send(call(), None)
            assert await answer.body(10_000)
    guard = Guard(scheme="http", allow_private=True)
    assert await vet(guard, name, lookup) == ["127.0.0.1", "::1"]
    assert lookup.asked == []


async def test_metadata_names_are_never_looked_up() -> None:
    """The name of a metadata service is refused before anybody is asked for it."""
    lookup = Answers(["127.0.0.1"])
    async with provider_at(unchecked("http", "metadata.google.internal", 80), lookup=lookup) as provider:
        failed = await failure_of(provider.send(call(), None))
    assert failed.failure_class == "netguard_blocked"
    assert lookup.asked == []


async def test_a_redirect_is_not_followed() -> None:
    """An answer that points elsewhere is refused, and the other place hears nothing."""
    async with Upstream() as up, Upstream() as elsewhere:
        async with provider_at(up.url) as provider:
            for target in ("http://169.254.169.254/latest", elsewhere.url + "/chat/completions"):
                up.reply_with(Behaviour.redirect(target))
                failed = await failure_of(provider.send(call(), None))
                assert (failed.failure_class, failed.phase) == ("redirect_refused", "headers")
        assert elsewhere.connections_made_count == 0


async def test_proxy_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would dial in the guard's place, so the environment's is not used."""
    async with Upstream() as up, Upstream() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        async with provider_at(up.url) as provider:
            answer = await provider.send(call(), None)
            assert await answer.body(10_000)
        assert len(up.requests) == 1
        assert proxy.connections_made_count == 0


async def no_such_name(host: str) -> Sequence[str]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


async def never(host: str) -> Sequence[str]:
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")


async def test_names_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """No such name, no address, no answer in time: all of them are `dns_failed`."""
    monkeypatch.setattr(guard_module, "LOOKUP_TIMEOUT_S", 0.005)
    for lookup in (no_such_name, Answers([]), never):
        async with provider_at(unchecked("https", "gone.example", 443), lookup=lookup) as provider:
            failed = await failure_of(provider.send(call(), None))
        assert (failed.failure_class, failed.phase) == ("dns_failed", "connect")
        assert "gone.example" in failed.message


async def test_a_lookup_in_time_is_part_of_the_connect_deadline() -> None:
    """The connect deadline runs while a name is looked up."""
    async with provider_at(unchecked("https", "slow.example", 443), lookup=never) as provider:
        failed = await failure_of(provider.send(call(connect=10), None))
    assert (failed.failure_class, failed.phase) == ("timeout_connect", "connect")


async def test_at_most_four_addresses_are_dialled_and_all_are_judged() -> None:
    """Of many answers the first four are used; a refused fifth refuses the name all the same."""
    guard = Guard(scheme="https", allow_private=False)
    many = [f"93.184.216.{last}" for last in range(9)]
    assert await vet(guard, "many.example", Answers([*many, many[0]])) == many[:4]
    with pytest.raises(AddressBlocked) as caught:
        await vet(guard, "many.example", Answers([*many, "10.1.2.3"]))
    blocked = caught.value
    assert (blocked.host, blocked.address, blocked.address_class) == ("many.example", "10.1.2.3", "private")


def test_the_judge_sits_where_sockets_are_made() -> None:
    """A refused address, and a family that is none of the internet's, get no socket; an allowed one does."""
    guard = Guard(scheme="http", allow_private=True)
    kind = socket.SOCK_STREAM
    for family, address in (
        (socket.AF_INET, ("169.254.169.254", 80)),
        (socket.AF_INET, (PUBLIC, 80)),
        (socket.AF_INET6, ("fe80::1", 80, 0, 2)),
        (socket.AF_UNIX, ("/run/docker.sock",)),
    ):
        with pytest.raises(AddressBlocked):
            guard.make_socket((family, kind, 0, "", address))
    guard.make_socket((socket.AF_INET, kind, 0, "", ("127.0.0.1", 80))).close()


async def test_the_system_resolver_is_asked() -> None:
    """Without another lookup the system's resolver answers; it knows literals without a network."""
    assert await look_up("127.0.0.1") == ["127.0.0.1"]
