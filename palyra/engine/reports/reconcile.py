"""Reconciliation: a provider's account beside the journal, and one class for each part of what lies between them.

Requests are matched by the provider's own id where both have it, else all requests of a model in one of the
provider's buckets, by the start of the attempt. The amounts of all differences add up to the drift.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from palyra.decisions.corrections import Counted, counted_rows, known_cost, plus
from palyra.decisions.pricing import cost_of
from palyra.engine.questions import Answer
from palyra.engine.reports.exports_cells import Theirs
from palyra.events import attempts
from palyra.events.base import Recorded
from palyra.events.pricing import PriceEntry
from palyra.projections.pricing import entry_of, price_at
from palyra.projections.state import State
from palyra.units import BP_PER_UNIT, US_PER_S
from palyra.usage import TokenUsage

Class = Literal[
    "missing_here", "missing_there", "token_mismatch", "price_mismatch", "late", "unfinished", "unpriced"
]
#: How near to an edge of the account a request may be in the next one: a bucket, or of single requests an hour.
_HOUR_US = 3_600 * US_PER_S
#: What a snapshot's name has behind that of its model: -2024-08-06, -20251001, -0613, -002, -latest.
_SNAPSHOT = re.compile(r"-(\d{3,4}|\d{4}-?\d\d-?\d\d|latest)")
#: Kept for each difference.
_POSITIONS_MAX_COUNT = 100


class Ours(msgspec.Struct, kw_only=True):
    """A row of usage, with when its attempt began and what the provider called it."""

    counted: Counted
    started_us: int
    request_id: str = ""

    @property
    def cost(self) -> int:
        return known_cost(self.counted.row)

    @property
    def is_final(self) -> bool:
        """Whether its tokens are the provider's own count, or were corrected by its account."""
        row = self.counted.row
        return self.counted.corrected == "reconciled" or (row.source == "provider" and row.billed == "yes")

    @property
    def is_priced(self) -> bool:
        return self.counted.row.cost_nanousd is not None


class Difference(Answer, frozen=True, kw_only=True):
    """One part of the drift: theirs less ours."""

    kind: Class
    amount_nanousd: int
    model: str
    start_us: int
    request_id: str
    #: Tokens there and here; null where that side has none.
    tokens_there: int | None
    tokens_here: int | None
    #: Rows of usage that it is about, a hundred at most, and how many there are.
    positions: list[int]
    rows_count: int


class ClassSum(Answer, frozen=True, kw_only=True):
    """All differences of one class; the share is that of all their sizes."""

    kind: Class
    count: int
    amount_nanousd: int
    share_bp: int


class Correctable(Answer, frozen=True, kw_only=True):
    """What one row would be by the provider's account."""

    position: int
    usage: TokenUsage
    cost_nanousd: int


class Reconciled(Answer, frozen=True, kw_only=True):
    """A provider's account beside the journal."""

    provider_id: str
    from_us: int
    to_us: int
    theirs_nanousd: int
    ours_nanousd: int
    drift_nanousd: int
    drift_bp: int
    tolerance_bp: int
    is_within: bool
    classes: list[ClassSum]
    differences: list[Difference]
    correctable: list[Correctable]


def ours_of(history: Iterable[Recorded], provider_id: str) -> list[Ours]:
    """Return the rows of a provider as they are counted now; `history` has starts, ends, rows and corrections."""
    facts: list[Recorded] = []
    started: dict[tuple[str, int], int] = {}
    names: dict[tuple[str, int], str] = {}
    for one in history:
        body = one.body
        if isinstance(body, attempts.AttemptStarted):
            started[one.stream, body.attempt] = one.recorded_at_us
        elif isinstance(body, attempts.AttemptSucceeded):
            names[one.stream, body.attempt] = body.upstream_request_id
        else:
            facts.append(one)
    found = []
    for counted in counted_rows(facts).values():
        if counted.row.provider_id == provider_id:
            key = f"run-{counted.run_id}", counted.row.attempt
            at_us = started.get(key, counted.row.effective_at_us)
            found.append(Ours(counted=counted, started_us=at_us, request_id=names.get(key, "")))
    return found


