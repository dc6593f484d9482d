"""The configuration of a daemon that runs: read again, compared, and adopted between two commands or not at all.

What decisions choose from is in force with the fact that says so; what the daemon itself obeys follows in the same
step of the loop. An open run keeps what it has: an attempt that is under way ends at the provider it was sent to.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from palyra.config.load import LoadedConfig, load_given
from palyra.config.problems import ConfigProblems
from palyra.config.reload import merge
from palyra.config.tree import Config
from palyra.daemon.requests import GatewayLimits
from palyra.daemon.tls import hosts_of
from palyra.decisions.config import reject
from palyra.decisions.pricing import adopt_prices
from palyra.engine.adoptable import Adoptable, adoptable_of
from palyra.engine.budgets import adopt_file_policies
from palyra.engine.console.changes import Order
from palyra.engine.console.config import ReloadAnswer
from palyra.engine.content import ContentRules
from palyra.engine.core import Core
from palyra.engine.prices import PriceList, make_price_list, renew_prices
from palyra.engine.runs import Runs
from palyra.errors import ConfigInvalid, PalyraError
from palyra.events.config import ConfigProblem
from palyra.limits import FOREIGN_MESSAGE_MAX_CHARS
from palyra.outside import Outside
from palyra.projections.catalog import registry_once_adopted
from palyra.providers.port import Provider
from palyra.providers.registry import close_all
from palyra.redaction import redact_text
from palyra.watching import Digests, digests_of

#: What stands for a key where a program that embeds a gateway writes nothing.
_EMBEDDED = {"daemon.port": 0}


class Adoption:
    """What is in force, and how something else comes to be."""

    def __init__(
        self,
        loaded: LoadedConfig,
        load: Callable[[], LoadedConfig] | None,
        *,
        outside: Outside,
        runs: Runs,
        obey: Callable[[Config], None],
        obey_below: Callable[[Config], Awaitable[None]],
    ) -> None:
        """`load` reads the configuration as at the start; None where it was handed over as it stands.

        `obey` lets the daemon act by another one in the same step, `obey_below` the journal once that is durable.
        """
        self.config = loaded.config
        #: The files that were read last, as they were.
        self.files: Digests = digests_of(loaded)
        self._load = load
        self._outside = outside
        self._runs = runs
        self._obey = obey
        self._obey_below = obey_below
        self._turn = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    async def reload(self, order: Order) -> ReloadAnswer:
        """Read the configuration again and adopt it, or raise `ConfigInvalid` and keep the one in force.

        Problems are recorded once; where nothing is different nothing is.
        """
        if self._load is None:
            message = "This daemon was handed its configuration and has nothing to read it from."
            raise PalyraError(message, code="conflict")
        async with self._turn:
            try:
                loaded = await asyncio.to_thread(self._load)
                self.files = digests_of(loaded)
                merged = merge(self.config, loaded.config)
                adoptable = adoptable_of(merged.config, loaded.sources)
                registry = registry_once_adopted(order.core.state, adoptable.registry)
                prices = await make_price_list(registry, adoptable.overrides)
            except ConfigInvalid as error:
                await order.record(reject(order.core.state, problems_of(error)))
                raise
            return await self._adopt(order, merged.config, adoptable, merged.pending, prices)

    async def renew_prices(self, core: Core) -> None:
        """Price the models that providers list by now."""
        async with self._turn:
            await renew_prices(core, self.config.pricing.overrides)

    async def _adopt(
        self, order: Order, config: Config, adoptable: Adoptable, pending: list[str], prices: PriceList
    ) -> ReloadAnswer:
        state = order.core.state
        drafts = adoptable.adoption(state, pending=pending)
        if drafts:
            noted = order.note(drafts)
            order.note(adopt_prices(state, **prices._asdict()))
            order.note(self._runs.cache.obey(state.catalog.registry))
            left = self._outside.adopt(config.model_provider.registry.providers)
            self.config = config
            self._obey(config)
            self._close_later(left)
            await noted.durable()
            await self._obey_below(config)
            await adopt_file_policies(order.core, adoptable.policies)
        newest = state.config.history[-1]
        return ReloadAnswer(
            outcome="adopted" if drafts else "unchanged",
            generation=newest.generation,
            changed=newest.changed if drafts else [],
            pending_restart_keys=state.config.pending,
        )

    def _close_later(self, left: list[Provider]) -> None:
        """Close providers that are in use no more, once the runs that may still use them have ended."""
        if not left:
            return
        tasks = [run.task for run in self._runs.open.values()]

        async def close() -> None:
            if tasks:
                await asyncio.wait(tasks)
            await close_all(left)

        closing = asyncio.create_task(close(), name="close providers")
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close what is left; no run is open any more."""
        if self._closing:
            await asyncio.wait(self._closing)


def stall_bases_of(config: Config) -> dict[str, int]:
    """Return after how many milliseconds of silence work is suspect, by its kind."""
    after_ms = config.self_healing.stalls_after_ms
    return {"run": after_ms.run, "loop": after_ms.loop}


def content_rules_of(config: Config) -> ContentRules:
    """Return whose texts are kept, and how long."""
    privacy = config.privacy
    return ContentRules(
        is_on=privacy.capture_content == "on",
        days_count=privacy.content_days,
        max_bytes=privacy.content_max_bytes,
        principals=frozenset(privacy.capture_principals),
    )


def limits_of(config: Config, *, is_tls: bool) -> GatewayLimits:
    """Return what the gateway takes in."""
    return GatewayLimits(
        max_request_bytes=config.model_provider.max_request_bytes,
        max_inflight_bytes=config.model_provider.max_inflight_bytes,
        max_audio_bytes=config.model_provider.max_audio_bytes,
        extra_hosts=hosts_of(config),
        cors_origins=config.daemon.cors_origins,
        trusted_proxies=config.daemon.trusted_proxies,
        is_tls=is_tls,
        is_strict=is_tls and bool(config.daemon.public_url),
    )


def problems_of(error: ConfigInvalid) -> list[ConfigProblem]:
    """Return what keeps a configuration from being adopted, as facts may hold it."""
    if not isinstance(error, ConfigProblems):
        return [ConfigProblem(code=error.code, message=_short(str(error)))]
    return [
        ConfigProblem(
            code=problem.code, key=problem.key, place=_short(problem.source.place), message=_short(problem.message)
        )
        for problem in error.problems
        if problem.severity == "error"
    ]


def _short(text: str) -> str:
    return redact_text(text)[:FOREIGN_MESSAGE_MAX_CHARS]


def load_embedded(
    config: Mapping[str, Any] | str | os.PathLike[str] | None, environ: Mapping[str, str]
) -> LoadedConfig:
    """Read what a program that embeds a gateway has given it; raises `ConfigProblems`."""
    given = config if config is None or isinstance(config, Mapping) else Path(config).expanduser()
    return load_given(given, environ, _EMBEDDED)
