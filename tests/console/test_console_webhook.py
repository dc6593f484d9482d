"""Alerts that are told to a program: signed, in order, three tries, and nowhere where they may not go."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from console_house import Operator, open_console
from openai import APIStatusError

from palyra.config.load import load_given
from palyra.config.problems import ConfigProblems
from palyra.engine.webhook import PAUSES_MS, AlertWebhook, Untold
from palyra.errors import ConfigInvalid
from palyra.events.base import Draft

RULE: dict[str, Any] = {"scope_kind": "global", "metric_kind": "tokens", "interval_kind": "daily", "hard_limit": 0}
SECRET = "whsec_0123456789abcdef0123456789abcdef"


class Receiver:
    """Somebody's program; it answers with these statuses first, then 204."""

    def __init__(self) -> None:
        self.url = ""
        self.statuses: list[int] = []
        self.taken: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.news = asyncio.Event()

    async def take(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.read())
        self.taken.append(request)
        self.news.set()
        status = self.statuses.pop(0) if self.statuses else 204
        headers = {"location": f"{self.url}/elsewhere"} if status == 302 else {}
        return web.Response(status=status, headers=headers)

    async def wait_taken(self, count: int) -> None:
        while len(self.taken) < count:
            self.news.clear()
            await self.news.wait()


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """Run such a program."""
    one = Receiver()
    app = web.Application()
    app.router.add_post("/{path:.*}", one.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    one.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    try:
        yield one
    finally:
        await runner.cleanup()


async def stop_somebody(ask: Operator) -> None:
    """Let a rule stop a request, which is what somebody should know."""
    await ask("budgets/day", method="PUT", body={"rule": RULE})
    with pytest.raises(APIStatusError):
        await ask.say()


async def test_a_program_is_told_and_can_prove_by_whom(tmp_path: Path) -> None:
    """What the console shows goes out, signed with the second in which it does; what ends it goes out too."""
    vault_ref = {"webhook_secret_vault_ref": "global/hook"}
    async with (
        receiving() as receiver,
        open_console(tmp_path, {"alerts": {"webhook_url": receiver.url, **vault_ref}}) as ask,
    ):
        put = await ask("vault/secrets", method="PUT", body={"ref": "global/hook", "value": SECRET})
        assert put.status == 200
        await stop_somebody(ask)
        await receiver.wait_taken(1)
        body, headers = receiver.bodies[0], receiver.taken[0].headers
        parts = dict(part.split("=") for part in headers["x-palyra-signature"].split(","))
        proof = hmac.new(SECRET.encode(), parts["t"].encode() + b"." + body, hashlib.sha256).hexdigest()
        assert parts["v1"] == proof
        assert abs(int(parts["t"]) - ask.daemon.core.clock.now_us() // 10**6) < 60
        told = json.loads(body)
        assert (told["schema"], told["what"]) == ("palyra.alert/1", "raised")
        shown = (await ask("alerts")).json["items"][0]
        assert told["alert"] == shown
        assert headers["x-palyra-delivery"]
        assert SECRET not in body.decode() + str(dict(headers))


async def test_what_nobody_takes_is_tried_three_times(tmp_path: Path) -> None:
    """With longer pauses, by one name; a refusal for good ends it at once, and a redirect is not followed."""
    async with receiving() as receiver, open_console(tmp_path) as ask:
        await stop_somebody(ask)
        while not ask.daemon.core.state.alerts.by_id:
            await asyncio.sleep(0)
        pauses: list[float] = []
        untold: list[Untold] = []

        async def pause(seconds: float) -> None:
            pauses.append(seconds)

        hook = load_given({"alerts": {"webhook_url": receiver.url}}, {"HOME": "/"}, {}).config.alerts
        webhook = AlertWebhook(ask.daemon.core, ask.daemon.vault, lambda: hook, untold.append, pause=pause)
        (alert,) = ask.daemon.core.state.alerts.by_id.values()
        draft = _raised(alert)
        for statuses, tries, because in (
            ([500, 503], 3, ""),
            ([500, 503, 429], 3, "429"),
            ([404], 1, "404"),
            ([302, 302, 302], 3, "redirect_refused"),
        ):
            receiver.statuses, before = list(statuses), len(receiver.taken)
            untold.clear()
            webhook.tell(draft)
            while webhook.is_telling:
                await asyncio.sleep(0)
            names = {one.headers["x-palyra-delivery"] for one in receiver.taken[before:]}
            assert (len(receiver.taken) - before, len(names)) == (tries, 1)
            assert untold == ([Untold(alert.alert_id, tries, because)] if because else [])
            assert "x-palyra-signature" not in receiver.taken[-1].headers
        assert pauses[:2] == [PAUSES_MS[0] / 1_000, PAUSES_MS[1] / 1_000]
        receiver.statuses = []
        for _ in range(130):
            webhook.tell(draft)
        assert [one.because for one in untold[1:]] == ["too_many"] * (len(untold) - 1)
        await webhook.close()
        assert untold[-1].because == "stopped"


def _raised(alert: Any) -> Draft:
    return Draft(f"alert-{alert.alert_id}", alert.raised)


async def test_a_secret_that_is_not_there_sends_nothing(tmp_path: Path) -> None:
    """Unsigned news would be taken for somebody else's."""
    async with receiving() as receiver, open_console(tmp_path) as ask:
        await stop_somebody(ask)
        while not ask.daemon.core.state.alerts.by_id:
            await asyncio.sleep(0)
        tree = {"alerts": {"webhook_url": receiver.url, "webhook_secret_vault_ref": "global/none"}}
        hook = load_given(tree, {"HOME": "/"}, {}).config.alerts
        untold: list[Untold] = []
        webhook = AlertWebhook(ask.daemon.core, ask.daemon.vault, lambda: hook, untold.append)
        webhook.tell(_raised(next(iter(ask.daemon.core.state.alerts.by_id.values()))))
        while webhook.is_telling:
            await asyncio.sleep(0)
        assert [one.because for one in untold] == ["secret_not_found"]
        assert receiver.taken == []


@pytest.mark.parametrize(
    ("alerts", "key"),
    [
        ({"webhook_url": "http://example.com/hook"}, "alerts.webhook_url"),
        ({"webhook_url": "https://169.254.169.254/hook"}, "alerts.webhook_url"),
        ({"webhook_url": "https://10.0.0.1/hook"}, "alerts.webhook_url"),
        ({"webhook_url": "https://metadata.google.internal/hook"}, "alerts.webhook_url"),
        ({"webhook_url": "https://user:pw@example.com/hook"}, "alerts.webhook_url"),
        ({"webhook_url": "ftp://example.com/hook"}, "alerts.webhook_url"),
        ({"webhook_secret_vault_ref": "global/hook"}, "alerts.webhook_secret_vault_ref"),
        (
            {"webhook_url": "https://example.com/hook", "webhook_secret_vault_ref": "sk-1"},
            "alerts.webhook_secret_vault_ref",
        ),
    ],
)
def test_where_it_may_not_go_is_refused_with_the_key(alerts: dict[str, str], key: str) -> None:
    """Plain http leaves this machine nowhere, private and metadata addresses are no place for it."""
    with pytest.raises(ConfigInvalid) as refused:
        load_given({"alerts": alerts}, {"HOME": "/"}, {})
    assert isinstance(refused.value, ConfigProblems)
    assert [one.key for one in refused.value.problems] == [key]
