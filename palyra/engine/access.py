"""Who comes in: the keys of a first start, whose key a request shows, and a count of those who were turned away."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from palyra.auth.keyfiles import read_client_key, write_key_file
from palyra.auth.keys import NewKey, make_key
from palyra.decisions.arrivals import is_plain_local
from palyra.decisions.key_text import KeyKind
from palyra.decisions.keys import ANY, DEFAULT_SCOPES, Caller, authenticate, known_key, presented_key
from palyra.engine.clock import due_us
from palyra.engine.core import SYSTEM, Batch, Core
from palyra.engine.rates import PeerFailures, failing_delay_ms
from palyra.engine.throttle import Passage, Throttle
from palyra.errors import CODES, Refusal
from palyra.events.base import Draft
from palyra.events.keys import AccessDenied, ClientKeyIssued, ClientKeyRevoked
from palyra.projections.keys import is_live, live_keys
from palyra.redaction import Secret
from palyra.units import US_PER_S
from palyra.wire.netguard import classify_address

WINDOW_US = 60 * US_PER_S
KINDS_MAX_COUNT = 256

#: Surface, reason, class of the peer's address.
_Kind = tuple[str, str, str]
_OTHERS: _Kind = ("other", "other", "other")


class KeyPaths(Protocol):
    """Where the two key files are."""

    @property
    def admin_token(self) -> Path: ...

    @property
    def client_key(self) -> Path: ...


class IssuedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that this start had to make."""

    kind: KeyKind
    key_id: str
    path: Path


class _Tally:
    """Denials of one kind that are not recorded yet."""

    def __init__(self, window_start_us: int) -> None:
        self.window_start_us = window_start_us
        self.count = 0


class Access:
    """The way in.

    Of those who are turned away before anybody is known, the first of a kind is recorded at once and what follows
    once a minute with its count, so that no flood of requests makes a flood of facts. There is no timer: a minute
    that is over is recorded when the next one of whatever kind is turned away, and by `flush`. While the journal
    cannot be written everything stays counted.
    """

    def __init__(self, core: Core, *, anonymous: Literal["refuse", "loopback"] = "refuse") -> None:
        self._core = core
        self.anonymous = anonymous
        self._tallies: dict[_Kind, _Tally] = {}
        self._failures = PeerFailures(WINDOW_US)
        self._throttle = Throttle()

    async def ensure_keys(self, paths: KeyPaths) -> list[IssuedKey]:
        """See to it that both key files hold a live key; return those that were made now.

        A file that is gone, or whose key the journal does not know (a crash between file and fact), gets a new key,
        and the key that the file held before opens nothing any more.
        """
        wanted: list[tuple[KeyKind, Path]] = [("admin", paths.admin_token), ("client", paths.client_key)]
        return [await self._issue(kind, path) for kind, path in wanted if not self._is_good(kind, path)]

    def _is_good(self, kind: KeyKind, path: Path) -> bool:
        text = read_client_key(path)
        if text is None or text.kind != kind:
            return False
        key = known_key(self._core.state, text)
        return key is not None and is_live(key, self._core.clock.now_us())

    async def _issue(self, kind: KeyKind, path: Path) -> IssuedKey:
        key = make_key(kind)
        now_us = self._core.clock.now_us()
        lost = [old.key_id for old in live_keys(self._core.state, kind, now_us) if old.display_name == path.name]
        write_key_file(path, key.secret)
        revoked = [Draft(f"key-{key_id}", ClientKeyRevoked(reason="file_lost")) for key_id in lost]
        await self._core.record([_issued(key, path.name), *revoked])
        return IssuedKey(kind=kind, key_id=key.key_id, path=path)

    async def issue(self, kind: KeyKind, display_name: str) -> Secret:
        """Issue a key that no file holds, and return it: nobody else has it."""
        key = make_key(kind)
        await self._core.record([_issued(key, display_name)])
        return key.secret

    def identify(
        self, headers: Mapping[str, str], peer_address: str, *, may_be_anonymous: bool = True
    ) -> Caller | Refusal:
        """Return who sent a request with these headers (names in lower case).

        `may_be_anonymous`: where configuration lets local programs come without a key, this place does too.
        """
        presented = presented_key(headers)
        if isinstance(presented, Refusal):
            return presented
        may_be_anonymous = (
            may_be_anonymous
            and presented is None
            and self.anonymous == "loopback"
            and is_plain_local(headers, classify_address(peer_address))
        )
        now_us = self._core.clock.now_us()
        return authenticate(self._core.state, presented, now_us, may_be_anonymous=may_be_anonymous)

    def pass_through(self, caller: Caller) -> Passage | Refusal | None:
        """Let a request of a known caller pass its key's limits; None for a key that has none."""
        return self._throttle.enter(caller, self._core.clock.now_us())

    def deny(self, surface: str, reason: str, peer_address: str) -> int:
        """Count one request that was turned away before anybody was known.

        Returns for how many milliseconds the answer is to be held back: guessing keys is slow, whoever has one is
        never held up.
        """
        now_us = self._core.clock.now_us()
        if self._core.is_writable:
            self._turn_windows(now_us)
        kind: _Kind = (surface, reason, classify_address(peer_address))
        if kind not in self._tallies and len(self._tallies) >= KINDS_MAX_COUNT - 1:
            kind = _OTHERS
        is_first = kind not in self._tallies
        tally = self._tallies.setdefault(kind, _Tally(now_us))
        tally.count += 1
        if is_first and self._core.is_writable:
            self._record([kind])
        if CODES[reason].http_status != 401:
            return 0
        return failing_delay_ms(self._failures.note(peer_address, now_us))

    async def flush(self) -> None:
        """Record what is counted and not recorded yet, and wait until that is durable."""
        if self._core.is_writable:
            await self._record([kind for kind, tally in self._tallies.items() if tally.count]).durable()

    def _turn_windows(self, now_us: int) -> None:
        """Record the kinds whose minute is over and count on; forget those that have stopped."""
        over = [
            kind
            for kind, tally in self._tallies.items()
            if due_us(tally.window_start_us, WINDOW_US, now_us) <= now_us
        ]
        counted = [kind for kind in over if self._tallies[kind].count]
        self._record(counted)
        for kind in over:
            if kind in counted:
                self._tallies[kind].window_start_us = now_us
            else:
                del self._tallies[kind]

    def _record(self, kinds: list[_Kind]) -> Batch:
        with self._core.batch(SYSTEM, lazy=True) as batch:
            for kind in kinds:
                surface, reason, peer_class = kind
                tally = self._tallies[kind]
                denied = AccessDenied(
                    surface=surface,
                    reason=reason,
                    peer_class=peer_class,
                    count=tally.count,
                    window_start_us=tally.window_start_us,
                )
                batch.add([Draft("access", denied)])
                tally.count = 0
        return batch


def _issued(key: NewKey, display_name: str) -> Draft:
    issued = ClientKeyIssued(
        kind=key.kind,
        display_name=display_name,
        verifier=key.verifier,
        principal_id=f"key:{key.key_id}",
        scopes=list(DEFAULT_SCOPES[key.kind]),
        agents=list(ANY if key.kind == "client" else ()),
    )
    return Draft(f"key-{key.key_id}", issued)
