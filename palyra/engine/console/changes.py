"""Changes: what one takes, the way in which its facts are recorded, and the outcome that a repeat gets.

A change is a coroutine function of an `Order`, which records facts in the name of whoever wants it. With an
idempotency key it is done once: its first fact carries the key, a repeat waits for the first outcome and gets that.
A client that hangs up stops nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import msgspec

from palyra.auth.keyfiles import write_key_file
from palyra.decisions.keys import ALL_SCOPES
from palyra.engine.console.frame import AnswerT, At, Params, Told, tell
from palyra.engine.content import Contents
from palyra.engine.core import Batch, Core
from palyra.engine.runs import Runs
from palyra.engine.vault import VaultKeeper
from palyra.engine.watching import Watchers
from palyra.errors import PalyraError, Refusal, Refused
from palyra.events.base import Draft
from palyra.projections.commands import mark_of
from palyra.redaction import Secret

if TYPE_CHECKING:
    from palyra.engine.oauth import OAuthDesk
    from palyra.engine.tokens import TokenKeeper

#: Outcomes that are at hand for a repeat; of an older one only its place in the journal is known.
_OUTCOMES_MAX_COUNT = 1_000

ChangeT = TypeVar("ChangeT", bound=Params)


class DaemonNotRunning(PalyraError):
    """No daemon is running here, and only one can do this."""

    code = "daemon_not_running"

    def __init__(self) -> None:
        super().__init__(hint="palyra serve starts one")


class Desk:
    """What changes work on. Without a daemon there is nothing but journal and vault."""

    def __init__(
        self,
        core: Core,
        vault: VaultKeeper,
        *,
        runs: Runs | None = None,
        reload: Callable[[Order], Awaitable[Any]] | None = None,
        key_files: Mapping[str, Path] = MappingProxyType({}),
        watchers: Watchers | None = None,
        oauth: OAuthDesk | None = None,
        tokens: TokenKeeper | None = None,
        contents: Contents | None = None,
        write_default: Callable[[str, str], object] | None = None,
    ) -> None:
        """`key_files`: where the keys of these names are kept for the programs of this machine.

        `write_default` puts the default model of a role into the configuration file, where there is one.
        """
        self.core = core
        self.vault = vault
        self._runs = runs
        self._oauth = oauth
        self._tokens = tokens
        self._key_files = key_files
        self._reload = reload
        self._watchers = watchers
        self._contents = contents
        self._write_default = write_default

    @property
    def is_live(self) -> bool:
        """Whether this is a daemon's."""
        return self._reload is not None

    @property
    def watchers(self) -> Watchers:
        """What asks providers how they do; raises `DaemonNotRunning`."""
        if self._watchers is None:
            raise DaemonNotRunning
        return self._watchers

    @property
    def contents(self) -> Contents:
        """What keeps prompts and answers."""
        assert self._contents is not None, "a desk where content is erased has it"
        return self._contents

    @property
    def live_runs(self) -> Runs:
        """The open runs; raises `DaemonNotRunning`."""
        if self._runs is None:
            raise DaemonNotRunning
        return self._runs

    @property
    def oauth(self) -> OAuthDesk:
        """Logins at providers."""
        assert self._oauth is not None, "a desk where somebody logs in has them"
        return self._oauth

    @property
    def tokens(self) -> TokenKeeper:
        """Where tokens are renewed."""
        assert self._tokens is not None, "a desk where a token is renewed has it"
        return self._tokens

    def keep_key(self, name: str, secret: Secret) -> None:
        """Put a key of this name into its file, where it has one."""
        path = self._key_files.get(name)
        if path is not None:
            write_key_file(path, secret)

    async def cancel_runs_of(self, key_id: str, *, by: str) -> None:
        """End the open runs of a key; without a daemon there are none."""
        if self._runs is None:
            return
        mine = [
            run
            for run in self._runs.open.values()
            if (found := self.core.state.runs.open.get(run.run_id)) and found.admitted.key_id == key_id
        ]
        settled = [done for run in mine if (done := run.cancel("operator", by=by)) is not None]
        if settled:
            await asyncio.wait(settled)

    async def write_default(self, role: str, model: str) -> None:
        """Put the default model of a role into the configuration file; raises `PalyraError` without one."""
        if self._write_default is None:
            message = "This daemon was handed its configuration; there is no file to write the default into."
            raise PalyraError(message, code="conflict")
        await asyncio.to_thread(self._write_default, role, model)

    async def reload(self, order: Order) -> Any:
        """Have the configuration read again (`console.config.ReloadAnswer`); raises `DaemonNotRunning`."""
        if self._reload is None:
            raise DaemonNotRunning
        return await self._reload(order)


class Order:
    """One change on its way: who wants it, and the journal's ear."""

    def __init__(
        self, desk: Desk, actor: str, command_key: str = "", *, scopes: Sequence[str] = ALL_SCOPES
    ) -> None:
        self.desk = desk
        self.core = desk.core
        self.actor = actor
        #: What whoever wants it may do.
        self.scopes = scopes
        self._command_key = command_key
        self._position = 0

    @property
    def at(self) -> At:
        """Where its last fact stands; the head where it had nothing to record."""
        core = self.core
        return At(
            journal_id=core.journal.journal_id,
            position=self._position or core.state.position,
            as_of_us=core.clock.now_us(),
        )

    def note(self, drafts: Sequence[Draft]) -> Batch:
        """Record facts; await `durable()` of what is returned before anybody is told."""
        if self._command_key and drafts:
            drafts = [msgspec.structs.replace(drafts[0], command_key=self._command_key), *drafts[1:]]
            self._command_key = ""
        with self.core.batch(self.actor) as batch:
            batch.add(drafts)
        self._position = self.core.state.position
        return batch

    async def record(self, drafts: Sequence[Draft]) -> None:
        """Record facts and wait until they are durable."""
        await self.note(drafts).durable()


