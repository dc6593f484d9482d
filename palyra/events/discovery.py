"""Discovery: what a provider lists, written when it lists something else. Stream `provider-<provider_id>`."""

from __future__ import annotations

import msgspec

from palyra.events.base import Fact


class ListedModel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One model as its provider lists it."""

    upstream_model: str
    role: str = "chat"
    #: None where the list does not say.
    max_context_tokens: int | None = None
    max_output_tokens: int | None = None


class DiscoveryCompleted(Fact, tag="discovery.completed", frozen=True, kw_only=True):
    """The list of models is another than before."""

    #: SHA-256 of the whole list, hex.
    digest: str
    models_count: int
    #: New ones, ones with other figures, and ones that came back.
    added: list[ListedModel] = []
    #: Not listed for the first time; they still serve.
    missing: list[str] = []
    #: Not listed twice in a row.
    removed: list[str] = []
    #: Listed, and left out because their names or their number cannot be used.
    dropped_count: int = 0


class DiscoveryFailed(Fact, tag="discovery.failed", frozen=True, kw_only=True):
    """The list of models could not be had, for another reason than before; the last one holds."""

    failure_class: str
    next_try_us: int
