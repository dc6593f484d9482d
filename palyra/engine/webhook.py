"""Alerts told to somebody's own program: signed, three tries each, in their order, and never in anybody's way.

What is sent is what the console shows. An address is judged by the guard when it is dialled, as of any provider; no
redirect is followed. What could not be told is a line in the log: the alert itself stands in the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

import msgspec

import palyra
from palyra.engine.core import Core
from palyra.engine.questions import alert_answer
from palyra.engine.vault import VaultKeeper, ref_of
from palyra.errors import PalyraError, TransportFailed
from palyra.events.alerts import AlertAcknowledged, AlertCleared, AlertRaised
from palyra.events.base import Draft
from palyra.providers.http import HttpProvider, HttpSettings
from palyra.providers.port import Call
from palyra.redaction import Secret
from palyra.units import US_PER_S, ms_to_s
from palyra.wire.netguard import BaseUrl, classify_address, endpoint_url, is_literal, is_local_name

#: Pauses before the second and the third try.
PAUSES_MS = (1_000, 5_000)
_TOTAL_MS = 10_000
#: News that wait to be told; of more, the oldest are let go.
_WAITING_MAX_COUNT = 100
_ANSWER_MAX_BYTES = 64 * 1024
#: Answers of 4xx that another try may change.
_PASSING = (408, 425, 429)
_WORDS: dict[type, str] = {AlertRaised: "raised", AlertCleared: "cleared", AlertAcknowledged: "acknowledged"}


class WebhookSettings(Protocol):
    """`[alerts]`."""

    @property
    def webhook_url(self) -> str: ...

    @property
    def webhook_secret_vault_ref(self) -> str: ...


class Untold(NamedTuple):
    """News that nobody took."""

    alert_id: str
    tries_count: int
    #: HTTP status, or the class of what went wrong.
    because: str


class _News(NamedTuple):
    delivery_id: str
    alert_id: str
    body: bytes


class AlertWebhook:
    """Tells one program of alerts, as they change."""

    def __init__(
        self,
        core: Core,
        vault: VaultKeeper,
        settings: Callable[[], WebhookSettings],
        on_untold: Callable[[Untold], None],
        *,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`settings` returns what is in force."""
        self._core = core
        self._vault = vault
        self._settings = settings
        self._on_untold = on_untold
        self._pause = pause
        self._waiting: deque[_News] = deque()
        self._task: asyncio.Task[None] | None = None

    def tell(self, draft: Draft) -> None:
        """Take news of an alert, once they are durable; they are told when it is their turn."""
        word = _WORDS.get(type(draft.body))
        alert_id = draft.stream.removeprefix("alert-")
        alert = self._core.state.alerts.by_id.get(alert_id)
        if not self._settings().webhook_url or word is None or alert is None:
            return
        now_us = self._core.clock.now_us()
        told = {
            "schema": "palyra.alert/1",
            "what": word,
            "journal_id": self._core.journal.journal_id,
            "alert": alert_answer(alert, now_us),
        }
        if len(self._waiting) >= _WAITING_MAX_COUNT:
            self._on_untold(Untold(self._waiting.popleft().alert_id, 0, "too_many"))
        self._waiting.append(_News(self._core.ids.ulid(now_us), alert_id, msgspec.json.encode(told)))
        if not self.is_telling:
            self._task = asyncio.create_task(self._tell_all(), name="alert webhook")

    @property
    def is_telling(self) -> bool:
        """Whether news are on their way."""
        return self._task is not None and not self._task.done()

    async def close(self) -> None:
        """Stop telling; what waits is not told any more."""
        if self._task is not None and self.is_telling:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for news in self._waiting:
            self._on_untold(Untold(news.alert_id, 0, "stopped"))
        self._waiting.clear()

    async def _tell_all(self) -> None:
        while self._waiting:
            news = self._waiting.popleft()
            try:
                untold = await self._tell_one(news)
            except asyncio.CancelledError:
                self._waiting.appendleft(news)
                raise
            except PalyraError as error:  # the secret is not there
                untold = Untold(news.alert_id, 0, error.code)
            if untold is not None:
                self._on_untold(untold)

    async def _tell_one(self, news: _News) -> Untold | None:
        """Try until it is taken, or not taken for good."""
        for number, pause_ms in enumerate((*PAUSES_MS, None), 1):
            because = await self._post(news)
            if not because:
                return None
            is_final = because.isdigit() and because.startswith("4") and int(because) not in _PASSING
            if pause_ms is None or is_final:
                return Untold(news.alert_id, number, because)
            await self._pause(ms_to_s(pause_ms))
        raise AssertionError("the last try returns")

    async def _post(self, news: _News) -> str:
        """Send news once; return "" where it was taken, else why it was not. Raises `PalyraError`."""
        settings = self._settings()
        base = endpoint_url(settings.webhook_url)
        if not isinstance(base, BaseUrl):
            return "no_address"  # it was taken out of the configuration meanwhile
        is_here = is_local_name(base.host) or (is_literal(base.host) and classify_address(base.host) == "loopback")
        provider = HttpProvider(
            HttpSettings(
                base=base, allow_private=is_here, auth_scheme="none", user_agent=f"palyra/{palyra.__version__}"
            )
        )
        headers = {"x-palyra-delivery": news.delivery_id, "x-palyra-event": "alert"}
        if settings.webhook_secret_vault_ref:
            secret = self._secret(settings.webhook_secret_vault_ref)
            headers["x-palyra-signature"] = signature_of(secret, self._core.clock.now_us(), news.body)
        call = Call(
            path="",
            headers=headers,
            body=news.body,
            connect_timeout_ms=_TOTAL_MS,
            first_byte_timeout_ms=_TOTAL_MS,
            idle_timeout_ms=_TOTAL_MS,
            total_timeout_ms=_TOTAL_MS,
        )
        try:
            answer = await provider.send(call, None)
            try:
                await answer.body(_ANSWER_MAX_BYTES)
            finally:
                await answer.close()
        except TransportFailed as failed:
            return failed.failure_class
        finally:
            await provider.close()
        return "" if 200 <= answer.status < 300 else str(answer.status)

    def _secret(self, reference: str) -> Secret:
        known = self._core.state.vault.secrets.get(reference)
        opened = self._vault.opened(ref_of(reference), 0 if known is None else known.revision)
        if opened.secret is None:
            message = f"{reference} holds no text that could sign."
            raise PalyraError(message, hint=f"palyra vault put {reference}", code="secret_not_found")
        self._core.known.hold(f"webhook:{reference}", opened.secret)
        return opened.secret


def signature_of(secret: Secret, at_us: int, body: bytes) -> str:
    """Return what proves that news are new and ours: HMAC-SHA256 over the second, a point, and the body."""
    at_s = at_us // US_PER_S
    digest = hmac.new(secret.reveal().encode(), b"%d." % at_s + body, hashlib.sha256).hexdigest()
    return f"t={at_s},v1={digest}"
