"""Books of money: what each row costs, what rules have counted and hold, and which answers came from the cache.

They sum rows from the first on where the engine keeps counters, and charge in fractions where it counts in parts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import msgspec

from palyra.events.attempts import AttemptStarted
from palyra.events.base import Fact, Recorded
from palyra.events.budgets import (
    BudgetHardLimitReached,
    BudgetPolicyRetired,
    BudgetPolicySet,
    BudgetReleased,
    BudgetReserved,
    BudgetShare,
    BudgetSoftLimitCrossed,
    UsageBudgetPolicyRecord,
)
from palyra.events.cache import CacheHit, CacheStored
from palyra.events.pricing import PriceEntry, PriceListAdopted
from palyra.events.registry import Registry
from palyra.events.runs import RunAdmitted
from palyra.events.usage import UsageRecorded

_HOUR_US = 3_600 * 1_000_000
_DAY_US = 24 * _HOUR_US
_QUARTER_US = _HOUR_US // 4
_FOREVER_US = 1 << 62
#: 1970 began on a Thursday.
_WEEKDAY_OF_1970 = 3
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_HOURS_AHEAD = {"UTC": 0, "Asia/Tokyo": 9}
_OWN = "request.max_cost"
_MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
#: 2027-01-01 and its month; simulations play in that winter.
_NEW_YEAR_US = 1_798_761_600 * 1_000_000


class Rule(msgspec.Struct):
    """A rule in force: since when it counts, and which of the rows before that it counts too."""

    record: UsageBudgetPolicyRecord
    revision: int
    counted_from: int
    #: How many rows there were, and the stretch of time of which those count.
    rows_count: int
    history_us: tuple[int, int]
    told: dict[tuple[str, str, int], int] = {}


class HoldBook(msgspec.Struct):
    """What an attempt holds."""

    attempt: int
    shares: list[BudgetShare]


class Row(msgspec.Struct):
    """A row of usage with the shares that its attempt held."""

    stream: str
    body: UsageRecorded
    shares: list[BudgetShare]


class MoneyBooks:
    """The account of everything that costs, could have cost, or was saved."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.entries: dict[str, PriceEntry] = {}
        self.in_force: list[PriceEntry] = []
        self.rules: dict[str, Rule] = {}
        self.rows: list[Row] = []
        self.holds: dict[str, HoldBook] = {}
        self.admitted: dict[str, tuple[RunAdmitted, int]] = {}
        self.starts: dict[str, AttemptStarted] = {}
        #: Answers that were kept, by run: key, until when, whose.
        self.stored: dict[str, tuple[str, int]] = {}
        #: The run whose answer a run was given.
        self.hits: dict[str, str] = {}
        #: What the last hold of a run that has been let go had used.
        self._unreleased: dict[str, Row] = {}

    def enter(self, recorded: Recorded) -> None:
        """Enter one fact; raises `AssertionError` where it does not fit."""
        stream, body, at_us = recorded.stream, recorded.body, recorded.recorded_at_us
        match body:
            case PriceListAdopted():
                self.in_force = body.entries
                self.entries |= {entry.price_id: entry for entry in body.entries}
            case BudgetPolicySet() | BudgetPolicyRetired():
                self._enter_rule(stream.removeprefix("budget-"), body, at_us)
            case BudgetSoftLimitCrossed() | BudgetHardLimitReached():
                self._enter_limit(stream.removeprefix("budget-"), body, at_us)
            case RunAdmitted():
                self.admitted[stream] = (body, at_us)
            case BudgetReserved():
                self.holds[stream] = HoldBook(body.attempt, body.shares)
                assert body.shares, "a hold for no rule"
            case AttemptStarted():
                self.starts[stream] = body
                self._check_start(stream, body, at_us)
            case UsageRecorded():
                self._enter_usage(stream, body)
            case BudgetReleased():
                self._enter_release(stream, body)
            case CacheStored() | CacheHit():
                self._enter_cache(stream, body, at_us)

    # -- what a row costs

    def _enter_usage(self, stream: str, body: UsageRecorded) -> None:
        started = self.starts[stream]
        asked = self.admitted[stream][0]
        assert (body.provider_id, body.model_id) == (started.provider_id, started.model_id), "of another model"
        assert (body.principal_id, body.session_id) == (asked.principal_id, asked.session_id), "of somebody else"
        assert body.effective_at_us == self.admitted[stream][1], "not of the admission's instant"
        entry = self.entries.get(started.price_id)
        said = body.provider_cost_nanousd
        provider = next((one for one in self.registry.providers if one.provider_id == body.provider_id), None)
        expected = cost_of(entry, body)
        if provider is not None and provider.cost_source == "provider" and said is not None:
            expected = (said, 0)
        assert body.price_id == started.price_id, "priced by another entry than it started with"
        is_cost = (body.cost_nanousd, body.known_nanousd)
        assert is_cost == expected, f"costs {is_cost} and not {expected}"
        assert (body.cost_state == "unknown") == (body.cost_nanousd is None), body.cost_state
        bounds = (started.input_max_tokens, started.output_max_tokens)
        used = (body.usage.input_tokens, body.usage.output_tokens)
        tokens = sum(max(0, amount - bound) for amount, bound in zip(used, bounds, strict=True))
        assert body.overshoot_tokens == tokens, f"{tokens} tokens passed the bound, said {body.overshoot_tokens}"
        hold = self.holds.get(stream)
        row = Row(stream, body, [] if hold is None else hold.shares)
        self.rows.append(row)
        if hold is not None:
            self._unreleased[stream] = row

    def _price_at(self, provider_id: str, model_id: str, at_us: int) -> PriceEntry | None:
        for entry in self.in_force:
            until_us = _FOREVER_US if entry.effective_to_us is None else entry.effective_to_us
            is_of = (entry.provider_id, entry.model_id) == (provider_id, model_id)
            if is_of and entry.effective_from_us <= at_us < until_us:
                return entry
        return None

    # -- what rules count and hold

    def _enter_rule(self, name: str, body: BudgetPolicySet | BudgetPolicyRetired, at_us: int) -> None:
        before = self.rules.pop(name, None)
        if isinstance(body, BudgetPolicyRetired):
            assert before is not None, "retired and not in force"
            return
        if before is not None and _counting(before.record) == _counting(body.policy):
            before.record, before.revision = body.policy, body.revision
            self.rules[name] = before
            return
        start_us, end_us = _window(body.policy, at_us)
        if body.policy.interval_kind == "rolling":
            start_us = _since_us(body.policy, at_us)
        self.rules[name] = Rule(body.policy, body.revision, body.revision, len(self.rows), (start_us, end_us))

    def consumed(self, name: str, subject: str, at_us: int) -> int:
        """Return what a rule has counted in the window of an instant, summed from all rows."""
        rule = self.rules[name]
        record = rule.record
        start_us, end_us = _window(record, at_us)
        if record.interval_kind == "rolling":
            start_us = _since_us(record, at_us)
        total = 0
        for number, row in enumerate(self.rows):
            effective_us = row.body.effective_at_us
            if record.interval_kind == "per_run":
                counts = any(self._is_of(rule, share) and share.subject == subject for share in row.shares)
            else:
                counts = _subject(record, row.body, row.body) == subject and start_us <= effective_us < end_us
                if number < rule.rows_count:
                    counts = counts and rule.history_us[0] <= effective_us < rule.history_us[1]
            total += _amount(record, row.body) if counts else 0
        return total

    def _is_of(self, rule: Rule, share: BudgetShare) -> bool:
        return share.policy_id == rule.record.policy_id and share.revision >= rule.counted_from

    def _reserved(self, name: str, subject: str, window: tuple[int, int], *, without: str = "") -> int:
        rule = self.rules[name]
        return sum(
            share.amount
            for stream, hold in self.holds.items()
            for share in hold.shares
            if stream != without
            and self._is_of(rule, share)
            and (share.subject, share.window_start_us, share.window_end_us) == (subject, *window)
        )

    def _check_start(self, stream: str, body: AttemptStarted, at_us: int) -> None:
        """Every rule that applies has its share of the hold, and none that blocks is passed with it."""
        asked, admitted_us = self.admitted[stream]
        hold = self.holds.get(stream)
        held_for = [] if hold is None else hold.shares
        entry = self._price_at(body.provider_id, body.model_id, at_us)
        assert body.price_id == ("" if entry is None else entry.price_id), "not the price in force"
        shares = {share.policy_id: share for share in held_for}
        assert len(shares) == len(held_for), "two shares of one rule"
        for name, rule in self.rules.items():
            record = rule.record
            subject = _subject(record, asked, body)
            if subject is None:
                assert name not in shares, f"{name} does not apply"
                continue
            subject = stream.removeprefix("run-") if record.interval_kind == "per_run" else subject
            window = _window(record, admitted_us)
            share = shares.pop(name, None)
            assert share is not None, f"{name} has no share"
            assert share.revision == rule.revision, f"{name} is judged by an older revision"
            assert (share.subject, share.window_start_us, share.window_end_us) == (subject, *window)
            amount = _worst(record, (body.input_max_tokens, body.output_max_tokens), asked.body_bytes, entry)
            assert share.amount == (amount or 0), f"{name} holds {share.amount} for {amount}"
            if record.mode != "enforced":
                continue
            assert amount is not None or record.on_unpriced == "allow", f"{name} lets through what has no price"
            used = self.consumed(name, subject, admitted_us)
            held = self._reserved(name, subject, window)
            is_inside = record.hard_limit is None or used + held <= record.hard_limit
            assert is_inside, f"{name} of {subject!r}: {used} used, {held} held, limit {record.hard_limit}"
        own = shares.pop(_OWN, None)
        assert not shares, f"shares of rules that are not in force: {list(shares)}"
        assert (own is None) == (asked.max_cost_nanousd is None), "the request's own limit"
        if own is not None and asked.max_cost_nanousd is not None:
            spent = sum(row.body.cost_nanousd or 0 for row in self.rows if row.stream == stream)
            assert entry is not None, "a request with a limit of its own is made without a price"
            assert spent + own.amount <= asked.max_cost_nanousd, f"{spent} and {own.amount} pass its own limit"

    def _enter_release(self, stream: str, body: BudgetReleased) -> None:
        hold, row = self.holds.pop(stream), self._unreleased.pop(stream, None)
        beyond: dict[str, int] = {}
        if row is not None:
            for share in hold.shares:
                amount = _metered(share.meter, row.body) - share.amount
                if amount > 0:
                    beyond[share.policy_id] = amount
        told = {one.policy_id: one.amount for one in body.overshoots}
        assert told == beyond, f"{beyond} passed their shares, said are {told}"

    def _enter_limit(self, name: str, body: BudgetSoftLimitCrossed | BudgetHardLimitReached, at_us: int) -> None:
        """A limit is told once a revision and window, with the figures of the moment."""
        rule = self.rules[name]
        assert body.revision == rule.revision, "of another revision"
        known = self.admitted.get(f"run-{body.run_id}")
        window = (body.window_start_us, body.window_end_us)
        judged_us = at_us if known is None else known[1]
        if rule.record.interval_kind != "per_run":
            used, held = (
                self.consumed(name, body.subject, judged_us),
                self._reserved(name, body.subject, window),
            )
            figures = (body.consumed, body.reserved)
            assert figures == (used, held), f"{figures} are told, {(used, held)} is the case"
        is_soft = isinstance(body, BudgetSoftLimitCrossed)
        limit = rule.record.soft_limit if is_soft else rule.record.hard_limit
        assert body.limit == limit, "not the limit in force"
        key = ("soft" if is_soft else "hard", body.subject, body.window_start_us)
        assert rule.told.get(key) != body.revision, "told twice"
        rule.told[key] = body.revision
        if body.verdict != "blocked" or rule.record.hard_limit is None:
            return
        assert body.consumed + body.reserved + body.requested > rule.record.hard_limit, "it would have fitted"

    def output_bound_tokens(self, stream: str) -> int | None:
        """Return the output that the open attempt of a run may have; None where no hard limit stands behind it."""
        hold = self.holds.get(stream)
        if hold is None:
            return None
        rules = [self.rules[share.policy_id].record for share in hold.shares if share.policy_id in self.rules]
        is_hard = any(rule.hard_limit is not None and rule.mode == "enforced" for rule in rules)
        return self.starts[stream].output_max_tokens if is_hard else None

    def open_shares(self) -> Iterator[tuple[str, BudgetShare]]:
        """Yield what open attempts hold of rules that count it."""
        for stream, hold in self.holds.items():
            for share in hold.shares:
                rule = self.rules.get(share.policy_id)
                if share.policy_id == _OWN or (rule is not None and self._is_of(rule, share)):
                    yield stream, share

    # -- what was saved

    def _enter_cache(self, stream: str, body: CacheStored | CacheHit, at_us: int) -> None:
        if isinstance(body, CacheStored):
            self.stored[stream] = (body.key_digest, body.until_us)
            return
        source = f"run-{body.of_run_id}"
        key, until_us = self.stored[source]
        assert key == body.key_digest, "the answer to another request"
        assert at_us < until_us, "an answer whose time is over"
        made, asked = self.admitted[source][0], self.admitted[stream][0]
        assert (made.endpoint, made.dialect) == (asked.endpoint, asked.dialect), "of another kind"
        isolation = self.registry.response_cache_isolation
        if isolation != "shared":
            assert made.principal_id == asked.principal_id, "an answer of somebody else"
        if isolation == "session":
            assert made.session_id == asked.session_id, "an answer of another session"
        used = [row.body.usage for row in self.rows if row.stream == source]
        saved = (sum(one.input_tokens for one in used), sum(one.output_tokens for one in used))
        assert (body.saved_input_tokens, body.saved_output_tokens) == saved, f"{saved} were used for it"
        self.hits[stream] = source


