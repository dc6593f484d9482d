"""Files of the format before `version`: one provider, written into `[model_provider]` itself. Pure.

Such a file is read as what it would be in the present format; only `palyra config migrate` writes it so. The step
moves values and changes none of them, and a comment goes where its key goes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from palyra.config.edit import Edit, MoveInto, Put
from palyra.config.problems import Path

#: The format that a file without `version` is in, as facts name it.
UNVERSIONED = 0
VERSION = 1

_TABLE = "model_provider"
_PROVIDERS: Path = (_TABLE, "providers")
_MODELS: Path = (_TABLE, "models")
#: They become keys of the provider's entry, under the same names.
_OF_THE_PROVIDER = ("kind", "base_url", "allow_private_base_url", "api_key_vault_ref", "auth_profile_id")
_DEFAULT_MODEL = "default_chat_model_id"


class Move(NamedTuple):
    """A key that has another place by now."""

    before: Path
    after: Path


def find_moves(tree: Mapping[str, Any]) -> list[Move]:
    """Return what has another place by now; nothing for a file that is as files are.

    A file that has entries is none of the old ones, whatever else it has: what stands beside them stays an error.
    """
    table = tree.get(_TABLE)
    if "version" in tree or not isinstance(table, Mapping) or not isinstance(table.get("kind"), str):
        return []
    if "providers" in table or "models" in table:
        return []
    moves = [Move((_TABLE, name), (*_PROVIDERS, 0, name)) for name in _OF_THE_PROVIDER if name in table]
    if "model" in table:
        moves.append(Move((_TABLE, "model"), (*_MODELS, 0, "model_id")))
    return moves


def migrated(tree: Mapping[str, Any], moves: Sequence[Move]) -> dict[str, Any]:
    """Return the tree in the present format."""
    tree = copy.deepcopy(dict(tree))
    table = tree[_TABLE]
    kind = table["kind"]
    provider = {"provider_id": kind}
    for before, after in moves:
        value = table.pop(before[-1])
        if after[1] == "providers":
            provider[str(after[-1])] = value
        else:
            table["models"] = [{"model_id": value, **_of_the_model(kind)}]
            table.setdefault(_DEFAULT_MODEL, value)
    table["providers"] = [provider]
    return {"version": VERSION, **tree}


def migrating_edits(tree: Mapping[str, Any], moves: Sequence[Move]) -> list[Edit]:
    """Return what makes the text of an old file one of the present format."""
    kind = tree[_TABLE]["kind"]
    of_provider = {before: str(after[-1]) for before, after in moves if after[1] == "providers"}
    edits: list[Edit] = [MoveInto(path=_PROVIDERS, entry={"provider_id": kind}, moved=of_provider)]
    if "model" in tree[_TABLE]:
        model = tree[_TABLE]["model"]
        edits.append(MoveInto(path=_MODELS, entry=_of_the_model(kind), moved={(_TABLE, "model"): "model_id"}))
        if _DEFAULT_MODEL not in tree[_TABLE]:
            edits.insert(0, Put(path=(_TABLE, _DEFAULT_MODEL), value=model))
    return [Put(path=("version",), value=VERSION), *edits]


def _of_the_model(kind: str) -> dict[str, Any]:
    return {"provider_id": kind, "role": "chat", "metadata_source": "legacy_migration"}
