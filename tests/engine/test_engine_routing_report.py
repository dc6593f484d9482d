"""What routing decided, counted from the facts: modes, hints that were followed, what enforced would have saved."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from reports_kit import RowsReader, day_us

from palyra.engine.reports.alerts import alerts_in
from palyra.engine.reports.fold import Grouping, fold
from palyra.engine.reports.html import Refusals
from palyra.engine.reports.routing import Choices
from palyra.engine.reports.scope import Filters, Scope
from palyra.events import alerts, attempts, routing, runs, usage
from palyra.events.base import Fact, Recorded
from palyra.usage import TokenUsage

AT_US = day_us(2026, 5, 5)


def scope_for(**filters: str) -> Scope:
    return Scope(AT_US, AT_US + 86_400_000_000, UTC, Filters(**filters))


class Log:
    """Facts, written down one by one a second apart."""

    def __init__(self) -> None:
        self.history: list[Recorded] = []

    def note(self, stream: str, *bodies: Fact) -> None:
        for body in bodies:
            at_us = AT_US + len(self.history) * 1_000_000
            position = len(self.history) + 1
            self.history.append(Recorded(position, stream, position, at_us, "engine", "", 0, "", body))

    def run(
        self,
        name: str,
        *,
        served: str = "big/large",
        cost_nanousd: int | None = 900,
        session_id: str = "",
        agent_id: str = "",
        is_open: bool = False,
        **decided: Any,
    ) -> None:
        """Note a request from its admission to its end."""
        provider_id, _, model_id = served.partition("/")
        whose = {"principal_id": "key:a", "session_id": session_id, "agent_id": agent_id}
        step = routing.PlanStep(provider_id=provider_id, model_id=model_id, upstream_model=model_id)
        decided = {"resolved_by": "model_id", "model_id": model_id, "failover": "off", "plan": [step], **decided}
        self.note(
            f"run-{name}",
            runs.RunAdmitted(
                **whose,
                endpoint="chat",
                config_generation=1,
                body_digest="",
                body_bytes=1,
                deadline_us=AT_US,
                tokens=runs.TokenEstimate(raw=1, upper=1),
            ),
            routing.RoutingDecided(**decided),
        )
        if is_open:
            return
        where = {"provider_id": provider_id, "model_id": model_id, "upstream_model": model_id}
        self.note(
            f"run-{name}",
            attempts.AttemptStarted(
                attempt=1, **where, api="chat", deadline_ms=1, input_max_tokens=1, output_max_tokens=1
            ),
            usage.UsageRecorded(
                attempt=1,
                **where,
                **whose,
                endpoint="chat",
                effective_at_us=AT_US,
                usage=TokenUsage(input_tokens=10),
                raw_input_tokens=10,
                cost_nanousd=cost_nanousd,
            ),
            runs.RunCompleted(stop="end_turn", provider_id=provider_id, model_id=model_id, duration_us=5),
        )

    def choices(self, recent_count: int = 0, **filters: str) -> Choices:
        found = Choices(scope_for(**filters), recent_count)
        fold(RowsReader(self.history), found, since_us=AT_US)
        return found


def estimate(nanousd: int | None) -> routing.PricingEstimate:
    return routing.PricingEstimate(expected_nanousd=nanousd)


def would(name: str, nanousd: int | None, action: str = "degrade") -> routing.WouldBe:
    provider_id, _, model_id = name.partition("/")
    return routing.WouldBe(provider_id=provider_id, model_id=model_id, action=action, expected_nanousd=nanousd)


def test_what_was_tried_out_is_compared_like_with_like() -> None:
    """Expected beside expected, by class and model; where one is not known the run counts, its figures do not."""
    log = Log()
    log.run("1", mode="dry_run", estimate=estimate(1_000), would=would("small/tiny", 100))
    log.run("2", mode="dry_run", estimate=estimate(500), would=would("small/tiny", 200), cost_nanousd=None)
    log.run("3", mode="dry_run", estimate=estimate(None), would=would("small/tiny", 70))
    log.run("4", mode="dry_run", task_class="background", estimate=estimate(300), would=would("", None, "blocked"))
    log.run("5", mode="dry_run", estimate=estimate(40), would=would("", None, "proceed"))
    found = log.choices()
    tiny, stays, refused = sorted(found.comparisons, key=lambda one: one.would, reverse=True)
    assert (tiny.task_class, tiny.served, tiny.would, tiny.runs) == ("interactive", "big/large", "small/tiny", 3)
    assert (tiny.cost_nanousd, tiny.cost_complete) == (1_800, False)
    assert (tiny.compared_runs, tiny.expected_nanousd, tiny.would_nanousd) == (2, 1_500, 300)
    # It was pinned with the right to: enforced leaves it alone.
    assert (stays.would, stays.expected_nanousd, stays.would_nanousd) == ("big/large", 40, 40)
    assert (refused.task_class, refused.would, refused.compared_runs) == ("background", "", 0)
    figures = found.figures
    assert (figures.would_save_nanousd, figures.would_save_runs) == (1_200, 3)
    assert figures.modes == {"dry_run": 5}


def test_a_hint_is_followed_by_the_next_request_of_its_session() -> None:
    """The next one alone counts, by the model that its name stands for; without a session nobody can tell."""
    log = Log()
    hint = {"mode": "suggest", "recommended": "small/tiny"}
    log.run("1", session_id="s", **hint)
    log.run("2", session_id="s", served="small/tiny", **hint)
    log.run("3", session_id="s", **hint)
    log.run("4", session_id="s", served="big/mid", mode="enforced")
    log.run("5", session_id="s", served="small/tiny", mode="enforced")
    log.run("6", **hint)
    log.run("7", session_id="other", **hint)
    hints = log.choices().figures.hints
    assert (hints.given, hints.answered, hints.followed, hints.followed_bp) == (4, 2, 1, 5_000)
    assert Log().choices().figures.hints.followed_bp is None


def test_decisions_are_counted_by_what_they_were() -> None:
    """Names that gave way, rules that left little, requests that nobody served, and those that are open still."""
    log = Log()
    log.run("1", mode="enforced", action="degrade", strategy="cheapest", reason_codes=["requested_overridden"])
    log.run(
        "2", mode="enforced", action="upgrade", strategy="best", reason_codes=["budget_downgrade"], is_open=True
    )
    log.note(
        "run-3",
        routing.RoutingDecided(resolved_by="model_id", model_id="x", failover="off", plan=[], action="blocked"),
        runs.RunRefused(code="budget_blocked", http_status=429, principal_id="key:b", endpoint="chat"),
    )
    log.note("run-4", runs.RunRefused(code="model_not_found", http_status=404, endpoint="chat"))
    found = log.choices(recent_count=2)
    figures = found.figures
    assert (figures.decisions, figures.overridden, figures.downgraded, figures.blocked) == (3, 1, 1, 1)
    assert figures.actions == {"blocked": 1, "degrade": 1, "upgrade": 1}
    assert figures.strategies == {"best": 1, "cheapest": 1}
    assert [(one.run_id, one.state, one.served) for one in found.recent] == [
        ("3", "refused", ""),
        ("2", "open", ""),
    ]
    mine = log.choices(principal_id="key:b").figures
    assert (mine.decisions, mine.blocked) == (1, 1)
    assert log.choices(provider_id="big").figures.decisions == 1


def test_expected_costs_are_measured_where_the_first_attempt_served() -> None:
    """Of one attempt whose cost is known; a decision without an estimate says nothing about estimates."""
    log = Log()
    log.run("1", mode="enforced", estimate=estimate(1_000), cost_nanousd=800)
    log.run("2", mode="enforced", estimate=estimate(1_000), cost_nanousd=None)
    log.run("3", mode="suggest", cost_nanousd=800)
    errors = log.choices().cost_errors_bp
    assert list(errors) == [("big", "large")]
    assert errors["big", "large"].quantile(5_000) == 2_500


def test_the_class_of_a_request_is_what_its_decision_tells() -> None:
    """A request from outside may be work that nobody waits for; its tokens and corrections go with it."""
    log = Log()
    log.run("1", task_class="background")
    log.run("2")
    log.note(
        "corrections",
        usage.UsageCorrected(
            run_id="1",
            attempt=1,
            corrects_position=4,
            provider_id="big",
            model_id="large",
            principal_id="key:a",
            endpoint="chat",
            effective_at_us=AT_US,
            tokens_before=10,
            deltas=TokenUsage(output_tokens=5),
            cost_before_nanousd=900,
            cost_after_nanousd=1_000,
        ),
    )
    grouping = Grouping(scope_for(), ["task_class"])
    fold(RowsReader(log.history), grouping, since_us=AT_US)
    found = {key: (one.runs, one.total_tokens, one.cost_nanousd) for key, one in grouping.groups.items()}
    assert found == {("background",): (1, 15, 1_000), ("interactive",): (1, 10, 900)}


def test_an_alert_is_one_row_however_often_it_was_spoken_of() -> None:
    """Raised, worse, seen, gone; one that began before the window is not in it."""
    log = Log()
    kind = {"dedupe_key": "k", "kind": "budget_soft", "subject_kind": "policy", "subject_id": "day"}
    log.note(
        "alert-1",
        alerts.AlertRaised(**kind, severity="warning", facts={"subject": "key:a"}),
        alerts.AlertAcknowledged(),
        alerts.AlertRaised(**kind, severity="danger", facts={"subject": "key:a"}),
    )
    log.note("alert-2", alerts.AlertRaised(**kind, severity="info", valid_until_us=AT_US + 1))
    log.note("alert-3", alerts.AlertRaised(**kind, severity="info"), alerts.AlertCleared(reason_code="gone"))
    log.note("alert-0", alerts.AlertAcknowledged())
    reader, now_us = RowsReader(log.history), AT_US + 86_400_000_000
    found = alerts_in(reader, scope_for(), now_us)
    assert [(one.alert_id, one.severity, one.state) for one in found] == [
        ("1", "danger", "open"),
        ("2", "info", "ended"),
        ("3", "info", "ended"),
    ]
    assert [one.alert_id for one in alerts_in(reader, scope_for(principal_id="key:a"), now_us)] == ["1"]
    assert alerts_in(reader, Scope(AT_US - 10, AT_US, UTC, Filters()), now_us) == []


def test_refusals_are_told_by_the_rule_that_made_them() -> None:
    """The first rule that left a model out, of the decision that left nobody; others have a code alone."""
    log = Log()
    nobody = {"resolved_by": "model_id", "model_id": "m", "failover": "off", "plan": [], "action": "blocked"}
    for name, rules in (("1", ["circuit_open", "budget_excluded:day"]), ("2", ["approval:month"]), ("3", [])):
        excluded = [routing.Exclusion(provider_id="p", model_id="m", excluded_by=rule) for rule in rules]
        log.note(
            f"run-{name}",
            routing.RoutingDecided(**nobody, excluded=excluded),
            runs.RunRefused(code="budget_blocked", http_status=429, principal_id="key:a", endpoint="chat"),
        )
    log.note(
        "run-4", runs.RunRefused(code="budget_blocked", http_status=429, principal_id="key:b", endpoint="chat")
    )
    log.note(
        "run-5", runs.RunRefused(code="model_not_found", http_status=404, principal_id="key:a", endpoint="chat")
    )
    for filters, counts in (
        ({}, {("budget_blocked", "day"): 1, ("budget_blocked", "month"): 1, ("budget_blocked", ""): 2}),
        ({"principal_id": "key:b"}, {("budget_blocked", ""): 1}),
    ):
        found, reader = Refusals(scope_for(**filters)), RowsReader(log.history)
        fold(reader, found, since_us=AT_US)
        found.name_rules(reader)
        wanted = counts if filters else {**counts, ("model_not_found", ""): 1}
        assert found.counts == wanted
