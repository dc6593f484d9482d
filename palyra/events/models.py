"""Exclusion of a model that fails alone. Stream `provider-<provider_id>`."""

from __future__ import annotations

from palyra.events.base import Fact


class ModelExcluded(Fact, tag="model.excluded", frozen=True, kw_only=True):
    """The model is not tried at this provider until then."""

    model_id: str
    until_us: int
    #: Class of the failure.
    reason: str


class ModelReadmitted(Fact, tag="model.readmitted", frozen=True, kw_only=True):
    """The model answered again before its exclusion ended."""

    model_id: str


class DefaultModelSet(Fact, tag="default_model.set", frozen=True, kw_only=True):
    """Somebody chose the model of requests that name none. Stream `config`."""

    role: str
    model: str
