"""`palyra models` beyond looking: ask providers, hold circuits, and choose what answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import click

from palyra.cli.command import Call, Command
from palyra.cli.frame import Answer
from palyra.cli.page import Column, Page, Styled
from palyra.cli.render import ago, count, duration
from palyra.cli.words import circuit_words, state_word

if TYPE_CHECKING:
    from palyra.engine.console.models import DiscoveredAnswer, TestedAnswer
    from palyra.errors import PalyraError

_DURATION = re.compile(r"([1-9][0-9]{0,5})(s|m|h|d)")
_UNIT_MS: Mapping[str, int] = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
#: From good to bad: `--fail-on` names the first that fails.
_STATES = ("degraded", "cooling_down", "unavailable")


@click.command(
    "test",
    cls=Command,
    examples=[
        ("palyra models test", "ask every provider for its models"),
        ("palyra models test ollama", "one of them"),
        ("palyra models test --fail-on degraded --json", "for a script that wants all to be well"),
    ],
    exits=(0, 2, 3, 4, 5, 6, 7, 8),
    is_change=True,
)
@click.argument("provider", required=False, default="")
@click.option("--fail-on", type=click.Choice(_STATES), help="Fail too where health is that or worse.")
def test_models(call: Call, provider: str, fail_on: str | None) -> Answer:
    """Ask providers for their list of models, which costs nothing.

    The exit status is that of the worst provider: a refused key, one that cannot be reached, an address that the
    rules for outward connections refuse.
    """
    from palyra.cli.asking import change
    from palyra.engine.console.change_table import MODELS_TEST
    from palyra.engine.console.models import ProviderParams

    done = change(call, MODELS_TEST, ProviderParams(provider=provider))
    rows = done.found.items

    def show(page: Page) -> None:
        if not rows:
            page.line(Styled("No provider is reached over a network.", "dim"))
            return
        page.table(
            [
                Column("PROVIDER", is_cut=True, least=20),
                Column("RESULT"),
                Column("TOOK", align="right"),
                Column("MODELS", align="right"),
                Column("HEALTH"),
                Column("WHY", is_cut=True),
            ],
            [
                (
                    one.provider_id,
                    _result(one.result),
                    duration(one.latency_ms * 1_000) if one.latency_ms else "",
                    count(one.models_count) if one.result == "ok" else "",
                    state_word(one.health),
                    one.failure_class.replace("_", " "),
                )
                for one in rows
            ],
        )
        _say_why(page, rows)

    return done.answer(show)._replace(failure=_worst(rows, fail_on))


def _say_why(page: Page, rows: Sequence[TestedAnswer | DiscoveredAnswer]) -> None:
    """Print what failing providers have said, as far as it is more than a class."""
    said = [(one.provider_id, one.message) for one in rows if one.message]
    if said:
        page.title("What they said")
        page.fields(said)


def _result(result: str) -> Styled:
    return Styled(result, {"ok": "good", "failed": "bad"}.get(result, "dim"))


def _worst(rows: Sequence[TestedAnswer], fail_on: str | None) -> PalyraError | None:
    """Return the failure that decides the exit status, None where all is well."""
    from palyra.errors import PalyraError

    failure = _worst_of(rows)
    if failure is None and fail_on is not None:
        bad = [one.provider_id for one in rows if one.health in _STATES[_STATES.index(fail_on) :]]
        if bad:
            return PalyraError(f"{', '.join(bad)}: health is {fail_on} or worse", code="provider_unwell")
    return failure


def _worst_of(rows: Sequence[TestedAnswer | DiscoveredAnswer]) -> PalyraError | None:
    failures = [
        failure
        for one in rows
        if (failure := failure_of(one.provider_id, one.result, one.failure_class, one.message)) is not None
    ]
    return min(failures, key=lambda failure: _SEVERITY.index(failure.code), default=None)


def failure_of(provider_id: str, result: str, failure_class: str, message: str) -> PalyraError | None:
    """Return what asking a provider for its models means for an exit status, None where it went well."""
    from palyra.errors import PalyraError

    if result == "unsupported":
        return PalyraError(
            f"{provider_id} has no list of models; requests alone tell how it does", code="no_model_list"
        )
    if result != "failed":
        return None
    return PalyraError(f"{provider_id}: {message or failure_class}", code=_code_of(failure_class))


#: Codes in the order in which one of several decides: a refused key first, then addresses, then silence.
_SEVERITY = ("credential_refused", "address_refused", "upstream_failed", "no_model_list")


def _code_of(failure_class: str) -> str:
    if failure_class in ("auth_invalid", "auth_expired", "permission_denied", "missing_credential"):
        return "credential_refused"
    return "address_refused" if failure_class in ("netguard_blocked", "redirect_refused") else "upstream_failed"


@click.command(
    "discover",
    cls=Command,
    examples=[
        ("palyra models discover", "read every provider's list of models"),
        ("palyra models discover ollama", "after pulling another model"),
        ("palyra models discover --json", "what changed, for a program"),
    ],
    exits=(0, 2, 3, 4, 5, 6, 7, 8),
    is_change=True,
)
@click.argument("provider", required=False, default="")
def discover_models(call: Call, provider: str) -> Answer:
    """Read providers' lists of models now.

    What they add serves at once where the provider's discovery_mode is serve, and is shown by `palyra models list`
    everywhere. A model is gone when two lists in a row leave it out. The exit status is that of the worst provider.
    """
    from palyra.cli.asking import change
    from palyra.engine.console.change_table import MODELS_DISCOVER
    from palyra.engine.console.models import ProviderParams

    done = change(call, MODELS_DISCOVER, ProviderParams(provider=provider))

    rows = done.found.items

    def show(page: Page) -> None:
        if not rows:
            page.line(Styled("No provider has a list to be read.", "dim"))
            return
        page.table(
            [Column("PROVIDER"), Column("RESULT"), Column("MODELS", align="right"), Column("MODE"), Column("WHY")],
            [
                (
                    one.provider_id,
                    _result(one.result),
                    count(one.models_count) if one.result == "ok" else "",
                    one.mode,
                    one.failure_class.replace("_", " "),
                )
                for one in rows
            ],
        )
        for one in rows:
            changes = [("+", "good", one.added), ("-", "warn", one.gone)]
            if one.added or one.gone or one.dropped_count:
                page.title(one.provider_id)
            for sign, style, names in changes:
                for name in names:
                    page.line(Styled(f"{sign} {name}", style), indent=2)
            if one.dropped_count:
                page.line(
                    Styled(f"{count(one.dropped_count)} left out: names that cannot be used", "dim"), indent=2
                )
        _say_why(page, rows)

    return done.answer(show)._replace(failure=_worst_of(rows))


@click.command(
    "circuit",
    cls=Command,
    examples=[
        ("palyra models circuit openai open --for 10m", "send it nothing for ten minutes"),
        ("palyra models circuit openai close", "send to it again, now"),
    ],
    exits=(0, 2, 4, 7, 8),
    is_change=True,
)
@click.argument("provider")
@click.argument("to", type=click.Choice(["open", "close"]))
@click.option("--for", "for_", metavar="TIME", help="Hold it for so long: 30s, 10m, 2h.")
def force_circuit(call: Call, provider: str, to: str, for_: str | None) -> Answer:
    """Open or close a provider's circuit by hand.

    An open one takes no request; when its time is over one trial passes, and without a time it stays so until
    somebody closes it. A closed one counts failures from the first again, or none before its time is over.
    """
    from palyra.cli.asking import change
    from palyra.engine.console.change_table import MODELS_CIRCUIT
    from palyra.engine.console.models import CircuitParams

    after: Literal["open", "closed"] = "open" if to == "open" else "closed"
    for_ms = 0 if for_ is None else _duration_ms(for_)
    done = change(call, MODELS_CIRCUIT, CircuitParams(provider=provider, after=after, for_ms=for_ms))

    def show(page: Page) -> None:
        found = done.found
        until_us = found.until_us
        words = (
            state_word(found.circuit) if until_us is None else circuit_words(found.circuit, until_us, done.now_us)
        )
        held = ""
        if until_us is None:
            held = " until somebody closes it" if found.circuit == "open" else ""
        elif found.circuit == "closed":
            held = f", whatever happens, until {ago(until_us, done.now_us)}"
        page.line(Styled(found.provider_id, "bold"), " ", words, held)

    return done.answer(show)


def _duration_ms(text: str) -> int:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise click.BadParameter("a time is written like 30s, 10m, 2h or 1d", param_hint="--for")
    return int(match[1]) * _UNIT_MS[match[2]]
