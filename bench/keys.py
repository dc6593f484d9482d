"""What looking a key up adds to a request: `python bench/keys.py` prints the best of several rounds.

Beside nothing configured (`auth.anonymous_client = "loopback"`, a request without a key) stand a plain key, one
with every binding, and those that open nothing: an unknown id should cost what a wrong secret costs.
"""

from __future__ import annotations

import asyncio
import timeit
from collections.abc import Callable

from palyra.auth.keys import make_key
from palyra.decisions.arrivals import read_attribution
from palyra.decisions.key_changes import KeyWish, issue
from palyra.decisions.key_text import KeyText
from palyra.decisions.keys import ALL_SCOPES, Caller, authorize
from palyra.engine.access import Access
from palyra.engine.core import Core
from palyra.journal.memory import MemoryJournal
from palyra.projections.keys import KeyLimits
from palyra.projections.state import State

_ROUNDS, _TIMES, _KEYS_COUNT = 7, 20_000, 1_000
_PEER = "127.0.0.1"


def best_us(run: Callable[[], object]) -> float:
    """Return the time of one call of `run`."""
    return min(timeit.repeat(run, number=_TIMES, repeat=_ROUNDS)) / _TIMES * 1e6


async def main() -> None:
    core = Core(MemoryJournal(journal_id="01BENCH", now_us=1), State())
    access = Access(core, anonymous="loopback")

    async def issued(number: int | None = None, **wish: object) -> str:
        key = make_key("client", number)
        text = KeyText(key.kind, key.key_id, key.verifier)
        decision = issue(core.state, KeyWish(**wish), text, ALL_SCOPES, core.clock.now_us())  # type: ignore[arg-type]
        await core.record(decision.drafts)
        return key.secret.reveal()

    for number in range(_KEYS_COUNT):
        await issued(name=f"other {number}")
    plain = await issued(number=1 << 256 | 1, name="plain")
    limits = KeyLimits(requests_per_minute=10**9, tokens_per_minute=10**9, concurrent_runs=10**6)
    bound = await issued(
        name="bound", agents=["a"], default_agent="a", session="s", allowed_cidrs=["127.0.0.0/8"], limits=limits
    )
    wrong = make_key("client", 1 << 256 | 2).secret.reveal()

    def way_in(headers: dict[str, str]) -> Callable[[], None]:
        def run() -> None:
            caller = access.identify(headers, _PEER)
            if isinstance(caller, Caller):
                authorize(caller, "v1:chat", _PEER)
                read_attribution(headers, caller)
                passage = access.pass_through(caller)
                if passage is not None:
                    passage.end()  # type: ignore[union-attr]

        return run

    base = best_us(way_in({}))
    print(f"{'no key, nothing configured':32}{base:7.2f} us")
    for name, key in [
        ("plain key", plain),
        ("key with every binding and limit", bound),
        ("mistyped key", plain[:-1] + "!"),
        ("unknown key", make_key("client").secret.reveal()),
        ("wrong secret of a known id", wrong),
    ]:
        took = best_us(way_in({"authorization": f"Bearer {key}"}))
        print(f"{name:32}{took:7.2f} us   {took - base:+7.2f} us")
    await core.stop()


if __name__ == "__main__":
    asyncio.run(main())
