"""`palyra fixtures`: what providers answered, recorded, and served again without them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from palyra.cli.command import Call, Group
from palyra.cli.frame import Answer
from palyra.cli.output import out_option, output
from palyra.cli.page import Page, Styled
from palyra.cli.render import counted, size

if TYPE_CHECKING:
    from palyra.wire.fixtures import Recorded


@click.group(
    cls=Group,
    examples=[
        ("palyra fixtures record --run last -o suite.jsonl", "the newest run, as a fixture"),
        ("palyra fixtures replay suite.jsonl", "serve what was recorded: free, offline, bit for bit"),
    ],
)
def fixtures() -> None:
    """Record what providers answered, and serve it again without them.

    Recording needs captured content: privacy.capture_content = "on" while the runs were made.
    """


@fixtures.command(
    "record",
    examples=[
        ("palyra fixtures record --run last -o suite.jsonl", "the newest run"),
        ("palyra fixtures record --from -1h -o suite.jsonl", "all runs of the last hour"),
        ("palyra fixtures record --from 2026-11-20 --to 2026-11-21 -o day.jsonl", "all runs of a day"),
    ],
    exits=(0, 2, 5, 7, 8),
)
@click.option("--run", "runs", metavar="RUN", multiple=True, help="A run: its id, the beginning of it, or last.")
@click.option("--from", "since", metavar="WHEN", help="Runs that began then or later.")
@click.option("--to", "until", metavar="WHEN", help="Runs that began before.")
@out_option("Write them here; - is standard output.", required=True)
def record(
    call: Call, runs: tuple[str, ...], since: str | None, until: str | None, out: str | None
) -> Answer | int:
    """Write runs with their captured content into a file that a replay serves.

    Requests are in it without what has the shape of a secret; answers are as they came, to the byte.
    """
    from palyra.cli.reading import Journal
    from palyra.engine.fixtures import exchanges
    from palyra.engine.history import find_run
    from palyra.errors import PalyraError
    from palyra.wire.fixtures import write_line

    if out is None and call.as_json:
        raise PalyraError("--json needs a file: the exchanges are lines of JSON.", code="usage_error")
    if bool(runs) == bool(since or until):
        raise PalyraError("Name runs with --run, or a time with --from and --to.", code="usage_error")
    journal = Journal(call)
    with journal.rows() as reader:
        run_ids = [find_run(reader, run) for run in runs]
        journal_id, position = reader.journal_id, reader.head().position
        bounds = [_instant(reader, call, text, journal.asked_us) for text in (since, until)]
    store = _store(call)
    try:
        if run_ids:
            found = store.of_runs(run_ids, journal.asked_us)
        else:
            found = store.between(bounds[0] or 0, bounds[1] or journal.asked_us + 1, journal.asked_us)
        recorded = list(exchanges(found, run_ids))
    finally:
        store.close()
    if not recorded:
        raise _not_captured("Of that time no whole answer is kept.")
    text = b"".join(map(write_line, recorded))
    with output(out) as target:
        target.write(text)
    if out is None:
        return 0
    data = {"file": out, "exchanges_count": len(recorded), "size_bytes": len(text), "models": _models(recorded)}

    def show(page: Page) -> None:
        page.line(Styled(counted(len(recorded), "exchange"), "bold"), f" in {out}, {size(len(text))}")
        page.line(Styled(f"palyra fixtures replay {out}", "dim"), " serves them")

    return journal.answer(journal_id, position, data, show)


def _instant(reader: Any, call: Call, text: str | None, now_us: int) -> int | None:
    from palyra.engine.moments import parse_as_of, resolve_as_of
    from palyra.engine.zones import find_zone

    if text is None:
        return None
    return resolve_as_of(reader, parse_as_of(text, find_zone(call.loaded.config.cli.timezone)), now_us).as_of_us


def _store(call: Call) -> Any:
    from palyra.errors import JournalUnreadable
    from palyra.memory.content import ContentStore, ContentUnreadable

    if not call.paths.content.exists():
        raise _not_captured("Nothing is kept of any run here.")
    try:
        return ContentStore.open(call.paths.content, read_only=True)
    except ContentUnreadable as exc:
        raise JournalUnreadable(f"content.db: {exc}.") from exc


def _not_captured(message: str) -> Exception:
    from palyra.errors import PalyraError

    hint = "palyra config set privacy.capture_content on keeps what is asked and answered from then on"
    return PalyraError(message, hint=hint, code="content_not_captured")


def _models(recorded: list[Recorded]) -> list[str]:
    return sorted({one.model for one in recorded})


@fixtures.command(
    "replay",
    examples=[
        ("palyra fixtures replay suite.jsonl", "serve it on a free port; what was not recorded fails"),
        (
            "palyra fixtures replay suite.jsonl --listen 8000 --timing recorded",
            "at the pace at which it was recorded",
        ),
    ],
    exits=(0, 2, 7),
)
@click.argument("file", metavar="FILE")
@click.option("--listen", type=click.IntRange(0, 65_535), default=0, help="The port; any free one by default.")
@click.option(
    "--mode",
    type=click.Choice(["strict", "lenient"]),
    default="strict",
    help="Lenient: echo what was not recorded.",
)
@click.option(
    "--timing",
    type=click.Choice(["instant", "recorded"]),
    default="instant",
    help="Recorded: take the time it took.",
)
def replay(call: Call, file: str, listen: int, mode: str, timing: str) -> int:
    """Serve what was recorded, until it is interrupted. Nothing is written, and no provider is asked.

    A request that was not recorded fails, and is told which recorded one comes nearest and where it differs.
    """
    import asyncio
    import contextlib

    import palyra

    config = palyra.mount_fixtures(file, mode=mode, timing=timing)  # type: ignore[arg-type]
    config["daemon"] = {"port": listen}

    async def serve() -> None:
        async with palyra.Daemon(config, journal=":memory:") as daemon:
            click.echo(f"export OPENAI_BASE_URL={daemon.base_url}")
            click.echo(f"export OPENAI_API_KEY={daemon.client_key}")
            click.echo(f"export ANTHROPIC_BASE_URL={daemon.url}")
            click.echo(f"export ANTHROPIC_API_KEY={daemon.client_key}")
            await daemon.finished

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())
    return 0
