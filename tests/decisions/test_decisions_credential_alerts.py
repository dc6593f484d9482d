"""Credentials that configuration names and that are not there: told once, shown, cleared when they come."""

from __future__ import annotations

from typing import Any

import pytest
from registries import model, provider, registry
from story import Outcome, Step, World, given, record, wait

from palyra.decisions.alerts import evaluate_alerts
from palyra.decisions.credential_alerts import missing_credentials
from palyra.decisions.credentials import absent_credentials, presence_of_credential
from palyra.decisions.health import health_with_credentials
from palyra.events.auth import AuthProfileConnected, AuthProfileRevoked
from palyra.events.base import Fact
from palyra.events.vault import VaultCreated, VaultDamageFound, VaultSecretStored
from palyra.projections.alerts import open_alerts


def entry(**changes: Any) -> Any:
    return provider(**{"provider_id": "a", "auth_scheme": "bearer", **changes})


def look(*absent: str) -> Step:
    """Evaluate alerts, as the daemon does that missed these at its last look."""

    def step(world: World) -> Outcome:
        found = list(missing_credentials(world.state, absent))
        return Outcome(recorded=world.record(evaluate_alerts(world.state, world.now_us, found)))

    return step


def told(world: World) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (one.raised.severity, one.raised.subject_id, one.raised.facts)
        for one in open_alerts(world.state, world.now_us)
    ]


def kept(ref: str) -> Fact:
    return VaultSecretStored(
        ref=ref, revision=1, kind="text", key_fingerprint="f", value_bytes=9, reason="put", audience=""
    )


@pytest.mark.parametrize(("ref", "form"), [("env:KEY", "variable"), ("file:/run/secrets/key", "file")])
def test_a_variable_or_a_file_that_is_not_there(ref: str, form: str) -> None:
    """The journal knows of it once it is told; a model that nobody else serves makes it worse."""
    world = given(registry(entry(credential_ref=ref), model("gpt", "a")), look("config:a"))
    assert told(world) == [("danger", "a", {"form": form, "reason": "missing"})]
    assert absent_credentials(world.state) == ["config:a"]
    (one,) = world.state.catalog.registry.providers
    assert health_with_credentials(world.state, one, world.now_us) == "unavailable"
    assert world.when(look("config:a")).outcome.facts == []
    world.do(wait(ms=60_000), look())
    assert (told(world), absent_credentials(world.state)) == ([], [])


def test_somebody_else_serves() -> None:
    """Then it is a warning. A provider that is off, needs no key or names none is not told of."""
    others = [provider("b"), entry(enabled=False, provider_id="c"), entry(provider_id="d")]
    config = registry(entry(credential_ref="env:KEY"), *others, model("gpt", "a"), model("mini", "b"))
    world = given(config, look("config:a", "config:c"))
    assert told(world) == [("warning", "a", {"form": "variable", "reason": "missing"})]


def test_a_secret_that_the_vault_does_not_have() -> None:
    """Never stored, or lost: the state knows it by itself."""
    world = given(registry(entry(credential_ref="vault:global/a"), model("gpt", "a")), look())
    assert told(world)[0][2] == {"form": "secret", "reason": "missing"}
    world.do(record("vault", kept("global/a")), look())
    assert told(world) == []
    assert presence_of_credential(world.state, "config:a") == "present"
    world.do(record("vault", VaultDamageFound(code="secret_damaged", ref="global/a")), look())
    assert told(world)[0][2] == {"form": "secret", "reason": "damaged"}


def test_a_profile_that_is_not_there() -> None:
    """Unknown, without its secret, revoked; one that is there is not told of."""
    world = given(registry(entry(auth_profile_id="p"), model("gpt", "a")), look())
    assert told(world)[0][2] == {"form": "profile", "reason": "unknown"}
    connected = AuthProfileConnected(
        provider="a", profile_name="p", audience="https://a.example:443", vault_revision=1, key_fingerprint="f"
    )
    world.do(record("credential-p", connected), look())
    assert told(world)[0][2] == {"form": "profile", "reason": "unknown"}, "the alert that is open says it"
    world.do(record("vault", kept("global/auth.p")), look())
    assert (told(world), absent_credentials(world.state)) == ([], [])
    world.do(record("credential-p", AuthProfileRevoked(remote="not_supported")), look())
    assert told(world)[0][2] == {"form": "profile", "reason": "revoked"}


def test_a_name_of_nothing_is_missing() -> None:
    """Neither a profile nor an entry that names a credential."""
    world = given(registry(provider("a"), model("gpt", "a")))
    assert [presence_of_credential(world.state, name) for name in ("p", "config:a", "config:x")] == ["missing"] * 3


def test_a_vault_that_does_not_open_is_told_once() -> None:
    """Nobody gets any secret; one that holds none is missed by nobody."""
    lost = record("vault", VaultDamageFound(code="vault_locked", ref=""))
    back = record("vault", VaultDamageFound(code="vault_locked", ref="", is_mended=True))
    world = given(
        registry(provider("a"), model("gpt", "a")),
        record("vault", VaultCreated(vault_id="v", key_source="key_file")),
    )
    world.do(lost, look())
    assert told(world) == []
    world.do(back, record("vault", kept("global/x")), lost, look())
    assert told(world) == [("danger", "v", {"code": "vault_locked", "secrets": 1})]
    assert world.when(look()).outcome.facts == []
    world.do(back, look())
    assert told(world) == []
