"""Logins at a provider on a clock that a test moves: what becomes of one that nobody comes back for in time."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

import pytest
from authorization_server import CLIENT_ID, AuthorizationServer
from token_world import TokenWorld

from palyra.auth.oauth import Redirect, read_redirect
from palyra.config.tree import OAuthConfig
from palyra.decisions.profiles import Wish
from palyra.engine.console.changes import Desk, Order
from palyra.engine.oauth import OAuthDesk, Started
from palyra.errors import Refused
from palyra.events.oauth import OauthAttemptExpired
from palyra.projections.oauth import SHOWN_US
from palyra.units import US_PER_S

TTL_S = 600


class Login:
    """A login by pasting that was started in this world."""

    def __init__(self, house: TokenWorld, desk: OAuthDesk, order: Order, started: Started) -> None:
        self._desk = desk
        self._order = order
        self.attempt_id = started.attempt.attempt_id
        assert started.authorize_url is not None
        asked = dict(parse_qsl(urlsplit(started.authorize_url.reveal()).query))
        self.redirect: Redirect = read_redirect(urlsplit(house.up.allow(asked)).query)

    @classmethod
    async def start(cls, house: TokenWorld) -> Login:
        settings = OAuthConfig(
            authorize_url=f"{house.up.url}/oauth/authorize", token_url=f"{house.up.url}/oauth/token",
            revoke_url=f"{house.up.url}/oauth/revoke", client_id=CLIENT_ID, client_secret_vault_ref="",
            scopes=["openid", "offline_access"], redirect_uri="", extra_authorize_params={},
            attempt_ttl_ms=TTL_S * 1_000,
        )  # fmt: skip
        desk = OAuthDesk(house.core, house.vault, house.tokens, lambda: settings)
        order = Order(Desk(house.core, house.vault, tokens=house.tokens, oauth=desk), "operator:test")
        wish = Wish(provider="openai", profile_name="Work", suffix="abcdef")
        return cls(house, desk, order, await desk.start(order, mode="paste", wish=wish))

    async def come_back(self) -> str:
        """Paste the address, and return how the login has ended."""
        return (await self._desk.complete(self._order, self.attempt_id, self.redirect)).state


@pytest.mark.parametrize("is_swept", [False, True])
async def test_whoever_comes_back_too_late_exchanges_nothing(is_swept: bool) -> None:
    """With its time an attempt is over, whether the daemon has noticed yet or not; what was sealed for it goes."""
    async with AuthorizationServer() as up:
        house = await TokenWorld.make(up)
        login = await Login.start(house)
        assert house.due_in_s() == TTL_S
        house.pass_s(TTL_S)
        if is_swept:
            await house.tokens.do()
        assert await login.come_back() == "expired"
        await house.tokens.do()
        assert [type(one) for one in house.world.facts(OauthAttemptExpired)] == [OauthAttemptExpired]
        assert house.vault.vault.revisions() == []
        assert house.due_in_s() is None
        assert up.token_requests == []
        assert await login.come_back() == "expired"
        house.pass_s(SHOWN_US // US_PER_S)
        with pytest.raises(Refused) as caught:
            await login.come_back()
        assert caught.value.code == "attempt_not_found"
        await house.world.close()


async def test_whoever_comes_back_in_time_is_connected() -> None:
    """Up to the last moment; what is sealed then is the profile's."""
    async with AuthorizationServer() as up:
        house = await TokenWorld.make(up)
        login = await Login.start(house)
        house.pass_s(TTL_S - 1)
        assert await login.come_back() == "completed"
        assert [info.ref for info in house.vault.vault.revisions()] == ["global/auth.work-abcdef"]
        assert house.profile("work-abcdef").status == "active"
        await house.world.close()
