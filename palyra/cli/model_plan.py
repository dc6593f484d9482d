"""`palyra models explain`: what a request would meet, without making it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from palyra.cli.choice import show_choice
from palyra.cli.command import Call, Command
from palyra.cli.frame import Answer
from palyra.cli.page import Column, Page, Styled
from palyra.cli.render import count
from palyra.cli.words import FAILOVER, READINESS, RESOLVED, ROLES, VIA, exclusion_words, state_word

if TYPE_CHECKING:
    from palyra.engine.model_plans import CandidatePlan, PlanAnswer
    from palyra.events.smart_routing import RoutingMode, TaskClass


@click.command(
    "explain",
    cls=Command,
    examples=[
        ("palyra models explain", "a request that names no model"),
        ("palyra models explain --model gpt-4o --prompt 'Say hi.'", "which provider would get it, and why"),
        ("palyra models explain --tokens 90000 --needs vision", "who could take a long request with an image"),
        ("palyra models explain --prompt 'Prove it.' --mode enforced", "what routing would make of it"),
        ("palyra models explain --as-of -2h", "as it was two hours ago"),
    ],
    exits=(0, 2, 5, 7),
    takes_as_of=True,
)
@click.option("--model", metavar="NAME", default="", help="The name that the request gives; none by default.")
@click.option("--prompt", metavar="TEXT", default="", help="Its text, of which the size alone is asked about.")
@click.option("--tokens", type=click.IntRange(0, 1_000_000_000), help="Its size, instead of a text.")
@click.option("--role", type=click.Choice(ROLES), default="chat", help="What is asked for.")
@click.option("--needs", metavar="ABILITY", multiple=True, help="What its model must be able to do; repeatable.")
@click.option("--max-output", type=click.IntRange(1, 1_000_000_000), help="The longest answer that it takes.")
@click.option("--tools", type=click.IntRange(0, 128), default=0, help="How many tools it offers.")
@click.option("--image", "images", type=click.IntRange(0, 1_000), default=0, help="How many pictures it has.")
@click.option("--json-mode", "is_json", is_flag=True, help="It wants JSON.")
@click.option(
    "--mode", type=click.Choice(["suggest", "dry_run", "enforced"]), help="Mode of routing, if not its own."
)
@click.option(
    "--task-class", type=click.Choice(["interactive", "background", "auxiliary"]), help="Who waits for it."
)
@click.option("--principal", metavar="ID", default="", help="Who pays for it; the operator by default.")
@click.option("--agent", metavar="ID", default="", help="The agent that asks.")
@click.option("--stream", "is_stream", is_flag=True, help="It wants a stream.")
def explain_models(
    call: Call,
    model: str,
    prompt: str,
    tokens: int | None,
    role: str,
    needs: tuple[str, ...],
    max_output: int | None,
    tools: int,
    images: int,
    is_json: bool,
    mode: RoutingMode | None,
    task_class: TaskClass | None,
    principal: str,
    agent: str,
    is_stream: bool,
) -> Answer:
    """Tell what a request would meet: candidates in order, who is left out and why.

    Nothing is reserved, recorded or sent; the text stays with this command, which counts it and its keywords. It is
    told which model would be chosen, and along each axis alone what would have another one chosen.
    """
    from palyra.cli.asking import ask
    from palyra.engine.console.models import PlanParams
    from palyra.engine.console.table import MODELS_PLAN
    from palyra.wire.keywords import count_keywords
    from palyra.wire.tokens import AROUND_TOKENS, estimate_token_count

    wanted = [
        *needs,
        *(["tools"] if tools else []),
        *(["vision"] if images else []),
        *(["json_mode"] if is_json else []),
    ]

    if tokens is None:
        tokens = estimate_token_count(prompt) + (AROUND_TOKENS if role == "chat" else 0)
    params = PlanParams(
        model=model,
        endpoint=role,  # type: ignore[arg-type]
        tokens=tokens,
        needs=sorted(dict.fromkeys(wanted)),
        tools=tools,
        images=images,
        keywords=count_keywords(prompt, call.loaded.config.routing.keywords) if prompt else 0,
        mode=mode,
        task_class=task_class or "",
        principal=principal,
        agent=agent,
        max_output=max_output or 0,
        stream=is_stream,
    )
    asked = ask(call, MODELS_PLAN, params)
    return asked.answer(lambda page: _show(page, asked.found, asked.now_us))


def _show(page: Page, plan: PlanAnswer, now_us: int) -> None:
    what = " · ".join(part for part in (plan.endpoint, plan.model_requested or "no model named") if part)
    rows: list[tuple[str, str | Styled]] = [("request", what)]
    size = f"about {count(plan.raw_tokens)} tokens"
    if plan.estimated_tokens is not None:
        size = f"about {count(plan.estimated_tokens)} tokens, {count(plan.upper_tokens or 0)} at most"
    rows.append(("input", size))
    if plan.needs:
        rows.append(("needs", ", ".join(need.replace("_", " ") for need in plan.needs)))
    if plan.resolved_by:
        rows.append(("means", f"{plan.model_id} · {RESOLVED.get(plan.resolved_by, plan.resolved_by)}"))
        rows.append(("failover", FAILOVER.get(plan.failover, plan.failover)))
    if plan.output_cap_tokens is not None:
        rows.append(("output", f"{count(plan.output_cap_tokens)} tokens at most are asked for"))
    page.fields(rows)
    if plan.refusal_code:
        page.line()
        page.line(Styled("refused", "bad"), f" · {plan.refusal_code}")
        page.line(plan.refusal_message, indent=2)
    if plan.choice is not None:
        show_choice(page, plan.choice, now_us)
    if plan.plan:
        page.title("Would be tried in this order")
        page.table(_COLUMNS, [_row(number, one) for number, one in enumerate(plan.plan, 1)])
    if plan.excluded:
        page.title("Left out")
        page.table(
            [Column("MODEL", is_cut=True), Column("PROVIDER", is_cut=True), Column("WHY", is_cut=True)],
            [
                (one.model_id, one.provider_id, exclusion_words(one.excluded_by, one.figures, now_us, page.zone))
                for one in plan.excluded
            ],
        )


_COLUMNS = [
    Column("", align="right"),
    Column("MODEL", is_cut=True, least=24),
    Column("PROVIDER", is_cut=True, least=12),
    Column("BECAUSE"),
    Column("HEALTH"),
    Column("READY", spare=2),
    Column("WINDOW", align="right", spare=1),
    Column("SAYS", spare=3),
    Column("CREDENTIAL", is_cut=True, spare=4),
]


def _row(number: int, one: CandidatePlan) -> tuple[str | Styled, ...]:
    window = count(one.max_context_tokens) if one.max_context_tokens else "unknown"
    return (
        str(number),
        one.model_id,
        one.provider_id,
        VIA.get(one.via, one.via),
        state_word(one.health),
        READINESS.get(one.readiness, ""),
        window,
        Styled(one.sources["max_context_tokens"], "dim"),
        one.credentials[0] if one.credentials else "",
    )
