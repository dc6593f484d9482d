"""The bridge on both event loops, on real clocks: what crosses, what is cancelled, and that nothing is left."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import random
import signal
import sys
import traceback
import types
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import outcome
import pytest
import trio
import uvloop
from supervisor_kit import World

from palyra.supervisor import bridge
from palyra.supervisor.bridge import BridgeFull, BridgeTimeout, CrossingClosed, TrioGuest

#: Only a broken bridge ever waits this long.
HANG_S = 0.3

Run = Callable[[Coroutine[Any, Any, object]], None]
color: contextvars.ContextVar[str] = contextvars.ContextVar("color", default="none")


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run one coroutine on a loop of its own; a task or an error left behind is a failure."""

    def run_checked(main: Coroutine[Any, Any, object]) -> None:
        troubles: list[dict[str, Any]] = []

        async def checked() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: troubles.append(context))
            await main
            assert asyncio.all_tasks() == {asyncio.current_task()}
            gc.collect()

        with asyncio.Runner(loop_factory=request.param, debug=True) as runner:
            runner.run(checked())
        gc.collect()
        assert troubles == []

    return run_checked


async def shut(calls: list[asyncio.Task[Any]]) -> list[Any]:
    """Wait for tasks however they end."""
    return await asyncio.gather(*calls, return_exceptions=True)


def test_results_and_arguments_cross_both_ways(run: Run) -> None:
    """A function with its arguments runs on the other side, forty crossings deep, and its result comes back."""

    async def main() -> None:
        async with TrioGuest() as guest:

            async def ping(depth: int) -> int:
                await asyncio.sleep(0)
                return 1 + await guest.run_trio(pong, depth - 1) if depth else 0

            async def pong(depth: int) -> int:
                await trio.lowlevel.checkpoint()
                return 1 + await guest.run_aio(ping, depth - 1) if depth else 0

            assert await ping(40) == 40
            assert guest.status().in_flight_max == 40
        status = guest.status()
        assert (status.in_flight, status.crossings, status.cancelled) == (0, 40, 0)
        assert status.p99_us is not None
        assert 0 < status.p99_us < 10_000_000

    run(main())


def test_exceptions_keep_type_and_frames_of_both_sides(run: Run) -> None:
    """An error two crossings away arrives as itself, with the functions of both loops in its traceback."""

    async def main() -> None:
        async with TrioGuest() as guest:

            async def breaks_in_asyncio() -> None:
                raise ValueError("broken")

            async def calls_from_trio() -> None:
                await guest.run_aio(breaks_in_asyncio)

            with pytest.raises(ValueError, match=r"^broken$") as caught:
                await guest.run_trio(calls_from_trio)
        names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
        assert names[0] == "main"
        assert names.index("calls_from_trio") < names.index("breaks_in_asyncio")

    run(main())


def test_context_variables_cross(run: Run) -> None:
    """What was bound before a crossing is seen behind it, both ways; what is bound behind it stays there."""

    async def main() -> None:
        async with TrioGuest() as guest:

            async def in_asyncio() -> str:
                seen = color.get()
                color.set("blue")
                return seen

            async def in_trio() -> tuple[str, str, str]:
                seen = color.get()
                color.set("green")
                return seen, await guest.run_aio(in_asyncio), color.get()

            color.set("red")
            assert await guest.run_trio(in_trio) == ("red", "green", "green")
            assert color.get() == "red"

    run(main())


def test_a_call_leaves_no_reference_cycle(run: Run) -> None:
    """An exception that crossed is freed with its last reference, without the garbage collector."""

    async def main() -> None:
        class Broken(Exception):
            pass

        async def breaks() -> None:
            raise Broken

        async with TrioGuest() as guest:

            async def breaks_in_asyncio() -> weakref.ref[BaseException]:
                try:
                    await guest.run_aio(breaks)
                except Broken as exc:
                    return weakref.ref(exc)
                raise AssertionError

            async def breaks_in_trio() -> weakref.ref[BaseException]:
                try:
                    await guest.run_trio(breaks)
                except Broken as exc:
                    return weakref.ref(exc)
                raise AssertionError

            gc.collect()
            gc.disable()
            try:
                left = [await guest.run_trio(breaks_in_asyncio), await breaks_in_trio()]
                await asyncio.sleep(0)
                assert [ref() for ref in left] == [None, None]
            finally:
                gc.enable()

    run(main())


