"""Tokens are renewed before they end, one at a time, by a server that ends everything when one is spent twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web
from authorization_server import AuthorizationServer
from engine_world import Taker
from token_world import TokenWorld

from palyra.auth.vault import Vault
from palyra.decisions.vault import VaultRef
from palyra.engine.console.auth import ProfileParams, RebindParams, RevokeParams, disable, rebind, revoke
from palyra.engine.console.changes import Desk, Order
from palyra.engine.vault import ref_of
from palyra.events.attempts import AttemptFailed, AttemptStarted
from palyra.events.auth import (
    AuthProfileFailed,
    AuthProfileRefreshed,
    AuthProfileRefreshFailed,
    AuthProfileRefreshStarted,
    AuthProfileRemoteRevocationFinished,
    AuthProfileRevoked,
    AuthProfileRotated,
)
from palyra.events.base import Draft
from palyra.events.incidents import IncidentOpened, IncidentResolved
from palyra.projections.auth import failure_of
from palyra.redaction import Secret

HOUR_S = 3_600


def order(house: TokenWorld) -> Order:
    return Order(Desk(house.core, house.vault, tokens=house.tokens), "operator:test")


async def test_a_token_is_renewed_before_it_ends() -> None:
    """At a tenth of its life before the end, give or take half a minute; the next attempt has the new one."""
    async with AuthorizationServer() as up:
        house = await TokenWorld.make(up)
        grant = await house.connect()
        due_s = house.due_in_s()
        assert due_s is not None
        assert HOUR_S - 360 - 30 <= due_s <= HOUR_S - 360
        await house.tokens.do()  # asked too early it does nothing
        assert up.token_requests == []
        house.pass_s(due_s)
        await house.tokens.do()
        assert [one["grant_type"] for one in up.token_requests] == ["refresh_token"]
        assert house.profile().vault_revision == 2
        (refreshed,) = house.world.facts(AuthProfileRefreshed)
        assert (refreshed.vault_revision, refreshed.rotated_refresh) == (2, True)
        reply = await house.world.chat()
        assert (reply.status, up.asked_with) == (200, [grant.access[1]])
        again_s = house.due_in_s()
        assert again_s is not None
        assert again_s > HOUR_S / 2
        house.pass_s(again_s)
        await house.tokens.do()
        assert len({one["refresh_token"] for one in up.token_requests}) == 2  # each was good once
        assert grant.is_alive
        await house.world.close()


async def test_an_open_stream_goes_on_with_its_token() -> None:
    """A renewal changes nothing for an answer that is under way."""
    go_on = asyncio.Event()
    reached = asyncio.Event()

    async def slowly(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        chunk = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
        await response.write(chunk)
        reached.set()
        await go_on.wait()
        await response.write(
            b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
        )
        return response

    async with AuthorizationServer() as up:
        up.chat = slowly
        house = await TokenWorld.make(up)
        await house.connect()
        run = house.world.start_chat(client=Taker(), stream=True)
        await reached.wait()
        house.pass_s(HOUR_S - 360)
        await house.tokens.do()
        assert house.profile().vault_revision == 2
        go_on.set()
        assert (await run.task).status == 200
        house.world.audit()
        await house.world.close()


async def test_everybody_who_wants_a_token_joins_one_renewal() -> None:
    """Timer, person, request and 401 at once: the refresh token is spent once."""
    async with AuthorizationServer() as up:
        house = await TokenWorld.make(up)
        grant = await house.connect(life_s=20)
        house.pass_s(15)
        renewed = await asyncio.gather(
            house.tokens.do(),
            house.tokens.renew("p"),
            house.tokens.renew_in_time(["p"]),
            house.tokens.renew_after_401("p", 1),
            house.world.chat(),
            house.tokens.renew("p"),
        )
        assert len(up.token_requests) == 1
        assert grant.is_alive
        assert [one.is_joined for one in renewed if hasattr(one, "is_joined")][1]
        assert up.asked_with == [grant.access[1]]
        assert len(house.world.facts(AuthProfileRefreshStarted)) == 1
        await house.world.close()


async def test_a_request_waits_for_a_token_that_is_about_to_end() -> None:
    """Half a minute before the end nothing leaves with the old one."""
    async with AuthorizationServer() as up:
        house = await TokenWorld.make(up)
        grant = await house.connect(life_s=100)
        house.pass_s(60)
        await house.world.chat()
        house.pass_s(15)
        await house.world.chat()
        assert up.asked_with == grant.access
        assert house.world.facts(AttemptStarted)[-1].credential_revision == 2
        house.world.audit()
        await house.world.close()


async def test_a_401_brings_one_renewal_and_one_more_attempt() -> None:
    """The client gets its answer; what the provider refused is settled as a failed attempt."""
    async with AuthorizationServer() as up:
        house = await TokenWorld.make(up)
        grant = await house.connect()
        up.refused_tokens = [grant.access[0]]
        reply = await house.world.chat()
        assert reply.status == 200
        assert up.asked_with == grant.access
        (failed,) = house.world.facts(AttemptFailed)
        assert (failed.failure_class, failed.next_credential_ref) == ("auth_invalid", "p")
        house.world.audit()
        await house.world.close()


async def test_a_401_on_the_new_token_as_well_is_a_failure() -> None:
    """The provider wants a person; nobody renews any more, and a new login ends it."""
    async with AuthorizationServer() as up:
        house = await TokenWorld.make(up)
        grant = await house.connect()

        async def refuse() -> None:
            up.refused_tokens = [*up.refused_tokens, *grant.access]

        await refuse()
        real = up._give

        def give(one: Any, nonce: str) -> dict[str, Any]:
            given = real(one, nonce)
            up.refused_tokens.append(given["access_token"])
            return given

        up._give = give  # type: ignore[method-assign]
        reply = await house.world.chat()
        assert reply.status == 502
        assert len(up.asked_with) == 2
        failure = failure_of(house.core.state, "p")
        assert failure is not None
        assert failure.code == "reauth_required"
        await house.tokens.do()
        assert house.due_in_s() is None
        await house.world.chat()
        assert len(up.token_requests) == 1
        await house.world.close()


async def test_a_grant_that_is_over_is_asked_for_once() -> None:
    """`invalid_grant` ends it: failed, terminal, never tried by the timer again."""
    async with AuthorizationServer() as up:
        house = await TokenWorld.make(up)
        grant = await house.connect()
        grant.is_alive = False
        house.pass_s(HOUR_S - 100)
        await house.tokens.do()
        house.pass_s(100_000)
        await house.tokens.do()
        assert len(up.token_requests) == 1
        (failed,) = house.world.facts(AuthProfileRefreshFailed)
        assert (failed.error_code, failed.terminal) == ("invalid_grant", True)
        (gone,) = house.world.facts(AuthProfileFailed)
        assert gone.code == "reauth_required"
        renewed = await house.tokens.renew("p")
        assert renewed.refusal is not None
        assert renewed.refusal.code == "reauth_required"
        assert len(up.token_requests) == 1
        await house.world.close()


async def test_people_are_told_whom_only_they_can_bring_back() -> None:
    """An incident opens with the end of a grant, once, and is resolved by the next login."""
    async with AuthorizationServer() as up:
        house = await TokenWorld.make(up)
        grant = await house.connect()
        grant.is_alive = False
        house.pass_s(HOUR_S - 100)
        await house.tokens.do()
        assert house.tokens.due_at_us() == 0
        await house.tokens.do()
        assert house.due_in_s() is None
        (opened,) = house.world.facts(IncidentOpened)
        assert (opened.kind, opened.severity, opened.subject_id) == ("login_needed", "warning", "p")
        fact = AuthProfileRotated(vault_revision=2, oauth=house.profile().oauth)
        await house.vault.put(
            ref_of("global/auth.p"),
            {"access_token": Secret("at-another-one"), "refresh_token": Secret("rt-another-one")},
            reason="rotate",
            then=lambda stored: [Draft("credential-p", fact)],
        )
        assert house.tokens.due_at_us() == 0
        await house.tokens.do()
        assert len(house.world.facts(IncidentResolved)) == 1
        assert house.due_in_s() is None
        await house.world.close()


async def test_a_server_that_fails_is_asked_again_later_and_later() -> None:
    """15, 30, 60 .. 900 s, give or take a fifth; as long as it asks for; a success begins anew."""
    async with AuthorizationServer() as up:
        house = await TokenWorld.make(up)
        await house.connect(life_s=100_000)
        house.pass_s(99_700)
        waits = []
        for _ in range(8):
            up.token_answers = [(503, {}, b"")]
            await house.tokens.do()
            waited_s = house.due_in_s()
            assert waited_s is not None
            waits.append(waited_s)
            house.pass_s(waited_s)
        for waited_s, full_s in zip(waits, (15, 30, 60, 120, 240, 480, 900, 900), strict=True):
            assert full_s * 0.8 <= waited_s <= full_s * 1.2
        up.token_answers = [(429, {"retry-after": "3000"}, b"")]
        await house.tokens.do()
        assert house.due_in_s() == 3_000
        house.pass_s(3_000)
        await house.tokens.do()
        assert house.profile().refresh is not None
        assert house.profile().refresh.streak_count == 0  # type: ignore[union-attr]
        assert house.profile().vault_revision == 2
        await house.world.close()


async def test_a_token_is_in_use_until_it_ends_also_while_renewal_fails() -> None:
    """An expired one is not sent."""
    async with AuthorizationServer() as up:
        house = await TokenWorld.make(up)
        await house.connect(life_s=1_000)
        house.pass_s(950)
        up.token_answers = [(503, {}, b"")] * 9
        await house.tokens.do()
        assert (await house.world.chat()).status == 200
        house.pass_s(55)
        refused = await house.world.chat()
        assert refused.status in (429, 503)
        assert len(up.asked_with) == 1
        await house.world.close()


async def test_a_secret_that_was_put_there_meanwhile_wins() -> None:
    """The late tokens are given back; the profile keeps what it was given."""
    async with AuthorizationServer() as up:
        house = await TokenWorld.make(up)
        grant = await house.connect()

        async def rotate() -> None:
            fact = AuthProfileRotated(vault_revision=2, oauth=house.profile().oauth)
            await house.vault.put(
                ref_of("global/auth.p"),
                {"access_token": Secret("at-another-one"), "refresh_token": Secret("rt-another-one")},
                reason="rotate",
                then=lambda stored: [Draft("credential-p", fact)],
            )

        up.before_token = rotate
        renewed = await house.tokens.renew("p")
        await house.tokens.settle()
        assert renewed.refusal is not None
        assert renewed.refusal.code == "conflict"
        assert house.profile().vault_revision == 2
        assert house.vault.opened(ref_of("global/auth.p"), 2).parts["access_token"].matches("at-another-one")
        (failed,) = house.world.facts(AuthProfileRefreshFailed)
        assert failed.error_code == "superseded"
        assert [one["token"] for one in up.revocations] == [grant.refresh[0], grant.access[1]]
        await house.world.close()


async def test_a_crash_between_answer_and_vault() -> None:
    """Nobody knows what the server did: the old token is tried once, and the answer to that holds."""
    async with AuthorizationServer() as up:
        house = await TokenWorld.make(up)
        await house.connect()
        await house.core.record([Draft("credential-p", AuthProfileRefreshStarted(vault_revision=1))])
        assert house.tokens.due_at_us() == 0
        await house.tokens.do()
        assert house.profile().vault_revision == 2
        assert len(up.token_requests) == 1
        await house.world.close()


async def test_a_crash_between_vault_and_journal() -> None:
    """What was sealed is found at the next start, with as much life as the one before had."""
    async with AuthorizationServer() as up:
        vault = Vault()
        house = await TokenWorld.make(up, vault=vault)
        await house.connect()
        await house.core.record([Draft("credential-p", AuthProfileRefreshStarted(vault_revision=1))])
        house.pass_s(3_000)
        sealed = {"access_token": Secret("at-fresh-token"), "refresh_token": Secret("rt-fresh-token")}
        vault.put(VaultRef("global", "auth.p"), sealed, purpose="refresh", now_us=house.clock.now_us())
        await house.vault.reconcile()
        (refreshed,) = house.world.facts(AuthProfileRefreshed)
        assert refreshed.recovered
        assert house.profile().vault_revision == 2
        assert house.profile().expires_us == house.clock.now_us() + HOUR_S * 1_000_000
        assert up.token_requests == []
        await house.world.close()


async def test_a_revoked_profile_is_out_of_use_at_once_and_given_back_later() -> None:
    """The provider is down: it is asked again; once it answers the secret goes. A second time changes nothing."""
    async with AuthorizationServer() as up:
        house = await TokenWorld.make(up)
        grant = await house.connect()
        up.revoke_answers = [(503, {}, b"")] * 4
        done = await revoke(order(house), RevokeParams(id="p"))
        assert done.state == "revoking"
        refused = await house.world.chat()
        assert refused.status == 503
        assert up.asked_with == []
        await house.tokens.do()
        assert house.profile().status == "revoking"
        assert "global/auth.p" in house.core.state.vault.secrets
        waited_s = house.due_in_s()
        assert waited_s is not None
        assert 12 <= waited_s <= 18
        assert (await revoke(order(house), RevokeParams(id="p"))).state == "already_revoked"
        house.pass_s(waited_s)
        await house.tokens.do()
        house.pass_s(40)
        await house.tokens.do()
        assert not grant.is_alive
        (finished,) = house.world.facts(AuthProfileRemoteRevocationFinished)
        assert finished.outcome == "confirmed"
        assert house.profile().status == "revoked"
        assert house.core.state.vault.secrets == {}
        assert (await revoke(order(house), RevokeParams(id="p"))).state == "already_revoked"
        assert house.due_in_s() is None
        await house.world.close()


async def test_a_provider_is_asked_for_a_day() -> None:
    """Then the secret goes all the same, and it is said that the provider never answered."""
    async with AuthorizationServer() as up:
        house = await TokenWorld.make(up)
        await house.connect()
        up.revoke_answers = [(503, {}, b"")] * 400
        await revoke(order(house), RevokeParams(id="p"))
        await house.tokens.do()
        house.pass_s(24 * HOUR_S)
        await house.tokens.do()
        (finished,) = house.world.facts(AuthProfileRemoteRevocationFinished)
        assert finished.outcome == "gave_up"
        assert house.core.state.vault.secrets == {}
        await house.world.close()


async def test_a_local_revocation_asks_nobody() -> None:
    """`--local-only`: at once, and the provider hears nothing."""
    async with AuthorizationServer() as up:
        house = await TokenWorld.make(up)
        await house.connect()
        done = await revoke(order(house), RevokeParams(id="p", local_only=True))
        assert done.state == "revoked"
        (revoked,) = house.world.facts(AuthProfileRevoked)
        assert revoked.remote == "skipped"
        assert (house.due_in_s(), up.revocations) == (None, [])
        await house.world.close()


async def test_redirects_are_not_followed() -> None:
    """Neither by a renewal nor by a revocation: a token goes to the one address that it is for."""
    async with AuthorizationServer() as up, AuthorizationServer() as other:
        house = await TokenWorld.make(up)
        await house.connect()
        elsewhere = {"location": f"{other.url}/oauth/token"}
        up.token_answers = [(307, elsewhere, b"")]
        renewed = await house.tokens.renew("p")
        assert renewed.refusal is not None
        assert renewed.refusal.code == "refresh_failed"
        up.revoke_answers = [(307, elsewhere, b"")] * 2
        await revoke(order(house), RevokeParams(id="p"))
        await house.tokens.do()
        assert house.profile().status == "revoking"
        assert (other.token_requests, other.revocations) == ([], [])
        await house.world.close()


async def test_a_profile_that_is_bound_anew_stays_renewable() -> None:
    """Its tokens are sealed again as they are, all of them."""
    async with AuthorizationServer() as up:
        house = await TokenWorld.make(up)
        grant = await house.connect()
        await rebind(order(house), RebindParams(id="p", provider_id="a"))
        assert house.profile().vault_revision == 2
        renewed = await house.tokens.renew("p")
        assert renewed.refusal is None
        assert up.token_requests[0]["refresh_token"] == grant.used_refresh[0]
        await house.world.close()


async def test_what_cannot_be_renewed() -> None:
    """A profile that rests, one without a refresh token, and one that is not there."""
    async with AuthorizationServer() as up:
        house = await TokenWorld.make(up)
        await house.connect()
        await disable(order(house), ProfileParams(id="p"))
        assert house.due_in_s() is None
        renewed = await house.tokens.renew("p")
        assert renewed.refusal is not None
        assert renewed.refusal.code == "not_refreshable"
        gone = await house.tokens.renew("nobody")
        assert gone.refusal is not None
        assert gone.refusal.code == "profile_not_found"
        assert up.token_requests == []
        await house.world.close()


@pytest.mark.parametrize("answer", [(400, {}, b'{"error":"invalid_client"}'), (403, {}, b"")])
async def test_a_client_that_is_not_taken(answer: Any) -> None:
    """Terminal: another client id is a matter for a person."""
    async with AuthorizationServer() as up:
        house = await TokenWorld.make(up)
        await house.connect()
        up.token_answers = [answer]
        renewed = await house.tokens.renew("p")
        assert renewed.refusal is not None
        (failed,) = house.world.facts(AuthProfileFailed)
        assert failed.code == "client_rejected"
        await house.world.close()


async def test_refusals_of_an_unknown_kind_are_believed_at_the_fifth() -> None:
    """Five in a row; one of another kind between them begins anew."""
    async with AuthorizationServer() as up:
        house = await TokenWorld.make(up)
        await house.connect(life_s=100_000)
        for status in (400, 400, 503, 400, 400, 400, 400):
            up.token_answers = [(status, {}, b"{}")]
            await house.tokens.renew("p")
            assert house.world.facts(AuthProfileFailed) == []
        up.token_answers = [(418, {}, b"{}")]
        await house.tokens.renew("p")
        (failed,) = house.world.facts(AuthProfileFailed)
        assert failed.code == "client_rejected"
        await house.world.close()
