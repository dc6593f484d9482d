"""Moving secrets out of the configuration file: into the vault first, then a reference in their place."""

from __future__ import annotations

import copy
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any, NamedTuple

from palyra.cli.command import Call
from palyra.cli.frame import Answer
from palyra.cli.page import Page, Styled
from palyra.config.document import locate
from palyra.config.edit import Edit, Remove, Rename
from palyra.config.problems import Path, key_text
from palyra.config.write import edit_config_file
from palyra.errors import ConfigInvalid
from palyra.redaction import Secret

_OTHERS = ("api_key_env", "api_key_file", "api_key_vault_ref", "auth_profile_id")
#: Secrets that stand in tables of their own, and where they go.
_SINGLE = {
    ("auth", "oauth", "openai", "client_secret"): "global/openai-client-secret",
    ("alerts", "webhook_secret"): "global/webhook-secret",
}


class _Found(NamedTuple):
    """A secret that stands in the file; none for an empty one."""

    path: Path
    #: Where it goes.
    ref: str
    secret: Secret | None


def absorb(call: Call, *, is_dry_run: bool) -> Answer:
    """Move every secret of the configuration file into the vault; say what was, or would be, moved."""
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
            page.line(Styled(key_text(found.path), "bold"), f" {what}")
        if stored and not is_dry_run:
            page.line("These keys stood in a file: make new ones at their providers, and put those.")

    data = {
        "file": str(file),
        "is_changed": written.is_changed and not is_dry_run,
        "moved": [{"key": key_text(found.path), "ref": found.ref} for found in stored],
    }
    return Answer(data, show)


def _find(tree: dict[str, Any]) -> list[_Found]:
    found = []
    path: Path
    for index, entry in enumerate(tree.get("model_provider", {}).get("providers", [])):
        if "api_key" not in entry:
            continue
        path, name = ("model_provider", "providers", index, "api_key"), entry.get("provider_id")
        if not isinstance(name, str):
            raise ConfigInvalid(f"{key_text(path[:-1])} has no provider_id.")
        if any(other in entry for other in _OTHERS):
            message = f"Provider {name} has an api_key and names another credential; take one of them out first."
            raise ConfigInvalid(message)
        ref = f"global/{f'provider-{name}' if name.startswith('auth.') else name}"
        found.append(_Found(path, ref, _secret(entry["api_key"], path)))
    for path, ref in _SINGLE.items():
        table: Any = tree
        for name in path[:-1]:
            table = table.get(name, {}) if isinstance(table, dict) else {}
        if isinstance(table, dict) and path[-1] in table:
            if f"{path[-1]}_vault_ref" in table:
                raise ConfigInvalid(f"{key_text(path)} stands beside its reference; take one of them out first.")
            found.append(_Found(path, ref, _secret(table[path[-1]], path)))
    return found


def _secret(value: object, path: Path) -> Secret | None:
    if not isinstance(value, str):
        raise ConfigInvalid(f"{key_text(path)} is no text.")
    return Secret(value.strip()) if value.strip() else None


def _edit(found: _Found) -> Edit:
    if found.secret is None:
        return Remove(path=found.path)
    return Rename(path=found.path, name=f"{found.path[-1]}_vault_ref", value=found.ref)


def _put_all(call: Call, staged: FilePath, moved: Sequence[_Found]) -> None:
    """Store the secrets; the new text says where the state is, since the old one cannot be loaded."""
    from palyra.cli.asking import change
    from palyra.engine.console.change_table import VAULT_SECRET_PUT
    from palyra.engine.console.vault import PutSecretParams

    settled = copy.copy(call)
    settled.config_file = str(staged)
    for found in moved:
        if found.secret is not None:
            change(settled, VAULT_SECRET_PUT, PutSecretParams(ref=found.ref, value=found.secret.reveal()))
