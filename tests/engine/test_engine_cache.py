"""The response cache at work: what reaches the provider, what the client is told, what is recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from budget_kit import rule
from engine_fakes import ManualClock, ScriptedProvider, error, stream, unary
from engine_world import Taker, World, house, model, one, provider, registry, two

from palyra.decisions.cache import ANSWER_MAX_BYTES
from palyra.decisions.pricing import adopt_prices, with_id
from palyra.decisions.redecide import redecide
from palyra.decisions.runs import CacheAsk
from palyra.engine.budgets import adopt_file_policies
from palyra.engine.cache import _OVERHEAD_BYTES
from palyra.engine.capture import capture
from palyra.engine.history import run_report
from palyra.engine.run import Reply
from palyra.events.budgets import BudgetReserved
from palyra.events.cache import CacheHit, CacheStored
from palyra.events.pricing import PriceEntry
from palyra.events.usage import UsageRecorded
from palyra.journal.memory import MemoryJournal
from palyra.journal.reader import JournalReader
from palyra.journal.sqlite import SqliteJournal
from palyra.projections.usage import total_of

HIT = ["run.admitted", "cache.hit", "run.completed"]


def on(**settings: Any) -> Any:
    return registry(provider("a"), model("m", "a"), response_cache_enabled=True, **settings)


async def ask(world: World, digest: str = "d", client: Taker | None = None, **body: Any) -> Reply:
    """Send a chat request whose body has this digest."""
    wishes = {name: body.pop(name) for name in ("reads", "writes", "max_age_ms") if name in body}
    changes = {"cache": CacheAsk(body_digest=digest, **wishes), **body.pop("changes", {})}
    return await world.chat(client=client, changes=changes, **body)


def word(reply: Reply) -> str | None:
    return reply.headers.get("x-palyra-cache")


async def test_the_second_of_two_equal_requests_is_free() -> None:
    """One call to the provider, no usage, no hold; the same bytes, with their age."""
    fake, clock = ScriptedProvider(), ManualClock()
    async with house(on(), extra={"a": fake}, clock=clock) as world:
        first = await ask(world)
        clock.pass_ms(2_500)
        second = await ask(world)
        assert (word(first), word(second)) == ("miss", "hit")
        assert second.body == first.body
        assert second.headers["age"] == "2"
        assert second.headers["x-palyra-run-id"] == second.run_id != first.run_id
        assert second.headers["x-palyra-attempts"] == "0"
        assert len(fake.calls) == 1
        assert world.names(second.run_id) == HIT
        assert world.names(first.run_id)[-2:] == ["cache.stored", "run.completed"]
        (hit,) = world.facts(CacheHit)
        assert (hit.of_run_id, hit.saved_input_tokens, hit.saved_output_tokens) == (first.run_id, 11, 5)
        (stored,) = world.facts(CacheStored)
        assert stored.key_digest == hit.key_digest
        assert total_of(world.state).rows_count == 1


async def test_a_hit_saves_what_its_answer_cost() -> None:
    """Each hit saves the whole of it, as it was settled; an attempt that was free adds nothing."""
    fake = ScriptedProvider(error(503), unary())
    offer = registry(provider("a", max_retries=1, retry_backoff_ms=1), model("m", "a"), response_cache_enabled=True)
    async with house(offer, extra={"a": fake}) as world:
        entry = PriceEntry(
            price_id="",
            provider_id="a",
            model_id="m",
            input_nanousd_per_mtok=1_000_000_000,
            output_nanousd_per_mtok=2_000_000_000,
        )
        listed = adopt_prices(world.state, entries=[with_id(entry)], catalogue_name="", catalogue_version="")
        await world.core.record(listed, "test")
        for _ in range(3):
            await ask(world)
        (paid,) = [one.cost_nanousd for one in world.facts(UsageRecorded) if one.cost_nanousd]
        assert [hit.saved_nanousd for hit in world.facts(CacheHit)] == [paid, paid] == [21_000, 21_000]
        assert world.state.cache.saved_nanousd == 42_000


@pytest.mark.parametrize("first_is_streamed", [True, False])
@pytest.mark.parametrize("second_is_streamed", [True, False])
async def test_streamed_and_whole_share_an_answer(first_is_streamed: bool, second_is_streamed: bool) -> None:
    """Each client gets it in the form that it asked for."""
    fake = ScriptedProvider(stream("Hel", "lo.") if first_is_streamed else unary("Hello."))
    async with house(on(), extra={"a": fake}) as world:
        await ask(world, stream=first_is_streamed)
        taker = Taker() if second_is_streamed else None
        reply = await ask(world, client=taker, stream=second_is_streamed)
        assert len(fake.calls) == 1
        if taker is not None:
            assert (taker.text, taker.is_complete, taker.headers["x-palyra-cache"]) == ("Hello.", True, "hit")
            assert b'"usage"' not in taker.data
        else:
            answer = json.loads(reply.body or b"")
            assert answer["choices"][0]["message"]["content"] == "Hello."
            assert answer["usage"]["completion_tokens"] == 5


async def test_a_stream_is_kept_however_much_its_events_say_beside_the_answer() -> None:
    """What counts is the answer; events of a few characters are many times as long."""
    pieces = ["word "] * 8_000
    async with house(on(), extra={"a": ScriptedProvider(stream(*pieces))}) as world:
        taker = Taker()
        await ask(world, client=taker, stream=True)
        assert len(taker.data) > ANSWER_MAX_BYTES
        reply = await ask(world)
        assert word(reply) == "hit"
        assert json.loads(reply.body or b"")["choices"][0]["message"]["content"] == "".join(pieces)


async def test_vectors_are_kept_too() -> None:
    """Also those of several calls; the saving is that of all of them."""
    fake = ScriptedProvider()
    offer = registry(provider("a"), model("e", "a", role="embeddings", max_batch=1), response_cache_enabled=True)
    async with house(offer, extra={"a": fake}) as world:
        body = {"model": "e", "input": ["one", "two"]}
        replies = [await world.start(body, cache=CacheAsk(body_digest="d")).task for _ in range(2)]
        assert replies[0].body == replies[1].body
        assert len(fake.calls) == 2
        (hit,) = world.facts(CacheHit)
        assert hit.saved_input_tokens == total_of(world.state).input_tokens > 0


async def test_two_callers_share_nothing() -> None:
    """Nor do two sessions, where they are kept apart."""
    fake = ScriptedProvider()
    async with house(on(response_cache_isolation="session"), extra={"a": fake}) as world:
        for changes in ({"principal_id": "key:a"}, {"principal_id": "key:b"}, {"session_id": "s"}):
            assert word(await ask(world, changes=changes)) == "miss"
        assert len(fake.calls) == 3


async def test_a_kept_answer_serves_through_an_open_circuit() -> None:
    """Nobody could give it now."""
    fake = ScriptedProvider(unary(), error(503), error(503))
    offer = registry(
        provider("a", circuit_breaker_failure_threshold=1), model("m", "a"), response_cache_enabled=True
    )
    async with house(offer, extra={"a": fake}) as world:
        await ask(world)
        assert (await ask(world, "other")).status == 502
        assert world.state.circuits.by_provider["a"].status == "open"
        assert (await ask(world)).status == 200
        assert (await ask(world, "other")).status == 503
        assert len(fake.calls) == 2


async def test_a_kept_answer_is_free_where_nothing_may_be_spent() -> None:
    """No rule about usage is asked about it, and nothing is held or counted; another question is stopped."""
    async with house(on(), extra={"a": ScriptedProvider()}) as world:
        await ask(world)
        used = total_of(world.state).rows_count
        await adopt_file_policies(world.core, [rule("none", scope_kind="global", hard_limit=0, managed_by="file")])
        hit = await ask(world)
        assert (hit.status, word(hit)) == (200, "hit")
        assert (await ask(world, "other")).status == 402
        assert total_of(world.state).rows_count == used
        assert world.facts(BudgetReserved) == []


async def test_an_answer_is_kept_for_its_time() -> None:
    """From when it was stored, however often it was asked for."""
    fake, clock = ScriptedProvider(), ManualClock()
    async with house(on(response_cache_ttl_ms=1_000), extra={"a": fake}, clock=clock) as world:
        await ask(world)
        clock.pass_ms(999)
        assert word(await ask(world)) == "hit"
        clock.pass_ms(1)
        assert word(await ask(world)) == "miss"


async def test_the_number_of_answers_is_bounded() -> None:
    """What was asked for longest ago goes first."""
    fake = ScriptedProvider()
    async with house(on(response_cache_max_entries=2), extra={"a": fake}) as world:
        for digest in ("a", "b", "a", "c"):
            await ask(world, digest)
        assert [word(await ask(world, digest)) for digest in ("a", "c", "b")] == ["hit", "hit", "miss"]


async def test_the_size_of_all_answers_is_bounded() -> None:
    """What is kept beside each is counted too; what was asked for longest ago goes first."""
    async with house(on(), extra={"a": ScriptedProvider()}) as world:
        most_bytes = 2 * ((await _stored(world, "a")).size_bytes + _OVERHEAD_BYTES)
    async with house(on(response_cache_max_bytes=most_bytes), extra={"a": ScriptedProvider()}) as world:
        for digest in ("a", "b", "c"):
            await _stored(world, digest)
        assert [word(await ask(world, digest)) for digest in ("c", "b", "a")] == ["hit", "hit", "miss"]


async def _stored(world: World, digest: str) -> CacheStored:
    """Ask for the first time, and return what is recorded of keeping the answer."""
    assert word(await ask(world, digest)) == "miss"
    return world.facts(CacheStored)[-1]


async def test_a_client_can_leave_the_cache_alone() -> None:
    """Off: neither read nor written. Refresh: written alone. A maximum of age is obeyed."""
    fake, clock = ScriptedProvider(), ManualClock()
    async with house(on(), extra={"a": fake}, clock=clock) as world:
        assert word(await ask(world, reads=False, writes=False)) == "off"
        assert word(await ask(world, reads=False)) == "bypass"
        clock.pass_ms(2_000)
        assert word(await ask(world, reads=False, writes=False)) == "off"
        assert word(await ask(world, max_age_ms=1_999)) == "miss"
        assert word(await ask(world, max_age_ms=1_999)) == "hit"


@pytest.mark.parametrize("finish", ["length", "content_filter", "tool_calls"])
async def test_other_ends_are_not_kept(finish: str) -> None:
    """An answer that was cut, filtered, or calls tools is made anew."""
    body = json.loads(b"".join(piece for piece in unary().pieces if isinstance(piece, bytes)))
    body["choices"][0]["finish_reason"] = finish
    if finish == "tool_calls":
        body["choices"][0]["message"]["tool_calls"] = [{"id": "x", "function": {"name": "f", "arguments": "{}"}}]
    fake = ScriptedProvider()
    async with house(on(), extra={"a": fake}) as world:
        for _ in range(2):
            script = unary()
            script.pieces = (json.dumps(body).encode(),)
            fake.script(script)
            assert word(await ask(world)) == "miss"
        assert world.facts(CacheStored) == []


async def test_errors_and_failovers_are_not_kept() -> None:
    """Neither one that stood in for another; the next request asks the first again."""
    bad, good = ScriptedProvider(error(503), error(503)), ScriptedProvider()
    offer = two()
    offer = registry(*offer.providers, *offer.models, response_cache_enabled=True)
    async with house(offer, extra={"a": bad, "b": good}) as world:
        for _ in range(2):
            assert (await ask(world)).headers["x-palyra-provider"] == "b"
        assert world.facts(CacheStored) == []
        assert (await ask(world)).headers["x-palyra-provider"] == "a"
        assert len(world.facts(CacheStored)) == 1


async def test_a_broken_stream_is_not_kept() -> None:
    """Nor one whose client left."""
    fake = ScriptedProvider(stream("Half ", ending=()), stream("One ", "two."))
    async with house(on(), extra={"a": fake}) as world:
        await ask(world, stream=True)
        await ask(world, client=Taker(1), stream=True)
        assert word(await ask(world, stream=False)) == "miss"
        assert len(world.facts(CacheStored)) == 1


async def test_a_hit_with_a_key_is_repeated() -> None:
    """Its run has the key, and the repeat is no run."""
    fake = ScriptedProvider()
    async with house(on(), extra={"a": fake}) as world:
        await ask(world)
        keyed = {"command_name": "n"}
        hit = await ask(world, changes=keyed)
        again = await ask(world, changes=keyed)
        assert (word(hit), again.headers["x-palyra-idempotent-replay"]) == ("hit", "true")
        assert again.headers["x-palyra-run-id"] == hit.run_id
        assert len(world.facts(CacheHit)) == 1


async def test_a_hit_is_told_and_captured(tmp_path: Path) -> None:
    """Its story names the run that it lives on; what memory held is given when it is decided again."""
    journal = await SqliteJournal.open(tmp_path / "journal.db", new_journal_id="01TEST", now_us=1)
    async with house(on(), journal=journal, extra={"a": ScriptedProvider()}) as world:
        first, second = await ask(world), await ask(world)
        with JournalReader(tmp_path / "journal.db") as reader:
            report = run_report(reader, second.run_id, 0)
        assert report.hit is not None
        assert (report.hit.of_run_id, report.routing, report.attempts) == (first.run_id, None, [])
        verdict = redecide(capture(tmp_path / "journal.db", second.run_id))
        assert (verdict.difference, verdict.given_count) == (None, 3)
        assert redecide(capture(tmp_path / "journal.db", first.run_id)).difference is None


async def test_where_it_is_off_nothing_is_said() -> None:
    """Two equal requests are two answers."""
    fake = ScriptedProvider()
    async with house(one(), extra={"a": fake}) as world:
        assert [word(await world.chat()) for _ in range(2)] == [None, None]
        assert len(fake.calls) == 2


async def test_a_hit_that_cannot_be_recorded_is_not_told() -> None:
    """The answer is at hand, but every request leaves a fact before it is answered: it is 503 until one can."""
    journal = MemoryJournal(journal_id="01TEST", now_us=1)
    async with house(on(), journal=journal, extra={"a": ScriptedProvider()}) as world:
        first = await ask(world)
        journal.fail_next_commits(1)
        second = await ask(world)
        assert (second.status, second.refusal and second.refusal.code) == (503, "journal_unwritable")
        assert world.names(second.run_id) == []
        await world.core.wait_until_rebuilt()
        assert (await ask(world)).body == first.body
