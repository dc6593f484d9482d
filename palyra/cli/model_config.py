"""`palyra models set` and `connect`: what is written into the configuration, and checked before it is.

A running daemon reads the file again at once; without one it acts at the next start.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from palyra.cli.command import Call, Command
from palyra.cli.frame import Answer
from palyra.cli.page import Page, Styled
from palyra.cli.render import counted
from palyra.cli.secret_input import key_options, read_key_input
from palyra.cli.words import ROLES

if TYPE_CHECKING:
    from palyra.config.edit import Edit
    from palyra.engine.listing import Listing
    from palyra.events.registry import ProviderEntry
    from palyra.redaction import Secret

#: Providers that are asked without a key, on this machine unless somebody says otherwise.
_KEYLESS = ("ollama", "localai")
#: Providers with a key, and the kind of each.
_KEYED = dict.fromkeys(("openai", "groq", "together"), "openai_compatible") | {"anthropic": "anthropic"}
#: Any other server of OpenAI's dialect, with a key or without one.
_OTHER = "generic"
_SHOWN_COUNT = 8
#: What to do where the check does not pass, by its code.
_HINTS = {
    "credential_refused": "nothing was kept; try it with another key",
    "upstream_failed": "does it run, and there? --base-url names another place",
}
#: Stands for a key that is at hand while its entry is tried.
_KEY = "KEY_AT_HAND"


@click.command(
    "set",
    cls=Command,
    examples=[
        ("palyra models set gpt-4o", "the model of requests that name none"),
        ("palyra models set --role embeddings nomic-embed-text:latest", "the same for embeddings"),
    ],
    exits=(0, 2, 4, 7, 8),
    is_change=True,
)
@click.argument("model")
@click.option("--role", type=click.Choice(ROLES), default="chat", help="What it is the default for.")
def set_model(call: Call, model: str, role: str) -> Answer:
    """Choose the model of requests that name none, in the configuration file.

    It has to exist, to be of that role and to be enabled; one that a provider lists and serves will do.
    """
    from palyra.cli.asking import change
    from palyra.engine.console.change_table import MODELS_DEFAULT
    from palyra.engine.console.models import DefaultParams
    from palyra.engine.default_models import check_default, write_default
    from palyra.errors import PalyraError

    try:
        check_default(role, model, lambda one: _names(call, one))
    except PalyraError as error:
        if error.code != "model_not_found" or _has_lists(call):
            raise
        hint = "what providers list is read when a daemon runs for the first time: palyra serve"
        raise PalyraError(str(error), hint=hint, code=error.code) from error
    written = write_default(config_file(call), role, model, os.environ)
    is_live = reload_config(call)
    if is_live or (not call.url and call.paths.journal.exists()):
        change(call, MODELS_DEFAULT, DefaultParams(role=role, model=model))  # type: ignore[arg-type]
    data = {
        "role": role,
        "model": model,
        "file": written.file,
        "is_changed": written.is_changed,
        "is_live": is_live,
    }

    def show(page: Page) -> None:
        page.line(Styled(model, "bold"), f" answers requests for {role} that name no model{_when(is_live)}.")
        page.line(Styled(f"written to {written.file}" if written.is_changed else "it was so before", "dim"))

    return Answer(data, show)


def _has_lists(call: Call) -> bool:
    """Return whether there is a journal that says what providers list."""
    return bool(call.url) or call.paths.journal.exists()


def _names(call: Call, role: str) -> dict[str, bool]:
    """Return what a model of a role can be called, and whether it is enabled."""
    from palyra.cli.asking import ask
    from palyra.engine.console.models import ModelsParams
    from palyra.engine.console.table import MODELS
    from palyra.engine.default_models import names_of

    listed: list[tuple[str, str, bool]] = []
    if _has_lists(call):
        listed = [
            (one.provider_id, one.model_id, one.enabled)
            for one in ask(call, MODELS, ModelsParams()).found.models
            if one.role == role and one.metadata_source == "discovery"
        ]
    return names_of(call.loaded.config.model_provider.registry, role, listed)


@click.command(
    "connect",
    cls=Command,
    examples=[
        ("palyra models connect ollama", "the one on this machine; nothing else to write"),
        ("palyra models connect ollama --base-url http://10.0.0.7:11434/v1 --id lab", "one elsewhere"),
        ("palyra models connect openai", "ask for the key, check it, keep it in the vault"),
        ("palyra models connect groq --key-env GROQ_KEY", "take the key from a variable"),
        ("palyra models connect generic --id vllm --base-url http://10.0.0.8:8000/v1", "any other such server"),
    ],
    exits=(0, 2, 3, 4, 5, 6, 7, 8),
    is_change=True,
)
@click.argument("provider", metavar="PROVIDER", type=click.Choice([*_KEYLESS, *_KEYED, _OTHER]))
@click.option(
    "--id", "provider_id", metavar="NAME", default="", help="Name of the entry; the provider's by default."
)
@click.option("--base-url", metavar="URL", default="", help="Where it is, if not at its usual place.")
@key_options
def connect_provider(
    call: Call,
    provider: str,
    provider_id: str,
    base_url: str,
    key_env: str | None,
    is_key_stdin: bool,
    stray: tuple[str, ...],
) -> Answer:
    """Check a provider, and write its entry into the configuration if the check passes.

    PROVIDER is ollama, localai, openai, groq, together, anthropic, or generic for any other server of OpenAI's
    dialect. Its list of models is read; they serve as it lists them. A key is checked where it will be sent, and
    nowhere else. Nothing is written where that cannot be reached or refuses it.
    """
    from palyra.config.edit import Append
    from palyra.errors import PalyraError

    entry: dict[str, Any] = {
        "provider_id": provider_id or provider,
        "kind": _KEYED.get(provider, "openai_compatible"),
    }
    if any(one.provider_id == entry["provider_id"] for one in call.loaded.config.model_provider.registry.providers):
        message = f"There is a provider '{entry['provider_id']}' already."
        hint = "--id names another one; palyra models test asks the one that is there"
        raise PalyraError(message, hint=hint, code="conflict")
    if entry["kind"] == "openai_compatible":
        entry["flavor"] = provider
    if base_url:
        entry["base_url"] = base_url
    elif provider == _OTHER:
        raise click.UsageError("Such a server is found by --base-url alone.")
    if provider not in _KEYLESS:
        entry["discovery_mode"] = "serve"
    is_near = provider in _KEYLESS if not base_url else not _is_public(entry)
    if is_near or provider in _KEYLESS:
        entry["allow_private_base_url"] = True
    if is_near and provider in _KEYLESS:
        entry["pricing"] = "free"  # in plain sight, for whoever knows better
    if provider == _OTHER and not key_env and not is_key_stdin:
        entry["auth_scheme"] = "none"
    if provider in _KEYLESS or "auth_scheme" in entry:
        names = _check(_resolved(entry))
    else:
        key = read_key_input(f"Key for {provider}", key_env, is_key_stdin, stray)
        names = _connect_with_key(call, provider, entry, key)
    written = _write(call, [Append(path=("model_provider", "providers"), entry=entry)])
    is_live = reload_config(call)
    if is_live or (not call.url and call.paths.journal.exists()):
        names = _discover(call, entry["provider_id"]) or names
    data = {"provider_id": entry["provider_id"], "file": written.file, "models": names, "is_live": is_live}

    def show(page: Page) -> None:
        found = f" · {counted(len(names), 'model')}" if names else ""
        page.line(
            Styled(entry["provider_id"], "bold"), " ", Styled("connected", "good"), f"{found}{_when(is_live)}"
        )
        for name in names[:_SHOWN_COUNT]:
            page.line(name, indent=2)
        if len(names) > _SHOWN_COUNT:
            page.line(Styled(f"and {len(names) - _SHOWN_COUNT} more: palyra models list", "dim"), indent=2)
        free = ', its models as free: pricing = "free"' if "pricing" in entry else ""
        page.line(Styled(f"written to {written.file}{free}", "dim"))

    return Answer(data, show)


def _when(is_live: bool) -> str:
    return "" if is_live else ", from the next start on"


def _resolved(entry: dict[str, Any]) -> ProviderEntry:
    """Return an entry with everything filled in; raises `ConfigProblems`."""
    from palyra.config.load import load_given

    given = {"version": 1, "model_provider": {"providers": [entry]}}
    (resolved,) = load_given(given, os.environ, {}).config.model_provider.registry.providers
    return resolved


def _is_public(entry: dict[str, Any]) -> bool:
    """Return whether the address that was named needs no line that allows it; raises `ConfigProblems`."""
    from palyra.config.problems import ConfigProblems

    try:
        _resolved({**entry, "api_key_env": _KEY})
    except ConfigProblems as error:
        if any(problem.code == "private_address_refused" for problem in error.problems):
            return False
        raise
    return True


def _connect_with_key(call: Call, provider: str, entry: dict[str, Any], key: Secret) -> list[str]:
    """Have a key checked and kept, and let the entry lead to it; raises `PalyraError`.

    At the provider's own place it becomes a profile, which `palyra auth` looks after; elsewhere, or under a name of
    its own, it is the secret of this entry alone and bound to its address.
    """
    from palyra.cli.asking import change
    from palyra.engine.console.auth import ConnectParams
    from palyra.engine.console.change_table import AUTH_CONNECT, VAULT_SECRET_PUT
    from palyra.engine.console.vault import PutSecretParams

    if "base_url" not in entry and entry["provider_id"] == provider:
        change(call, AUTH_CONNECT, ConnectParams(provider=provider, api_key=key.reveal()))
        return []
    resolved = _resolved({**entry, "api_key_env": _KEY})
    names = _check(resolved, key)
    ref = f"global/{resolved.provider_id}"
    change(call, VAULT_SECRET_PUT, PutSecretParams(ref=ref, value=key.reveal(), audience=resolved.audience))
    entry["api_key_vault_ref"] = ref
    return names


def _check(entry: ProviderEntry, key: Secret | None = None) -> list[str]:
    """Ask a provider for its models before anything is written; raises `PalyraError`."""
    from palyra.cli.model_changes import failure_of
    from palyra.errors import PalyraError

    listing = _ask_once(entry, key)
    failure = failure_of(entry.provider_id, listing.result, listing.failure_class, listing.message)
    if failure is not None:
        raise PalyraError(str(failure), hint=_HINTS.get(failure.code), code=failure.code)
    return [one.upstream_model for one in listing.models]


def _ask_once(entry: ProviderEntry, key: Secret | None) -> Listing:
    import asyncio

    from palyra.engine.clock import SystemClock
    from palyra.engine.listing import ModelLists
    from palyra.outside import provider_settings
    from palyra.projections.state import State
    from palyra.providers.port import Provider
    from palyra.providers.registry import build_provider

    class Alone:
        """The one provider, and what it is asked with."""

        def __init__(self, provider: Provider) -> None:
            self._provider = provider

        def provider(self, provider_id: str) -> Provider:
            return self._provider

        def secret(self, provider_id: str, credential_ref: str, revision: int) -> Secret | None:
            return key

    async def ask() -> Listing:
        provider = build_provider(provider_settings(entry))
        try:
            return await ModelLists(Alone(provider), State, SystemClock()).ask(entry)
        finally:
            await provider.close()

    return asyncio.run(ask())


def _write(call: Call, edits: list[Edit]) -> Any:
    from palyra.config.write import edit_config_file

    return edit_config_file(config_file(call), edits, environ=os.environ)


def config_file(call: Call) -> Path:
    """Return the file that commands write: the one that is read, else the user's own."""
    from palyra.config.document import locate, user_directory

    return locate(os.environ, call.config_file) or user_directory("config", os.environ) / "palyra.toml"


def reload_config(call: Call) -> bool:
    """Have a running daemon read the file again; returns whether there is one."""
    from palyra.engine.console.change_table import CONFIG_RELOAD
    from palyra.engine.console.config import ReloadParams

    return _if_live(lambda: _change(call, CONFIG_RELOAD, ReloadParams()))


def _discover(call: Call, provider_id: str) -> list[str]:
    """Have the new provider's list read and recorded, and return what it serves.

    A daemon may have read it by itself as soon as it knew the provider, so what was added now says nothing.
    """
    from palyra.cli.asking import ask
    from palyra.engine.console.change_table import MODELS_DISCOVER
    from palyra.engine.console.models import ModelsParams, ProviderParams
    from palyra.engine.console.table import MODELS

    _change(call, MODELS_DISCOVER, ProviderParams(provider=provider_id))
    found = ask(call, MODELS, ModelsParams()).found
    return [one.model_id for one in found.models if one.provider_id == provider_id]


def _change(call: Call, what: Any, params: Any) -> Any:
    from palyra.cli.asking import change

    return change(call, what, params).found


def _if_live(act: Callable[[], object]) -> bool:
    from palyra.engine.console.changes import DaemonNotRunning

    try:
        act()
    except DaemonNotRunning:
        return False
    return True