class Change(NamedTuple, Generic[ChangeT, AnswerT]):
    """One thing that can be changed."""

    method: str
    #: Below `/console/v1/`; `{name}` is a field of `params`.
    path: str
    params: type[ChangeT]
    #: Shape of the answer, for whoever reads it.
    reply: Any
    act: Callable[[Order, ChangeT], Awaitable[AnswerT]]
    #: What the key must allow of whoever wants it.
    scope: str = "operate"
    #: It is about what only a running daemon has; any other can be made in the journal alone.
    needs_daemon: bool = False
    #: It asks providers, which without a daemon is done by whoever wants it.
    asks_providers: bool = False
    #: Without a daemon it is made where there is no journal yet, too, which is begun with it.
    begins: bool = False
    #: It is about providers as they are configured: without a daemon that is adopted first, as by a start.
    adopts: bool = False
    #: Status over HTTP of what was done: 201 where it made something.
    http_status: int = 200
    #: What a repeat gets of the first answer; None for the whole.
    repeated: Callable[[AnswerT], AnswerT] | None = None


class _Outcome(NamedTuple):
    digest: str
    task: asyncio.Future[_Done]


class _Done(NamedTuple):
    """The answer to a change, and what a repeat gets."""

    told: Told
    repeated: Told


class Changer:
    """Makes changes, each keyed one once."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._outcomes: dict[str, _Outcome] = {}
        self._under_way: set[asyncio.Task[_Done]] = set()

    async def change(
        self,
        change: Change[ChangeT, AnswerT],
        params: ChangeT,
        *,
        actor: str,
        scopes: Sequence[str] = ALL_SCOPES,
        key: str = "",
    ) -> Told:
        """Make a change and return its answer, or that of the first time; raises `PalyraError`.

        `scopes` are those of whoever wants it.
        """
        if not key:
            return (await asyncio.shield(self._start(change, params, actor, scopes, ""))).told
        name = f"{actor}|{key}"
        digest = _digest_of(change, params)
        first = self._outcomes.get(name)
        if first is None:
            # What a client wrote as its key does not stand in the journal.
            command_key = f"change|{hashlib.sha256(name.encode()).hexdigest()[:32]}"
            self._refuse_old(command_key)
            started = self._start(change, params, actor, scopes, command_key)
            first = self._outcomes[name] = _Outcome(digest, started)
            first.task.add_done_callback(lambda task: self._forget_failed(name, task))
            self._thin()
            done = await asyncio.shield(started)
            if change.repeated is not None:
                self._outcomes[name] = _Outcome(digest, _settled(done))
            return done.told
        if first.digest != digest:
            message = "This Idempotency-Key was used for something else."
            raise Refused(Refusal(code="idempotency_key_reused", message=message))
        return (await asyncio.shield(first.task)).repeated

    async def settle(self) -> None:
        """Wait for the changes that are under way."""
        if self._under_way:
            await asyncio.wait(self._under_way)

    def _start(
        self, change: Change[ChangeT, AnswerT], params: ChangeT, actor: str, scopes: Sequence[str], key: str
    ) -> asyncio.Task[_Done]:
        async def act() -> _Done:
            order = Order(self._desk, actor, key, scopes=scopes)
            order.core.check_writable()
            answer = await change.act(order, params)
            told = tell(answer, order.at)
            return _Done(told, told if change.repeated is None else tell(change.repeated(answer), order.at))

        task = asyncio.create_task(act(), name=f"change {change.path}")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    def _refuse_old(self, command_key: str) -> None:
        core = self._desk.core
        mark = mark_of(core.state, command_key, core.clock.now_us())
        if mark is not None:
            message = f"This was done before, at position {mark.position}; its answer is not at hand any more."
            details = {"position": mark.position}
            raise Refused(Refusal(code="idempotency_result_gone", message=message, details=details))

    def _forget_failed(self, name: str, task: asyncio.Future[_Done]) -> None:
        """A change that was not made may be tried again under its key."""
        if task.cancelled() or task.exception() is not None:
            self._outcomes.pop(name, None)

    def _thin(self) -> None:
        done = [name for name, outcome in self._outcomes.items() if outcome.task.done()]
        for name in done[: max(0, len(self._outcomes) - _OUTCOMES_MAX_COUNT)]:
            del self._outcomes[name]


def _settled(done: _Done) -> asyncio.Future[_Done]:
    """Return an outcome that holds nothing but what a repeat gets: a secret stays with whoever was first."""
    future: asyncio.Future[_Done] = asyncio.get_running_loop().create_future()
    future.set_result(_Done(done.repeated, done.repeated))
    return future


def _digest_of(change: Change[Any, Any], params: Params) -> str:
    text = msgspec.json.encode([change.method, change.path, params])
    return hashlib.sha256(text).hexdigest()