def reconcile(
    state: State, theirs: Sequence[Theirs], ours: Sequence[Ours], *, provider_id: str, tolerance_bp: int
) -> Reconciled:
    """Return what lies between an account and the rows of its time."""
    from_us = min((one.start_us for one in theirs), default=0)
    to_us = max((one.end_us for one in theirs), default=0)
    inside = [one for one in ours if from_us <= one.started_us < to_us]
    matcher = _Matcher(state, provider_id, from_us, to_us)
    rest_theirs, rest_ours = matcher.match_requests(theirs, inside)
    matcher.match_buckets(rest_theirs, rest_ours)
    there = sum(one for one in matcher.there)
    here = sum(one.cost for one in inside)
    differences = sorted(matcher.differences, key=lambda one: (-abs(one.amount_nanousd), one.start_us, one.model))
    drift = there - here
    size = max(1, there, here)
    return Reconciled(
        provider_id=provider_id,
        from_us=from_us,
        to_us=to_us,
        theirs_nanousd=there,
        ours_nanousd=here,
        drift_nanousd=drift,
        drift_bp=drift * BP_PER_UNIT // size,
        tolerance_bp=tolerance_bp,
        is_within=abs(drift) * BP_PER_UNIT <= tolerance_bp * size,
        classes=_classes(differences),
        differences=differences,
        correctable=matcher.correctable,
    )


def _classes(differences: Sequence[Difference]) -> list[ClassSum]:
    whole = max(1, sum(abs(one.amount_nanousd) for one in differences))
    found: dict[Class, list[Difference]] = {}
    for one in differences:
        found.setdefault(one.kind, []).append(one)
    return [
        ClassSum(
            kind=kind,
            count=len(each),
            amount_nanousd=sum(one.amount_nanousd for one in each),
            share_bp=sum(abs(one.amount_nanousd) for one in each) * BP_PER_UNIT // whole,
        )
        for kind, each in sorted(found.items())
    ]


