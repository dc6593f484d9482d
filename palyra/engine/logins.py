"""Who is logged in at the console: what proves it is in memory only, as digests, and ends with the process.

A browser sends a cookie to every port of its host, so a cookie is worth little by itself: a change also needs a
second secret, which stands in the answer to the login, in no cookie and in no other answer. A session lives and
dies with the key that opened it, and may do what that key may do at the moment.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from palyra.auth.keys import digest_of, random_token
from palyra.decisions.arrivals import Peer
from palyra.decisions.keys import ALL_SCOPES, authenticate, peer_refusal
from palyra.engine.core import SYSTEM, Core
from palyra.engine.rates import LoginLock
from palyra.errors import Refusal
from palyra.events.base import Draft
from palyra.events.console_sessions import ConsoleSessionEnded, ConsoleSessionOpened, EndReason
from palyra.projections.keys import is_live
from palyra.redaction import Secret
from palyra.units import US_PER_S
from palyra.wire.netguard import classify_address

IDLE_US = 30 * 60 * US_PER_S
LIFE_US = 12 * 3_600 * US_PER_S
SESSIONS_MAX_COUNT = 64
CODE_LIFE_US = 60 * US_PER_S
_CODES_MAX_COUNT = 64


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """On whose behalf a session or a code is: a key, or whoever may use the control socket."""

    principal_id: str
    #: "" for the control socket.
    key_id: str = ""


class Session:
    """One login."""

    def __init__(self, session_id: str, holder: Holder, csrf_digest: str, now_us: int) -> None:
        self.session_id = session_id
        self.holder = holder
        self.issued_us = now_us
        self.last_seen_us = now_us
        self._csrf_digest = csrf_digest

    @property
    def idle_expires_us(self) -> int:
        return min(self.last_seen_us + IDLE_US, self.expires_us)

    @property
    def expires_us(self) -> int:
        return self.issued_us + LIFE_US

    def fits(self, csrf_token: str) -> bool:
        """Return whether this is the second secret of the session."""
        return hmac.compare_digest(digest_of(csrf_token), self._csrf_digest)


class LoggedIn(msgspec.Struct, frozen=True, kw_only=True):
    """A session that was just opened, with both its secrets, which nobody else has."""

    session: Session
    cookie: Secret
    csrf_token: Secret


class Logins:
    """Opens, finds and ends sessions. Those who cannot prove who they are have to wait longer and longer."""

    def __init__(self, core: Core) -> None:
        self._core = core
        #: By digest of the cookie, least recently used first.
        self._sessions: dict[str, Session] = {}
        #: By digest of the code: for whom, and until when.
        self._codes: dict[str, tuple[Holder, int]] = {}
        self._lock = LoginLock()

    # -- in

    def make_code(self, holder: Holder) -> tuple[Secret, int]:
        """Return a code that opens one session, and until when it does.

        Raises `JournalUnwritable` where no session could be recorded, so that none could be opened.
        """
        self._core.check_writable()
        now_us = self._now_us()
        self._codes = {digest: found for digest, found in self._codes.items() if now_us < found[1]}
        while len(self._codes) >= _CODES_MAX_COUNT:
            del self._codes[next(iter(self._codes))]
        code, until_us = random_token(), now_us + CODE_LIFE_US
        self._codes[digest_of(code.reveal())] = (holder, until_us)
        return code, until_us

    async def log_in(self, how: Literal["token", "login_code"], secret: str, peer: Peer) -> LoggedIn | Refusal:
        """Open a session for whoever shows an admin token or a code that was made for it."""
        peer_class = classify_address(peer.address)
        if not peer.is_secure and peer_class != "loopback":
            message = "A login over plain HTTP is taken from this machine only; use TLS."
            return Refusal(code="insecure_login", message=message)
        now_us = self._now_us()
        wait_ms = self._lock.wait_ms(peer.address, now_us)
        if wait_ms:
            message = "Too many logins have failed; wait before the next one."
            return Refusal(code="login_locked", message=message, retry_after_ms=wait_ms)
        holder = self._holder_of_token(secret, peer) if how == "token" else self._holder_of_code(secret)
        if isinstance(holder, Refusal):
            self._lock.note(peer.address, now_us)
            return holder
        self._lock.forget(peer.address)
        return await self._open(holder, how, peer_class)

    def _holder_of_token(self, token: str, peer: Peer) -> Holder | Refusal:
        caller = authenticate(self._core.state, token.strip() or None, self._now_us())
        if isinstance(caller, Refusal):
            return Refusal(code="invalid_login", message="This token is not known here, or is not valid any more.")
        if caller.kind != "admin":
            return Refusal(code="wrong_key_kind", message="The console is opened with an admin key (admin.token).")
        refusal = peer_refusal(caller, peer.address)
        return refusal or Holder(principal_id=caller.principal_id, key_id=caller.key_id)

    def _holder_of_code(self, code: str) -> Holder | Refusal:
        holder, until_us = self._codes.pop(digest_of(code), (None, 0))
        if holder is None or until_us <= self._now_us() or not self._is_alive(holder):
            message = "This code was used before, or is too old; `palyra console` makes another one."
            return Refusal(code="invalid_login", message=message)
        return holder

    async def _open(self, holder: Holder, how: Literal["token", "login_code"], peer_class: str) -> LoggedIn:
        now_us = self._now_us()
        cookie, csrf_token = random_token(), random_token()
        session = Session(self._core.ids.ulid(now_us), holder, digest_of(csrf_token.reveal()), now_us)
        opened = ConsoleSessionOpened(
            principal_id=holder.principal_id, key_id=holder.key_id, how=how, peer_class=peer_class
        )
        await self._core.record([Draft(_stream(session), opened)], holder.principal_id)
        while len(self._sessions) >= SESSIONS_MAX_COUNT:
            self._end(next(iter(self._sessions)), "evicted")
        self._sessions[digest_of(cookie.reveal())] = session
        return LoggedIn(session=session, cookie=cookie, csrf_token=csrf_token)

    # -- while it lasts

    def find(self, cookie: str) -> Session | None:
        """Return the session of a cookie, and keep it alive; one that is over is ended here."""
        digest, now_us = digest_of(cookie), self._now_us()
        session = self._sessions.get(digest)
        if session is None:
            return None
        reason = self._over(session, now_us)
        if reason is not None:
            self._end(digest, reason)
            return None
        session.last_seen_us = now_us
        self._sessions[digest] = self._sessions.pop(digest)
        return session

    def scopes_of(self, holder: Holder) -> Sequence[str]:
        """Return what a holder may do right now."""
        return self._core.state.keys.by_id[holder.key_id].scopes if holder.key_id else ALL_SCOPES

    def sessions(self) -> list[Session]:
        """Return the sessions that are open, oldest first; those that are over are ended here."""
        now_us = self._now_us()
        for digest, session in list(self._sessions.items()):
            reason = self._over(session, now_us)
            if reason is not None:
                self._end(digest, reason)
        return sorted(self._sessions.values(), key=lambda one: (one.issued_us, one.session_id))

    def _over(self, session: Session, now_us: int) -> EndReason | None:
        if not self._is_alive(session.holder):
            return "key_ended"
        if session.expires_us <= now_us:
            return "expired"
        return "idle" if session.idle_expires_us <= now_us else None

    def _is_alive(self, holder: Holder) -> bool:
        if not holder.key_id:
            return True
        key = self._core.state.keys.by_id.get(holder.key_id)
        return key is not None and is_live(key, self._now_us())

    # -- out

    def end(self, session_id: str, reason: EndReason, actor: str) -> bool:
        """End a session; returns whether there was one."""
        for digest in [one for one, session in self._sessions.items() if session.session_id == session_id]:
            self._end(digest, reason, actor)
            return True
        return False

    def end_all(self, principal_id: str) -> None:
        """End every session of a principal."""
        for digest in list(self._of(principal_id)):
            self._end(digest, "logout_all", principal_id)

    def _of(self, principal_id: str) -> Iterator[str]:
        for digest, session in self._sessions.items():
            if session.holder.principal_id == principal_id:
                yield digest

    def _end(self, digest: str, reason: EndReason, actor: str | None = None) -> None:
        """Forget a session first: whatever the journal takes, it opens nothing any more."""
        session = self._sessions.pop(digest)
        if self._core.is_writable:
            with self._core.batch(actor or SYSTEM, lazy=True) as batch:
                batch.add([Draft(_stream(session), ConsoleSessionEnded(reason=reason))])

    def _now_us(self) -> int:
        return self._core.clock.now_us()


def _stream(session: Session) -> str:
    return f"session-{session.session_id}"