async def check_cancel_from_trio(kind: type[TrioGuest]) -> None:
    """A deadline in trio cancels the asyncio task and waits until its clean-up is over."""
    story: list[str] = []
    release = asyncio.Event()

    async def effect() -> None:
        try:
            await release.wait()
        finally:
            await asyncio.sleep(0.01)
            story.append("cleaned up")

    async with kind() as guest:

        async def caller() -> None:
            with trio.move_on_after(0.01) as scope:
                await guest.run_aio(effect)
            story.append("back")
            assert scope.cancelled_caught

        call = asyncio.create_task(guest.run_trio(caller))
        await asyncio.wait([call], timeout=HANG_S)
        in_time = call.done()
        release.set()
        await asyncio.wait([call])
        await asyncio.sleep(0.02)
    assert in_time
    call.result()
    assert story == ["cleaned up", "back"]


async def check_cancel_from_asyncio(kind: type[TrioGuest]) -> None:
    """A timeout in asyncio cancels the trio task and waits until its shielded clean-up is over."""
    story: list[str] = []

    async with kind() as guest:
        release = trio.Event()

        async def work() -> None:
            try:
                await release.wait()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(0.01)
                story.append("cleaned up")

        async def caller() -> None:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await guest.run_trio(work)
            story.append("back")

        call = asyncio.create_task(caller())
        await asyncio.wait([call], timeout=HANG_S)
        in_time = call.done()
        release.set()
        await shut([call])
    assert in_time
    call.result()
    assert story == ["cleaned up", "back"]


CHECKS = [check_cancel_from_trio, check_cancel_from_asyncio]


@pytest.mark.parametrize("check", CHECKS)
def test_cancellation_crosses_and_waits_for_the_clean_up(
    run: Run, check: Callable[[type[TrioGuest]], Coroutine[Any, Any, None]]
) -> None:
    """Cancelling the caller ends the callee, and the caller goes on only after it."""
    run(check(TrioGuest))


@pytest.mark.parametrize(
    ("right", "wrong", "check"),
    [
        ("                    scope.cancel()\n", "", check_cancel_from_asyncio),
        ("        self._task.cancel()\n", "", check_cancel_from_trio),
        (
            "return trio.lowlevel.Abort.FAILED",
            "self._task.remove_done_callback(self._done); return trio.lowlevel.Abort.SUCCEEDED",
            check_cancel_from_trio,
        ),
    ],
    ids=["trio is not cancelled", "asyncio is not cancelled", "nobody waits"],
)
def test_a_broken_bridge_is_found(
    right: str, wrong: str, check: Callable[[type[TrioGuest]], Coroutine[Any, Any, None]]
) -> None:
    """Each of three faults planted into a copy of the bridge fails the check that is made for it."""
    source = Path(bridge.__file__).read_text(encoding="utf-8")
    assert source.count(right) == 1
    mutant = types.ModuleType("mutant")
    exec(compile(source.replace(right, wrong), "mutant.py", "exec"), mutant.__dict__)

    with pytest.raises(AssertionError):
        asyncio.run(check(mutant.TrioGuest))


def test_a_result_that_is_ready_wins_over_the_deadline(run: Run) -> None:
    """An effect that finishes in spite of its cancellation gives its result, one that fails its error."""

    async def main() -> None:
        async def finishes() -> str:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return "done anyway"
            raise AssertionError

        async def fails() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                raise ValueError

        async with TrioGuest() as guest:

            async def caller() -> None:
                assert await guest.run_aio(finishes, timeout_ms=5) == "done anyway"
                with pytest.raises(ValueError, match=r"^$"):
                    await guest.run_aio(fails, timeout_ms=5)

            await guest.run_trio(caller)
            assert guest.status().timeouts == 0

    run(main())


def test_an_error_of_the_clean_up_wins_over_the_cancellation(run: Run) -> None:
    """A trio callee that fails while it is cancelled hands its error to the asyncio caller."""

    async def main() -> None:
        async with TrioGuest() as guest:
            inside = asyncio.Event()

            async def fails() -> None:
                try:
                    inside.set()
                    await trio.sleep_forever()
                finally:
                    raise ValueError

            call = asyncio.create_task(guest.run_trio(fails))
            await inside.wait()
            call.cancel()
            with pytest.raises(ValueError, match=r"^$"):
                await call

    run(main())