def cost_of(entry: PriceEntry | None, row: UsageRecorded) -> tuple[int | None, int]:
    """Return what a row costs by an entry, and the part of it that is known where it is not known whole."""
    used = row.usage
    counts = (
        used.input_tokens - used.cached_input_tokens,
        used.cached_input_tokens,
        used.output_tokens - used.reasoning_tokens,
        used.reasoning_tokens,
    )
    cost, is_whole = _charge(entry, used.input_tokens, counts)
    rounded = math.floor(cost + Fraction(1, 2))
    return (rounded, 0) if is_whole else (None, rounded)


def _charge(
    entry: PriceEntry | None, input_tokens: int, counts: tuple[int, int, int, int]
) -> tuple[Fraction, bool]:
    """Return the exact cost of text, and whether each part of it has a rate."""
    if entry is None:
        return Fraction(), False
    if entry.state == "free":
        return Fraction(), True
    fresh = entry.input_nanousd_per_mtok
    for tier in entry.tiers:
        if input_tokens > tier.above_input_tokens:
            fresh = tier.input_nanousd_per_mtok
    cached = fresh if entry.cached_input_nanousd_per_mtok is None else entry.cached_input_nanousd_per_mtok
    spoken = entry.output_nanousd_per_mtok
    thought = spoken if entry.reasoning_nanousd_per_mtok is None else entry.reasoning_nanousd_per_mtok
    cost, is_whole = Fraction(entry.request_nanousd_each or 0), True
    for count, rate in zip(counts, (fresh, cached, spoken, thought), strict=True):
        if count and rate is None:
            is_whole = False
        cost += Fraction(count * (rate or 0), 1_000_000)
    return cost, is_whole


