"""`palyra config set`, `unset`, `migrate`, `move-secrets`: changes to the configuration file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from palyra.cli.command import Call, Command
from palyra.cli.frame import Answer
from palyra.cli.page import Page, Styled
from palyra.redaction import redact_text

if TYPE_CHECKING:
    from palyra.config.edit import Edit
    from palyra.config.write import Written


@click.command(
    cls=Command,
    name="set",
    examples=[
        ("palyra config set daemon.port 8080", "change one value in the file"),
        ("palyra config set 'model_provider.providers[0].enabled' false", "one of the first provider"),
        ("palyra config set daemon.host '::1' --dry-run", "show what would be written"),
    ],
    exits=(0, 2, 5, 7, 8),
)
@click.argument("key")
@click.argument("value")
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Show the change and write nothing.")
def set_(call: Call, key: str, value: str, is_dry_run: bool) -> Answer:
    """Set a key in the configuration file; comments and everything else stay as they are.

    VALUE is what a variable would hold: a number, true or false, a text, a list with commas; a table is TOML.
    The change acts from the next start on; with `palyra config reload` a running daemon takes what it can at once.
    """
    from palyra.config.edit import Put, read_path

    path = read_path(key)
    return _edited(call, [Put(path=path, value=_value_of(key, value))], is_dry_run)


@click.command(
    cls=Command,
    name="unset",
    examples=[
        ("palyra config unset daemon.port", "go back to the default"),
        ("palyra config unset daemon.port --dry-run", "show what would be written"),
    ],
    exits=(0, 2, 5, 7, 8),
)
@click.argument("key")
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Show the change and write nothing.")
def unset(call: Call, key: str, is_dry_run: bool) -> Answer:
    """Take a key out of the configuration file, so that its default holds."""
    from palyra.config.edit import Remove, read_path

    return _edited(call, [Remove(path=read_path(key))], is_dry_run)


@click.command(
    cls=Command,
    name="move-secrets",
    examples=[
        ("palyra config move-secrets --dry-run", "what would be moved"),
        ("palyra config move-secrets", "the same as palyra vault absorb"),
    ],
    exits=(0, 2, 4, 7, 8),
    is_change=True,
)
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Say what would be moved, and move nothing.")
def move_secrets(call: Call, is_dry_run: bool) -> Answer:
    """Move every secret of the configuration file into the vault and leave references; comments stay."""
    from palyra.cli.absorb import absorb

    return absorb(call, is_dry_run=is_dry_run)


@click.command(
    cls=Command,
    name="migrate",
    examples=[
        ("palyra config migrate", "what would be written in the place of an older file"),
        ("palyra config migrate --apply", "write it; the old file is kept beside it"),
        ("palyra config migrate --check", "for a script: exit status 7 where it is due"),
    ],
    exits=(0, 2, 5, 7, 8),
)
@click.option("--apply", "is_applied", is_flag=True, help="Write the file.")
@click.option("--check", "is_check", is_flag=True, help="Write nothing, and end with 7 where the file is older.")
def migrate(call: Call, is_applied: bool, is_check: bool) -> Answer:
    """Show a configuration file of an older format as it is written by now, or write it so.

    Comments and everything that stays are kept as they are. An older file is read as it is until then.
    """
    import tomllib

    from palyra.config.document import locate
    from palyra.config.migrate import find_moves, migrating_edits
    from palyra.config.problems import key_text
    from palyra.config.write import edit_config_file
    from palyra.errors import ConfigInvalid

    if is_applied and is_check:
        raise click.UsageError("--check writes nothing, and --apply writes", click.get_current_context())
    file = locate(os.environ, call.config_file)
    if file is None:
        nothing: dict[str, Any] = {"file": None, "is_due": False, "is_changed": False, "moves": []}
        return Answer(nothing, lambda page: page.line("There is no configuration file; defaults are of no format."))
    moves = []

    def edits(text: str) -> Sequence[Edit]:
        tree = tomllib.loads(text)
        moves.extend(find_moves(tree))
        return migrating_edits(tree, moves) if moves else []

    written = edit_config_file(file, edits, environ=os.environ, is_dry_run=not is_applied)
    rows = [{"before": key_text(one.before), "after": key_text(one.after)} for one in moves]
    failure = None
    if is_check and moves:
        hint = "palyra config migrate --apply writes it as files are by now"
        failure = ConfigInvalid(f"{file} is of an older format.", hint=hint, code="config_outdated")
    data = {"file": written.file, "is_due": bool(moves), "is_changed": is_applied and bool(moves), "moves": rows}
    return Answer(data, lambda page: _show_moves(page, written, rows, is_applied=is_applied), failure=failure)


def _show_moves(page: Page, written: Written, rows: Sequence[Mapping[str, str]], *, is_applied: bool) -> None:
    if not rows:
        page.line(Styled(written.file, "bold"), " is written as files are by now.")
        return
    for row in rows:
        page.line(f"{row['before']} → {row['after']}")
    page.line()
    _show_diff(page, written)
    if is_applied:
        page.line(Styled(f"Written to {written.file}; the old one is {written.file}.bak.1.", "dim"))


def _show_diff(page: Page, written: Written) -> None:
    for line in redact_text(written.diff).splitlines()[2:]:
        page.line(Styled(line, {"+": "good", "-": "bad"}.get(line[:1], "dim")))


def _value_of(key: str, text: str) -> Any:
    """Return what a text means for a key; what means none stays text, and the check refuses it."""
    import tomllib

    from palyra.config.keys import KEYS
    from palyra.config.schema import decode
    from palyra.errors import PalyraError

    row = next((each for each in KEYS if each.path == re.sub(r"\[\d+\]", "[]", key)), None)
    if row is not None and row.type not in ("map", "rules"):
        return decode(row, text)
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        pass
    # Outside the handler: what was typed may be a secret.
    if row is None:
        return text
    raise PalyraError("The value is no TOML.", hint="palyra config keys says what a key takes", code="usage_error")


def _edited(call: Call, edits: Sequence[Edit], is_dry_run: bool) -> Answer:
    """Change the file that is in use, or make the user's."""
    from palyra.config.document import locate, user_directory
    from palyra.config.write import edit_config_file

    file = locate(os.environ, call.config_file) or user_directory("config", os.environ) / "palyra.toml"
    written = edit_config_file(file, edits, environ=os.environ, is_dry_run=is_dry_run)

    def show(page: Page) -> None:
        if not written.is_changed:
            page.line("Nothing to change in ", Styled(written.file, "bold"), ".")
            return
        _show_diff(page, written)
        if not is_dry_run:
            page.line(Styled(f"Written to {written.file}; it acts at the next start, or with:", "dim"))
            page.line("palyra config reload", indent=2)

    return Answer({"file": written.file, "is_changed": written.is_changed and not is_dry_run}, show)
