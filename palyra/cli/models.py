"""`palyra models`: what requests can choose from, and how it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from palyra.cli.command import Call, Group
from palyra.cli.frame import Answer
from palyra.cli.model_changes import discover_models, force_circuit, test_models
from palyra.cli.model_config import connect_provider, set_model
from palyra.cli.model_plan import explain_models
from palyra.cli.page import Column, Page, Styled, Text
from palyra.cli.render import ago, count, duration, share, usd
from palyra.cli.words import FAILOVER, circuit_words, state_word

if TYPE_CHECKING:
    from palyra.engine.model_questions import ModelAnswer, ModelsAnswer, ProviderAnswer

#: Where an entry comes from.
_FROM = {"static": "", "discovery": "its list", "operator_override": "override", "legacy_migration": "migration"}
_NAMES = (Column("MODEL", is_cut=True, least=19), Column("PROVIDER", is_cut=True, least=10))
_ROLE = {"embeddings": "embed", "audio_transcription": "audio"}
#: Letter -> capability, and the words for it.
_LETTERS = {
    "T": ("tools", "tools"),
    "J": ("json_schema", "JSON schema"),
    "V": ("vision", "pictures"),
    "D": ("documents", "documents"),
    "A": ("audio_input", "sound"),
}


@click.group(
    cls=Group,
    examples=[
        ("palyra models list", "every model, provider by provider"),
        ("palyra models status", "health, circuits, what is left alone"),
        ("palyra models test", "ask the providers"),
        ("palyra models explain --model gpt-4o", "where a request would go"),
    ],
)
def models() -> None:
    """Show models, providers and their health, and try them."""


@models.command(
    "list",
    examples=[
        ("palyra models list", "names, windows, what they can do"),
        ("palyra models list --json", "the same for a program"),
        ("palyra models list --as-of boot", "those of the last start"),
    ],
    exits=(0, 2, 5, 7),
    takes_as_of=True,
)
def list_models(call: Call) -> Answer:
    """Show every model that can be asked for, and those that providers list beside.

    These are the models of the configuration that was adopted last; a file that was changed since is not in force.
    """
    return _answer(call, _show_list)


@models.command(
    "status",
    examples=[
        ("palyra models status", "health, circuits, problems"),
        ("palyra models status --json", "the same for a program"),
        ("palyra models status --as-of run:last", "when the newest run ended"),
    ],
    exits=(0, 2, 5, 7),
    takes_as_of=True,
)
def status(call: Call) -> Answer:
    """Show how providers and models are doing."""

    return _answer(call, _show_status)


def _answer(call: Call, show: Callable[[Page, ModelsAnswer, int], None]) -> Answer:
    from palyra.cli.asking import ask
    from palyra.engine.console.models import ModelsParams
    from palyra.engine.console.table import MODELS

    asked = ask(call, MODELS, ModelsParams())
    return asked.answer(lambda page: show(page, asked.found, asked.now_us))


def _show_status(page: Page, answer: ModelsAnswer, now_us: int) -> None:
    page.fields(
        [
            ("chat", answer.default_chat_model_id or Styled("no default", "warn")),
            ("embeddings", answer.default_embeddings_model_id or Styled("no default", "dim")),
            ("transcription", answer.default_audio_transcription_model_id or Styled("no default", "dim")),
            ("failover", FAILOVER.get(answer.failover, answer.failover)),
        ]
    )
    page.title("Providers")
    show_providers(page, answer.providers, now_us)
    if any(one.discovery_mode != "off" for one in answer.providers):
        page.title("Asked for their models")
        show_watched(page, answer.providers, now_us)
    excluded = [one for one in answer.models if one.excluded_until_us]
    if excluded:
        page.title("Left out for a while")
        rows = [
            (one.model_id, one.provider_id, ago(one.excluded_until_us or 0, now_us), one.excluded_reason)
            for one in excluded
        ]
        page.table([*_NAMES, Column("BACK"), Column("AFTER")], rows)
    page.title("Problems")
    if not answer.problems:
        page.line(Styled("none", "good"))
    page.fields((problem.subject or "models", problem.message) for problem in answer.problems)


def _show_list(page: Page, answer: ModelsAnswer, now_us: int) -> None:
    _show_models(page, answer.models)
    if answer.listed:
        page.title("Listed by their providers, not configured")
        columns = [*_NAMES, Column("ROLE"), Column("WINDOW", align="right")]
        rows = [
            (one.upstream_model, one.provider_id, _ROLE.get(one.role, one.role), _tokens(one.max_context_tokens))
            for one in answer.listed
        ]
        page.table(columns, rows)


def _show_models(page: Page, rows: Sequence[ModelAnswer]) -> None:
    columns = [
        *_NAMES,
        Column("ROLE"),
        Column(""),
        Column("WINDOW", align="right"),
        Column("OUTPUT", align="right", spare=5),
        Column("USD PER MTOK", align="right"),
        Column("CAN"),
        Column("FROM", spare=1),
        Column("UPSTREAM", is_cut=True, spare=2),
        Column("ALIASES", is_cut=True, spare=3),
    ]
    page.table(
        columns,
        [
            (
                one.model_id,
                one.provider_id,
                _ROLE.get(one.role, one.role),
                _mark(one),
                _tokens(one.max_context_tokens),
                _tokens(one.max_output_tokens),
                _price(one),
                _abilities(one),
                _FROM.get(one.metadata_source, one.metadata_source),
                one.upstream_model if one.upstream_model != one.model_id else "",
                ", ".join(one.aliases),
            )
            for one in rows
        ],
    )
    found = "".join(map(_abilities, rows))
    legend = " · ".join(f"{letter} {words}" for letter, (_, words) in _LETTERS.items() if letter in found)
    if legend:
        page.line()
        page.line(Styled(legend, "dim"))


def _mark(model: ModelAnswer) -> Styled:
    if not model.enabled:
        return Styled("disabled", "dim")
    if model.excluded_until_us:
        return Styled("left out", "warn")
    return Styled("default", "accent") if model.is_default else Styled("")


def _tokens(number: int | None) -> str:
    return "" if number is None else count(number)


def _price(model: ModelAnswer) -> Text:
    """Return what a million tokens cost, in and out; or a minute of sound."""
    if model.audio_nanousd_per_minute is not None:
        return f"{usd(model.audio_nanousd_per_minute)} a minute"
    rates = [rate for rate in (model.input_nanousd_per_mtok, model.output_nanousd_per_mtok) if rate is not None]
    if not rates:
        return Styled("unknown", "dim")
    return " / ".join(map(usd, rates)) if any(rates) else "free"


def _abilities(model: ModelAnswer) -> str:
    """Return letters for what sets one model apart from another; the whole is in the JSON."""
    if model.role == "embeddings":
        return f"{model.dimensions} dimensions" if model.dimensions else ""
    return "".join(letter if name in model.capabilities else "" for letter, (name, _) in _LETTERS.items())


def show_watched(page: Page, providers: Sequence[ProviderAnswer], now_us: int) -> None:
    """Print what providers were asked of themselves, and when."""
    columns = [
        Column("PROVIDER", is_cut=True, least=16),
        Column("PROBE"),
        Column("TOOK", align="right", spare=2),
        Column("MODELS", align="right"),
        Column("MODE"),
        Column("LIST", spare=3),
        Column("TROUBLE", is_cut=True, spare=1, least=19),
    ]
    page.table(
        columns,
        [
            (
                one.provider_id,
                f"{one.probe_result}, {ago(one.probed_us, now_us)}" if one.probed_us else "",
                duration(one.probe_latency_ms * 1_000) if one.probe_latency_ms else "",
                count(one.listed_count) if one.listed_us else "",
                one.discovery_mode,
                f"changed {ago(one.listed_us, now_us)}" if one.listed_us else "",
                one.list_error.replace("_", " "),
            )
            for one in providers
            if one.kind != "deterministic"
        ],
    )


def show_providers(page: Page, providers: Sequence[ProviderAnswer], now_us: int) -> None:
    """Print the table of providers."""
    asks_with_keys = any(one.credential != "not_needed" for one in providers)
    columns = [
        Column("PROVIDER", is_cut=True, least=16),
        Column("HEALTH"),
        Column("CIRCUIT"),
        *([Column("KEY", spare=1)] if asks_with_keys else []),
        Column("ATTEMPTS", align="right", spare=1),
        Column("OK", align="right", spare=2),
        Column("LAST ANSWER", spare=4),
        Column("LAST ERROR", is_cut=True, spare=3, least=15),
    ]
    page.table(
        columns,
        [
            (
                one.provider_id,
                state_word(one.health),
                circuit_words(one.circuit, one.circuit_until_us, now_us),
                *([_key_word(one, now_us)] if asks_with_keys else []),
                count(one.attempts_count) if one.attempts_count else "",
                share(one.succeeded_count, one.attempts_count),
                ago(one.last_success_us, now_us) if one.last_success_us else "",
                _last_error(one, now_us),
            )
            for one in providers
        ],
    )


def _last_error(one: ProviderAnswer, now_us: int) -> str:
    return f"{one.last_error.replace('_', ' ')}, {ago(one.last_failure_us or 0, now_us)}" if one.last_error else ""


def _key_word(one: ProviderAnswer, now_us: int) -> Styled:
    if one.credential == "not_needed":
        return Styled("")
    if one.credential == "cooling_down":
        return Styled(f"rests until {ago(one.credential_until_us or 0, now_us)}", "warn")
    words = one.credential.replace("_", " ")
    return Styled(words, "good" if one.credential == "ready" else "bad")


for _command in (connect_provider, set_model, test_models, discover_models, force_circuit, explain_models):
    models.add_command(_command)
