"""Capsules of runs that went through several credentials: decided again the same, and none of them is named."""

from __future__ import annotations

import msgspec
from story import admit, complete, fail, given, go_on, model, provider, record, registry, start, succeed, wait
from test_decisions_capsule import note, same

from palyra.events.auth import (
    AuthProfileConnected,
    AuthProfileCooledDown,
    AuthProfileDefaultSet,
    AuthProfileDisabled,
    AuthProfileFailed,
)
from palyra.events.vault import VaultSecretStored

KEYED = registry(
    provider(
        "a", auth_scheme="bearer", auth_provider_kind="a", credential_ref="vault:global/planted", max_retries=1
    ),
    provider("b", auth_scheme="bearer", auth_provider_kind="b-planted"),
    provider("c", auth_scheme="bearer", auth_provider_kind="c", credential_ref="env:PLANTED"),
    model("gpt", "a"),
    model("gpt", "b"),
    model("gpt", "c"),
)


def stored(ref: str, revision: int = 1) -> VaultSecretStored:
    return VaultSecretStored(
        ref=ref, revision=revision, kind="text", key_fingerprint="f1nger", value_bytes=9, reason="put"
    )


def connected(name: str, **changes: object) -> AuthProfileConnected:
    fields = {"provider": "b-planted", "profile_name": name, "audience": "https://b.example:443"}
    return AuthProfileConnected(**{**fields, "vault_revision": 1, "key_fingerprint": "f1nger", **changes})  # type: ignore[arg-type]


def test_a_run_through_every_credential() -> None:
    """A wait, the next candidate, its next credential, an answer: with pauses and failures that others left."""
    world = given(
        KEYED,
        record("vault", stored("global/planted"), stored("global/planted", 2)),
        *(record(f"credential-{name}", connected(name)) for name in ("planted-p", "planted-q")),
        record("credential-planted-m", connected("planted-m", agent_id="planted-agent")),
        record("credential-planted-q", AuthProfileDefaultSet()),
        record("credential-planted-m", AuthProfileDefaultSet()),
        admit("r1", agent_id="planted-agent"),
        start("r1"),
        fail("r1", "rate_limited", status=429, jitter_bp=4_321),
        note("a", "rate_limited", "r1"),
        wait(ms=80),
        start("r1", retry=1),
        fail("r1", "quota_exceeded", status=402),
        go_on("r1", "quota_exceeded"),
        note("a", "quota_exceeded", "r1"),
        record("credential-planted-p", AuthProfileDisabled()),
        start("r1", candidate=1),
        fail("r1", "auth_invalid", status=401, code="invalid_api_key"),
        note("b", "auth_invalid", "r1"),
        start("r1", candidate=1, credential="planted-q"),
        succeed("r1"),
        complete("r1", candidate=1),
        note("b", "success", "r1"),
    )
    capsule = same(world)
    names = [event.name for event in capsule.events]
    assert names.count("auth_profile.cooled_down") == 2
    assert names.count("auth_profile.failed") == 1
    text = msgspec.json.encode(capsule).decode()
    for secret in "planted PLANTED f1nger example".split():
        assert secret not in text


def test_what_others_did_to_credentials_meanwhile_is_ground() -> None:
    """A pause and a failure that another run brought about, and another revision of a secret."""
    world = given(
        KEYED,
        record("vault", stored("global/planted")),
        record("credential-p", connected("p")),
        admit("r1"),
        record("vault", stored("global/planted", 2)),
        start("r1"),
        record("credential-config:a", AuthProfileCooledDown(kind="quota", until_us=1, streak_count=3)),
        record("credential-p", AuthProfileFailed(code="key_rejected", vault_revision=1)),
        fail("r1", "quota_exceeded", status=402),
        go_on("r1", "quota_exceeded"),
        note("a", "quota_exceeded", "r1"),
        start("r1", candidate=2),
        succeed("r1"),
        complete("r1", candidate=2),
        note("c", "success", "r1"),
    )
    assert len(same(world).ground) >= 3
