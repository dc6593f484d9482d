"""The token endpoint of a provider, asked over the guarded transport: no redirect, no proxy, one try, 10 s.

What it answers is told as values; nothing is recorded or stored here, and nothing of its words is repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import palyra
from palyra.auth.oauth import ANSWER_MAX_BYTES, BadTokenAnswer, Tokens, read_error, read_tokens
from palyra.decisions.tokens import TokenRefusal
from palyra.errors import TransportFailed
from palyra.providers.http import HttpProvider, HttpSettings
from palyra.providers.port import Call
from palyra.redaction import Secret
from palyra.wire.netguard import BaseUrl, endpoint_url
from palyra.wire.retry_after import read_retry_after_ms

T = TypeVar("T")
TOTAL_MS = 10_000
_FORM = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}


async def ask_tokens(url: str, body: Secret, now_us: int) -> Tokens | TokenRefusal:
    """Send a form to a token endpoint and return what it gave, or how it refused."""
    answered = await _post(url, body, now_us, read_tokens)
    if isinstance(answered, BadTokenAnswer):
        return TokenRefusal(status=200)
    return answered


async def give_back(url: str, body: Secret, now_us: int) -> TokenRefusal | None:
    """Have a token revoked (RFC 7009); return None where that is done: a token nobody knows is as good as gone."""
    answered = await _post(url, body, now_us, lambda data: None)
    assert not isinstance(answered, BadTokenAnswer)
    return answered


async def _post(
    url: str, body: Secret, now_us: int, read: Callable[[bytes], T]
) -> T | TokenRefusal | BadTokenAnswer:
    base = endpoint_url(url)
    if not isinstance(base, BaseUrl):
        return TokenRefusal()
    provider = HttpProvider(
        HttpSettings(
            base=base,
            allow_private=base.scheme == "http",
            auth_scheme="none",
            user_agent=f"palyra/{palyra.__version__}",
        )
    )
    call = Call(
        path="",
        headers=_FORM,
        body=body.reveal().encode(),
        connect_timeout_ms=TOTAL_MS,
        first_byte_timeout_ms=TOTAL_MS,
        idle_timeout_ms=TOTAL_MS,
        total_timeout_ms=TOTAL_MS,
    )
    try:
        answer = await provider.send(call, None)
        try:
            data = await answer.body(ANSWER_MAX_BYTES)
        finally:
            await answer.close()
    except TransportFailed:
        return TokenRefusal()
    finally:
        await provider.close()
    if not 200 <= answer.status < 300:
        return TokenRefusal(
            status=answer.status,
            error=read_error(data),
            retry_after_ms=read_retry_after_ms(answer.headers, now_us),
        )
    try:
        return read(data)
    except BadTokenAnswer as bad:
        return bad
