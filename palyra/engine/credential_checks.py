"""Whether a provider takes a credential: its model list, which costs nothing, asked once at the address it is for.

The same guarded transport as for requests: no redirect, no proxy, bounded in time and size. What is found out is
told; nothing is recorded or stored here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

import palyra
from palyra.config.flavors import FLAVORS, KINDS
from palyra.decisions.profiles import CheckCode, check_code, refusal_of_check
from palyra.errors import PalyraError, Refusal, TransportFailed
from palyra.events.registry import Registry
from palyra.providers.http import HttpProvider, HttpSettings
from palyra.providers.port import Answer, Call
from palyra.redaction import REDACTED, Secret, clean_message
from palyra.wire.netguard import UrlProblem, validate_base_url_network_policy
from palyra.wire.retry_after import read_retry_after_ms
from palyra.wire.upstream_errors import read_upstream_error

TOTAL_MS = 10_000
BODY_MAX_BYTES = 4 << 20
_PAUSES_S = (0.25, 1.0)
_ANTHROPIC_VERSION = {"anthropic-version": "2023-06-01"}
_PAUSE = Callable[[float], Awaitable[None]]


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where a credential is checked, and whose it then is."""

    #: Label of the profiles.
    provider: str
    settings: HttpSettings
    is_anthropic: bool
    #: Entries of the configuration that take these profiles there; none where nothing is configured yet.
    provider_ids: tuple[str, ...] = ()
    #: Those of them that have a key of their own, which goes before every profile.
    with_own_key: tuple[str, ...] = ()

    @property
    def audience(self) -> str:
        return self.settings.base.origin


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider said."""

    code: CheckCode
    models_count: int = 0
    http_status: int = 0
    retry_after_ms: int | None = None
    #: Its own words, cleaned and cut.
    said: str = ""

    @property
    def is_good(self) -> bool:
        return self.code == "connected"

    def refusal(self, provider: str) -> Refusal:
        return refusal_of_check(
            self.code,
            provider=provider,
            http_status=self.http_status,
            retry_after_ms=self.retry_after_ms,
            said=self.said,
        )


def find_target(registry: Registry, name: str) -> Target:
    """Return where a provider's credentials are checked: by an entry's name, its label, or as one that is known.

    Raises `PalyraError` (`provider_not_found`, `conflict`).
    """
    entries = [one for one in registry.providers if one.kind != "deterministic"]
    entry = next((one for one in entries if one.provider_id == name), None)
    entry = entry or next((one for one in entries if one.auth_provider_kind == name), None)
    if entry is not None:
        if entry.auth_scheme == "none":
            message = f"Provider {entry.provider_id} is asked without a key."
            hint = f'write auth_scheme = "bearer" into the entry of {entry.provider_id}'
            raise PalyraError(message, hint=hint, code="conflict")
        headers = {name: value for name, value in entry.headers.items() if value != REDACTED}
        settings = _settings(
            entry.base_url, entry.allow_private_base_url, entry.auth_scheme, headers=headers, ca_file=entry.ca_file
        )
        label = entry.auth_provider_kind
        sharing = [
            one
            for one in entries
            if (one.auth_provider_kind, one.audience) == (label, entry.audience) and one.auth_scheme != "none"
        ]
        return Target(
            provider=label,
            settings=settings,
            is_anthropic=entry.kind == "anthropic",
            provider_ids=tuple(one.provider_id for one in sharing),
            with_own_key=tuple(one.provider_id for one in sharing if one.credential_ref),
        )
    known = _known()
    if name not in known:
        names = ", ".join(dict.fromkeys([*(one.provider_id for one in entries), *known]))
        raise PalyraError(f"There is no provider {name}; there are: {names}.", code="provider_not_found")
    is_anthropic = name == "anthropic"
    settings = _settings(known[name], False, "x-api-key" if is_anthropic else "bearer")
    return Target(provider=name, settings=settings, is_anthropic=is_anthropic)


def _known() -> dict[str, str]:
    """Return where providers are that want a key and that everybody knows, by name."""
    rows = (*FLAVORS.items(), *KINDS.items())
    return {name: row.base_url for name, row in rows if row.base_url and row.key == "required"}


def _settings(base_url: str, allow_private: bool, auth_scheme: Any, **more: Any) -> HttpSettings:
    base = validate_base_url_network_policy(base_url, allow_private=allow_private)
    if isinstance(base, UrlProblem):
        raise PalyraError(f"The provider's address may not be dialled: {base.message}.", code="address_refused")
    user_agent = f"palyra/{palyra.__version__}"
    return HttpSettings(
        base=base, allow_private=allow_private, auth_scheme=auth_scheme, user_agent=user_agent, **more
    )


async def check_credential(target: Target, secret: Secret, now_us: int, pause: _PAUSE = asyncio.sleep) -> Checked:
    """Ask for the model list with a credential, up to three times where the provider cannot be reached."""
    provider = HttpProvider(target.settings)
    checked = Checked(code="provider_unavailable")
    try:
        async with asyncio.timeout(TOTAL_MS / 1_000):
            for pause_s in (*_PAUSES_S, None):
                checked, is_passing = await _ask(provider, target, secret, now_us)
                if not is_passing or pause_s is None:
                    break
                await pause(pause_s)
    except TimeoutError:
        checked = Checked(code="provider_unavailable", said="no answer in time")
    finally:
        await provider.close()
    return checked


async def _ask(provider: HttpProvider, target: Target, secret: Secret, now_us: int) -> tuple[Checked, bool]:
    """Ask once; also return whether another try may find the provider up."""
    call = Call(
        method="GET",
        path="/models?limit=1" if target.is_anthropic else "/models",
        headers=_ANTHROPIC_VERSION if target.is_anthropic else {},
        connect_timeout_ms=TOTAL_MS,
        first_byte_timeout_ms=TOTAL_MS,
        idle_timeout_ms=TOTAL_MS,
        total_timeout_ms=TOTAL_MS,
    )
    try:
        answer = await provider.send(call, secret)
    except TransportFailed as error:
        return _cut(error), error.phase == "connect" and error.failure_class != "netguard_blocked"
    try:
        body = await answer.body(BODY_MAX_BYTES)
    except TransportFailed as error:
        return _cut(error), False
    finally:
        await answer.close()
    return _read(answer, body, secret, now_us), answer.status in (502, 503, 504)


def _read(answer: Answer, body: bytes, secret: Secret, now_us: int) -> Checked:
    count = _listed_count(body) if 200 <= answer.status < 300 else None
    code = check_code(answer.status, has_list=count is not None)
    said = ""
    if code != "connected" and answer.status >= 400:
        error = read_upstream_error(answer.status, body, answer.headers.get("content-type", ""))
        said = clean_message(error.message, (secret.reveal(),))
    wait_ms = read_retry_after_ms(answer.headers, now_us) if code == "rate_limited" else None
    return Checked(code=code, models_count=count or 0, http_status=answer.status, retry_after_ms=wait_ms, said=said)


def _cut(error: TransportFailed) -> Checked:
    codes: dict[str, CheckCode] = {
        "redirect_refused": "redirect_refused",
        "netguard_blocked": "address_refused",
        "response_too_large": "unexpected_response",
        "malformed_response": "unexpected_response",
    }
    code = codes.get(error.failure_class, "provider_unavailable")
    return Checked(code=code, said=clean_message(error.message))


def _listed_count(body: bytes) -> int | None:
    """Return how many models a list names, None for what is no list."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return None
    data = found.get("data") if isinstance(found, dict) else None
    return len(data) if isinstance(data, list) else None
