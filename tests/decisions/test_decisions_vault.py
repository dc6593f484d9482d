"""References into the vault, and what is done where vault and journal differ at a start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from palyra.decisions.vault import (
    DamageCode,
    Held,
    VaultLook,
    VaultRef,
    is_managed,
    kept_below,
    read_vault_ref,
    reconcile,
    refuse_by_hand,
    unrecorded_damage,
)
from palyra.errors import Refusal
from palyra.events.auth import AuthProfileConnected, AuthProfileRefreshed
from palyra.events.base import Draft, Fact, Recorded
from palyra.events.daemon import DaemonReady
from palyra.events.journal import BackupRestored
from palyra.events.vault import (
    VaultCreated,
    VaultDamageFound,
    VaultRekeyed,
    VaultSecretDeleted,
    VaultSecretStored,
)
from palyra.projections.state import State, evolve
from palyra.projections.vault import presence_of, revision_in_use, secret_of

REF, TOKENS = "global/openai", "global/auth.openai-1"
CREATED = VaultCreated(vault_id="v1", key_source="key_file")


@pytest.mark.parametrize(
    ("text", "scope", "key"),
    [
        ("global/openai", "global", "openai"),
        (" agent:Coder_1/groq.key ", "agent:Coder_1", "groq.key"),
        ("principal:key:abc@home/x", "principal:key:abc@home", "x"),
        ("skill:s-1/0a", "skill:s-1", "0a"),
        ("system/oauth.1", "system", "oauth.1"),
    ],
)
def test_a_reference_is_read_and_rendered_back_alike(text: str, scope: str, key: str) -> None:
    """Blanks around it are no part of it."""
    ref = read_vault_ref(text)
    assert ref == VaultRef(scope, key)
    assert str(ref) == text.strip()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("openai", "the / is missing"),
        ("", "the / is missing"),
        ("Global/openai", "scope"),
        ("agent/openai", "scope"),
        ("agent:/openai", "scope: the id of agent"),
        ("agent:a..b/openai", "scope: the id of agent"),
        (f"agent:{'a' * 129}/openai", "scope: the id of agent"),
        ("robot:a/openai", "scope"),
        ("global/OpenAI", "key"),
        ("global/", "key"),
        ("global/a/b", "key"),
        ("global/-a", "key"),
        (f"global/{'a' * 129}", "key"),
        (f"global/{'a' * 400}", "400 bytes"),
    ],
)
def test_a_wrong_reference_names_its_wrong_part(text: str, part: str) -> None:
    """The text itself is not repeated: it may be a key that was pasted into the wrong field."""
    refusal = read_vault_ref(text)
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.http_status, refusal.exit_code) == ("invalid_vault_ref", 400, 2)
    assert part in refusal.message
    assert "OpenAI" not in refusal.message


def test_secrets_of_profiles_are_not_set_by_hand() -> None:
    """`auth.` belongs to profiles, `system` to the daemon."""
    refusal = refuse_by_hand(VaultRef("global", "auth.openai-1"))
    assert refusal is not None
    assert (refusal.code, refusal.http_status) == ("managed_secret", 403)
    assert refuse_by_hand(VaultRef("system", "oauth.1")) is not None
    assert refuse_by_hand(VaultRef("global", "openai")) is None
    assert (is_managed(TOKENS), is_managed(REF)) == (True, False)
    assert (kept_below(TOKENS, 5), kept_below(REF, 5)) == (4, 5)


def told(*bodies: Fact) -> State:
    state = State()
    for position, body in enumerate(bodies, 1):
        evolve(state, Recorded(position, "vault", position, position, "x", "", 0, "", body))
    return state


def stored(revision: int, ref: str = REF, reason: str = "put") -> VaultSecretStored:
    return VaultSecretStored(
        ref=ref, revision=revision, kind="text", key_fingerprint="aa", value_bytes=9, reason=reason
    )


def held(revision: int, ref: str = REF, purpose: str = "put") -> Held:
    return Held(ref=ref, revision=revision, kind="text", key_fingerprint="aa", value_bytes=9, purpose=purpose)


def look(*found: Held, damage: Sequence[tuple[DamageCode, str]] = (), vault_id: str = "v1") -> VaultLook:
    return VaultLook(vault_id=vault_id, key_source="key_file", held=found, damage=damage)


def bodies(drafts: list[Draft]) -> list[Any]:
    assert {draft.stream for draft in drafts} <= {"vault"}
    return [draft.body for draft in drafts]


def test_vault_and_journal_that_agree_leave_nothing_to_do() -> None:
    """A start writes nothing."""
    assert reconcile(told(CREATED, stored(2)), look(held(2))) == ([], [])
    assert reconcile(State(), look(vault_id="")) == ([], [])


def test_what_was_put_before_a_crash_goes() -> None:
    """Nobody was told that it is stored; the one before it is still in use, and what a list shows says why."""
    drafts, leftovers = reconcile(told(CREATED, stored(1)), look(held(1), held(2), held(1, "global/groq")))
    assert bodies(drafts) == [
        VaultSecretDeleted(ref="global/groq", revision=1, reason="orphan"),
        VaultSecretDeleted(ref=REF, revision=2, reason="orphan"),
    ]
    assert leftovers == [("global/groq", 1), (REF, 2)]
    state = told(CREATED, stored(1), *bodies(drafts))
    assert revision_in_use(state, f"vault:{REF}") == 1
    assert state.vault.last_revisions[REF] == 2


def test_a_token_that_was_renewed_right_before_a_crash_is_the_profile_s() -> None:
    """It is good for as long as the one before was; without an end where that had none. Others have no profile."""
    for expires_us, ends_us in ((60, 1_059), (None, None)):
        state = told(CREATED, stored(1, TOKENS), stored(1, REF))
        connected = AuthProfileConnected(
            provider="openai", profile_name="p", credential_kind="oauth2", audience="https://a.example:443",
            vault_revision=1, expires_us=expires_us,
        )  # fmt: skip
        for position, name in enumerate(("openai-1", "other"), 4):
            evolve(state, Recorded(position, f"credential-{name}", position, 1, "x", "", 0, "", connected))
        fresh = msgspec.structs.replace(held(2, TOKENS, "refresh"), created_us=1_000)
        drafts, leftovers = reconcile(state, look(held(1, TOKENS), fresh, held(1), held(2, purpose="refresh")))
        assert leftovers == []
        assert [draft.body for draft in drafts if draft.stream == "credential-openai-1"] == [
            AuthProfileRefreshed(vault_revision=2, key_fingerprint="aa", expires_us=ends_us, recovered=True)
        ]
        assert not [draft for draft in drafts if draft.stream == "credential-other"]


def test_an_older_revision_goes_without_a_word() -> None:
    """Its successor was recorded, only the deletion was cut off; a profile keeps one more."""
    drafts, leftovers = reconcile(
        told(CREATED, stored(3), stored(3, TOKENS)),
        look(held(2), held(3), held(1, TOKENS), held(2, TOKENS), held(3, TOKENS)),
    )
    assert (drafts, leftovers) == ([], [(TOKENS, 1), (REF, 2)])


def test_a_refreshed_token_is_kept() -> None:
    """The old one may be spent; but not one of a profile that the journal does not know."""
    drafts, leftovers = reconcile(
        told(CREATED, stored(1, TOKENS)),
        look(held(1, TOKENS), held(2, TOKENS, "refresh"), held(1, "global/auth.gone", "refresh")),
    )
    assert bodies(drafts) == [
        stored(2, TOKENS, "adopted"),
        VaultSecretDeleted(ref="global/auth.gone", revision=1, reason="orphan"),
    ]
    assert leftovers == [("global/auth.gone", 1)]


def test_a_journal_that_is_new_keeps_everything() -> None:
    """What it does not know was recorded in another one."""
    drafts, leftovers = reconcile(State(), look(held(1), held(2)))
    assert bodies(drafts) == [CREATED, stored(2, reason="adopted")]
    assert leftovers == []


def test_so_does_one_that_was_put_back() -> None:
    """Until the daemon has started on it once."""
    restored = BackupRestored(backup_ref="b", position=9)
    ready = DaemonReady(boot_id="b")
    drafts, leftovers = reconcile(told(CREATED, stored(1), restored), look(held(1), held(2)))
    assert (bodies(drafts), leftovers) == ([stored(2, reason="adopted")], [])
    _, leftovers = reconcile(told(CREATED, stored(1), restored, ready), look(held(1), held(2)))
    assert leftovers == [(REF, 2)]


def test_what_the_vault_lacks_is_found_once() -> None:
    """At the next start it is known; when it is back, that is a fact too; a new revision ends it by itself."""
    state = told(CREATED, stored(2))
    drafts, _ = reconcile(state, look(held(1)))
    assert bodies(drafts) == [VaultDamageFound(code="dangling_ref", ref=REF)]
    state = told(CREATED, stored(2), *bodies(drafts))
    assert presence_of(state, REF) == "missing"
    assert reconcile(state, look()).drafts == []
    mended = VaultDamageFound(code="dangling_ref", ref=REF, is_mended=True)
    assert bodies(reconcile(state, look(held(2))).drafts) == [mended]
    assert presence_of(told(CREATED, stored(2), *bodies(drafts), stored(3)), REF) == "present"


def test_a_damaged_secret_is_not_called_missing_as_well() -> None:
    """One finding each; the others are as they were."""
    state = told(CREATED, stored(1), stored(1, "global/groq"))
    drafts, _ = reconcile(state, look(held(1, "global/groq"), damage=[("secret_damaged", REF)]))
    found = VaultDamageFound(code="secret_damaged", ref=REF)
    assert bodies(drafts) == [found]
    state = told(CREATED, stored(1), stored(1, "global/groq"), found)
    found_of = {ref: presence_of(state, ref) for ref in (REF, "global/groq", "global/x")}
    assert found_of == {REF: "damaged", "global/groq": "present", "global/x": "missing"}


@pytest.mark.parametrize(
    ("code", "presence"),
    [
        ("vault_locked", "locked"),
        ("vault_key_mismatch", "locked"),
        ("vault_unreadable", "missing"),
        ("vault_missing", "missing"),
    ],
)
def test_a_vault_that_does_not_open_loses_nothing(code: DamageCode, presence: str) -> None:
    """Nothing of it is called an orphan or missing; findings about single secrets stay; all is back with it."""
    state = told(CREATED, stored(1), VaultDamageFound(code="secret_damaged", ref="global/x"))
    drafts, leftovers = reconcile(state, look(damage=[(code, "")]))
    found = VaultDamageFound(code=code)
    assert (bodies(drafts), leftovers) == ([found], [])
    state = told(CREATED, stored(1), found)
    assert presence_of(state, REF) == presence
    assert bodies(reconcile(state, look(held(1))).drafts) == [VaultDamageFound(code=code, is_mended=True)]


def test_a_vault_that_is_gone_is_missed() -> None:
    """There is no file, though the journal names what was in it."""
    drafts, _ = reconcile(told(CREATED, stored(1)), look(vault_id=""))
    assert bodies(drafts) == [VaultDamageFound(code="vault_missing")]


def test_new_fingerprints_are_recorded() -> None:
    """Everything was sealed anew; what does not open has none, and an older revision says nothing."""
    state = told(CREATED, stored(2), stored(2, TOKENS))
    fresh = [msgspec.structs.replace(held(revision), key_fingerprint=f"b{revision}") for revision in (1, 2)]
    broken = msgspec.structs.replace(held(2, TOKENS), key_fingerprint="")
    drafts, _ = reconcile(state, look(*fresh, broken, damage=[("secret_damaged", TOKENS)]))
    rekeyed = VaultRekeyed(vault_id="v1", key_source="key_file", key_fingerprints={REF: "b2"})
    assert bodies(drafts) == [rekeyed, VaultDamageFound(code="secret_damaged", ref=TOKENS)]
    known = secret_of(told(CREATED, stored(2), rekeyed), REF)
    assert known is not None
    assert known.key_fingerprint == "b2"


def test_another_place_of_the_key_is_recorded() -> None:
    """A crash after sealing anew may have cut off its fact."""
    moved = VaultLook(vault_id="v1", key_source="os_keychain", held=[held(1)])
    assert bodies(reconcile(told(CREATED, stored(1)), moved).drafts) == [
        VaultRekeyed(vault_id="v1", key_source="os_keychain", key_fingerprints={})
    ]


def test_the_projection_knows_the_revision_in_use() -> None:
    """Of references into the vault; a deleted secret has none, and an environment variable never."""
    state = told(CREATED, stored(1), stored(2))
    assert revision_in_use(state, f"vault:{REF}") == 2
    assert revision_in_use(state, "env:X") == revision_in_use(state, "vault:global/x") == 0
    secret = secret_of(state, REF)
    assert secret is not None
    assert (secret.revision, secret.stored_us) == (2, 3)
    rekeyed = VaultRekeyed(vault_id="v1", key_source="os_keychain", key_fingerprints={REF: "bb", "global/x": "cc"})
    state = told(CREATED, stored(1), rekeyed)
    assert (state.vault.secrets[REF].key_fingerprint, state.vault.key_source) == ("bb", "os_keychain")
    assert told(CREATED, VaultDamageFound(code="dangling_ref", ref=REF), stored(1)).vault.damage == {}
    gone = told(CREATED, stored(1), VaultSecretDeleted(ref=REF, revision=1, reason="operator"))
    assert (revision_in_use(gone, f"vault:{REF}"), gone.vault.last_revisions) == (0, {REF: 1})


def test_damage_that_is_mended_is_damage_no_more() -> None:
    """The board holds what is wrong now; what has gone leaves it."""
    found = VaultDamageFound(code="secret_damaged", ref=TOKENS)
    assert list(told(CREATED, stored(1, TOKENS), found).vault.damage) == [f"secret_damaged|{TOKENS}"]
    assert (
        told(CREATED, stored(1, TOKENS), found, msgspec.structs.replace(found, is_mended=True)).vault.damage == {}
    )


def test_a_look_from_outside_says_what_the_next_start_would_find() -> None:
    """What was lost and what is back; whether a single secret opens does not show, so what is known of it stays."""
    damaged = VaultDamageFound(code="secret_damaged", ref=REF)
    known = told(CREATED, stored(1), stored(1, "global/b"), damaged)
    assert unrecorded_damage(known, look(held(1), held(1, "global/b"))) == []
    assert unrecorded_damage(known, look(held(1))) == [VaultDamageFound(code="dangling_ref", ref="global/b")]
    gone = VaultDamageFound(code="vault_missing", ref="")
    assert unrecorded_damage(known, look(vault_id="")) == [gone]
    evolve(known, Recorded(9, "vault", 9, 9, "x", "", 0, "", gone))
    back = VaultDamageFound(code="vault_missing", ref="", is_mended=True)
    assert unrecorded_damage(known, look(held(1), held(1, "global/b"))) == [back]
