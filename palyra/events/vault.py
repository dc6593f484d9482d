"""What happened to the vault: which secrets it holds, never what they are. Stream `vault`."""

from __future__ import annotations

from typing import Literal

from palyra.events.base import Fact


class VaultCreated(Fact, tag="vault.created", frozen=True, kw_only=True):
    """A vault is there, and from now on it is this journal's."""

    vault_id: str
    #: Where its key is kept: key_file or os_keychain.
    key_source: str


class VaultRekeyed(Fact, tag="vault.rekeyed", frozen=True, kw_only=True):
    """Everything was sealed anew under another key; values and revisions are the same."""

    vault_id: str
    key_source: str
    #: Fingerprint of each secret's newest revision under the new key, by reference.
    key_fingerprints: dict[str, str]


class VaultDamageFound(Fact, tag="vault.damage_found", frozen=True, kw_only=True):
    """Something of the vault is not as the journal knows it, or is again; once for each finding, not each start."""

    code: Literal[
        "vault_missing", "vault_unreadable", "vault_locked", "vault_key_mismatch", "secret_damaged", "dangling_ref"
    ]
    #: The secret it is about; "" for the whole vault.
    ref: str = ""
    #: It was found before, and is gone.
    is_mended: bool = False


class VaultSecretStored(Fact, tag="vault.secret_stored", frozen=True, kw_only=True):
    """A new revision of a secret is sealed in the vault, and is the one in use."""

    ref: str
    revision: int
    kind: Literal["text", "credential_set"]
    #: Keyed digest, 8 hexadecimal digits: tells two values apart to those who know neither.
    key_fingerprint: str
    value_bytes: int
    #: Why it was stored: put, connect, rotate, refresh, absorb, adopted.
    reason: str
    #: The one origin that it may be sent to; "" = whichever names it.
    audience: str = ""


class VaultSecretDeleted(Fact, tag="vault.secret_deleted", frozen=True, kw_only=True):
    """A secret is gone, all revisions of it; or one that nothing named (`orphan`)."""

    ref: str
    #: The highest that was there.
    revision: int
    reason: str
