"""`palyra journal export`, `import`, `backup`, `restore`, `branch`, `accept-fork`, `upgrade`: the log as files."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from palyra.cli.command import Call, Command, file_of
from palyra.cli.frame import Answer, to_plain
from palyra.cli.output import out_option, output
from palyra.cli.page import Page, Styled, Text
from palyra.cli.render import count, counted, size

if TYPE_CHECKING:
    from palyra.config.state import StatePaths
    from palyra.engine.offline import Replaced
    from palyra.engine.upgrade import SchemaAnswer


def _key_files(paths: StatePaths, *, is_wanted: bool) -> dict[str, Path]:
    """Return the key files for a backup, by name: none unless somebody asks for them."""
    found = {"vault.key": paths.vault_key, "admin.token": paths.admin_token, "client.key": paths.client_key}
    return found if is_wanted else {}


@click.command(
    "export",
    cls=Command,
    examples=[
        ("palyra journal export -o journal.jsonl", "all of it, to a file that can be imported"),
        ("palyra journal export --run last", "one run's events"),
        ("palyra journal export --names 'usage.*' > usage.jsonl", "some events, for another program"),
    ],
    exits=(0, 2, 7, 8),
)
@click.option("--from", "first", type=click.IntRange(min=1), metavar="POSITION", help="First event; 1 by default.")
@click.option("--to", "last", type=click.IntRange(min=1), metavar="POSITION", help="Last event.")
@out_option("Write to this file instead of standard output.")
@click.option("--names", metavar="GLOB", multiple=True, help="Only these names; can be repeated.")
@click.option("--stream", "streams", metavar="GLOB", multiple=True, help="Only these streams; can be repeated.")
@click.option("--run", metavar="RUN", help="Only this run's stream.")
def export(
    call: Call,
    first: int | None,
    last: int | None,
    out: str | None,
    names: tuple[str, ...],
    streams: tuple[str, ...],
    run: str | None,
) -> Answer | int:
    """Write events as lines of JSON, up to the head at the start.

    With --from, --names, --stream or --run events are left out; such an export cannot be imported. It runs beside
    the daemon.
    """
    from palyra.cli.progress import Progress
    from palyra.cli.reading import Journal
    from palyra.engine.history import Wanted, find_run
    from palyra.engine.offline import labelled
    from palyra.journal.export import export_rows

    if first is not None and last is not None and first > last:
        raise click.UsageError("--from must not be after --to", click.get_current_context())
    if out is None and call.as_json:
        raise click.UsageError("--json needs -o: the events are lines of JSON", click.get_current_context())
    source = Journal(call)
    if run is not None:
        with source.rows() as reader:
            streams = (*streams, f"run-{find_run(reader, run)}")
    takes = Wanted(names=names, streams=streams).takes if names or streams else None
    with source.rows() as reader, Progress() as progress, output(out) as target:
        done = export_rows(
            reader, target, first=first or 1, last=last, takes=takes, progress=labelled(progress, "exporting")
        )
    if out is None:
        return 0

    def show(page: Page) -> None:
        what = "in part, not to be imported" if done.header.partial else "whole up to there"
        page.fields(
            [
                ("file", Styled(out, "bold")),
                ("events", f"{count(done.footer.count)} · up to position {count(done.header.last)} · {what}"),
                ("link", done.footer.head_link),
            ]
        )

    data = {"file": out, "header": done.header, "footer": done.footer}
    return source.answer(done.header.journal_id, done.header.last, data, show)


@click.command(
    "import",
    cls=Command,
    examples=[
        ("palyra journal import journal.jsonl --into ~/other", "a state of its own"),
        ("palyra journal import - --into ~/other", "from standard input"),
    ],
    exits=(0, 2, 7),
)
@click.argument("file", metavar="FILE", type=click.Path(allow_dash=True))
@click.option("--into", required=True, metavar="DIR", help="New or empty directory.")
def import_(call: Call, file: str, into: str) -> Answer:
    """Make a state of an export that leaves nothing out.

    Every line and every link is checked; the first one that was changed is named, and nothing is made.
    """
    from palyra.cli.progress import Progress
    from palyra.engine.forks import import_journal

    directory = Path(into).absolute()
    with contextlib.ExitStack() as stack:
        source: BinaryIO = sys.stdin.buffer if file == "-" else stack.enter_context(open(file, "rb"))
        progress = stack.enter_context(Progress())
        head = import_journal(source, directory, progress, key_file=call.paths.key_file)

    def show(page: Page) -> None:
        page.fields(
            [
                ("state", Styled(str(directory), "bold")),
                ("head", f"position {count(head.position)}"),
                ("link", head.link.hex()),
                ("next", f"palyra status --state-dir {directory}"),
            ]
        )

    return Answer({"directory": str(directory), "position": head.position, "link": head.link.hex()}, show)


@click.command(
    "backup",
    cls=Command,
    examples=[
        ("palyra journal backup", "below the state directory"),
        ("palyra journal backup /mnt/backups/palyra-monday", "somewhere else, which is better"),
        ("palyra journal backup --with-key /mnt/safe/palyra", "with the keys: keep it as you keep them"),
    ],
    exits=(0, 2, 7),
)
@click.argument("target", metavar="[DIR]", required=False)
@click.option("--with-key", "is_with_keys", is_flag=True, help="Put the vault's key and the key files into it.")
def backup(call: Call, target: str | None, is_with_keys: bool) -> Answer:
    """Copy the journal and what belongs to it to a new directory, and verify the copy.

    The daemon goes on meanwhile. The sealed vault goes along, and so do prompts and answers where they are kept.
    Keys are left out unless you ask for them: without the vault's key a restored journal is witnessed by its link
    alone.
    """
    import palyra
    from palyra.auth.keyfiles import witness_key
    from palyra.cli.progress import Progress
    from palyra.cli.reading import Journal
    from palyra.config.state import STATE_FILES
    from palyra.engine.offline import new_id
    from palyra.journal.backup import CONFIG_FILE, back_up

    source = Journal(call)
    paths, backup_id = source.paths, new_id()
    directory = Path(target).absolute() if target is not None else paths.directory / "backups" / backup_id
    config_file = file_of(call.loaded)
    names = [file.name for file in STATE_FILES if file.name.endswith(".db")]
    files = {CONFIG_FILE: Path(config_file)} if config_file is not None else {}
    files |= _key_files(paths, is_wanted=is_with_keys)
    with Progress() as progress:
        made = back_up(
            paths.journal,
            directory,
            backup_id=backup_id,
            release=palyra.__version__,
            now_us=source.now_us,
            witness_key=witness_key(paths.vault_key, create=False),
            databases=[paths.directory / name for name in names if name not in ("journal.db", "snapshots.db")],
            files=files,
            progress=progress,
        )

    def show(page: Page) -> None:
        page.fields(
            [
                ("backup", Styled(str(directory), "bold")),
                ("head", f"position {count(made.position)} · verified"),
                ("link", made.link),
            ]
        )
        page.line()
        for file in made.files:
            page.line(f"{file.name} · {size(file.size_bytes)}", indent=2)

    return source.answer(made.journal_id, made.position, {"directory": str(directory), "manifest": made}, show)


@click.command(
    "restore",
    cls=Command,
    examples=[
        ("palyra journal restore /mnt/backups/palyra-monday", "where there is no journal"),
        ("palyra journal restore --replace /mnt/backups/palyra-monday", "in the place of the one that is there"),
    ],
    exits=(0, 2, 7),
)
@click.argument("source", metavar="DIR")
@click.option("--replace", "is_replacing", is_flag=True, help="Put it in the place of the journal that is there.")
@click.option("--accept-loss", "is_loss_accepted", is_flag=True, help="Even if that one knows more.")
def restore(call: Call, source: str, is_replacing: bool, is_loss_accepted: bool) -> Answer:
    """Put a backup in the place of the state. The daemon must be stopped.

    The backup is checked first. The state that is there is moved to a directory beside it and never deleted; the
    configuration is left as it is.
    """
    from palyra.cli.progress import Progress
    from palyra.engine.restore import restore as put_back

    with Progress() as progress:
        done = put_back(
            call.paths,
            Path(source).absolute(),
            is_replacing=is_replacing,
            is_loss_accepted=is_loss_accepted,
            progress=progress,
        )
    return Answer(done, lambda page: _show_replaced(page, done, str(call.paths.directory)))


@click.command(
    "branch",
    cls=Command,
    examples=[
        ("palyra journal branch --at 1000 ~/what-if", "a state as it was after event 1,000"),
        ("palyra journal branch --at 1000 ~/what-if --json", "the same for a program"),
    ],
    exits=(0, 2, 5, 7, 8),
)
@click.option("--at", required=True, type=click.IntRange(min=0), metavar="POSITION", help="Last event to keep.")
@click.argument("directory", metavar="DIR")
def branch(call: Call, at: int, directory: str) -> Answer:
    """Make a state of the events up to a position, to go another way from there.

    The journal itself is only read, also beside the daemon. The branch has no secrets, and a configuration whose
    provider plays scripts.
    """
    from palyra.cli.progress import Progress
    from palyra.engine.forks import branch as make_branch

    with Progress() as progress:
        made = make_branch(call.paths.journal, at, Path(directory).absolute(), progress)

    def show(page: Page) -> None:
        page.fields(
            [
                ("state", Styled(made.directory, "bold")),
                ("events", f"{count(made.position)} of {count(made.source_position)}"),
                ("serve it", f"palyra serve --config {made.config_file}"),
            ]
        )

    return Answer(made, show)


@click.command(
    "accept-fork",
    cls=Command,
    examples=[
        ("palyra journal accept-fork --at 1000 --reason 'the disk failed'", "go on after event 1,000"),
        ("palyra journal accept-fork --at 0 --reason 'nothing can be saved'", "begin anew"),
    ],
    exits=(0, 2, 5, 7, 8),
)
@click.option("--at", required=True, type=click.IntRange(min=0), metavar="POSITION", help="Last event to keep.")
@click.option("--reason", required=True, metavar="TEXT", help="Why; it stands in the journal for ever.")
def accept_fork(call: Call, at: int, reason: str) -> Answer:
    """Go on from a position of a damaged journal. The daemon must be stopped.

    Nothing is cut: a new journal is made of the events up to there, and the state as it is is kept beside it. A
    sound journal is refused.
    """
    from palyra.cli.progress import Progress
    from palyra.engine.forks import accept_fork as accept

    with Progress() as progress:
        done = accept(call.paths, at, reason, progress)
    return Answer(done, lambda page: _show_replaced(page, done, str(call.paths.directory)))


@click.command(
    "upgrade",
    cls=Command,
    examples=[
        ("palyra journal upgrade --check", "only say whether it is due"),
        ("palyra journal upgrade", "back it up and upgrade it, as palyra serve does by itself"),
    ],
    exits=(0, 5, 7),
)
@click.option("--check", "is_checking", is_flag=True, help="Change nothing; exit 7 when an upgrade is due.")
def upgrade(call: Call, is_checking: bool) -> Answer:
    """Bring the journal to the schema of this release. The daemon must be stopped.

    A backup is made and verified first. One migration after the other is a transaction of its own; if one fails the
    release that wrote the journal can still start. Events are never rewritten.
    """
    from palyra.cli.progress import Progress
    from palyra.cli.reading import Journal
    from palyra.engine.upgrade import schema_of, upgrade_due, upgrade_offline

    source = Journal(call)
    before = schema_of(source.paths.journal)
    if is_checking:
        failure = upgrade_due(before) if before.is_due else None
        data = {**to_plain(before), "is_due": before.is_due}
        return source.answer(
            before.journal_id, before.position, data, lambda page: _show_schema(page, before), failure=failure
        )
    with Progress() as progress:
        done = upgrade_offline(source.paths, progress)

    def show(page: Page) -> None:
        if done is None:
            return _show_schema(page, before)
        return page.fields(
            [
                ("schema", f"{done.before} to {done.after}"),
                ("head", f"position {count(done.head_position)}"),
                ("as it was", Styled(done.backup_directory, "bold")),
            ]
        )

    head = before.position if done is None else done.head_position
    return source.answer(before.journal_id, head, {"upgraded": done}, show)


def _show_schema(page: Page, schema: SchemaAnswer) -> None:
    verdict = Styled("an upgrade is due", "warn") if schema.is_due else Styled("up to date", "good")
    page.fields([("schema", [f"{schema.schema} of {schema.newest} · ", verdict])])


def _show_replaced(page: Page, done: Replaced, directory: str) -> None:
    fields: list[tuple[str, Text]] = [
        ("state", Styled(directory, "bold")),
        ("events", f"{count(done.position)} kept · head at position {count(done.head_position)}"),
    ]
    if done.replaced_directory is not None:
        if done.lost_events_count is None:
            lost: Text = Styled("unknown, the journal cannot be read", "warn")
        else:
            lost = counted(done.lost_events_count, "event")
            if done.lost_runs_count is not None:
                lost += f", {counted(done.lost_runs_count, 'run')}"
        fields += [("left behind", lost), ("kept at", done.replaced_directory)]
    page.fields(fields)


COMMANDS = (export, import_, backup, restore, branch, accept_fork, upgrade)
