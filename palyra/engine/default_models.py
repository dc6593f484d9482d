"""The model of requests that name none: what it may be, and where it is written.

The command line and the console choose it by this, so that neither writes what the other would refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import get_args

from palyra.config.edit import Put
from palyra.config.write import Written, edit_config_file
from palyra.errors import PalyraError
from palyra.events.registry import ModelEntry, ModelRole, Registry

_LIST = "palyra models list shows what there is"


def names_of(registry: Registry, role: str, listed: Iterable[tuple[str, str, bool]]) -> dict[str, bool]:
    """Return what a model of a role can be called, and whether it is enabled.

    `listed` are models that providers list and serve: provider, model, and whether it is enabled.
    """
    enabled = {provider.provider_id for provider in registry.providers if provider.enabled}
    names: dict[str, bool] = {}
    for entry in registry.models:
        if entry.role == role:
            for name in _names(entry):
                is_enabled = entry.enabled and entry.provider_id in enabled
                names[name] = names.get(name, False) or is_enabled
    for provider_id, model_id, is_enabled in listed:
        if provider_id in enabled:
            names.setdefault(model_id, is_enabled)
            names.setdefault(f"{provider_id}/{model_id}", is_enabled)
    return names


def _names(entry: ModelEntry) -> tuple[str, ...]:
    return (entry.model_id, *entry.aliases, f"{entry.provider_id}/{entry.model_id}")


def check_default(role: str, model: str, names: Callable[[str], Mapping[str, bool]]) -> None:
    """Raise `PalyraError` for a model that cannot be the default of a role; `names` are those of one."""
    known = names(role)
    if model not in known:
        other = next((one for one in get_args(ModelRole) if one != role and model in names(one)), None)
        if other is not None:
            message = f"The model '{model}' serves {other}, not {role}."
            raise PalyraError(message, hint=f"palyra models set --role {other} {model}", code="model_role_mismatch")
        raise PalyraError(f"There is no model '{model}' for {role}.", hint=_LIST, code="model_not_found")
    if not known[model]:
        raise PalyraError(
            f"The model '{model}' is disabled, or its provider is.", hint=_LIST, code="model_disabled"
        )


def write_default(file: Path, role: str, model: str, environ: Mapping[str, str]) -> Written:
    """Put the default of a role into a configuration file, which is checked before it is written."""
    put = Put(path=("model_provider", f"default_{role}_model_id"), value=model)
    return edit_config_file(file, [put], environ=environ)
