"""`palyra usage`: what was used, by whom, and what it cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from palyra.cli.command import Call, Group
from palyra.cli.frame import Answer
from palyra.cli.output import out_option
from palyra.cli.page import Column, Page, Styled
from palyra.cli.render import count
from palyra.cli.routing import routing_report
from palyra.cli.usage_export import export_dataset
from palyra.cli.usage_insights import insights
from palyra.cli.usage_report import FORMATS, make_report
from palyra.cli.usage_window import flat, window_line, window_options, window_params

if TYPE_CHECKING:
    from palyra.engine.console.frame import Items
    from palyra.engine.console.usage import GroupTotals, SummaryAnswer, TimelineAnswer

_BUCKETS = click.Choice(["auto", "15m", "hour", "day", "week", "month"])
_DATASETS = click.Choice(["summary", "timeline", "runs", "attempts", "usage", "refusals", "budgets", "alerts"])
#: Rows of lists that are asked for unless said otherwise.
_TOP = 20


@click.group(
    cls=Group,
    examples=[
        ("palyra usage summary", "the last 30 days"),
        ("palyra usage models --from 2026-11-01", "what each model has cost since then"),
        ("palyra usage report --group-by day,model --format csv --out usage.csv", "for a spreadsheet"),
    ],
)
def usage() -> None:
    """Show what was used, by whom, and what it cost."""


@usage.command(
    "summary",
    examples=[
        ("palyra usage summary", "the last 30 days"),
        ("palyra usage summary --from 2026-11-01 --to 2026-12-01 --bucket week", "a month by weeks"),
        ("palyra usage summary --principal key:0123456789ab --json", "one principal, for a program"),
    ],
    exits=(0, 2, 4, 5, 7),
    takes_as_of=True,
)
@window_options
@click.option("--bucket", type=_BUCKETS, default="auto", help="How finely time is cut.")
def summary(call: Call, bucket: str, **window: str | None) -> Answer:
    """Show totals of a window, its course, and where budgets stand."""
    from palyra.cli.asking import ask
    from palyra.engine.console.table import USAGE_SUMMARY
    from palyra.engine.console.usage import SummaryParams

    asked = ask(call, USAGE_SUMMARY, SummaryParams(**window_params(window), bucket=bucket))
    return asked.answer(lambda page: _show_summary(page, asked.found))


@usage.command(
    "timeline",
    examples=[
        ("palyra usage timeline --group-by model", "tokens and cost of each model, day by day"),
        ("palyra usage timeline --from -24h --bucket hour", "the last day by hours"),
        ("palyra usage timeline --group-by agent --json", "for a program"),
    ],
    exits=(0, 2, 4, 5, 7),
    takes_as_of=True,
)
@window_options
@click.option("--bucket", type=_BUCKETS, default="auto", help="How finely time is cut.")
@click.option(
    "--group-by", "group_by", metavar="NAME,..", default="", help="What makes a series: model, agent, ..."
)
@click.option(
    "--top", type=click.IntRange(1, 100), default=5, help="Series that are told one by one; 5 by default."
)
def timeline(call: Call, bucket: str, group_by: str, top: int, **window: str | None) -> Answer:
    """Show how use and cost went over time."""
    from palyra.cli.asking import ask
    from palyra.engine.console.table import USAGE_TIMELINE
    from palyra.engine.console.usage import TimelineParams

    names = [name for name in group_by.split(",") if name]
    params = TimelineParams(**window_params(window), bucket=bucket, group_by=names, top=top)
    asked = ask(call, USAGE_TIMELINE, params)
    return asked.answer(lambda page: _show_timeline(page, asked.found))


def _groups_command(name: str, words: str) -> None:
    """Make the command that lists one dimension."""

    @usage.command(
        f"{name}s",
        examples=[
            (f"palyra usage {name}s", f"{name}s of the last 30 days, those that cost most first"),
            (f"palyra usage {name}s --limit 100 --json", "a hundred of them for a program"),
        ],
        exits=(0, 2, 4, 5, 7),
        takes_as_of=True,
        help=f"Show what {words} used, those that cost most first.",
    )
    @window_options
    @click.option(
        "--limit", type=click.IntRange(1, 500), default=_TOP, help=f"How many at most; {_TOP} by default."
    )
    def groups(call: Call, limit: int, **window: str | None) -> Answer:
        from palyra.cli.asking import ask
        from palyra.engine.console.table import USAGE_GROUPS
        from palyra.engine.console.usage import GroupsParams

        asked = ask(call, USAGE_GROUPS[name], GroupsParams(**window_params(window), limit=limit))
        return asked.answer(lambda page: _show_groups(page, name, asked.found))


for _name, _words in (
    ("session", "each session"),
    ("agent", "each agent"),
    ("principal", "each principal"),
    ("key", "each client key"),
    ("model", "each model"),
    ("provider", "each provider"),
):
    _groups_command(_name, _words)

usage.add_command(insights)
usage.add_command(routing_report("palyra usage routing", "routing"))


@usage.command(
    "report",
    examples=[
        ("palyra usage report --group-by model", "cost of each model in the last 30 days"),
        ("palyra usage report --group-by day,agent --format csv --out usage.csv", "for a spreadsheet"),
        ("palyra usage report --dataset attempts --format parquet --out attempts.parquet", "for a frame"),
        ("palyra usage report --journal copy/journal.db --dataset runs --format json", "of a copy, for a program"),
    ],
    exits=(0, 2, 5, 7, 8),
)
@click.option("--journal", metavar="FILE", help="Any journal, a copy too; that of the state by default.")
@click.option("--as-of", metavar="WHEN", help="Report as it was then: a position, an instant, -2h.")
@window_options
@click.option("--dataset", type=_DATASETS, default="summary", help="What a row is.")
@click.option(
    "--group-by", multiple=True, metavar="NAME,..", help="Of a summary or timeline: up to four; day, model, ..."
)
@click.option("--bucket", type=_BUCKETS, default="auto", help="Of a timeline: how finely time is cut.")
@click.option("--top", type=click.IntRange(1, 10_000), help="Groups that are told one by one; the rest together.")
@click.option("--format", "form", type=click.Choice(FORMATS), help="How it is written; table by default.")
@out_option("Where to; - is standard output.")
def report(call: Call, form: str | None, **options: Any) -> int:
    """Report from a journal file, whether a daemon runs or not; nothing is locked and nothing is written to it.

    A file that is named needs no configuration, and is seen as of its last event.
    """
    return make_report(call, form=form or ("json" if call.as_json else "table"), **options)


@usage.command(
    "export",
    examples=[
        ("palyra usage export --dataset runs --out runs.csv", "requests one by one, for a spreadsheet"),
        ("palyra usage export --dataset timeline --group-by model --format json", "a course for a program"),
        ("palyra usage export --dataset usage --format parquet --out usage.parquet", "rows for a frame"),
    ],
    exits=(0, 2, 4, 5, 7),
    takes_as_of=True,
)
@window_options
@click.option("--dataset", type=_DATASETS, default="summary", help="What a row is.")
@click.option("--group-by", multiple=True, metavar="NAME,..", help="Of a summary or timeline: up to four.")
@click.option("--bucket", type=_BUCKETS, default="auto", help="Of a timeline: how finely time is cut.")
@click.option("--top", type=click.IntRange(1, 10_000), help="Groups that are told one by one; the rest together.")
@click.option("--format", "form", type=click.Choice(["csv", "json", "parquet"]), help="csv by default.")
@out_option("Where to; - is standard output.")
def export(call: Call, **options: Any) -> int:
    """Write a dataset as a file, with the columns of `palyra usage report`.

    It comes from the journal file of this machine; --online or --url have a daemon make it.
    """
    return export_dataset(call, **options)


@usage.command(
    "reconcile",
    examples=[
        ("palyra usage reconcile account.json --provider openai", "what the provider says, beside the journal"),
        ("palyra usage reconcile claude_api_cost.csv --provider anthropic", "the csv of its dashboard"),
        ("palyra usage reconcile bill.csv --provider groq --map day=start,usd=cost_usd", "columns of any name"),
        ("palyra usage reconcile account.csv --provider openai --apply", "correct the rows that stand alone"),
    ],
    exits=(0, 2, 4, 5, 6, 7, 8),
)
@click.argument("file", metavar="FILE")
@click.option("--provider", "provider_id", metavar="ID", required=True, help="Whose account it is.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["auto", "openai", "anthropic", "csv"]),
    default="auto",
    help="How FILE is written; else it is told by what it holds.",
)
@click.option("--map", "columns", metavar="COL=FIELD,..", default="", help="Of a csv: what its columns are.")
@click.option("--timezone", metavar="ZONE", default="UTC", help="Of days in a csv; UTC by default.")
@click.option("--tolerance-bp", type=click.IntRange(0, 10_000), default=100, help="Drift that is fine; 100 is 1 %.")
@click.option("--apply", is_flag=True, help="Write corrections of rows that match one line alone.")
@click.option("--as-of", metavar="WHEN", help="Compare with the journal as it was then.")
def reconcile(call: Call, **options: Any) -> Answer:
    """Put a provider's account beside the journal, and split what lies between them into its causes.

    FILE is what OpenAI's or Anthropic's usage or cost API answers, the csv of their dashboard, or any other csv; of
    that --map says what columns are which it does not know. What is written are corrections beside
    the rows; doing it twice is doing it once.
    """
    from palyra.cli.usage_reconcile import reconcile_export

    if options["apply"] and call.as_of is not None:
        raise click.UsageError("--apply is for now, not for --as-of", click.get_current_context())
    return reconcile_export(call, **options)


@usage.command(
    "verify",
    examples=[
        ("palyra usage verify", "price every row again, sum every window again"),
        ("palyra usage verify --json", "the same for a program"),
    ],
    exits=(0, 2, 5, 7),
)
@click.option("--as-of", metavar="WHEN", help="Check the journal as it was then.")
def verify(call: Call) -> Answer:
    """Check that each row costs what its tokens do, and that sums and budgets are those of their rows."""
    from palyra.cli.usage_reconcile import verify_rows

    return verify_rows(call)


@usage.command(
    "correct",
    examples=[
        ("palyra usage correct 01JD --cost-usd 0.0213 --reason invoice", "the run's first attempt, asked before"),
        ("palyra usage correct 12345 --cost-usd unknown --reason disputed --yes", "the row at a position"),
    ],
    exits=(0, 2, 4, 6, 7, 8),
    is_change=True,
)
@click.argument("usage_id", metavar="USAGE")
@click.option("--cost-usd", metavar="USD", required=True, help="What it really cost; `unknown` too.")
@click.option("--reason", metavar="CODE", required=True, help="A word for the journal: invoice, refund, ...")
@click.option("--yes", "is_sure", is_flag=True, help="Do not ask.")
def correct(call: Call, usage_id: str, cost_usd: str, reason: str, is_sure: bool) -> Answer:
    """Correct what one attempt cost. USAGE is a run (its first attempt), RUN/2, or the position of the row.

    The row stays; the correction stands beside it, and budgets count the difference at once.
    """
    from palyra.cli.usage_reconcile import correct_row

    return correct_row(call, usage_id=usage_id, cost_usd=cost_usd, reason=reason, is_sure=is_sure)


def _show_summary(page: Page, found: SummaryAnswer) -> None:
    from palyra.cli.usage_tables import money, show_budgets, show_groups, show_totals
    from palyra.engine.reports.tables import Column as Field

    show_totals(page, flat(found.totals), window_line(page, found.window))
    before = found.previous
    if before.runs:
        cost = money(before.cost_nanousd, is_complete=before.cost_complete)
        text = cost.text if isinstance(cost, Styled) else str(cost)
        page.fields([("before  ", f"{count(before.runs)} requests · {text} in as much time before")])
    spent = [one for one in found.timeline if one.runs or one.total_tokens]
    if spent:
        page.title(f"By {found.bucket}")
        keys = [Field(f"{found.bucket}_start_us", "instant")]
        rows = [{f"{found.bucket}_start_us": one.start_us, **flat(one)} for one in spent]
        show_groups(page, keys, rows, page.zone)
    if found.budgets:
        page.title("Budgets")
        show_budgets(page, found.budgets)


def _show_timeline(page: Page, found: TimelineAnswer) -> None:
    from palyra.cli.usage_tables import bucket, money

    page.fields([("window", window_line(page, found.window))])
    for series in found.series:
        spent = [one for one in series.points if one.runs or one.tokens]
        page.title(" · ".join(name or "(none)" for name in series.key.values()) or "everything")
        most = max((one.cost_nanousd or one.tokens for one in spent), default=0)
        rows = [
            (
                bucket(found.bucket, one.start_us, page.zone),
                count(one.runs),
                count(one.tokens),
                money(one.cost_nanousd, is_complete=one.cost_complete),
                Styled("▇" * (24 * (one.cost_nanousd or one.tokens) // most if most else 0), "accent"),
            )
            for one in spent
        ]
        columns = [
            Column(found.bucket.upper()),
            Column("RUNS", align="right"),
            Column("TOKENS", align="right"),
            Column("COST", align="right"),
            Column("", spare=1),
        ]
        if rows:
            page.table(columns, rows)
        else:
            page.line(Styled("Nobody asked for anything in this window.", "dim"))


def _show_groups(page: Page, name: str, found: Items[GroupTotals]) -> None:
    from palyra.cli.usage_tables import show_groups
    from palyra.engine.reports.tables import Column as Field

    items = found.items
    if not items:
        page.line(Styled("Nobody asked for anything in this window.", "dim"))
        return
    rows = [{f"{name}_id": one.id, **flat(one)} for one in items]
    has_more = found.next_cursor is not None
    show_groups(
        page, [Field(f"{name}_id", "text")], rows, page.zone, total=f"these {len(items)}" if has_more else ""
    )
    if has_more:
        words = f"there are more {name}s, which cost less; --limit shows up to 500"
        page.line(Styled(words, "dim"))
