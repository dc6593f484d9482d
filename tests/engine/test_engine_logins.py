"""Console sessions over time: how long they live, how many there are, and how long failed logins wait."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from test_engine_access import HandClock

from palyra.auth.keyfiles import read_key_file
from palyra.decisions.arrivals import Peer
from palyra.engine.access import Access
from palyra.engine.codec import to_recorded
from palyra.engine.core import Core
from palyra.engine.ids import SeededIds
from palyra.engine.logins import (
    CODE_LIFE_US,
    IDLE_US,
    LIFE_US,
    SESSIONS_MAX_COUNT,
    Holder,
    LoggedIn,
    Logins,
)
from palyra.engine.rates import Bucket, LoginLock, PeerFailures, failing_delay_ms
from palyra.errors import Refusal
from palyra.events.console_sessions import ConsoleSessionEnded
from palyra.journal.memory import MemoryJournal
from palyra.journal.writer import JournalOptions
from palyra.projections.state import State
from palyra.units import US_PER_S

HERE = Peer("127.0.0.1", is_secure=False)
LOCAL = Holder(principal_id="operator:local")


class Hall:
    """Logins over a journal in memory, with a clock that a test moves."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.journal = MemoryJournal(journal_id="01HALL", now_us=1, options=JournalOptions(lazy_append_ms=1))
        self.core = Core(self.journal, State(), clock=self.clock, ids=SeededIds(1))
        self.logins = Logins(self.core)

    async def enter(self, peer: Peer = HERE) -> LoggedIn:
        code, _ = self.logins.make_code(LOCAL)
        entered = await self.logins.log_in("login_code", code.reveal(), peer)
        assert isinstance(entered, LoggedIn)
        return entered

    async def ends(self) -> list[str]:
        await self.core.durable()
        bodies = [to_recorded(row).body for row in self.journal.rows]
        return [body.reason for body in bodies if isinstance(body, ConsoleSessionEnded)]


async def test_a_session_that_is_used_lives_half_a_day() -> None:
    """Each use keeps it alive, up to its absolute end."""
    hall = Hall()
    cookie = (await hall.enter()).cookie.reveal()
    until_us = hall.clock.us + LIFE_US
    while hall.clock.us + IDLE_US - 1 < until_us:
        hall.clock.us += IDLE_US - 1
        assert hall.logins.find(cookie) is not None
    hall.clock.us = until_us
    assert hall.logins.find(cookie) is None
    assert await hall.ends() == ["expired"]
    await hall.core.stop()


async def test_an_idle_session_ends() -> None:
    """Half an hour without a request ends it; one that looks at the list ends it as well."""
    hall = Hall()
    first, second = await hall.enter(), await hall.enter()
    hall.clock.us += IDLE_US - 1
    assert hall.logins.find(first.cookie.reveal()) is first.session
    hall.clock.us += 1
    assert hall.logins.sessions() == [first.session]
    assert hall.logins.find(second.cookie.reveal()) is None
    assert await hall.ends() == ["idle"]
    await hall.core.stop()


async def test_the_least_recently_used_session_makes_room() -> None:
    """There are never more than so many."""
    hall = Hall()
    entered = [await hall.enter() for _ in range(SESSIONS_MAX_COUNT)]
    assert hall.logins.find(entered[0].cookie.reveal()) is not None
    await hall.enter()
    assert hall.logins.find(entered[1].cookie.reveal()) is None
    assert hall.logins.find(entered[0].cookie.reveal()) is not None
    assert len(hall.logins.sessions()) == SESSIONS_MAX_COUNT
    assert await hall.ends() == ["evicted"]
    await hall.core.stop()


async def test_a_code_is_short_lived() -> None:
    """A minute, and only so many at a time: the oldest make room."""
    hall = Hall()
    code, until_us = hall.logins.make_code(LOCAL)
    assert until_us == hall.clock.us + CODE_LIFE_US
    hall.clock.us = until_us
    refusal = await hall.logins.log_in("login_code", code.reveal(), HERE)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "invalid_login"
    codes = [hall.logins.make_code(LOCAL)[0] for _ in range(70)]
    assert isinstance(await hall.logins.log_in("login_code", codes[0].reveal(), HERE), Refusal)
    assert isinstance(await hall.logins.log_in("login_code", codes[-1].reveal(), HERE), LoggedIn)
    await hall.core.stop()


async def test_a_session_may_do_what_its_key_may(tmp_path: Path) -> None:
    """It is asked anew each time, for a key's scopes may have become fewer."""
    hall = Hall()
    paths = SimpleNamespace(admin_token=tmp_path / "admin.token", client_key=tmp_path / "client.key")
    await Access(hall.core).ensure_keys(paths)
    token = read_key_file(paths.admin_token)
    assert token is not None
    entered = await hall.logins.log_in("token", f" {token.reveal()}\n", HERE)
    assert isinstance(entered, LoggedIn)
    holder = entered.session.holder
    assert "keys:manage" in hall.logins.scopes_of(holder)
    hall.core.state.keys.by_id[holder.key_id].scopes = ["observe"]
    assert hall.logins.scopes_of(holder) == ["observe"]
    await hall.core.stop()