def _worst(
    record: UsageBudgetPolicyRecord, tokens: tuple[int, int], body_bytes: int, entry: PriceEntry | None
) -> int | None:
    """Return what an attempt may take of a rule at most; None where it has no price."""
    tokens_in = tokens[0] + (body_bytes if record.sizing == "strict" else 0)
    tokens_out = tokens[1]
    if record.metric_kind == "tokens":
        return tokens_out if record.token_count == "output" else tokens_in + tokens_out
    if entry is None:
        return None
    spoken, thought = entry.output_nanousd_per_mtok or 0, entry.reasoning_nanousd_per_mtok or 0
    counts = (tokens_in, 0, 0, tokens_out) if thought > spoken else (tokens_in, 0, tokens_out, 0)
    cost, is_whole = _charge(entry, tokens_in, counts)
    return math.ceil(cost) if is_whole else None


def _metered(meter: str, row: UsageRecorded) -> int:
    if meter == "usd_cost":
        return row.known_nanousd if row.cost_nanousd is None else row.cost_nanousd
    used = row.usage
    if meter == "output":
        return used.output_tokens
    return used.input_tokens + used.output_tokens - (used.cached_input_tokens if meter == "uncached" else 0)


def _amount(record: UsageBudgetPolicyRecord, row: UsageRecorded) -> int:
    return _metered("usd_cost" if record.metric_kind == "usd_cost" else record.token_count, row)


