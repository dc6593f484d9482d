"""Moving keys out of the configuration file: into the vault first, then a reference in their place."""

from __future__ import annotations

import copy
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from palyra.cli.command import Call
from palyra.cli.frame import Answer
from palyra.cli.page import Page, Styled
from palyra.config.document import locate
from palyra.config.edit import Edit, Remove, Rename
from palyra.config.write import edit_config_file
from palyra.errors import ConfigInvalid
from palyra.redaction import Secret

_OTHERS = ("api_key_env", "api_key_file", "api_key_vault_ref", "auth_profile_id")


class _Found(NamedTuple):
    """A key that stands in the file; no secret for an empty one."""

    provider_id: str
    number: int
    secret: Secret | None

    @property
    def ref(self) -> str:
        name = self.provider_id
        return f"global/{f'provider-{name}' if name.startswith('auth.') else name}"


def absorb(call: Call, *, is_dry_run: bool) -> Answer:
    """Move every `api_key` of the configuration file into the vault; say what was, or would be, moved."""
    file = locate(os.environ, call.config_file)
    if file is None:
        raise ConfigInvalid("There is no configuration file, so there is nothing to move.", code="config_not_found")
    moved: list[_Found] = []

    def edits(text: str) -> Sequence[Edit]:
        moved.extend(_find(tomllib.loads(text)))
        return [_edit(found) for found in moved]

    written = edit_config_file(
        file,
        edits,
        environ=os.environ,
        is_dry_run=is_dry_run,
        before_write=lambda staged: _put_all(call, staged, moved),
        keeps_backup=False,  # it would hold the keys
    )
    stored = [found for found in moved if found.secret is not None]

    def show(page: Page) -> None:
        if not moved:
            page.line("No key stands in ", Styled(str(file), "bold"), ".")
        for found in moved:
            verb = "would go" if is_dry_run else "went"
            what = f"{verb} to {found.ref}" if found.secret is not None else "is empty and needs no place"
            page.line(Styled(f"model_provider.providers[{found.number}].api_key", "bold"), f" {what}")
        if stored and not is_dry_run:
            page.line("These keys stood in a file: make new ones at their providers, and put those.")

    data = {
        "file": str(file),
        "is_changed": written.is_changed and not is_dry_run,
        "moved": [{"provider_id": found.provider_id, "ref": found.ref} for found in stored],
    }
    return Answer(data, show)


def _find(tree: dict[str, Any]) -> list[_Found]:
    entries = tree.get("model_provider", {}).get("providers", [])
    found = []
    for index, entry in enumerate(entries):
        if "api_key" not in entry:
            continue
        value, name = entry["api_key"], entry.get("provider_id")
        if not isinstance(value, str) or not isinstance(name, str):
            raise ConfigInvalid(f"model_provider.providers[{index}] has no provider_id, or its api_key is no text.")
        if any(other in entry for other in _OTHERS):
            message = f"Provider {name} has an api_key and names another credential; take one of them out first."
            raise ConfigInvalid(message)
        found.append(_Found(name, index, Secret(value.strip()) if value.strip() else None))
    return found


def _edit(found: _Found) -> Edit:
    path = ("model_provider", "providers", found.number, "api_key")
    if found.secret is None:
        return Remove(path=path)
    return Rename(path=path, name="api_key_vault_ref", value=found.ref)


def _put_all(call: Call, staged: Path, moved: Sequence[_Found]) -> None:
    """Store the secrets; the new text says where the state is, since the old one cannot be loaded."""
    from palyra.cli.asking import change
    from palyra.engine.console.table import VAULT_SECRET_PUT
    from palyra.engine.console.vault import PutSecretParams

    settled = copy.copy(call)
    settled.config_file = str(staged)
    for found in moved:
        if found.secret is not None:
            change(settled, VAULT_SECRET_PUT, PutSecretParams(ref=found.ref, value=found.secret.reveal()))
