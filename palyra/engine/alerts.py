"""The chore that looks for what somebody should know: each minute while something happens, at once for news."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from palyra.decisions.alerts import evaluate_alerts
from palyra.decisions.findings import Finding
from palyra.decisions.spend_alerts import spend_due_us
from palyra.engine.clock import due_us
from palyra.engine.core import Core
from palyra.events.alerts import AlertRaised
from palyra.events.base import Draft
from palyra.projections.alerts import open_alerts

_EVERY_US = 60 * 1_000_000
#: Facts that are looked at as soon as they are there.
_NEWS = (
    *("budget.soft_limit_crossed", "budget.hard_limit_reached", "circuit.opened", "price.missing"),
    *("config.adopted", "vault.damage_found", "vault.secret_deleted", "auth_profile.revoked"),
)


class AlertChore:
    """The look at everything that alerts are about. With nothing new and nothing open it comes to rest.

    `standing` finds what the state cannot know; `on_raised` is told of what was raised, once it is durable, and
    `on_change` of everything that was said about an alert.
    """

    def __init__(
        self,
        core: Core,
        *,
        standing: Callable[[], Sequence[Finding]] = tuple,
        on_raised: Callable[[AlertRaised], None] = lambda raised: None,
        on_change: Callable[[Draft], None] = lambda draft: None,
    ) -> None:
        self._core = core
        self._standing = standing
        self._on_raised = on_raised
        self._on_change = on_change
        self._position = -1
        self._news_count = 0
        self._done_us = 0

    def due_at_us(self) -> int | None:
        now_us = self._core.clock.now_us()
        if self._count_news() != self._news_count:
            return now_us
        if self._core.state.position == self._position and not open_alerts(self._core.state, now_us):
            return spend_due_us(self._core.state, self._done_us)
        return due_us(self._done_us, _EVERY_US, now_us)

    async def do(self) -> None:
        self._news_count = self._count_news()
        with self._core.batch() as batch:
            drafts = evaluate_alerts(self._core.state, batch.now_us, self._standing())
            batch.add(drafts)
        self._position, self._done_us = self._core.state.position, batch.now_us
        await batch.durable()
        self._tell(drafts)

    def _tell(self, drafts: Sequence[Draft]) -> None:
        for draft in drafts:
            self._on_change(draft)
            if isinstance(draft.body, AlertRaised):
                self._on_raised(draft.body)

    def _count_news(self) -> int:
        return sum(self._core.state.counts.get(name, 0) for name in _NEWS)