def test_a_timeout_is_an_error_of_its_own_and_counted(run: Run) -> None:
    """`timeout_ms` covers the waiting for a place too; the effect is cancelled and cleaned up first."""

    async def main() -> None:
        cleaned = False

        async def slow() -> None:
            nonlocal cleaned
            try:
                await asyncio.Event().wait()
            finally:
                cleaned = True

        async with TrioGuest() as guest:

            async def caller() -> None:
                with pytest.raises(BridgeTimeout):
                    await guest.run_aio(slow, timeout_ms=5)
                assert cleaned

            await guest.run_trio(caller)
            status = guest.status()
            assert (status.timeouts, status.cancelled, status.in_flight) == (1, 1, 0)

    run(main())


def test_a_callee_that_is_cancelled_by_somebody_else_is_closed(run: Run) -> None:
    """`CancelledError` does not reach trio: the caller sees `CrossingClosed`."""

    async def main() -> None:
        async with TrioGuest() as guest:

            async def commits_suicide() -> None:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(0)

            async def caller() -> None:
                with pytest.raises(CrossingClosed):
                    await guest.run_aio(commits_suicide)

            await guest.run_trio(caller)

    run(main())


def test_a_cancelled_caller_starts_nothing(run: Run) -> None:
    """A function crosses, not a coroutine: nothing is made, and nothing left unawaited."""

    async def main() -> None:
        async with TrioGuest() as guest:

            async def never() -> None:
                raise AssertionError

            async def caller() -> None:
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await guest.run_aio(never)

            await guest.run_trio(caller)

    run(main())


@pytest.mark.parametrize("seed", [11, 2_024])
def test_hundreds_of_crossings_cancelled_at_random_leave_nothing(run: Run, seed: int) -> None:
    """600 calls, half of them call back, 400 are cancelled at random moments: each callee ends and is gone."""
    print(f"seed {seed}")
    dice = random.Random(seed)
    tasks: weakref.WeakSet[Any] = weakref.WeakSet()

    async def main() -> None:
        began = ended = 0

        async def effect(pause_s: float) -> None:
            nonlocal began, ended
            began += 1
            tasks.add(asyncio.current_task())
            try:
                try:
                    await asyncio.sleep(pause_s)
                finally:
                    await asyncio.sleep(0)  # clean-up that takes time, and may itself be hit
            finally:
                ended += 1

        async with TrioGuest() as guest:

            async def errand(number: int, pause_s: float) -> None:
                nonlocal began, ended
                began += 1
                tasks.add(trio.lowlevel.current_task())
                try:
                    await trio.sleep(pause_s)
                    if number % 2:
                        await guest.run_aio(effect, pause_s)
                finally:
                    with trio.CancelScope(shield=True):
                        await trio.lowlevel.checkpoint()
                    ended += 1

            calls = [asyncio.create_task(guest.run_trio(errand, n, dice.uniform(0, 0.01))) for n in range(600)]
            tasks.update(calls)
            for call in dice.sample(calls, 400):
                if dice.random() < 0.2:
                    await asyncio.sleep(dice.uniform(0, 0.002))
                call.cancel()
            outcomes = await shut(calls)
            assert {type(result) for result in outcomes} <= {asyncio.CancelledError, type(None)}
            assert outcomes.count(None) >= 200
            assert guest.status().in_flight == 0
        assert began == ended

    run(main())
    gc.collect()
    assert list(tasks) == []


def test_stop_with_a_hundred_calls_in_flight(run: Run) -> None:
    """Stopping cancels all of them, waits for their clean-up, and closes the bridge for further calls."""

    async def main() -> None:
        began = cleaned = 0

        async def effect() -> None:
            nonlocal began, cleaned
            began += 1
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                cleaned += 1

        guest = await TrioGuest().__aenter__()

        async def errand() -> None:
            await guest.run_aio(effect)

        calls = [asyncio.create_task(guest.run_trio(errand)) for _ in range(100)]
        while began < 64:  # the other 36 wait for a place
            await asyncio.sleep(0)
        await guest.stop()
        outcomes = await shut(calls)
        assert {type(result) for result in outcomes} == {CrossingClosed}
        assert cleaned == 64
        assert guest.status().in_flight == 0
        assert guest.finished.done()
        with pytest.raises(CrossingClosed):
            await guest.run_trio(trio.sleep_forever)
        with pytest.raises(CrossingClosed):
            await guest.run_aio(effect)
        with pytest.raises(CrossingClosed):
            guest.start_soon(trio.sleep_forever)
        await guest.stop()

    run(main())


