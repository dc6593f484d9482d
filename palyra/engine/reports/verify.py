"""`usage verify`: every row priced again by the entry that it names, and every window summed again from its rows.

What a row says it cost must be what its tokens cost by its price; what a rule has counted must be what its rows
come to. The first difference is named.
"""

from __future__ import annotations

from palyra.decisions.policies import HistoryCount
from palyra.decisions.pricing import cost_of
from palyra.engine.budget_questions import budgets_answer
from palyra.engine.codec import to_known
from palyra.engine.questions import Answer
from palyra.engine.reports.fold import Progress
from palyra.events.usage import UsageCorrected, UsageRecorded
from palyra.journal.port import Reader
from palyra.projections.pricing import entry_of
from palyra.projections.state import State
from palyra.projections.usage import total_of

_NAMES = ("usage.recorded", "usage.corrected")


class UsageFinding(Answer, frozen=True, kw_only=True):
    """One place at which the journal contradicts itself."""

    #: cost_differs, price_unknown, window_differs or total_differs.
    code: str
    #: Of the row; null of a window.
    position: int | None
    subject: str
    expected: int | None
    found: int | None


class UsageVerified(Answer, frozen=True, kw_only=True):
    """What was checked, and the first finding; null where all is as it must be."""

    rows_count: int
    corrections_count: int
    windows_count: int
    finding: UsageFinding | None


def verify_usage(rows: Reader, state: State, now_us: int, progress: Progress | None = None) -> UsageVerified:
    """Check every row and every window that is known of a journal against `state`, its fold."""
    answers = budgets_answer(state, now_us).items
    counts = [HistoryCount(answer.policy, now_us) for answer in answers]
    past = _past_windows(state, now_us)
    recorded_count = corrections_count = cost = tokens = 0
    finding: UsageFinding | None = None
    head = rows.head().position
    for batch in rows.rows(0, head, _NAMES):
        for row in batch:
            body = to_known(row).body
            if isinstance(body, UsageRecorded):
                recorded_count += 1
                cost += body.known_nanousd if body.cost_nanousd is None else body.cost_nanousd
                tokens += body.usage.total_tokens
                finding = finding or _check(state, row.position, body)
            elif isinstance(body, UsageCorrected):
                corrections_count += 1
                cost += body.change_nanousd
                tokens += body.deltas.total_tokens
            else:
                continue
            for counted in (*counts, *past.values()):
                counted.add(body)
        if progress is not None:
            progress(batch[-1].position, head)
    total = total_of(state)
    for subject, expected, found in (
        ("cost", cost, total.cost_nanousd),
        ("tokens", tokens, total.input_tokens + total.output_tokens),
        ("rows", recorded_count, total.rows_count),
    ):
        if expected != found:
            finding = finding or UsageFinding(
                code="total_differs", position=None, subject=subject, expected=expected, found=found
            )
    windows_count, differing = _check_past(state, past)
    finding = finding or differing
    for answer, counted in zip(answers, counts, strict=True):
        sums = {one.subject: one.amount for one in counted.found if one.amount}
        known = answer.status if answer.policy.interval_kind != "per_run" else []
        found_in = {one.subject: one.consumed for one in known}
        for subject in {**found_in, **sums}:
            windows_count += 1
            expected, consumed = sums.get(subject, 0), found_in.get(subject, 0)
            if expected != consumed:
                finding = finding or UsageFinding(
                    code="window_differs",
                    position=None,
                    subject=f"{answer.policy.policy_id}:{subject}:{counted.window.start_us}",
                    expected=expected,
                    found=consumed,
                )
    return UsageVerified(
        rows_count=recorded_count,
        corrections_count=corrections_count,
        windows_count=windows_count,
        finding=finding,
    )


#: A rule's name and the start of one of its windows.
_Window = tuple[str, int]


def _past_windows(state: State, now_us: int) -> dict[_Window, HistoryCount]:
    """Return a count for each window that is over and still known, by rule and start."""
    policies = state.budgets.policies
    return {
        (one.policy_id, one.window_start_us): HistoryCount(policies[one.policy_id].record, one.window_start_us)
        for one in state.budgets.counters.values()
        if one.policy_id in policies and one.window_end_us <= now_us
    }


def _check_past(state: State, past: dict[_Window, HistoryCount]) -> tuple[int, UsageFinding | None]:
    """Return how many windows are over and known, of all subjects, and the first that differs from its rows."""
    count, finding = 0, None
    for counter in state.budgets.counters.values():
        counted = past.get((counter.policy_id, counter.window_start_us))
        if counted is None:
            continue
        count += 1
        expected = next((one.amount for one in counted.found if one.subject == counter.subject), 0)
        if expected != counter.settled and finding is None:
            finding = UsageFinding(
                code="window_differs",
                position=None,
                subject=f"{counter.policy_id}:{counter.subject}:{counter.window_start_us}",
                expected=expected,
                found=counter.settled,
            )
    return count, finding


def _check(state: State, position: int, row: UsageRecorded) -> UsageFinding | None:
    subject = f"{row.provider_id}/{row.model_id}"
    if row.provider_cost_nanousd is not None and row.cost_nanousd == row.provider_cost_nanousd:
        return None  # what the provider said was believed
    entry = entry_of(state, row.price_id)
    if row.price_id and entry is None:
        return UsageFinding(
            code="price_unknown", position=position, subject=subject, expected=None, found=row.cost_nanousd
        )
    expected = cost_of(row.usage, entry)
    if (expected.nanousd, expected.known_nanousd) == (row.cost_nanousd, row.known_nanousd):
        return None
    if expected.nanousd is not None and expected.nanousd == row.cost_nanousd:
        return None
    return UsageFinding(
        code="cost_differs", position=position, subject=subject, expected=expected.nanousd, found=row.cost_nanousd
    )
