"""Bugs to plant: each breaks one promise in one place. A simulation that does not find them all is no good.

A bug is a context manager; inside it the engine is wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from palyra.decisions import (
    budget_refusals,
    budgets,
    circuits,
    credentials,
    policies,
    pricing,
    recovery,
    routing,
    sizing,
    usage,
)
from palyra.engine import answered, boot, core, repeats, run, settlement
from palyra.engine.cache import ResponseCache
from palyra.engine.candidate import Candidate
from palyra.engine.client import ClientSide
from palyra.engine.codec import state_digest
from palyra.engine.core import Batch, Core
from palyra.engine.repeats import Repeats
from palyra.engine.run import RunTask
from palyra.engine.slots import Slots
from palyra.events.attempts import AttemptStarted
from palyra.events.base import Draft
from palyra.events.budgets import BudgetReleased
from palyra.events.heartbeats import HeartbeatCleared
from palyra.events.runs import RequestServed
from palyra.events.usage import UsageRecorded
from palyra.journal.writer import GroupCommit
from palyra.projections import budgets as counters
from palyra.projections.state import State, decode_state, encode_state


@contextlib.contextmanager
def _instead(owner: Any, name: str, wrong: Any) -> Iterator[None]:
    right = owner.__dict__[name]
    setattr(owner, name, wrong)
    try:
        yield
    finally:
        setattr(owner, name, right)


def _adding(change: Callable[[Draft], Iterable[Draft]]) -> contextlib.AbstractContextManager[None]:
    """Return the bug of recording something else than was decided."""
    add = Batch.add

    def wrong(batch: Batch, drafts: Iterable[Draft]) -> None:
        add(batch, [one for draft in drafts for one in change(draft)])

    return _instead(Batch, "add", wrong)


def settles_without_release() -> contextlib.AbstractContextManager[None]:
    """An attempt ends, and what it held stays held."""
    return _adding(lambda draft: [] if isinstance(draft.body, BudgetReleased) else [draft])


def settles_twice() -> contextlib.AbstractContextManager[None]:
    """The usage of an attempt is recorded twice."""
    return _adding(lambda draft: [draft] * (2 if isinstance(draft.body, UsageRecorded) else 1))


def forgets_beats() -> contextlib.AbstractContextManager[None]:
    """A run ends, and its heartbeat stays on the board."""
    return _adding(lambda draft: [] if isinstance(draft.body, HeartbeatCleared) else [draft])


def sends_before_durable() -> contextlib.AbstractContextManager[None]:
    """A call leaves while its start is on its way to the disk."""
    durable, add = Batch.durable, Batch.add
    starting: list[Batch] = []

    def noting(batch: Batch, drafts: Iterable[Draft]) -> None:
        drafts = list(drafts)
        if any(isinstance(draft.body, AttemptStarted) for draft in drafts):
            starting.append(batch)
        add(batch, drafts)

    async def wrong(batch: Batch) -> None:
        if not any(batch is one for one in starting):
            await durable(batch)
        starting.clear()

    return _both(_instead(Batch, "add", noting), _instead(Batch, "durable", wrong))


def answers_before_durable() -> contextlib.AbstractContextManager[None]:
    """The last byte leaves while the settlement is on its way to the disk."""

    async def wrong(task: RunTask, batch: Batch, following: Any) -> Any:
        if following.candidate is not None:
            task._come_to(following.candidate)
        return following

    return _instead(RunTask, "_follow", wrong)


def trial_is_not_exclusive() -> contextlib.AbstractContextManager[None]:
    """Attempts pass a half-open circuit beside its trial."""
    passable = routing.is_passable
    return _instead(
        routing,
        "is_passable",
        lambda circuit, now_us: circuit.status == "half_open" or passable(circuit, now_us),
    )


def waits_then_forgets_to_ask() -> contextlib.AbstractContextManager[None]:
    """Whoever has waited for a slot starts, whatever has become of the circuit meanwhile."""
    return _instead(routing, "unready", lambda *arguments: None)


def forgets_pauses_of_credentials() -> contextlib.AbstractContextManager[None]:
    """A credential is used while its provider has asked to leave it alone."""
    return _instead(credentials, "cooling_until_us", lambda *arguments: 0)


def keeps_the_revision_of_the_plan() -> contextlib.AbstractContextManager[None]:
    """An attempt is made with the secret that was in use when its run was admitted."""
    right = run.ready_at

    def wrong(state: State, step: Any, **more: Any) -> Any:
        ready = right(state, step, **more)
        planned = {one.credential_ref: one for one in step.credentials}
        return planned.get(getattr(ready, "credential_ref", ""), ready)

    return _instead(run, "ready_at", wrong)


def fails_over_before_the_next_credential() -> contextlib.AbstractContextManager[None]:
    """The next candidate is asked although the one at hand has another credential."""
    right = settlement.fail_attempt

    def wrong(*arguments: Any, **more: Any) -> Any:
        return right(*arguments, **more)._replace(credential_ref="")

    return _instead(settlement, "fail_attempt", wrong)


def cancelled_trial_stays() -> contextlib.AbstractContextManager[None]:
    """A trial that ends without a verdict leaves its circuit half-open for ever."""
    right = circuits.at_failure

    def wrong(*arguments: Any, counted: bool, **more: Any) -> Any:
        return right(*arguments, counted=counted, **more) if counted else None

    return _instead(circuits, "at_failure", wrong)


def slot_is_lost() -> contextlib.AbstractContextManager[None]:
    """Whoever is cancelled right when it gets its slot takes it along."""
    take = Slots.take

    async def wrong(slots: Slots, provider: Any, *, time_left_ms: int) -> None:
        try:
            await take(slots, provider, time_left_ms=time_left_ms)
        except asyncio.CancelledError:
            slots._used[provider.provider_id] = slots._used.get(provider.provider_id, 0) + 1
            raise

    return _instead(Slots, "take", wrong)


def slots_are_not_bounded() -> contextlib.AbstractContextManager[None]:
    """A provider carries more calls at once than it may."""

    def wrong(slots: Slots, provider: Any) -> bool:
        slots._used[provider.provider_id] = slots._used.get(provider.provider_id, 0) + 1
        return True

    return _instead(Slots, "try_take", wrong)


def recovers_half() -> contextlib.AbstractContextManager[None]:
    """Recovery ends the runs, and not the attempts that they had open."""
    return _instead(recovery, "_abandon", lambda *arguments, **more: [])


def splits_commands() -> contextlib.AbstractContextManager[None]:
    """A command is split over commits."""
    take = GroupCommit._take

    def wrong(journal: GroupCommit) -> Any:
        calls, rows = take(journal)
        if len(rows) > 1 and len(calls) == 1:
            journal._waiting.appendleft(calls[0]._replace(rows=tuple(rows[1:])))
            return [calls[0]._replace(durable=journal._loop.create_future())], rows[:1]
        return calls, rows

    return _instead(GroupCommit, "_take", wrong)


def snapshot_forgets() -> contextlib.AbstractContextManager[None]:
    """A state that comes from a snapshot lacks something."""

    def wrong(data: bytes) -> State:
        state = decode_state(data)
        for circuit in state.circuits.by_provider.values():
            circuit.streak = 0
        return state

    return _instead(core, "decode_state", wrong)


def keeps_what_the_disk_refused() -> contextlib.AbstractContextManager[None]:
    """After a failed commit the engine goes on with the state in memory."""
    load_state = core.load_state
    states: list[State] = []

    async def wrong(journal: Any) -> State:
        state = await load_state(journal)
        return states[-1] if states else state

    fold_anew = Core._fold_anew

    async def noting(it: Core) -> None:
        states.append(it.state)
        try:
            await fold_anew(it)
        finally:
            states.clear()

    return _both(_instead(core, "load_state", wrong), _instead(Core, "_fold_anew", noting))


def fails_over_after_content() -> contextlib.AbstractContextManager[None]:
    """A stream that breaks off in its content goes on with the answer of another candidate."""
    right = settlement.after_failure

    def wrong(*arguments: Any, failure: Any, **more: Any) -> Any:
        failure = msgspec.structs.replace(failure, phase="body")
        return right(*arguments, failure=failure, **more)

    return _instead(settlement, "after_failure", wrong)


def recovers_again() -> contextlib.AbstractContextManager[None]:
    """Recovery writes something although nothing is open."""
    served = RequestServed(endpoint="models", principal_id="key:sim", http_status=200)
    return _instead(boot, "clear_old_boot", lambda state, now_us: [Draft("requests", served)])


def signs_behind_the_end() -> contextlib.AbstractContextManager[None]:
    """A sign of life follows the last byte of a stream."""
    is_waiting = property(lambda client: client._client is not None and not client.is_gone)
    return _instead(ClientSide, "is_waiting", is_waiting)


def snapshots_the_refused() -> contextlib.AbstractContextManager[None]:
    """A snapshot is taken of a state that the disk has refused."""

    async def wrong(it: Core) -> int:
        position, data = it.state.position, encode_state(it.state)
        await it.durable()
        await it.journal.save_snapshot(position, state_digest(), data)
        return position

    return _instead(Core, "snapshot", wrong)


def makes_repeats_anew() -> contextlib.AbstractContextManager[None]:
    """A request with a key is made again whatever came of it before."""
    return _instead(repeats, "find_repeat", lambda *arguments: None)


def mixes_up_repeats() -> contextlib.AbstractContextManager[None]:
    """A repeat gets the newest answer, whosever it is."""
    keep = Repeats.keep

    def wrong(it: Repeats, state: State, command: Any, answer: Any, now_us: int) -> None:
        keep(it, state, command, answer, now_us)
        kept = it._answers._kept
        if kept:
            newest = kept[next(reversed(kept))]
            kept.update(dict.fromkeys(kept, newest))

    return _instead(Repeats, "keep", wrong)


def releases_twice() -> contextlib.AbstractContextManager[None]:
    """What an attempt held is let go twice."""
    return _adding(lambda draft: [draft] * (2 if isinstance(draft.body, BudgetReleased) else 1))


def forgets_what_others_hold() -> contextlib.AbstractContextManager[None]:
    """A limit is compared with what was used, and not with what open attempts may still use."""
    right = budgets._standing
    return _instead(budgets, "_standing", lambda *arguments: (right(*arguments)[0], 0))


def asks_budgets_once() -> contextlib.AbstractContextManager[None]:
    """Budgets are asked at admission, and not again when an attempt starts."""
    right = run.plan_start

    def wrong(*arguments: Any) -> Any:
        start = right(*arguments)
        fits = [msgspec.structs.replace(one, status="ok") for one in start.judgement.evaluations]
        return start._replace(judgement=start.judgement._replace(evaluations=fits))

    return _instead(run, "plan_start", wrong)


def forgets_windows_early() -> contextlib.AbstractContextManager[None]:
    """What was counted for a rule is let go of while its window is open."""
    return _instead(counters, "_is_over", lambda *arguments: True)


def begins_rules_at_nothing() -> contextlib.AbstractContextManager[None]:
    """A rule that is set does not see what was used before it."""
    return _instead(policies.HistoryCount, "add", lambda *arguments: None)


def holds_half() -> contextlib.AbstractContextManager[None]:
    """An attempt holds less than it may use."""
    right = sizing.requested_of

    def wrong(*arguments: Any) -> int | None:
        amount = right(*arguments)
        return None if amount is None else amount // 2

    return _instead(budgets, "requested_of", wrong)


def sends_no_cap() -> contextlib.AbstractContextManager[None]:
    """The output that is held for is not what the provider is told."""
    return _instead(Candidate, "capped", lambda candidate, tokens: candidate)


def ignores_the_limit_of_a_request() -> contextlib.AbstractContextManager[None]:
    """A request may cost more than it allows itself."""
    right = budgets.own_limit
    return _instead(budgets, "own_limit", lambda max_cost: right(1 << 60))


def lets_the_unpriced_through() -> contextlib.AbstractContextManager[None]:
    """A rule that denies what has no price lets it through."""
    right = budgets._verdict
    return _instead(
        budgets,
        "_verdict",
        lambda record, used, held, asked: right(record, used, held, asked or 0),
    )


def tells_limits_again() -> contextlib.AbstractContextManager[None]:
    """That a limit was passed is recorded with every request that passes it."""
    return _instead(budget_refusals, "counter_of", lambda *arguments: None)


def rounds_costs_down() -> contextlib.AbstractContextManager[None]:
    """Costs lose the half of a nano-USD."""
    return _instead(usage, "cost_of", lambda used, entry: pricing._rounded(used, entry, 0))


def charges_by_the_new_list() -> contextlib.AbstractContextManager[None]:
    """An attempt is charged by the list that is in force at its end."""

    def wrong(state: State, price_id: str) -> Any:
        entry = state.pricing.by_id.get(price_id)
        if entry is None:
            return None
        ids = state.pricing.by_model.get(entry.key)
        return state.pricing.by_id[ids[0]] if ids else None

    return _instead(usage, "entry_of", wrong)


def hides_what_passed_its_hold() -> contextlib.AbstractContextManager[None]:
    """An attempt that used more than it held is released as if it had not."""
    right = budgets.release
    return _instead(budgets, "release", lambda hold, row, because: right(hold, None, because))


def serves_the_answers_of_others() -> contextlib.AbstractContextManager[None]:
    """The response cache does not ask who a request is from."""
    right = answered.place_of

    def wrong(state: State, command: Any) -> Any:
        return right(state, msgspec.structs.replace(command, principal_id="", session_id=""))

    return _instead(answered, "place_of", wrong)


def serves_old_answers() -> contextlib.AbstractContextManager[None]:
    """The response cache keeps answers beyond their time."""
    return _instead(ResponseCache, "find", lambda cache, key_digest, now_us: cache._shelf.get(key_digest, 0))


def serves_any_answer() -> contextlib.AbstractContextManager[None]:
    """The response cache gives the newest answer to whatever is asked."""

    def wrong(cache: ResponseCache, key_digest: str, now_us: int) -> Any:
        kept = cache._shelf._kept
        return kept[next(reversed(kept))].value if kept else None

    return _instead(ResponseCache, "find", wrong)


@contextlib.contextmanager
def _both(
    first: contextlib.AbstractContextManager[None], second: contextlib.AbstractContextManager[None]
) -> Iterator[None]:
    with first, second:
        yield


BUGS = [
    settles_without_release, settles_twice, forgets_beats, sends_before_durable, answers_before_durable,
    trial_is_not_exclusive, waits_then_forgets_to_ask, cancelled_trial_stays, slot_is_lost,
    forgets_pauses_of_credentials, keeps_the_revision_of_the_plan, fails_over_before_the_next_credential,
    slots_are_not_bounded, recovers_half, recovers_again, splits_commands, snapshot_forgets,
    fails_over_after_content, keeps_what_the_disk_refused, signs_behind_the_end, snapshots_the_refused,
    makes_repeats_anew, mixes_up_repeats, releases_twice, forgets_what_others_hold, asks_budgets_once,
    forgets_windows_early, begins_rules_at_nothing, holds_half, sends_no_cap, ignores_the_limit_of_a_request,
    lets_the_unpriced_through, tells_limits_again, rounds_costs_down, charges_by_the_new_list,
    hides_what_passed_its_hold, serves_the_answers_of_others, serves_old_answers, serves_any_answer,
]  # fmt: skip