@pytest.mark.parametrize(
    ("peer", "is_let_in"),
    [
        (Peer("127.0.0.1", is_secure=False), True),
        (Peer("10.0.0.1", is_secure=True), True),
        (Peer("10.0.0.1", is_secure=False), False),
        (Peer("8.8.8.8", is_secure=False), False),
        (Peer("", is_secure=False), False),
    ],
)
async def test_a_login_from_elsewhere_needs_tls(peer: Peer, is_let_in: bool) -> None:
    """A right code over a plain connection from another machine is refused, and stays good."""
    hall = Hall()
    code, _ = hall.logins.make_code(LOCAL)
    answer = await hall.logins.log_in("login_code", code.reveal(), peer)
    assert isinstance(answer, LoggedIn) == is_let_in
    if isinstance(answer, Refusal):
        assert answer.code == "insecure_login"
        assert isinstance(await hall.logins.log_in("login_code", code.reveal(), HERE), LoggedIn)
    await hall.core.stop()


async def test_failed_logins_wait_longer_and_longer() -> None:
    """From the fifth in a quarter of an hour on, also with a right code, which stays good."""
    hall = Hall()
    for _ in range(5):
        assert isinstance(await hall.logins.log_in("token", "wrong", HERE), Refusal)
    code, _ = hall.logins.make_code(LOCAL)
    locked = await hall.logins.log_in("login_code", code.reveal(), HERE)
    assert isinstance(locked, Refusal)
    assert (locked.code, locked.retry_after_ms) == ("login_locked", 1_000)
    hall.clock.us += US_PER_S
    assert isinstance(await hall.logins.log_in("login_code", code.reveal(), HERE), LoggedIn)
    await hall.core.stop()


def test_the_wait_doubles() -> None:
    """1, 2, 4 ... 60 s after the last failure of this peer; other peers do not wait."""
    lock = LoginLock()
    now_us = US_PER_S
    for number in range(1, 14):
        lock.note("a", now_us)
        wait_ms = lock.wait_ms("a", now_us)
        assert wait_ms == (0 if number < 5 else min(60, 2 ** (number - 5)) * 1_000)
        assert lock.wait_ms("b", now_us) == 0
        now_us += wait_ms * 1_000
        assert lock.wait_ms("a", now_us) == 0
    lock.forget("a")
    lock.note("a", now_us)
    assert lock.wait_ms("a", now_us) == 0


def test_many_failures_of_many_make_everybody_wait() -> None:
    """Thirty in a minute: nobody logs in until the oldest is a minute old."""
    lock = LoginLock()
    for number in range(30):
        assert lock.wait_ms("me", number * US_PER_S) == 0
        lock.note(f"peer-{number}", number * US_PER_S)
    assert lock.wait_ms("me", 29 * US_PER_S) == 31_000
    assert lock.wait_ms("me", 60 * US_PER_S) == 0


def test_failures_are_counted_of_the_newest_peers_only() -> None:
    """Nobody fills the memory with addresses."""
    failures = PeerFailures(60 * US_PER_S)
    for number in range(2_000):
        failures.note(str(number), 0)
    assert failures.of("0", 0) == (0, 0)
    assert failures.of("1999", 0) == (1, 0)
    assert failures.of("1999", 60 * US_PER_S) == (0, 0)


@pytest.mark.parametrize(("count", "delay_ms"), [(19, 0), (20, 1_000), (40, 2_000), (100, 5_000), (10_000, 5_000)])
def test_a_failing_answer_comes_late(count: int, delay_ms: int) -> None:
    """From one to five seconds."""
    assert failing_delay_ms(count) == delay_ms


def test_a_bucket_fills_evenly() -> None:
    """So many at once, then one each share of a minute; what was taken too much is paid off, or given back."""
    bucket = Bucket(60, 3, 0)
    for _ in range(3):
        assert bucket.wait_ms(1, 0) == 0
        bucket.take(1, 0)
    assert (bucket.left(0), bucket.wait_ms(1, 0), bucket.wait_ms(3, 0)) == (0, 1_000, 3_000)
    assert bucket.wait_ms(1, US_PER_S) == 0
    assert bucket.wait_ms(1, US_PER_S - 1) == 0, "time does not run backwards"
    bucket.take(1_000, US_PER_S)
    assert bucket.left(US_PER_S) == -999
    bucket.take(-1_000, US_PER_S)
    assert bucket.left(US_PER_S) == 1
    assert bucket.wait_ms(99, 3 * US_PER_S) == 0, "what never fits passes when nothing is owed"
