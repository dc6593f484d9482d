"""`palyra routing`: how models are chosen, what was decided, and what another mode would have done."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from palyra.cli.choice import ACTIONS, STRATEGIES
from palyra.cli.command import Call, Command, Group
from palyra.cli.frame import Answer
from palyra.cli.page import Column, Page, Styled, Text
from palyra.cli.render import count, instant, ms_text, share, usd, usd_about
from palyra.cli.usage_window import window_line, window_options, window_params
from palyra.cli.words import circuit_words, state_word

if TYPE_CHECKING:
    from palyra.engine.console.routing import DecisionsAnswer, RoutableModel, RoutingAnswer
    from palyra.engine.reports.routing import Comparison, DecisionAnswer, RoutingFigures

_MODES = ("suggest", "dry_run", "enforced")
_DOES = {
    "suggest": "serves what is asked for, and names a better model in a header",
    "dry_run": "serves what is asked for, and writes down what enforced would have done",
    "enforced": "serves the model that is chosen",
}


@click.group(
    cls=Group,
    examples=[
        ("palyra routing show", "the mode, its figures, and the models that are chosen from"),
        ("palyra routing report", "what was decided, and what enforced would have made of it"),
        ("palyra routing set dry_run", "try it out without changing what is served"),
    ],
)
def routing() -> None:
    """Show and set how models are chosen for those who leave it open."""


@routing.command(
    "show",
    examples=[
        ("palyra routing show", "the mode, its figures, and the models that are chosen from"),
        ("palyra routing show --as-of -1d --json", "as it was yesterday, for a program"),
    ],
    exits=(0, 2, 4, 5, 7),
    takes_as_of=True,
)
def show(call: Call) -> Answer:
    """Show how models are chosen, and among which."""
    from palyra.cli.asking import ask
    from palyra.engine.console.routing import RoutingParams
    from palyra.engine.console.table import ROUTING

    asked = ask(call, ROUTING, RoutingParams())
    return asked.answer(lambda page: _show(page, asked.found))


def routing_report(path: str, name: str) -> Command:
    """Return the command that tells what was decided; it stands in two places."""

    @click.command(
        name,
        cls=Command,
        examples=[
            (path, "the last 30 days"),
            (f"{path} --from -24h --limit 100 --json", "a day with a hundred decisions, for a program"),
        ],
        exits=(0, 2, 4, 5, 7),
        takes_as_of=True,
    )
    @window_options
    @click.option("--limit", type=click.IntRange(0, 500), default=10, help="Newest decisions; 10 by default.")
    def report(call: Call, limit: int, **window: str | None) -> Answer:
        """Show what was decided, what enforced would have made of it, and whether hints were followed.

        Requests that were tried out (mode dry_run) are compared by what either model was expected to cost; what
        they really cost stands beside it. `palyra explain RUN` tells all about one decision.
        """
        from palyra.cli.asking import ask
        from palyra.engine.console.routing import DecisionsParams
        from palyra.engine.console.table import USAGE_ROUTING

        asked = ask(call, USAGE_ROUTING, DecisionsParams(**window_params(window), limit=limit))
        return asked.answer(lambda page: _show_report(page, asked.found))

    return report


routing.add_command(routing_report("palyra routing report", "report"))


@routing.command(
    "set",
    examples=[
        ("palyra routing set dry_run", "try it out without changing what is served"),
        ("palyra routing set enforced --agent researcher", "of one agent alone"),
    ],
    exits=(0, 2, 4, 7, 8),
    is_change=True,
)
@click.argument("mode", type=click.Choice(_MODES))
@click.option("--agent", metavar="ID", default="", help="Of this agent's requests alone.")
def set_mode(call: Call, mode: str, agent: str) -> Answer:
    """Choose the mode of routing, in the configuration file; a daemon that runs takes it at once.

    suggest serves what is asked for and names a better model, dry_run writes down what would have been done,
    enforced does it.
    """
    from palyra.cli.model_config import config_file, reload_config
    from palyra.config.edit import Put
    from palyra.config.write import edit_config_file

    if call.url:
        raise click.UsageError(
            "the mode stands in a file of this machine; --url has none", click.get_current_context()
        )
    path = ("routing", "agents", agent) if agent else ("routing", "mode")
    written = edit_config_file(config_file(call), [Put(path=path, value=mode)], environ=os.environ)
    is_live = reload_config(call)
    data = {
        "mode": mode,
        "agent": agent,
        "file": written.file,
        "is_changed": written.is_changed,
        "is_live": is_live,
    }

    def show(page: Page) -> None:
        whose = f" for {agent}" if agent else ""
        page.line(Styled(mode, "bold"), f"{whose}{'' if is_live else ', from the next start on'}: {_DOES[mode]}.")
        page.line(Styled(f"written to {written.file}" if written.is_changed else "it was so before", "dim"))

    return Answer(data, show)


def _show(page: Page, found: RoutingAnswer) -> None:
    rules = found.rules
    rows: list[tuple[str, Text]] = [("mode", [Styled(rules.mode, "bold"), f" · {_DOES[rules.mode]}"])]
    if not rules.enabled:
        rows = [("mode", [Styled("off", "warn"), " · nothing is recommended (routing.enabled)"])]
    rows += [
        ("simple", f"up to {count(rules.simple_at_bp)} of 10,000: {STRATEGIES['cheapest']}"),
        ("between", STRATEGIES["balanced"]),
        ("demanding", f"from {count(rules.premium_at_bp)} on: {STRATEGIES['best']}"),
        ("pressure", f"one step cheaper from {share(rules.budget_pressure_bp, 10_000)} of a hard limit on"),
        ("scorer", rules.scorer),
    ]
    named = "any" if rules.override_requested == "always" else "none, only palyra/auto and no name"
    rows.append(("moves", f"{named} of the names that a request gives, where mode is enforced"))
    if not rules.auxiliary_enabled:
        rows.append(("auxiliary", "gets the default model"))
    if rules.min_quality:
        rows.append(("quality", ", ".join(f"{name} at least {least}" for name, least in rules.min_quality.items())))
    rows += [("agent", f"{agent}: {mode}") for agent, mode in rules.agents.items()]
    page.fields(rows)
    page.title("Models")
    columns = [
        Column("PROVIDER / MODEL", is_cut=True),
        Column("QUALITY", align="right"),
        Column("1K + 1K", align="right"),
        Column("COST", spare=2),
        Column("LATENCY", align="right", spare=1),
        Column("HEALTH"),
        Column("CIRCUIT", spare=3),
        Column(""),
    ]
    page.table(columns, [_model(one) for one in found.models])


def _model(one: RoutableModel) -> list[Text]:
    return [
        f"{one.provider_id} / {one.model_id}",
        str(one.quality),
        Styled("unknown", "warn") if one.sample_nanousd is None else usd(one.sample_nanousd),
        one.cost_tier,
        ms_text(one.latency_ms),
        state_word(one.health),
        circuit_words(one.circuit, None, 0),
        "" if not one.is_default and one.enabled else "default" if one.enabled else Styled("disabled", "dim"),
    ]


def show_figures(page: Page, figures: RoutingFigures, *first: tuple[str, Text]) -> None:
    """Print decisions by what they were, behind what comes first."""
    served = (f"{count(number)} {ACTIONS.get(name, name)}" for name, number in figures.actions.items())
    rows: list[tuple[str, Text]] = [
        *first,
        ("decisions", f"{count(figures.decisions)} · {_counts(figures.modes)}"),
        ("served", " · ".join(served)),
    ]
    if figures.strategies:
        rows.append(("looked for", _counts(figures.strategies)))
    moved = [(figures.overridden, "another model than the one named"), (figures.downgraded, "down by a rule")]
    told = " · ".join(f"{count(number)} {words}" for number, words in moved if number)
    if told:
        rows.append(("moved", told))
    if figures.would_save_runs:
        saved = figures.would_save_nanousd
        amount = usd_about(abs(saved))
        words = f"would save {amount}" if saved >= 0 else f"would cost {amount} more"
        rows.append(("enforced", f"{words}, of {count(figures.would_save_runs)} that were tried out"))
    hints = figures.hints
    if hints.given:
        text = f"{count(hints.given)} given"
        if hints.followed_bp is not None:
            text += f" · {share(hints.followed, hints.answered) or '0 %'} of {count(hints.answered)} followed"
        rows.append(("hints", text))
    page.fields(rows)


def _counts(counts: dict[str, int]) -> str:
    return " · ".join(f"{count(number)} {name}" for name, number in counts.items())


def _show_report(page: Page, found: DecisionsAnswer) -> None:
    window = ("window", window_line(page, found.window))
    if not found.figures.decisions:
        page.fields([window])
        page.line()
        page.line(Styled("Nothing was decided in this window.", "dim"))
        return
    show_figures(page, found.figures, window)
    if found.comparisons:
        page.title("What enforced would have served")
        columns = [
            Column("CLASS", spare=2),
            Column("SERVED", is_cut=True),
            Column("WOULD BE", is_cut=True),
            Column("RUNS", align="right"),
            Column("COST", align="right"),
            Column("EXPECTED", align="right", spare=1),
            Column("WOULD COST", align="right"),
        ]
        page.table(columns, [_comparison(one) for one in found.comparisons])
    if found.recent:
        page.title("Newest decisions")
        columns = [
            Column("AT"),
            Column("RUN", spare=3),
            Column("MODE", spare=1),
            Column("SCORE", align="right"),
            Column("ASKED FOR", is_cut=True),
            Column("SERVED", is_cut=True),
            Column("RECOMMENDED", is_cut=True, spare=2),
            Column("COST", align="right"),
        ]
        page.table(columns, [_decision(one, page) for one in found.recent])


def _comparison(one: Comparison) -> list[Text]:
    from palyra.cli.usage_tables import money

    known = one.compared_runs == one.runs
    return [
        one.task_class,
        one.served or Styled("refused", "bad"),
        Styled("refused", "bad") if not one.would else "the same" if one.would == one.served else one.would,
        count(one.runs),
        money(one.cost_nanousd, is_complete=one.cost_complete),
        money(one.expected_nanousd, is_complete=known),
        "" if not one.would else money(one.would_nanousd, is_complete=known),
    ]


def _decision(one: DecisionAnswer, page: Page) -> list[Text]:
    from palyra.cli.usage_tables import money

    return [
        instant(one.at_us, page.zone)[5:],
        one.run_id,
        one.mode,
        "" if one.complexity_bp is None else count(one.complexity_bp),
        one.model_requested or Styled("none", "dim"),
        one.served or state_word(one.state),
        "" if one.recommended == one.served else one.would or one.recommended,
        money(one.cost_nanousd, is_complete=one.cost_complete) if one.served else "",
    ]
