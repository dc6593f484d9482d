"""Books kept beside the engine: every durable row is entered once, and must fit what was entered before.

They know the rules of the journal and none of the engine's code but the Structs of the facts. `enter` checks a row
by itself, `balance` what must hold between commits: no command is split over them, so the books balance there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec
from sim_money_books import MoneyBooks

from palyra.engine.codec import to_recorded
from palyra.events.attempts import AttemptAbandoned, AttemptFailed, AttemptStarted, AttemptSucceeded
from palyra.events.auth import (
    AuthProfileConnected,
    AuthProfileCooldownCleared,
    AuthProfileCooledDown,
    AuthProfileDisabled,
    AuthProfileEnabled,
    AuthProfileFailed,
    AuthProfileRotated,
)
from palyra.events.base import Fact, Recorded
from palyra.events.budgets import BudgetReleased, BudgetReserved
from palyra.events.circuits import CircuitClosed, CircuitHalfOpened, CircuitOpened
from palyra.events.config import ConfigAdopted
from palyra.events.daemon import DaemonClockStepped
from palyra.events.heartbeats import HeartbeatCleared, HeartbeatRecorded
from palyra.events.incidents import IncidentOpened, IncidentReopened, IncidentResolved, IncidentSeverityChanged
from palyra.events.registry import Registry
from palyra.events.routing import RoutingDecided, RoutingFailedOver
from palyra.events.runs import RunAdmitted, RunCancelled, RunCompleted, RunFailed, RunRefused
from palyra.events.usage import UsageRecorded
from palyra.journal.chain import genesis_link, row_link
from palyra.journal.port import Row
from palyra.limits import COMMAND_KEY_TTL_US
from palyra.projections.state import State, evolve

#: Failures that another credential may mend.
_OF_THE_CREDENTIAL = ("auth_invalid", "quota_exceeded", "rate_limited", "missing_credential")
SEVERITIES = ["info", "warning", "danger", "critical"]


class Violation(AssertionError):
    """Something that must never happen has happened."""


class RunBook(msgspec.Struct):
    """What the journal says of one run."""

    principal_id: str = ""
    is_planned: bool = False
    attempts_count: int = 0
    #: Attempt that is reserved and not released; the open attempt and its provider.
    reserved: int = 0
    open: int = 0
    provider_id: str = ""
    #: Credentials of each candidate in order, from the plan.
    credentials: list[list[str]] = []
    #: Candidate, credential and model of the last attempt, and whether its failure was waited out.
    candidate: int = 0
    credential: str = ""
    revision: int = 0
    model_id: str = ""
    has_waited: bool = False
    #: The credential that has to be tried next, or one behind it, with the same candidate.
    next_credential: str = ""
    #: Ends of attempts, and attempts with a usage row.
    ends: dict[int, str] = {}
    used: dict[int, None] = {}
    #: Name of the run's last event, "" while it is open.
    end: str = ""
    #: Something of it may have to be paid, or has reached its client.
    is_spent: bool = False
    #: Of a run with an idempotency key.
    admitted_us: int = 0


class CredentialBook(msgspec.Struct):
    """What the journal says of one credential."""

    revision: int = 0
    rests: bool = False
    has_failed: bool = False
    #: Ends of its pauses, by model; "" is for all.
    pauses: dict[str, int] = {}


class CircuitBook(msgspec.Struct):
    """What the journal says of one circuit."""

    status: str = "closed"
    until_us: int = 0
    streak: int = 0
    trial: tuple[str, int] = ("", 0)
    #: A counted failure has reached the threshold in this commit, and the circuit has to open in it.
    must_open: bool = False
    #: An attempt has started through the open circuit in this commit, and has to be its trial.
    passing: tuple[str, int] | None = None


class Books:
    """The account of all durable rows."""

    def __init__(self, journal_id: str) -> None:
        self.position = 0
        self.link = genesis_link(journal_id)
        self.runs: dict[str, RunBook] = {}
        self.circuits: dict[str, CircuitBook] = {}
        self.credentials: dict[str, CredentialBook] = {}
        self.money = MoneyBooks()
        self.registry = Registry()
        self.generation = 0
        #: A fold of all rows from the first on, through their bytes.
        self.state = State()
        self._versions: Counter[str] = Counter()
        #: When each was done last.
        self._command_keys: dict[str, int] = {}
        #: Runs with an idempotency key: the newest one by key.
        self._made: dict[str, RunBook] = {}
        self._beating: dict[str, None] = {}
        self._incidents: dict[str, tuple[str, str, str]] = {}
        self._open_runs: dict[str, None] = {}

    def enter(self, rows: Sequence[Row], links: Sequence[bytes]) -> None:
        """Enter the rows of one commit, and balance."""
        for row, link in zip(rows, links, strict=True):
            recorded = to_recorded(row)
            try:
                self._check_envelope(row, link)
                self._enter(recorded)
                self.money.enter(recorded)
            except (AssertionError, KeyError) as error:
                raise Violation(f"position {row.position}, {row.name} of {row.stream}: {error!r}") from error
            evolve(self.state, recorded)
        try:
            self.balance()
        except AssertionError as error:
            raise Violation(f"after position {self.position}: {error}") from error

    def run(self, run_id: str) -> RunBook:
        """Return a run's book, an empty one if nothing of it is durable."""
        return self.runs.get(f"run-{run_id}") or RunBook()

    def _check_envelope(self, row: Row, link: bytes) -> None:
        assert row.position == self.position + 1, "positions have a gap"
        assert link == row_link(self.link, row), "the link is not that of the row"
        self.position, self.link = row.position, link
        self._versions[row.stream] += 1
        assert row.version == self._versions[row.stream], f"version {row.version} of the stream"
        if row.command_key:
            done_us = self._command_keys.get(row.command_key)
            is_new = done_us is None or row.recorded_at_us - done_us > COMMAND_KEY_TTL_US
            assert is_new, f"{row.command_key} was done before"
            self._command_keys[row.command_key] = row.recorded_at_us
        if row.name == "run.admitted" and row.command_key:
            key = row.command_key.rpartition("#")[0]
            made = self._made.get(key)
            is_old = made is not None and row.recorded_at_us - made.admitted_us > COMMAND_KEY_TTL_US
            assert made is None or is_old or (made.end and not made.is_spent), f"{key} is made twice"
            self._made[key] = self.runs[row.stream] = RunBook(admitted_us=row.recorded_at_us)

    def balance(self) -> None:
        """Between two commits: what is held is held by open attempts, one trial a half-open circuit."""
        for stream in list(self._open_runs):
            run = self.runs[stream]
            assert run.reserved in (0, run.open), f"{stream} holds {run.reserved} and has {run.open} open"
            assert all(number in run.ends for number in range(1, run.attempts_count + 1) if number != run.open)
            if run.end:
                assert not run.open, f"{stream} has ended with attempt {run.open} open"
                assert f"beat-{stream}" not in self._beating, f"{stream} has ended and still beats"
                del self._open_runs[stream]
        held = {stream: run.reserved for stream, run in self.runs.items() if run.reserved}
        assert {stream: hold.attempt for stream, hold in self.money.holds.items()} == held, "holds of no attempt"
        self._balance_counters()
        for provider_id, circuit in self.circuits.items():
            assert not circuit.must_open, f"the circuit of {provider_id} has to open"
            assert circuit.passing is None, f"{circuit.passing} goes through the open circuit of {provider_id}"
            if circuit.status == "half_open":
                stream, attempt = circuit.trial
                assert self.runs[stream].open == attempt, f"{provider_id} waits for a trial that is not open"

    def _balance_counters(self) -> None:
        """What counters say is held is what open attempts hold."""
        held: Counter[str] = Counter()
        for _, share in self.money.open_shares():
            held[f"{share.policy_id}|{share.window_start_us}|{share.subject}"] += share.amount
        said = {key: one.reserved for key, one in self.state.budgets.counters.items() if one.reserved}
        assert said == {key: amount for key, amount in held.items() if amount}, f"{said} is held, and not {held}"

    def _enter(self, recorded: Recorded) -> None:
        stream, body = recorded.stream, recorded.body
        match body:
            case AttemptStarted() | AttemptSucceeded() | AttemptFailed() | AttemptAbandoned():
                self._enter_attempt(stream, self._open_run(stream), body, recorded.recorded_at_us)
            case BudgetReserved() | BudgetReleased() | UsageRecorded():
                self._enter_hold(self._open_run(stream), body)
            case RunAdmitted() | RoutingDecided() | RunRefused():
                self._enter_arrival(stream, body)
            case RunCompleted() | RunFailed() | RunCancelled():
                run = self.runs[stream] if stream in self.money.hits else self._open_run(stream)
                run.end = type(body).__name__
                run.is_spent = run.is_spent or isinstance(body, RunCompleted)
                assert body.attempts_count == run.attempts_count, "the run counts other attempts"
                if stream in self.money.hits:
                    assert not run.attempts_count, "answered from the cache with attempts"
                elif isinstance(body, RunCompleted):
                    assert run.ends[run.attempts_count] == "AttemptSucceeded", "completed without an answer"
            case RoutingFailedOver():
                run = self._open_run(stream)
                assert not run.open, "a failover with an attempt open"
                if body.trigger in _OF_THE_CREDENTIAL:
                    assert not run.next_credential, f"{run.next_credential} was not tried"
                run.next_credential, run.has_waited = "", False
            case (
                AuthProfileConnected() | AuthProfileRotated() | AuthProfileDisabled() | AuthProfileEnabled()
                | AuthProfileCooledDown() | AuthProfileCooldownCleared() | AuthProfileFailed()
            ):  # fmt: skip
                self._enter_credential(self._credential(stream.removeprefix("credential-")), body)
            case CircuitOpened() | CircuitHalfOpened() | CircuitClosed():
                self._enter_circuit(self._circuit(stream[9:]), body, recorded.recorded_at_us)
            case HeartbeatRecorded() | HeartbeatCleared():
                self._enter_beat(stream, body)
            case IncidentOpened() | IncidentReopened() | IncidentResolved() | IncidentSeverityChanged():
                self._enter_incident(stream, body)
            case DaemonClockStepped(cause="step"):
                for circuit in self.circuits.values():
                    circuit.until_us += body.step_us
                for credential in self.credentials.values():
                    credential.pauses = {name: at + body.step_us for name, at in credential.pauses.items()}
            case ConfigAdopted():
                self.generation += 1
                assert body.generation == self.generation, "a generation was left out"
                self.registry = self.money.registry = body.registry

    def _open_run(self, stream: str) -> RunBook:
        run = self.runs[stream]
        assert run.is_planned, "a run without a plan"
        assert not run.end, "the run has ended"
        return run

    def _credential(self, credential_ref: str) -> CredentialBook:
        return self.credentials.setdefault(credential_ref, CredentialBook())

    def _enter_credential(self, credential: CredentialBook, body: Fact) -> None:
        match body:
            case AuthProfileConnected() | AuthProfileRotated():
                credential.revision, credential.has_failed, credential.pauses = body.vault_revision, False, {}
            case AuthProfileDisabled() | AuthProfileEnabled():
                credential.rests = isinstance(body, AuthProfileDisabled)
            case AuthProfileCooledDown():
                pauses = credential.pauses
                pauses[body.model_id] = max(pauses.get(body.model_id, 0), body.until_us)
            case AuthProfileCooldownCleared():
                credential.pauses = {}
            case AuthProfileFailed():
                assert body.vault_revision == credential.revision, "an older secret has failed"
                credential.has_failed = True

    def _check_credential(self, run: RunBook, body: AttemptStarted, at_us: int) -> None:
        """A credential may be used, is used with the secret that is in use, and its turn has come."""
        ref, credential = body.credential_ref, self._credential(body.credential_ref)
        order = run.credentials[body.candidate]
        assert ref in (order or [""]), f"{ref!r} is not in the plan"
        if run.next_credential and body.candidate == run.candidate:
            assert order.index(ref) >= order.index(run.next_credential), f"{run.next_credential} was passed over"
        if ref:
            assert body.credential_revision == credential.revision, "not the secret in use"
            assert not credential.rests, f"{ref} rests"
            assert not credential.has_failed, f"{ref} has failed"
            cools = max(credential.pauses.get("", 0), credential.pauses.get(body.model_id, 0)) > at_us
            assert not cools or (run.has_waited and run.credential == ref), f"{ref} is left alone"
        run.credential, run.revision, run.model_id = ref, body.credential_revision, body.model_id
        run.candidate, run.next_credential, run.has_waited = body.candidate, "", False

    def _circuit(self, provider_id: str) -> CircuitBook:
        return self.circuits.setdefault(provider_id, CircuitBook())

    def _enter_arrival(self, stream: str, body: RunAdmitted | RoutingDecided | RunRefused) -> None:
        match body:
            case RunAdmitted():
                run = self.runs.setdefault(stream, RunBook())
                assert not run.principal_id, "admitted twice"
                run.principal_id = body.principal_id
                self._open_runs[stream] = None
            case RoutingDecided():
                run = self.runs.setdefault(stream, RunBook())
                assert not run.is_planned, "planned twice"
                run.is_planned = True
                run.credentials = [[one.credential_ref for one in step.credentials] for step in body.plan]
            case RunRefused():
                run = self.runs.setdefault(stream, RunBook())
                assert not run.end, "refused behind its end"
                assert not run.attempts_count, "refused behind an attempt"
                run.end = "RunRefused"

    def _enter_attempt(
        self,
        stream: str,
        run: RunBook,
        body: AttemptStarted | AttemptSucceeded | AttemptFailed | AttemptAbandoned,
        at_us: int,
    ) -> None:
        if isinstance(body, AttemptStarted):
            assert not run.open, f"attempt {run.open} is open"
            assert body.attempt == run.attempts_count + 1, "attempts are numbered from 1"
            assert run.reserved in (0, body.attempt), f"attempt {run.reserved} holds"
            run.attempts_count = run.open = body.attempt
            run.provider_id = body.provider_id
            self._check_credential(run, body, at_us)
            circuit = self._circuit(body.provider_id)
            assert circuit.status != "half_open", f"started beside the trial {circuit.trial}"
            assert body.trial == (circuit.status == "open")
            if body.trial:
                assert at_us >= circuit.until_us, "started through an open circuit before its time"
                assert circuit.passing is None, "two go through an open circuit"
                circuit.passing = (stream, body.attempt)
            return
        assert run.open == body.attempt, f"open is {run.open}"
        run.open = 0
        run.ends[body.attempt] = type(body).__name__
        run.is_spent = run.is_spent or (isinstance(body, AttemptFailed) and body.phase == "content")
        circuit = self._circuit(run.provider_id)
        if isinstance(body, AttemptFailed):
            run.has_waited, run.next_credential = body.wait_ms is not None, body.next_credential_ref
        if isinstance(body, AttemptSucceeded):
            circuit.streak = 0
            credential = self._credential(run.credential)
            if credential.revision == run.revision:
                credential.pauses.pop("", None)
                credential.pauses.pop(run.model_id, None)
        elif isinstance(body, AttemptFailed) and body.counted:
            circuit.streak += 1
            provider = next((p for p in self.registry.providers if p.provider_id == run.provider_id), None)
            if circuit.status == "closed" and provider is not None:
                circuit.must_open = circuit.streak >= provider.circuit_breaker_failure_threshold

    def _enter_hold(self, run: RunBook, body: BudgetReserved | BudgetReleased | UsageRecorded) -> None:
        match body:
            case BudgetReserved():
                assert not run.reserved, f"attempt {run.reserved} holds already"
                assert body.attempt == run.attempts_count + 1, "the hold is for another attempt"
                run.reserved = body.attempt
            case BudgetReleased():
                assert run.reserved == body.attempt, f"attempt {run.reserved} holds"
                assert not run.open, "released with its attempt open"
                end = run.ends[body.attempt]
                if end != "AttemptFailed":
                    assert body.attempt in run.used, f"{end} and no usage"
                run.reserved = 0
            case UsageRecorded():
                assert body.attempt in run.ends, "usage of an attempt that has not ended"
                assert body.attempt not in run.used, "usage twice"
                run.used[body.attempt] = None
                run.is_spent = run.is_spent or body.usage.input_tokens + body.usage.output_tokens > 0

    def _enter_circuit(
        self, circuit: CircuitBook, body: CircuitOpened | CircuitHalfOpened | CircuitClosed, at_us: int
    ) -> None:
        match body:
            case CircuitOpened():
                assert circuit.status in ("closed", "half_open"), "opened twice"
                circuit.status, circuit.until_us, circuit.must_open = "open", body.until_us, False
            case CircuitHalfOpened():
                assert circuit.passing == (f"run-{body.run_id}", body.attempt), "the trial has not started"
                circuit.status, circuit.trial, circuit.passing = "half_open", circuit.passing, None
            case CircuitClosed():
                assert circuit.status == "half_open", "closed without a trial"
                circuit.status, circuit.streak = "closed", 0

    def _enter_beat(self, stream: str, body: HeartbeatRecorded | HeartbeatCleared) -> None:
        if isinstance(body, HeartbeatRecorded):
            self._open_run(stream.removeprefix("beat-"))
            self._beating[stream] = None
        else:
            del self._beating[stream]

    def _enter_incident(
        self,
        stream: str,
        body: IncidentOpened | IncidentReopened | IncidentResolved | IncidentSeverityChanged,
    ) -> None:
        if isinstance(body, IncidentOpened):
            key = f"{body.kind} of {body.subject_id}"
            assert all(known[:2] != (key, "open") for known in self._incidents.values()), "opened twice"
            self._incidents[stream] = (key, "open", body.severity)
            return
        key, status, severity = self._incidents[stream]
        match body:
            case IncidentReopened():
                assert status == "resolved", "reopened while open"
                status = "open"
            case IncidentResolved():
                assert status == "open", "resolved twice"
                status = "resolved"
            case IncidentSeverityChanged():
                assert status == "open", "a resolved incident gets worse"
                assert severity == body.before, "it was of another severity"
                assert SEVERITIES.index(body.after) > SEVERITIES.index(body.before), "severity falls"
                severity = body.after
        self._incidents[stream] = (key, status, severity)