def _counting(record: UsageBudgetPolicyRecord) -> UsageBudgetPolicyRecord:
    """Return a rule without what it may change and count on."""
    return msgspec.structs.replace(
        record,
        soft_limit=None,
        hard_limit=None,
        on_unpriced="allow",
        sizing="worst_case",
        shrink_output=True,
        mode="enforced",
        managed_by="journal",
    )


def _subject(record: UsageBudgetPolicyRecord, who: RunAdmitted | UsageRecorded, where: Fact) -> str | None:
    """Return whom a rule counts somebody at a model for; None where it does not apply."""
    assert isinstance(where, (AttemptStarted, UsageRecorded))
    wanted = dict(record.match)
    if wanted.pop("endpoint", who.endpoint) != who.endpoint:
        return None
    if wanted.pop("model_id", where.model_id) != where.model_id:
        return None
    assert not wanted, "a match that the books do not know"
    subject = {
        "global": "",
        "principal": who.principal_id,
        "session": who.session_id or f"none:{who.principal_id}",
        "agent": who.agent_id or f"none:{who.principal_id}",
        "provider": where.provider_id,
        "model": f"{where.provider_id}/{where.model_id}",
    }[record.scope_kind]
    if record.scope_kind == "model" and record.scope_id == where.model_id:
        return where.model_id
    return subject if record.scope_id in ("", "*", subject) else None