def test_no_call_begins_while_the_guest_stops(run: Run) -> None:
    """A shielded clean-up in trio that wants to cross during the stop is told that the bridge is closed."""

    async def main() -> None:
        told: list[type[BaseException]] = []

        async def never() -> None:
            raise AssertionError

        guest = await TrioGuest().__aenter__()

        async def errand() -> None:
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    try:
                        await guest.run_aio(never)
                    except CrossingClosed as exc:
                        told.append(type(exc))

        guest.start_soon(errand)
        await guest.run_trio(trio.sleep, 0)
        await guest.stop()
        assert told == [CrossingClosed]

    run(main())


def test_stop_survives_its_own_cancellation(run: Run) -> None:
    """A cancelled stop still waits for the guest, and then is cancelled."""

    async def main() -> None:
        guest = await TrioGuest().__aenter__()
        cleaned = False

        async def stubborn() -> None:
            nonlocal cleaned
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(0.02)
                cleaned = True

        guest.start_soon(stubborn)
        await guest.run_trio(trio.sleep, 0)
        stopping = asyncio.create_task(guest.stop())
        for _ in range(3):
            await asyncio.sleep(0)
            stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        assert cleaned
        assert guest.finished.done()

    run(main())


def test_a_start_that_is_cancelled_leaves_no_guest(run: Run) -> None:
    """Cancelled before the guest ran its first step, the start takes it down again: a new one can start."""

    async def main() -> None:
        for yields in range(4):
            starting = asyncio.create_task(TrioGuest().__aenter__())
            for _ in range(yields):
                await asyncio.sleep(0)
            if starting.done():
                await starting.result().stop()
                continue
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
        async with TrioGuest() as guest:
            await guest.run_trio(trio.sleep, 0)

    run(main())


def test_a_guest_that_dies_at_its_start_raises_there(run: Run) -> None:
    """The start does not wait for a guest that is dead already; it raises what it died of."""

    class Stillborn(TrioGuest):
        async def _root(self) -> None:
            raise ZeroDivisionError

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            async with Stillborn():
                raise AssertionError

    run(main())


def test_guests_of_one_loop_share_a_run_and_nothing_else(run: Run) -> None:
    """A thread has one trio run; of two guests on it, one dies or stops while the other lives on."""

    async def main() -> None:
        async def crashes() -> None:
            raise ZeroDivisionError

        async with TrioGuest() as guest:
            crashed = await TrioGuest().__aenter__()
            crashed.start_soon(crashes)
            assert isinstance(await crashed.finished, outcome.Error)
            with pytest.RaisesGroup(ZeroDivisionError):
                await crashed.stop()
            with pytest.raises(CrossingClosed):
                await crashed.run_trio(trio.sleep, 0)
            async with TrioGuest() as other:
                assert await asyncio.gather(other.run_trio(_number, 1), guest.run_trio(_number, 2)) == [1, 2]
            assert not guest.finished.done()
            await guest.run_trio(trio.sleep, 0)

    run(main())


async def _number(number: int) -> int:
    await trio.lowlevel.checkpoint()
    return number


def test_a_guest_that_comes_while_the_last_one_leaves_gets_a_new_run(run: Run) -> None:
    """It waits for the end of the run before it, so that guests may follow one another without a gap."""

    async def main() -> None:
        async def visit() -> None:
            async with TrioGuest() as guest:
                await guest.run_trio(trio.sleep, 0)

        for _ in range(20):
            first = await TrioGuest().__aenter__()
            await asyncio.gather(first.stop(), visit(), visit())

    run(main())


def test_no_signal_handler_is_installed(run: Run) -> None:
    """trio would take interrupts from a host that leaves them to Python; the host keeps them."""

    async def main() -> None:
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            async with TrioGuest() as guest:
                await guest.run_trio(trio.sleep, 0)
                assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        finally:
            signal.signal(signal.SIGINT, before)

    run(main())


def test_a_crashed_tree_is_reported(run: Run) -> None:
    """`finished` fires with what a task of the guest died of, calls in flight are closed, `stop` raises it."""

    async def main() -> None:
        async def crashes() -> None:
            await trio.sleep(0.01)
            raise ZeroDivisionError("the bug")

        guest = await TrioGuest().__aenter__()
        call = asyncio.create_task(guest.run_trio(trio.sleep_forever))
        await asyncio.sleep(0)
        guest.start_soon(crashes)
        result = await guest.finished
        assert isinstance(result, outcome.Error)
        with pytest.RaisesGroup(pytest.RaisesExc(ZeroDivisionError, match="the bug")) as caught:
            await guest.stop()
        names = [frame.name for frame in traceback.extract_tb(caught.value.exceptions[0].__traceback__)]
        assert "crashes" in names
        with pytest.raises(CrossingClosed):
            await call
        with pytest.raises(CrossingClosed):
            await guest.run_trio(trio.sleep_forever)

    run(main())


