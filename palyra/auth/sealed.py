"""What a secret is: the part that may be shown, the value as bytes, and both sealed together in a row."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from palyra.auth.sealing import SealBroken, SealingKey
from palyra.auth.vaultdb import Row, SecretKind
from palyra.errors import VaultError
from palyra.redaction import Secret

VALUE_MAX_BYTES = 65_536
#: A text, or all parts of a credential.
SecretValue = Secret | Mapping[str, Secret]


class SecretInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What may be shown of a secret."""

    ref: str
    revision: int
    kind: SecretKind
    purpose: str
    audience: str
    profile_id: str
    created_us: int
    value_bytes: int


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A revision that is on the disk; nothing else names it yet."""

    info: SecretInfo
    key_fingerprint: str


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """A revision and what it holds."""

    info: SecretInfo
    key_fingerprint: str
    #: The value of a `text`.
    secret: Secret | None = None
    #: The parts of a `credential_set`.
    parts: Mapping[str, Secret] = {}


class _Sealed(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What is sealed with a value."""

    value: bytes
    purpose: str
    audience: str
    profile_id: str
    created_us: int


def _checked(info: SecretInfo, sealed: _Sealed) -> SecretInfo:
    """Return what may be shown, if the plain columns say what was sealed."""
    was = (sealed.purpose, sealed.audience, sealed.profile_id, sealed.created_us, len(sealed.value))
    if was != (info.purpose, info.audience, info.profile_id, info.created_us, info.value_bytes):
        raise SealBroken
    return info


def data_of(value: SecretValue) -> tuple[SecretKind, bytes]:
    """Return kind and bytes of a value; raises `VaultError` for one of the wrong size."""
    if isinstance(value, Secret):
        kind: SecretKind = "text"
        data = value.reveal().removesuffix("\n").removesuffix("\r").encode("utf-8", "strict")
    else:
        kind = "credential_set"
        data = msgspec.json.encode({name: value[name].reveal() for name in sorted(value)})
    if not 1 <= len(data) <= VALUE_MAX_BYTES:
        message = f"A secret has 1 to {VALUE_MAX_BYTES:,} bytes; this one has {len(data):,}."
        raise VaultError(message, code="value_too_large" if data else "invalid_request")
    return kind, data


def bytes_of(opened: Opened) -> bytes:
    """Return the bytes that were sealed."""
    return data_of(opened.parts if opened.secret is None else opened.secret)[1]


def opened_as(info: SecretInfo, data: bytes, key: SealingKey) -> Opened:
    """Return a revision with the value that these bytes are."""
    text = Secret(data.decode())
    fingerprint = key.fingerprint(text)
    if info.kind == "text":
        return Opened(info=info, key_fingerprint=fingerprint, secret=text)
    parts = {name: Secret(part) for name, part in msgspec.json.decode(data, type=dict[str, str]).items()}
    return Opened(info=info, key_fingerprint=fingerprint, parts=parts)


def _plain(info: SecretInfo, data: bytes) -> bytes:
    return msgspec.msgpack.encode(
        _Sealed(
            value=data,
            purpose=info.purpose,
            audience=info.audience,
            profile_id=info.profile_id,
            created_us=info.created_us,
        )
    )


def seal(info: SecretInfo, data: bytes, key: SealingKey, vault_id: str) -> Row:
    """Return the row of a value."""
    return _row(info, key.seal(_plain(info, data), _context(vault_id, info)))


def unseal(row: Row, key: SealingKey, vault_id: str) -> Opened:
    """Return what a row holds; raises `VaultError` (`secret_damaged`)."""
    info = shown(row)
    try:
        data = key.open(row.sealed, _context(vault_id, info))
        sealed = msgspec.msgpack.decode(data, type=_Sealed)
        return opened_as(_checked(info, sealed), sealed.value, key)
    except (SealBroken, msgspec.DecodeError, UnicodeDecodeError):
        pass
    # Outside the handler: a decoding error holds the bytes.
    raise VaultError(f"The secret {info.ref} (revision {info.revision}) is damaged.", code="secret_damaged")


def _context(vault_id: str, info: SecretInfo) -> tuple[str, ...]:
    scope, _, key = info.ref.partition("/")
    return vault_id, scope, key, str(info.revision), info.kind


def _row(info: SecretInfo, sealed: bytes) -> Row:
    scope, _, key = info.ref.partition("/")
    return Row(
        scope=scope,
        key=key,
        revision=info.revision,
        kind=info.kind,
        purpose=info.purpose,
        audience=info.audience,
        profile_id=info.profile_id,
        created_us=info.created_us,
        value_bytes=info.value_bytes,
        sealed=sealed,
    )


def shown(row: Row) -> SecretInfo:
    """Return what may be shown of a row."""
    return SecretInfo(
        ref=f"{row.scope}/{row.key}",
        revision=row.revision,
        kind=row.kind,
        purpose=row.purpose,
        audience=row.audience,
        profile_id=row.profile_id,
        created_us=row.created_us,
        value_bytes=row.value_bytes,
    )
