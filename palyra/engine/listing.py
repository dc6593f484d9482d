"""Asking a provider for its list of models: free, with a deadline of its own, page by page where there are pages.

Everything that only wants to know how a provider does (probes, discovery, a test by hand) goes through here, so
that none of it can spend money.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

from palyra.decisions.credentials import USABLE, needs_credential, rank
from palyra.decisions.failures import classify
from palyra.engine.clock import Clock
from palyra.errors import PalyraError, TransportFailed
from palyra.events.discovery import ListedModel
from palyra.events.registry import ProviderEntry
from palyra.limits import FOREIGN_MESSAGE_MAX_CHARS, MODEL_LIST_MAX_BYTES, UPSTREAM_ERROR_MAX_BYTES
from palyra.projections.auth import live_revision
from palyra.projections.state import State
from palyra.providers.port import Answer, Call, Provider
from palyra.redaction import Secret
from palyra.units import us_to_ms
from palyra.wire.errors import Malformed
from palyra.wire.model_lists import ModelPage, read_model_page
from palyra.wire.upstream_errors import read_upstream_error

LIST_TIMEOUT_MS = 10_000
PAGES_MAX_COUNT = 20
MODELS_MAX_COUNT = 10_000
_ANTHROPIC_VERSION = "2023-06-01"
#: Where a list may be missing although the provider is fine.
_NO_LIST = (404, 405)


class Outward(Protocol):
    """Providers and secrets, as runs get them too."""

    def provider(self, provider_id: str) -> Provider: ...

    def secret(self, provider_id: str, credential_ref: str, revision: int) -> Secret | None: ...


class Listing(NamedTuple):
    """What came of asking."""

    result: Literal["ok", "failed", "unsupported"]
    models: list[ListedModel]
    dropped_count: int
    latency_ms: int
    failure_class: str = ""
    message: str = ""


class _Failed(Exception):
    def __init__(self, failure_class: str, message: str) -> None:
        super().__init__(message)
        self.failure_class = failure_class


class ModelLists:
    """Asks the providers of a state for their lists."""

    def __init__(self, outward: Outward, state: Callable[[], State], clock: Clock) -> None:
        self._outward = outward
        self._state = state
        self._clock = clock

    async def ask(self, provider: ProviderEntry, *, pages_count: int = PAGES_MAX_COUNT) -> Listing:
        """Return a provider's list, at most so many pages of it, or why there is none; raises nothing."""
        started_us = self._clock.monotonic_us()
        models: dict[str, ListedModel] = {}
        dropped_count, after = 0, ""
        result: Literal["ok", "failed", "unsupported"] = "ok"
        failure_class = message = ""
        try:
            for _ in range(pages_count):
                page = await self._page(provider, after)
                if page is None:
                    result = "unsupported"
                    break
                dropped_count += page.dropped_count
                for entry in page.entries:
                    if len(models) >= MODELS_MAX_COUNT:
                        dropped_count += 1
                    else:
                        models[entry.upstream_model] = ListedModel(
                            upstream_model=entry.upstream_model,
                            role=entry.role,
                            max_context_tokens=entry.max_context_tokens,
                            max_output_tokens=entry.max_output_tokens,
                        )
                if not page.next_after or page.next_after == after:
                    break
                after = page.next_after
        except _Failed as failed:
            result, failure_class, message = "failed", failed.failure_class, str(failed)
        latency_ms = us_to_ms(self._clock.monotonic_us() - started_us)
        return Listing(result, list(models.values()), dropped_count, latency_ms, failure_class, message)

    async def _page(self, provider: ProviderEntry, after: str) -> ModelPage | None:
        """Return one page, None where there is no list; raises `_Failed`."""
        secret = self._secret(provider)
        call = Call(
            method="GET",
            path=f"/models?after={after}&after_id={after}" if after else "/models",
            headers={"anthropic-version": _ANTHROPIC_VERSION} if provider.kind == "anthropic" else {},
            connect_timeout_ms=min(provider.connect_timeout_ms, LIST_TIMEOUT_MS),
            first_byte_timeout_ms=LIST_TIMEOUT_MS,
            idle_timeout_ms=LIST_TIMEOUT_MS,
            total_timeout_ms=LIST_TIMEOUT_MS,
        )
        try:
            answer = await self._outward.provider(provider.provider_id).send(call, secret)
            try:
                return await _read(answer)
            finally:
                await answer.close()
        except TransportFailed as error:
            raise _Failed(error.failure_class, error.message) from error
        except Malformed as error:
            raise _Failed("malformed_response", str(error)) from error

    def _secret(self, provider: ProviderEntry) -> Secret | None:
        """Return the credential that the next request would be sent with; one that is cooling will do as well."""
        if not needs_credential(provider):
            return None
        state = self._state()
        ranked = rank(state, provider, "", now_us=self._clock.now_us())
        usable = [one for one in ranked if one.verdict.name in (*USABLE, "cooling_down")]
        if not usable:
            raise _Failed("missing_credential", "no credential of this provider can be used")
        ref = min(usable, key=lambda one: one.verdict.name == "cooling_down").credential_ref
        try:
            return self._outward.secret(provider.provider_id, ref, live_revision(state, ref))
        except PalyraError as error:
            raise _Failed("missing_credential", str(error)) from error


async def _read(answer: Answer) -> ModelPage | None:
    if answer.status == 200:
        return read_model_page(await answer.body(MODEL_LIST_MAX_BYTES))
    if answer.status in _NO_LIST:
        return None
    body = await answer.body(UPSTREAM_ERROR_MAX_BYTES)
    error = read_upstream_error(answer.status, body, answer.headers.get("content-type", ""))
    failure_class = classify(
        error.status,
        error_type=error.type,
        code=error.code,
        message=error.message,
        has_retry_after="retry-after" in answer.headers,
    )
    raise _Failed(failure_class, error.message[:FOREIGN_MESSAGE_MAX_CHARS])
