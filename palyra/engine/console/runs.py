"""`runs`: requests, open and done, and why each went where it went."""

from __future__ import annotations

from palyra.engine.choices import ChoiceAnswer, choice_of_run
from palyra.engine.console.changes import Order
from palyra.engine.console.frame import Items, ListParams, Params, Sight
from palyra.engine.console.pages import page_of
from palyra.engine.explained import AccountSeen, account_of, decision_of
from palyra.engine.hindsight import SeenAnswer, seen_by
from palyra.engine.history import RunReport, find_run, history_of, run_report
from palyra.engine.questions import Answer, RunAnswer, runs_answer
from palyra.errors import PalyraError
from palyra.events.base import Draft
from palyra.events.runs import RunCancelRequested
from palyra.projections.state import State


class RunsParams(ListParams, frozen=True, kw_only=True):
    """Which runs."""

    #: Only those that have not ended.
    open: bool = False


class RunParams(Params, frozen=True, kw_only=True):
    """Which run."""

    #: Its id, the beginning of it, or `last`.
    run: str


class ExplainParams(RunParams, frozen=True, kw_only=True):
    """Which run, and how much of it."""

    #: With the state that was decided from, folded again.
    state: bool = False


class ExplainAnswer(RunReport, frozen=True, kw_only=True):
    """A run, why it was decided so, and what its decision saw where that was asked for."""

    choice: ChoiceAnswer | None
    #: What rules about usage said, and what each attempt was charged.
    account: AccountSeen
    seen: SeenAnswer | None


def runs(sight: Sight, params: RunsParams) -> Items[RunAnswer]:
    """Return open and recent runs, newest first."""
    found = runs_answer(sight.state, now_us=sight.now_us, is_open=params.open)
    return page_of(found, params, lambda run: (run.admitted_us, run.run_id), is_falling=True)


def run(sight: Sight, params: RunParams) -> RunReport:
    """Return one run from its admission to its end."""
    return run_report(sight.rows, find_run(sight.rows, params.run), sight.now_us)


def explain(sight: Sight, params: ExplainParams) -> ExplainAnswer:
    """Return one run with what its decision saw."""
    report = run(sight, params)
    history = history_of(sight.rows, report.run_id)
    began = decision_of(history)
    choice = seen = None
    before = State()
    if params.state or report.routing is not None:
        before = sight.state_at(began.position - 1)
        choice = choice_of_run(before, report.run_id, history, began.recorded_at_us)
        seen = seen_by(before, report, began.recorded_at_us) if params.state else None
    account = account_of(before, history, sight.rows)
    fields = {name: getattr(report, name) for name in RunReport.__struct_fields__}
    return ExplainAnswer(**fields, choice=choice, account=account, seen=seen)


class CancelParams(RunParams, frozen=True, kw_only=True):
    """Which run."""


class CancelAnswer(Answer, frozen=True, kw_only=True):
    """How a run has ended that was to be cancelled: cancelled, or as it did before that could be done."""

    run_id: str
    state: str


async def cancel(order: Order, params: CancelParams) -> CancelAnswer:
    """End an open run now; it is settled when this returns, and what it used is recorded."""
    runs, state = order.desk.live_runs, order.core.state
    run_id = _open_run(list(state.runs.open), params.run)
    request = Draft(f"run-{run_id}", RunCancelRequested(reason="operator", by=order.actor))
    noted = order.note([request])
    settled = runs.open[run_id].cancel("operator", by=order.actor) if run_id in runs.open else None
    await noted.durable()
    if settled is not None:
        await settled
    ended = next((one.outcome for one in reversed(state.runs.recent) if one.run_id == run_id), "cancelled")
    return CancelAnswer(run_id=run_id, state=ended)


def _open_run(run_ids: list[str], name: str) -> str:
    """Return the open run that a name means: its id, the beginning of it, or `last`."""
    found = run_ids[-1:] if name == "last" else [run_id for run_id in run_ids if run_id.startswith(name)]
    if len(found) != 1:
        what = "No run is open." if not run_ids else f"'{name}' is the beginning of {len(found)} open runs."
        hint = "palyra runs list --open shows them"
        raise PalyraError(what, hint=hint, code="run_not_found")
    return found[0]