def _window(record: UsageBudgetPolicyRecord, at_us: int) -> tuple[int, int]:
    """Return the window of a rule that holds an instant."""
    if record.interval_kind == "rolling":
        return 0, _FOREVER_US
    if record.interval_kind == "per_run":
        return 0, _FOREVER_US - 1
    ahead_us = _HOURS_AHEAD[record.timezone] * _HOUR_US
    day = (at_us + ahead_us) // _DAY_US
    if record.interval_kind == "daily":
        return day * _DAY_US - ahead_us, (day + 1) * _DAY_US - ahead_us
    if record.interval_kind == "weekly":
        first = day - (day + _WEEKDAY_OF_1970 - _WEEKDAYS.index(record.week_start)) % 7
        return first * _DAY_US - ahead_us, (first + 7) * _DAY_US - ahead_us
    first = _NEW_YEAR_US // _DAY_US + record.month_day - 1 - 31
    for length in (31, *_MONTH_DAYS):
        if first <= day < first + length:
            return first * _DAY_US - ahead_us, (first + length) * _DAY_US - ahead_us
        first += length
    raise AssertionError("not in the year of simulations")


def _since_us(record: UsageBudgetPolicyRecord, at_us: int) -> int:
    start_us = at_us - (record.rolling_hours or 0) * _HOUR_US
    return start_us - start_us % _QUARTER_US
