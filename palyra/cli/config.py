"""`palyra config`: show the configuration and check it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from palyra.cli.command import Call, Group, file_of
from palyra.cli.config_edit import migrate, move_secrets, set_, unset
from palyra.cli.frame import Answer, to_json
from palyra.cli.page import Column, Page, Piece, Styled, Text
from palyra.cli.render import count, counted, instant, width_of

if TYPE_CHECKING:
    from palyra.config.key import Key
    from palyra.config.problems import Problem, Source

_BARE = re.compile(r"[A-Za-z0-9_-]+")
#: Origins stand in a column of their own unless a value is longer than this.
_ORIGIN_COLUMN = 56


@click.group(
    cls=Group,
    examples=[
        ("palyra config check", "everything that is wrong, at once"),
        ("palyra config show --origin", "every value and where it comes from"),
    ],
)
def config() -> None:
    """Show the configuration and check it."""


@config.command(
    "path",
    examples=[
        ("palyra config path", "the file and the state directory"),
        ("palyra config path --json", "the same for a program"),
    ],
    exits=(0, 2, 8),
)
def path(call: Call) -> Answer:
    """Show which file is read and where the state is."""
    file, state = file_of(call.loaded), str(call.paths.directory)

    def show(page: Page) -> None:
        page.fields([("file", file or Styled("none, so defaults", "dim")), ("state", state)])

    return Answer({"file": file, "state_dir": state}, show)


@config.command(
    "check",
    examples=[
        ("palyra config check", "the file that is in use"),
        ("palyra config check --config new.toml --strict", "another one, before it is; warnings count"),
    ],
    exits=(0, 2, 5, 8),
)
@click.option("--strict", "is_strict", is_flag=True, help="Take warnings for errors.")
def check(call: Call, is_strict: bool) -> Answer:
    """Check the configuration: every problem at once, with its place and what was probably meant."""
    from palyra.cli.price_samples import samples_of, show_samples
    from palyra.config.load import load_config
    from palyra.config.problems import ConfigProblems

    failure: ConfigProblems | None = None
    samples = []
    try:
        # Not `call.loaded`: here the warnings are the answer, and not beside it.
        loaded = load_config(os.environ, config_file=call.config_file, short_flags=call.short_flags, sets=call.sets)
        samples = samples_of(loaded.config)
    except ConfigProblems as found:
        failure, problems, file = found, found.problems, None
    else:
        problems, file = loaded.warnings, file_of(loaded)

    def show(page: Page) -> None:
        _show_problems(page, problems, file)
        show_samples(page, samples)

    return Answer(
        {"file": file, "problems": problems, "prices": [one._asdict() for one in samples]},
        show,
        failure=_verdict(problems, failure, is_strict=is_strict),
    )


def _verdict(problems: tuple[Problem, ...], failure: Any, *, is_strict: bool) -> Any:
    """Return the error with which a check ends, None for none."""
    from palyra.errors import ConfigInvalid

    errors = sum(problem.severity == "error" for problem in problems)
    if failure is None and not (is_strict and problems):
        return None
    what = counted(errors, "error") if errors else counted(len(problems), "warning")
    code = failure.code if failure is not None else None
    return ConfigInvalid(f"The configuration has {what}.", hint="palyra config keys lists what there is", code=code)


def _show_problems(page: Page, problems: tuple[Problem, ...], file: str | None) -> None:
    for problem in problems:
        style = "bad" if problem.severity == "error" else "warn"
        page.line(Styled(f"{problem.severity}:", style), f" {problem}")
    if not problems:
        page.line(Styled("good", "good"), f" · {file or 'no file, so defaults'}")


@config.command(
    "show",
    examples=[
        ("palyra config show", "every effective value, as TOML"),
        ("palyra config show --origin", "and where each comes from"),
        ("palyra config show --as-of boot", "what the daemon adopted, from the journal"),
    ],
    exits=(0, 2, 5, 8),
    takes_as_of=True,
)
@click.option("--origin", "has_origins", is_flag=True, help="Name the source of each value, and what it hides.")
def show(call: Call, has_origins: bool) -> Answer:
    """Show every effective value as TOML. Where credentials are is not shown.

    With --as-of it is the configuration that was in force then, as it was recorded.
    """
    from palyra.config.effective import effective_tree

    if call.as_of is not None or call.source == "online" or call.url:
        if has_origins:
            raise click.UsageError("origins are not recorded: --origin or --as-of", click.get_current_context())
        return _show_adopted(call)
    loaded = call.loaded
    tree = effective_tree(loaded.config)
    data: dict[str, Any] = {"effective": tree}
    origins: Mapping[str, str] = {}
    if has_origins:
        origins = {key: _origin_text(source, loaded.hidden.get(key, [])) for key, source in loaded.origins.items()}
        data["origins"] = {
            key: {"source": str(source), "hides": [str(hidden) for hidden in loaded.hidden.get(key, [])]}
            for key, source in loaded.origins.items()
        }

    def show_tree(page: Page) -> None:
        for line in _toml_lines(tree, "", origins):
            page.line(*line)

    return Answer(data, show_tree)


def _show_adopted(call: Call) -> Answer:
    from palyra.cli.asking import ask
    from palyra.engine.console.config import AdoptedParams
    from palyra.engine.console.table import CONFIG

    asked = ask(call, CONFIG, AdoptedParams())
    adopted = asked.found

    def show_tree(page: Page) -> None:
        if not adopted.generation:
            page.line(Styled("No configuration was adopted yet.", "dim"))
        for line in _toml_lines(adopted.effective, "", {}):
            page.line(*line)

    return asked.answer(show_tree)


@config.command(
    "reload",
    examples=[
        ("palyra config reload", "have the daemon read its configuration again"),
        ("palyra config reload --json", "the same for a program"),
    ],
    exits=(0, 2, 4, 7),
    is_change=True,
)
def reload(call: Call) -> Answer:
    """Have the daemon read its configuration again and adopt it.

    Providers, models and everything that decisions choose from act at once, for requests that come from then on;
    other keys wait for the next start, and are named. A configuration with problems changes nothing.
    """
    from palyra.cli.asking import change
    from palyra.engine.console.change_table import CONFIG_RELOAD
    from palyra.engine.console.config import ReloadParams

    done = change(call, CONFIG_RELOAD, ReloadParams())
    found = done.found

    def show(page: Page) -> None:
        page.line(Styled(f"Generation {found.generation}", "bold"), f" {found.outcome}")
        waiting = ", ".join(found.pending_restart_keys)
        fields: list[tuple[str, Text]] = []
        if found.changed:
            fields.append(("changed", ", ".join(found.changed)))
        if waiting:
            fields.append(("waiting", Styled(f"{waiting}: until the next start", "warn")))
        page.fields(fields)

    return done.answer(show)


@config.command(
    "history",
    examples=[
        ("palyra config history", "what was adopted, and when"),
        ("palyra config history --json", "the same for a program"),
    ],
    exits=(0, 2, 5, 7),
    takes_as_of=True,
)
def history(call: Call) -> Answer:
    """Show the newest hundred configurations that were adopted, newest first."""
    from palyra.cli.asking import ask
    from palyra.engine.console.config import HistoryParams
    from palyra.engine.console.table import CONFIG_HISTORY

    asked = ask(call, CONFIG_HISTORY, HistoryParams())

    def show(page: Page) -> None:
        columns = [
            Column("GENERATION", align="right"),
            Column("ADOPTED"),
            Column("POSITION", align="right", spare=1),
        ]
        columns += [Column("CHANGED", is_cut=True), Column("FROM", is_cut=True, spare=2)]
        rows = [
            (
                count(one.generation),
                instant(one.adopted_us, page.zone),
                count(one.position),
                ", ".join(one.changed) or "everything",
                ", ".join(one.sources) or "defaults",
            )
            for one in asked.found.items
        ]
        page.table(columns, rows)

    return asked.answer(show)


@config.command(
    "diff",
    examples=[
        ("palyra config diff 1 2", "what the second generation changed"),
        ("palyra config diff 1 2 --json", "the same for a program"),
    ],
    exits=(0, 2, 5, 7, 8),
    takes_as_of=True,
)
@click.argument("a", type=click.IntRange(min=1), metavar="GENERATION")
@click.argument("b", type=click.IntRange(min=1), metavar="GENERATION")
def diff(call: Call, a: int, b: int) -> Answer:
    """Show what differs between two generations, as the journal has them."""
    from palyra.cli.asking import ask
    from palyra.engine.console.config import DiffParams
    from palyra.engine.console.table import CONFIG_DIFF

    asked = ask(call, CONFIG_DIFF, DiffParams(a=a, b=b))

    def show(page: Page) -> None:
        if not asked.found.changed:
            page.line(Styled("Nothing differs.", "dim"))
        for one in asked.found.changed:
            page.line(Styled(one.key, "bold"))
            page.line(Styled("- ", "bad"), "not set" if one.before is None else toml_value(one.before), indent=2)
            page.line(Styled("+ ", "good"), "not set" if one.after is None else toml_value(one.after), indent=2)

    return asked.answer(show)


def _origin_text(source: Source, hidden: list[Source]) -> str:
    hides = f", hides {', '.join(map(str, hidden))}" if hidden and str(source) != "default" else ""
    return f"{source}{hides}"


def _toml_lines(tree: Mapping[str, Any], path: str, origins: Mapping[str, str]) -> Iterator[Sequence[Piece]]:
    """Yield the lines of a table: its own values, then the tables inside."""
    inner = {name: value for name, value in tree.items() if _is_table(name, value)}
    for name, value in tree.items():
        if name not in inner:
            yield _value_line(name, value, origins.get(f"{path}{name}", ""))
    for name, value in inner.items():
        header = re.sub(r"\[\d+\]", "", f"{path}{name}")
        if isinstance(value, dict):
            if not value or not all(_is_table(*item) for item in value.items()):
                yield from ([], [Styled(f"[{header}]", "title")])
            yield from _toml_lines(value, f"{path}{name}.", origins)
            continue
        for number, entry in enumerate(value):
            yield from ([], [Styled(f"[[{header}]]", "title")])
            yield from _toml_lines(entry, f"{path}{name}[{number}].", origins)


def _is_table(name: str, value: Any) -> bool:
    """Return whether a value gets a header of its own; a key whose value is a map does not."""
    if isinstance(value, list):
        return name in ("providers", "models") and bool(value)
    return isinstance(value, dict) and name not in ("headers", "model_aliases", "extra_authorize_params")


def _value_line(name: str, value: Any, origin: str) -> list[Piece]:
    text = f"# {_toml_key(name)} is not set" if value is None else f"{_toml_key(name)} = {toml_value(value)}"
    line: list[Piece] = [Styled(text, "dim") if value is None else text]
    if origin:
        gap = " " * max(_ORIGIN_COLUMN - width_of(text), 2)
        line.append(Styled(f"{gap}# {origin}", "dim"))
    return line


def _toml_key(name: str) -> str:
    return name if _BARE.fullmatch(name) else to_json(name)


def toml_value(value: Any) -> str:
    """Return a value as TOML; a JSON text is a TOML text as well."""
    if isinstance(value, dict):
        inside = ", ".join(f"{_toml_key(name)} = {toml_value(item)}" for name, item in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml_value, value))}]"
    return to_json(value)


@config.command(
    "get",
    examples=[
        ("palyra config get daemon.port", "one value, bare"),
        ("palyra config get 'model_provider.providers[0].provider_id'", "one of the first provider"),
    ],
    exits=(0, 2, 5, 8),
)
@click.argument("key")
def get(call: Call, key: str) -> Answer:
    """Show one effective value. A text is printed bare, everything else as TOML."""
    from palyra.config.effective import effective_tree

    value = _look_up(effective_tree(call.loaded.config), key)

    def show_value(page: Page) -> None:
        if value is not None:
            page.line(value if isinstance(value, str) else toml_value(value))

    return Answer({"key": key, "value": value, "source": str(call.loaded.origins.get(key, "")) or None}, show_value)


def _look_up(tree: Mapping[str, Any], key: str) -> Any:
    from palyra.config.keys import KEYS
    from palyra.config.problems import nearest
    from palyra.errors import PalyraError

    value: Any = tree
    for part in re.findall(r"[^.\[\]]+|\[\d+\]", key):
        try:
            value = value[int(part[1:-1])] if part.startswith("[") else value[part]
        except (KeyError, IndexError, TypeError):
            close = nearest(key, [each.path for each in KEYS])
            hint = f"did you mean {close}?" if close else "palyra config keys lists what there is"
            raise PalyraError(f"There is no key '{key}'.", hint=hint, code="unknown_field") from None
    return value


@config.command(
    "keys",
    examples=[
        ("palyra config keys", "every key with its default and its limits"),
        ("palyra config keys --json", "the same for a program, with the variables"),
    ],
    is_configured=False,
)
def keys(call: Call) -> Answer:
    """Show every key: meaning, type, limits, default; live ones act as soon as the daemon reads them again.

    The variable of a key is its path in capitals after PALYRA_, with _ for every dot.
    """
    from palyra.config.keys import KEYS

    def show_keys(page: Page) -> None:
        for number, (table, group) in enumerate(_by_table(KEYS)):
            if number:
                page.line()
            page.line(Styled(table or "At the top", "title"))
            page.fields(((key.path.rpartition(".")[2], _about(key)) for key in group), indent=2)

    data = {
        "keys": [
            {
                "key": key.path,
                "type": key.type,
                "default": key.default,
                "derived": key.derived or None,
                "required": key.required,
                "low": key.low,
                "high": key.high,
                "choices": list(key.choices),
                "variable": key.env or None,
                "reload": "live" if key.is_live else "restart",
                "owner": key.owner,
                "meaning": key.meaning,
            }
            for key in KEYS
        ]
    }
    return Answer(data, show_keys)


@config.command(
    "schema",
    examples=[
        ("palyra config schema > palyra.schema.json", "for an editor that checks while one writes"),
        ("palyra config schema --json", "the same in the envelope for programs"),
    ],
    is_configured=False,
)
def schema(call: Call) -> Answer:
    """Print the JSON Schema of the configuration file: what each key takes, its default and its meaning.

    Rules between keys, and those of a text's shape, are told by palyra config check.
    """
    from palyra.config.json_schema import json_schema

    found = json_schema()

    def show_schema(page: Page) -> None:
        for line in to_json(found, indent=2).splitlines():
            page.line(line)

    return Answer(found, show_schema)


def _by_table(keys: tuple[Key, ...]) -> Iterator[tuple[str, list[Key]]]:
    """Yield each table's header and its keys."""
    tables: dict[str, list[Key]] = {}
    for key in keys:
        tables.setdefault(key.path.rpartition(".")[0], []).append(key)
    for table, group in tables.items():
        name = table.replace("[]", "")
        yield f"[[{name}]]" if table.endswith("[]") else f"[{name}]" if name else "", group


def _about(key: Key) -> list[Piece]:
    """Return what a key means, what it takes, and its default."""
    facts: list[str] = [key.type]
    if key.choices:
        facts.append(" | ".join(key.choices))
    if key.type == "int" and key.low is not None and key.high is not None:
        facts.append(f"{key.low:,} to {key.high:,}")
    if key.required:
        facts.append("required")
    elif key.default is not None:
        facts.append(f"default {toml_value(key.default)}")
    elif key.derived:
        facts.append(f"default: {key.derived}")
    if key.is_live:
        facts.append("live")
    return [key.meaning, Styled(f" · {' · '.join(facts)}", "dim")]


for _command in (set_, unset, migrate, move_secrets):
    config.add_command(_command)