class _Matcher:
    """Finds what belongs together, and keeps what does not agree."""

    def __init__(self, state: State, provider_id: str, from_us: int, to_us: int) -> None:
        self.differences: list[Difference] = []
        self.correctable: list[Correctable] = []
        #: What each line of the account comes to.
        self.there: list[int] = []
        self._state = state
        self._provider_id = provider_id
        self._from_us, self._to_us = from_us, to_us

    def match_requests(self, theirs: Sequence[Theirs], ours: Sequence[Ours]) -> tuple[list[Theirs], list[Ours]]:
        """Match what has the same id, one to one; return the rest."""
        by_id: dict[str, list[Ours]] = {}
        for row in ours:
            if row.request_id:
                by_id.setdefault(row.request_id, []).append(row)
        told = Counter(line.request_id for line in theirs)
        left: list[Theirs] = []
        matched: set[int] = set()
        for line in theirs:
            if not line.request_id:
                left.append(line)
                continue
            rows = by_id.pop(line.request_id, [])
            matched |= {row.counted.position for row in rows}
            self._compare(line, rows)
            if len(rows) == 1 and told[line.request_id] == 1:
                self._note_correctable(line, rows[0])
        return left, [row for row in ours if row.counted.position not in matched]

    def match_buckets(self, theirs: Sequence[Theirs], ours: Sequence[Ours]) -> None:
        """Match a model's requests of a bucket with its line; what has no line is missing there."""
        left = list(ours)
        # A line that names no model is about all that the others of its bucket leave.
        for line in sorted(theirs, key=lambda line: not line.model):
            rows = [
                row for row in left if line.start_us <= row.started_us < line.end_us and _is_model(row, line.model)
            ]
            taken = {row.counted.position for row in rows}
            left = [row for row in left if row.counted.position not in taken]
            self._compare(line, rows)
        for row in left:
            kind: Class = "missing_there"
            if not row.is_final:
                kind = "unfinished"
            elif self._is_at_edge(row.started_us, _HOUR_US):
                kind = "late"
            if row.cost or row.counted.row.usage.total_tokens:
                self._note(kind, -row.cost, None, [row])

    def _compare(self, line: Theirs, rows: list[Ours]) -> None:
        entry = self._entry_of(line, rows)
        by_book = None if line.usage is None else cost_of(line.usage, entry).nanousd
        here = sum(row.cost for row in rows)
        cost = line.cost_nanousd if line.cost_nanousd is not None else by_book
        if line.cost_nanousd is None and rows and self._token_part(line, rows, entry) is None:
            cost = here  # tokens alone are told, and they agree
        if cost is None:
            # Tokens without any price, there and here: nothing is known to lie between them but that.
            self.there.append(here)
            if line.usage is not None and line.usage.total_tokens:
                self._note("unpriced", 0, line, rows)
            return
        self.there.append(cost)
        if not rows:
            length_us = line.end_us - line.start_us if not line.request_id else _HOUR_US
            kind: Class = "late" if self._is_at_edge(line.start_us, length_us) else "missing_here"
            if cost or (line.usage is not None and line.usage.total_tokens):
                self._note(kind, cost, line, [])
            return
        by_tokens = self._token_part(line, rows, entry)
        if not all(row.is_priced for row in rows):
            self._note_some("unpriced", cost - here, line, rows)
        elif by_tokens is None:
            self._note_some("price_mismatch", cost - here, line, rows)
        else:
            kind, amount = by_tokens
            # Without a rate for their tokens, nobody can say which part of it is the price's.
            amount = cost - here if amount is None else amount
            self._note(kind, amount, line, rows)
            self._note_some("price_mismatch", cost - here - amount, line, rows)

    def _token_part(
        self, line: Theirs, rows: list[Ours], entry: PriceEntry | None
    ) -> tuple[Class, int | None] | None:
        """Return why tokens differ, and what that costs by the price list; None where they agree."""
        if line.usage is None:
            return None
        used = TokenUsage()
        for row in rows:
            used = plus(used, row.counted.row.usage)
        if _tokens_of(used, line.usage) == _tokens_of(line.usage, line.usage):
            return None
        priced = cost_of(line.usage, entry).nanousd
        amount = None if priced is None else priced - sum(row.cost for row in rows)
        if not all(row.is_final for row in rows):
            return "unfinished", amount
        if line.requests is not None and line.requests != len(rows):
            return ("missing_here" if line.requests > len(rows) else "missing_there"), amount
        return "token_mismatch", amount

    def _entry_of(self, line: Theirs, rows: Sequence[Ours]) -> PriceEntry | None:
        """Return the entry that rows were charged by; of a line without any, that of its model at its time."""
        found = None
        for row in rows:
            found = found or entry_of(self._state, row.counted.row.price_id)
        for model in self._state.catalog.registry.models:
            names = (model.model_id, model.upstream_model)
            if found is None and model.provider_id == self._provider_id and _is_named(line.model, names):
                found = price_at(self._state, model.provider_id, model.model_id, line.start_us)
        if found is None or line.request_id:
            return found
        # Tokens of many requests together say nothing about the tier of one.
        return msgspec.structs.replace(found, tiers=[])

    def _is_at_edge(self, at_us: int, length_us: int) -> bool:
        """Whether a request may be in the account before or after this one."""
        if self._to_us - self._from_us < 3 * length_us:
            return False
        return at_us < self._from_us + length_us or at_us >= self._to_us - length_us

    def _note_correctable(self, line: Theirs, row: Ours) -> None:
        if line.cost_nanousd is None:
            return
        usage = row.counted.row.usage
        if line.usage is not None and _tokens_of(usage, line.usage) != _tokens_of(line.usage, line.usage):
            usage = line.usage
        if (usage, line.cost_nanousd) != (row.counted.row.usage, row.counted.row.cost_nanousd):
            position = row.counted.position
            self.correctable.append(Correctable(position=position, usage=usage, cost_nanousd=line.cost_nanousd))

    def _note_some(self, kind: Class, amount: int, line: Theirs, rows: Sequence[Ours]) -> None:
        if amount:
            self._note(kind, amount, line, rows)

    def _note(self, kind: Class, amount: int, line: Theirs | None, rows: Sequence[Ours]) -> None:
        first = rows[0] if rows else None
        model = line.model if line is not None else ""
        if not model and first is not None:
            model = first.counted.row.upstream_model
        start_us = line.start_us if line is not None else first.started_us if first is not None else 0
        there = None if line is None or line.usage is None else line.usage.total_tokens
        self.differences.append(
            Difference(
                kind=kind,
                amount_nanousd=amount,
                model=model,
                start_us=start_us,
                request_id=(line.request_id if line is not None else "") or (first.request_id if first else ""),
                tokens_there=there,
                tokens_here=sum(row.counted.row.usage.total_tokens for row in rows) if rows else None,
                positions=[row.counted.position for row in rows[:_POSITIONS_MAX_COUNT]],
                rows_count=len(rows),
            )
        )


def _is_model(row: Ours, model: str) -> bool:
    return not model or _is_named(model, (row.counted.row.upstream_model, row.counted.row.model_id))


def _is_named(model: str, names: tuple[str, ...]) -> bool:
    """Whether a line is about a model; one of both may name the snapshot that the other's name stood for."""
    return model in names or any(_is_snapshot(model, name) or _is_snapshot(name, model) for name in names)


def _is_snapshot(longer: str, name: str) -> bool:
    return longer.startswith(name) and _SNAPSHOT.fullmatch(longer, len(name)) is not None


def _tokens_of(usage: TokenUsage, like: TokenUsage) -> tuple[int, ...]:
    """Return the counts that an account tells: totals, and of the parts those that it has."""
    parts = ("cached_input_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens")
    told = [name for name in parts if getattr(like, name)]
    return usage.input_tokens, usage.output_tokens, *(getattr(usage, name) for name in told)
