"""Codes in words, the rare parts of an explanation, and progress."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from datetime import UTC
from pathlib import Path

import pytest
from cli_world import Cli, build
from freezegun import freeze_time
from story import T0_US, World, record

from palyra.cli.progress import Progress
from palyra.cli.words import ROLES, circuit_words, exclusion_words, state_word
from palyra.events import registry
from palyra.events.attempts import AttemptFailed, AttemptStarted, AttemptSucceeded
from palyra.events.base import Fact
from palyra.events.budgets import BudgetReserved, BudgetShare
from palyra.events.routing import Exclusion, PlanStep, RoutingDecided, RoutingFailedOver
from palyra.events.runs import RunAdmitted, RunCancelled, RunCompleted, RunFailed, TokenEstimate
from palyra.events.usage import UsageRecorded
from palyra.usage import TokenUsage


def test_options_know_every_role() -> None:
    """The list is a copy, so that the command line starts without the registry."""
    assert registry.ROLES == ROLES


@pytest.mark.parametrize(
    ("by", "figures", "words"),
    [
        ("capability_missing:vision", {}, "cannot do vision, which the request needs"),
        ("disabled", {}, "disabled in the configuration"),
        ("duplicate", {}, "has failed in this run already"),
        ("dimensions_differ", {"asked": 3_072, "has": 64}, "gives 64 dimensions at most, 3,072 were asked"),
        (
            "event_limit",
            {"estimated_tokens": 9_000, "limit_tokens": 4_000},
            "may carry 4,000 tokens in one request, the input has about 9,000",
        ),
        (
            "context_too_small",
            {"needed_tokens": 5_000, "window_tokens": 4_096},
            "window holds 4,096 tokens, input and answer need 5,000",
        ),
        ("context_too_small", {}, "has no larger window than the one that was too small"),
        ("circuit_open", {"until_us": 30_000_000}, "circuit is open until 00:00:30Z, 20 s after the decision"),
        ("circuit_open", {"until_us": 5_000_000}, "circuit is open, its trial is under way"),
        (
            "model_excluded",
            {"until_us": 70_000_000},
            "model is left out after failures until 00:01:10Z, 1 min after the decision",
        ),
        ("something_new", {"n": 1}, "something new"),
    ],
)
def test_exclusions(by: str, figures: Mapping[str, int], words: str) -> None:
    """Each rule is a clause with its figures; one that is not known here is shown as it is."""
    assert exclusion_words(by, figures, 10_000_000, UTC) == words


def test_states() -> None:
    """A state is its own word; a circuit says when its trial is."""
    assert state_word("half_open").text == "half-open"
    assert state_word("never_heard").style == ""
    assert circuit_words("closed", None, 0) == state_word("closed")
    assert "trial in 9 s" in str(circuit_words("open", 9_000_000, 0))
    assert "trial due" in str(circuit_words("open", 9_000_000, 9_000_000))
    assert "under way" in str(circuit_words("half_open", None, 0))


def _attempt(number: int, **changes: object) -> AttemptStarted:
    fields = {"provider_id": "openai", "model_id": "gpt", "upstream_model": "gpt", "api": "chat", "deadline_ms": 9}
    fields |= {"input_max_tokens": 150, "output_max_tokens": 50}
    return AttemptStarted(attempt=number, **{**fields, **changes})  # type: ignore[arg-type]


def _explained(tmp_path: Path, *facts: Fact) -> str:
    world = World()
    world.do(record("run-01KX", *facts))
    build(tmp_path / "state", world)
    ran = Cli(tmp_path / "state", T0_US)("explain", "01KX")
    assert (ran.status, ran.err) == (0, "")
    return ran.out


_ADMITTED = RunAdmitted(
    principal_id="key:a",
    agent_id="coder",
    endpoint="chat",
    config_generation=1,
    body_digest="0",
    body_bytes=1,
    deadline_us=1,
    tokens=TokenEstimate(raw=100, ratio_bp=11_200, upper=150),
)
_SHARE = BudgetShare(
    policy_id="day", revision=1, subject="", meter="all", window_start_us=0, window_end_us=9, amount=4_150
)
_STEP = PlanStep(provider_id="openai", model_id="gpt", upstream_model="gpt", readiness=2, health="unavailable")


def test_the_rare_parts_of_an_explanation(tmp_path: Path) -> None:
    """Calibration, a lowered maximum, a trial, waits, edits, steps that were passed over and overshoot are told."""
    told = _explained(
        tmp_path,
        _ADMITTED,
        RoutingDecided(
            resolved_by="virtual",
            model_id="gpt",
            failover="off",
            plan=[_STEP],
            output_requested_tokens=9_000,
            output_cap_tokens=4_000,
        ),
        BudgetReserved(attempt=1, expires_us=1, shares=[_SHARE]),
        _attempt(1, output_max_tokens=4_000, trial=True, queue_wait_ms=2_500, edits=["model", "unheard"]),
        AttemptFailed(attempt=1, failure_class="rate_limited", phase="headers", status=429),
        RoutingFailedOver(
            from_attempt=1,
            trigger="rate_limited",
            provider_id="groq",
            model_id="gpt",
            skipped=[Exclusion(provider_id="local", model_id="tiny", excluded_by="duplicate")],
            remaining_count=1,
        ),
        _attempt(2, provider_id="groq"),
        AttemptSucceeded(attempt=2, stop="end_turn", duration_us=5_000),
        UsageRecorded(
            principal_id="key:tester",
            endpoint="chat",
            effective_at_us=0,
            attempt=2,
            provider_id="groq",
            model_id="gpt",
            upstream_model="gpt",
            usage=TokenUsage(input_tokens=120, output_tokens=5),
            overshoot_tokens=7,
            source="partial",
            raw_input_tokens=100,
        ),
        RunCompleted(stop="end_turn", provider_id="groq", model_id="gpt", duration_us=9_000),
    )
    for line in (
        "asked  chat · no model named",
        "input  about 112 tokens, 150 at most · estimate times 1.12 by what was billed before",
        "  means     gpt · left to Palyra, so the default model",
        "  failover  off",
        "  1  openai / gpt      unavailable  unavailable, so tried last  asked for",
        "  output maximum 9,000 tokens, lowered to 4,000",
        "     cause    rate_limited · phase headers · HTTP 429 · not counted by the circuit",
        "     trial    the one call that a half-open circuit lets pass",
        "     waited   2.5 s for a free slot",
        "     held     150 tokens in · 4,000 out · for day",
        "     held  150 tokens in · 50 out · no budget applied",
        "     changed  model name, unheard",
        "  →  rate_limited: on to groq / gpt, 1 candidate left behind it",
        "     passed over local / tiny: has failed in this run already",
        "     used  120 tokens in · 5 out · partial · 7 tokens beyond what was held",
        "  completed · stop reason end_turn\n",
    ):
        assert line in told


def test_other_ends(tmp_path: Path) -> None:
    """A failed run names its code and cause, a cancelled one who wanted it, an open one says that it is."""
    failed = RunFailed(code="upstream_quota", failure_class="quota_exceeded", http_status=502)
    told = _explained(tmp_path / "a", _ADMITTED, failed)
    assert "failed · upstream_quota, last failure quota_exceeded · HTTP 502" in told
    cancelled = RunCancelled(reason="operator", by="operator:local", drained=True)
    told = _explained(tmp_path / "b", _ADMITTED, cancelled)
    assert "cancelled · an operator wanted it (operator:local) · the answer was read to its end" in told
    told = _explained(tmp_path / "c", _ADMITTED, _attempt(1))
    assert "End\n  open\n  nothing recorded\n" in told


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("kind", [_Terminal, io.StringIO])
def test_progress_is_for_terminals_and_for_work_that_lasts(kind: type[io.StringIO]) -> None:
    """Half a second is silent; then come count, rate and time left, on terminals; at the end the line is gone."""
    error = kind()
    with freeze_time("2026-11-20") as frozen, contextlib.redirect_stderr(error):
        with Progress() as progress:
            progress("checking", 0, 3_000)
            frozen.tick(0.4)
            progress("checking", 400, 3_000)
            assert error.getvalue() == ""
            frozen.tick(0.6)
            progress("checking", 1_000, 3_000)
            frozen.tick(0.01)
            progress("checking", 1_010, 3_000)
    expected = "\r\x1b[Kchecking 1,000 of 3,000 · 1,000/s · 2 s left\r\x1b[K"
    assert error.getvalue() == (expected if kind is _Terminal else "")
