"""Where somebody else's words can stand in the facts of each request: there they are searched for secrets."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from engine_world import house, one

from palyra.engine.core import FOREIGN_FIELDS
from palyra.errors import SecretInEvent
from palyra.events.attempts import AttemptStarted, AttemptSucceeded
from palyra.events.base import Draft, Fact
from palyra.events.budgets import BudgetReleased, BudgetReserved
from palyra.events.routing import RoutingDecided
from palyra.events.runs import RunAdmitted, RunCompleted, TokenEstimate
from palyra.events.usage import UsageRecorded

#: Texts that are made here, stand in the configuration, or are words of ours.
OWN_FIELDS: dict[type[Fact], str] = {
    RunAdmitted: "principal_id key_id endpoint dialect origin needs body_digest tokens",
    RoutingDecided: (
        "resolved_by model_id failover plan excluded verdicts models_permitted mode mode_requested"
        " task_class strategy recommended would action reason_codes candidates excluded_counts candidates_digest"
        " estimate evaluations basis"
    ),
    BudgetReserved: "shares",
    AttemptStarted: "provider_id model_id upstream_model credential_ref api edits price_id variant",
    AttemptSucceeded: "stop",
    UsageRecorded: (
        "provider_id model_id upstream_model principal_id key_id session_id agent_id endpoint origin source billed"
        " price_id cost_state anomalies"
    ),
    BudgetReleased: "because overshoots returned",
    RunCompleted: "stop provider_id model_id",
}
SECRET = "sk-" + "a1B2c3D4" * 5


def _holds_text(kind: Any) -> bool:
    """Return whether a field of this type can hold a text, at any depth; the words of a `Literal` are texts."""
    if isinstance(kind, str) or kind is str:
        return True
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return any(_holds_text(field.type) for field in msgspec.structs.fields(kind))
    return any(_holds_text(part) for part in get_args(kind))


@pytest.mark.parametrize("struct", FOREIGN_FIELDS)
def test_every_text_of_these_facts_is_accounted_for(struct: type[Fact]) -> None:
    """A field that is added is our own, or it is searched."""
    texts = {field.name for field in msgspec.structs.fields(struct) if _holds_text(field.type)}
    assert texts == {*OWN_FIELDS[struct].split(), *FOREIGN_FIELDS[struct]}


ADMITTED = RunAdmitted(
    principal_id="key:a",
    endpoint="chat",
    config_generation=1,
    body_digest="0",
    body_bytes=1,
    deadline_us=1,
    tokens=TokenEstimate(raw=1, upper=1),
)
STARTED = AttemptStarted(
    attempt=1,
    provider_id="a",
    model_id="m",
    upstream_model="m",
    api="chat",
    deadline_ms=1,
    input_max_tokens=1,
    output_max_tokens=1,
)
SUCCEEDED = AttemptSucceeded(attempt=1, stop="end_turn", duration_us=1)


@pytest.mark.parametrize(
    ("fact", "field"),
    [(fact, field) for fact in (ADMITTED, STARTED, SUCCEEDED) for field in FOREIGN_FIELDS[type(fact)]],
)
async def test_a_secret_is_found_wherever_it_may_come_in(fact: Fact, field: str) -> None:
    """In a text, in a list, in a name or value of a tag."""
    kind = type(getattr(fact, field))
    value = {dict: {"team": SECRET}, list: [SECRET]}.get(kind, SECRET)
    async with house(one()) as world:
        with pytest.raises(SecretInEvent):
            await world.core.record([Draft("run-r1", msgspec.structs.replace(fact, **{field: value}))])
        assert "run.admitted" not in world.names("r1")