def test_waiting_for_the_end_may_be_cancelled(run: Run) -> None:
    """Whoever waits for `finished` has a future of its own: giving up harms neither the guest nor other waiters."""

    async def main() -> None:
        async def wait_finished() -> object:
            return await guest.finished

        async with TrioGuest() as guest:
            impatient, patient = (asyncio.create_task(wait_finished()) for _ in range(2))
            await asyncio.sleep(0)
            impatient.cancel()
            await asyncio.wait([impatient])
            await guest.run_trio(trio.sleep, 0)
            assert not guest.finished.done()
        assert isinstance(await patient, outcome.Value)

    run(main())


def test_calls_are_bounded_and_served_in_order(run: Run) -> None:
    """64 run, 256 wait first come, first served, and the next one is refused at once."""

    async def main() -> None:
        calls_count = bridge.IN_FLIGHT_MAX_COUNT + bridge.WAITING_MAX_COUNT
        gates = [asyncio.Event() for _ in range(calls_count)]
        order: list[int] = []

        async def effect(number: int) -> None:
            order.append(number)
            await gates[number].wait()

        async with TrioGuest() as guest:

            async def burst() -> None:
                async with trio.open_nursery() as nursery:
                    for number in range(calls_count):
                        nursery.start_soon(guest.run_aio, effect, number)
                        await trio.testing.wait_all_tasks_blocked()
                    assert guest.status().in_flight == 1 + bridge.IN_FLIGHT_MAX_COUNT
                    with pytest.raises(BridgeFull):
                        await guest.run_aio(effect, -1)
                    for gate in gates:
                        gate.set()
                        began_count = len(order)
                        while len(order) == began_count < calls_count:
                            await trio.lowlevel.checkpoint()

            await guest.run_trio(burst)
            assert order == list(range(calls_count))
            assert guest.status().in_flight_max == 1 + bridge.IN_FLIGHT_MAX_COUNT

    run(main())


def test_a_deaf_effect_is_counted_as_orphaned(
    run: Run, monkeypatch: pytest.MonkeyPatch, logs: list[dict[str, Any]]
) -> None:
    """An effect that swallows its cancellation is waited for, counted and logged; one that obeys is neither."""
    monkeypatch.setattr(bridge, "ORPHAN_AFTER_MS", 50)

    async def main() -> None:
        counted = asyncio.Event()

        class Watched(TrioGuest):
            def _count_orphan(self, work: str) -> None:
                super()._count_orphan(work)
                counted.set()

        async def obeys() -> None:
            await asyncio.Event().wait()

        async def is_deaf() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await counted.wait()

        async with Watched() as guest:

            async def caller(effect: Callable[[], Coroutine[Any, Any, None]]) -> None:
                with trio.move_on_after(0.001):
                    await guest.run_aio(effect)

            await guest.run_trio(caller, obeys)
            await guest.run_trio(caller, is_deaf)
            assert guest.status().orphaned == 1
        (entry,) = logs
        assert entry["work"].endswith("is_deaf")

    run(main())


def test_a_bell_rings_across_without_a_crossing(run: Run) -> None:
    """A tree runs in the guest, is rung and asked from asyncio by plain calls, and drains by one crossing."""

    class WallClock:
        def now_us(self) -> int:
            return 0

    async def main() -> None:
        world = World()
        world.clock = WallClock()  # type: ignore[assignment]
        rung = asyncio.Event()

        async def notice() -> int | None:
            rung.set()
            return None

        async with TrioGuest() as guest:
            tree = world.tree()
            assert {status.state for status in tree.status()} == {"sleeping"}
            guest.start_soon(tree.run)
            await guest.run_trio(trio.testing.wait_all_tasks_blocked)
            assert world.witness.asked_count == 1
            tree.ring("journal")
            assert await guest.run_trio(tree.drain) == ()
            assert guest.status().crossings == 2
        assert len(tree.status()) == 13

    run(main())


def test_the_bridge_knows_nothing_of_the_house() -> None:
    """It imports the two loops, the error tree and units, and none of the supervisor's other files."""
    source = Path(bridge.__file__).read_text(encoding="utf-8")
    ours = [line for line in source.splitlines() if line.startswith("from palyra")]
    assert ours == ["from palyra.errors import PalyraError", "from palyra.units import ms_to_s"]
    assert sys.modules["palyra.supervisor.bridge"] is bridge
