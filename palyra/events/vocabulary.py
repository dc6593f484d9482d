"""The vocabulary: every name an event can have, its Struct, its schema number and how long it matters.

`encode_body` and `decode` are the only ways between a fact and its stored bytes. Additive change with defaults
keeps the schema number; anything else is a new number with an upcaster from the one before, or a new name. A name
or number that this release does not know decodes to `UnknownEvent`. `VOCABULARY.md` lists them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from palyra.events import (
    alerts,
    approvals,
    attempts,
    auth,
    budgets,
    cache,
    circuits,
    config,
    console_sessions,
    daemon,
    discovery,
    health,
    heartbeats,
    incidents,
    journal,
    keys,
    loops,
    models,
    oauth,
    pricing,
    privacy,
    routing,
    runs,
    usage,
    vault,
)
from palyra.events.base import Fact, UnknownEvent

#: How long an event matters: `money` and `audit` for ever, `operations` as long as somebody may ask why,
#: `pulse` only until the next one. Nothing is pruned yet; the class is recorded so that it can be.
Retention = Literal["money", "audit", "operations", "pulse"]
#: Turns the plain body of one schema number into that of the next.
Upcaster = Callable[[dict[str, Any]], dict[str, Any]]

AnyFact = (
    runs.RunAdmitted
    | runs.RunRefused
    | runs.RunHeld
    | runs.RunResumed
    | runs.RunCancelRequested
    | runs.RunCancelled
    | runs.RunCompleted
    | runs.RunFailed
    | runs.RequestServed
    | routing.RoutingDecided
    | routing.RoutingFailedOver
    | attempts.AttemptStarted
    | attempts.AttemptSucceeded
    | attempts.AttemptFailed
    | attempts.AttemptAbandoned
    | usage.UsageRecorded
    | usage.UsageCorrected
    | pricing.PriceListAdopted
    | pricing.PriceMissing
    | budgets.BudgetPolicySet
    | budgets.BudgetPolicyCounted
    | budgets.BudgetPolicyRetired
    | budgets.BudgetReserved
    | budgets.BudgetReleased
    | cache.CacheStored
    | cache.CacheHit
    | cache.CacheEvicted
    | budgets.BudgetSoftLimitCrossed
    | budgets.BudgetHardLimitReached
    | approvals.ApprovalRequested
    | approvals.ApprovalGranted
    | approvals.ApprovalDenied
    | approvals.ApprovalExpired
    | approvals.ApprovalUsed
    | alerts.AlertRaised
    | alerts.AlertAcknowledged
    | alerts.AlertCleared
    | circuits.CircuitOpened
    | circuits.CircuitHalfOpened
    | circuits.CircuitClosed
    | circuits.CircuitForced
    | health.HealthChanged
    | health.ProbeCompleted
    | discovery.DiscoveryCompleted
    | discovery.DiscoveryFailed
    | models.ModelExcluded
    | models.ModelReadmitted
    | models.DefaultModelSet
    | config.ConfigAdopted
    | config.ConfigRejected
    | daemon.DaemonStarted
    | daemon.DaemonReady
    | daemon.DaemonDraining
    | daemon.DaemonStopped
    | daemon.DaemonClockStepped
    | daemon.DaemonResourceLow
    | loops.LoopCrashed
    | loops.LoopRestarted
    | heartbeats.HeartbeatRecorded
    | heartbeats.HeartbeatCleared
    | incidents.IncidentOpened
    | incidents.IncidentSeverityChanged
    | incidents.IncidentResolved
    | incidents.IncidentReopened
    | journal.JournalCreated
    | journal.JournalUpgraded
    | journal.JournalVerified
    | journal.JournalDamageFound
    | journal.JournalHistoryForked
    | journal.BackupRestored
    | keys.ClientKeyIssued
    | keys.ClientKeyChanged
    | keys.ClientKeyRotated
    | keys.ClientKeyRevoked
    | console_sessions.ConsoleSessionOpened
    | console_sessions.ConsoleSessionEnded
    | keys.AccessDenied
    | vault.VaultCreated
    | vault.VaultRekeyed
    | vault.VaultDamageFound
    | vault.VaultSecretStored
    | vault.VaultSecretDeleted
    | privacy.SubjectErased
    | auth.AuthProfileConnected
    | auth.AuthProfileValidated
    | auth.AuthProfileValidationFailed
    | auth.AuthProfileRotated
    | auth.AuthProfileRebound
    | auth.AuthProfileRevoked
    | auth.AuthProfileRemoteRevocationFinished
    | auth.AuthProfileDisabled
    | auth.AuthProfileEnabled
    | auth.AuthProfileDefaultSet
    | auth.AuthProfileOrderSet
    | auth.AuthProfileCooledDown
    | auth.AuthProfileCooldownCleared
    | auth.AuthProfileFailed
    | auth.AuthProfileRefreshStarted
    | auth.AuthProfileRefreshed
    | auth.AuthProfileRefreshFailed
    | oauth.OauthAttemptStarted
    | oauth.OauthAttemptCallbackReceived
    | oauth.OauthAttemptCompleted
    | oauth.OauthAttemptFailed
    | oauth.OauthAttemptExpired
    | oauth.OauthAttemptCancelled
)

_RETENTION: dict[str, Retention] = {
    "price": "money",
    "budget_policy": "audit",
    "price_list": "money",
    "run": "money",
    "routing": "operations",
    "attempt": "money",
    "usage": "money",
    "budget": "money",
    "approval": "money",
    "alert": "audit",
    "cache": "money",
    "circuit": "operations",
    "health": "operations",
    "probe": "operations",
    "discovery": "operations",
    "default_model": "audit",
    "model": "operations",
    "config": "audit",
    "daemon": "audit",
    "loop": "operations",
    "heartbeat": "pulse",
    "incident": "audit",
    "journal": "audit",
    "backup": "audit",
    "client_key": "audit",
    "console_session": "audit",
    "access": "audit",
    "request": "pulse",
    "vault": "audit",
    "subject": "audit",
    "auth_profile": "audit",
    "oauth_attempt": "audit",
}


class Entry(NamedTuple):
    """One name of the vocabulary."""

    name: str
    struct: type[Fact]
    schema: int
    retention: Retention


def kind_of(name: str, schema: int) -> str:
    """Return name and schema number as one word: the name alone, and `/2` behind it from the second number on."""
    return name if schema == 1 else f"{name}/{schema}"


class Vocabulary:
    """Names with their Structs and upcasters. The program has one, `VOCABULARY`; tests make others."""

    def __init__(self, entries: list[Entry], upcasters: Mapping[tuple[str, int], Upcaster] | None = None) -> None:
        self.entries = {entry.name: entry for entry in entries}
        self._upcasters = dict(upcasters or {})
        #: Decoder of each name as it is written now, by its `kind_of`.
        self.decoders: dict[str, Callable[[bytes], Fact]] = {
            kind_of(entry.name, entry.schema): msgspec.json.Decoder(entry.struct).decode for entry in entries
        }
        self._encode = msgspec.json.Encoder().encode
        #: The encoder writes the tag first; the envelope has it already, so it is cut off before storing.
        self._stored_as: dict[type, tuple[str, int, int]] = {
            entry.struct: (entry.name, entry.schema, len(b'{"name":"",') + len(entry.name)) for entry in entries
        }

    def name_of(self, body: Fact | UnknownEvent) -> str:
        """Return the event's name; `KeyError` for a Struct that is not in the vocabulary."""
        return body.name if isinstance(body, UnknownEvent) else self._stored_as[type(body)][0]

    def schema_of(self, body: Fact | UnknownEvent) -> int:
        return body.schema if isinstance(body, UnknownEvent) else self._stored_as[type(body)][1]

    def encode_body(self, body: Fact | UnknownEvent) -> bytes:
        """Return the JSON that is stored and linked: no tag, defaults left out."""
        return self.encode(body)[2]

    def encode(self, body: Fact | UnknownEvent) -> tuple[str, int, bytes]:
        """Return name, schema number and stored JSON of an event; `KeyError` for a Struct of no vocabulary."""
        if isinstance(body, UnknownEvent):
            return body.name, body.schema, self._encode(body.body)
        name, schema, tag_bytes = self._stored_as[type(body)]
        # Behind the tag and its comma there is at least the end, unless there was nothing but the tag.
        rest = self._encode(body)[tag_bytes:]
        return name, schema, b"{" + rest if rest else b"{}"

    def decode(self, name: str, schema: int, body: bytes) -> Fact | UnknownEvent:
        """Return the fact; raises `msgspec.DecodeError` or `ValidationError` when the bytes are not its shape."""
        decoder = self.decoders.get(kind_of(name, schema))
        if decoder is not None:
            return decoder(body)
        entry = self.entries.get(name)
        plain: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
        if entry is None or not 1 <= schema <= entry.schema:
            return UnknownEvent(name=name, schema=schema, body=plain)
        for number in range(schema, entry.schema):
            plain = self._upcasters[name, number](plain)
        return msgspec.convert(plain, entry.struct)


def _entry(struct: type[Fact]) -> Entry:
    name = struct.__struct_config__.tag
    assert isinstance(name, str)
    return Entry(name, struct, 1, _RETENTION[name.partition(".")[0]])


VOCABULARY = Vocabulary([_entry(struct) for struct in AnyFact.__args__])
