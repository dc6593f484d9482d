"""The console's API over HTTP: who may ask, what is taken, lists, the past, changes."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from console_house import Answer, Operator, open_console, operator_of

from palyra import Daemon
from palyra.engine.clock import SystemClock
from palyra.engine.console.change_table import CHANGES
from palyra.engine.console.file import ask_file
from palyra.engine.console.frame import JournalFiles, Params, Question
from palyra.engine.console.past import ChildPast
from palyra.engine.console.table import QUESTIONS
from palyra.engine.replay import fold_file

#: Never answers.
SLOW: dict[str, Any] = {
    "model_provider": {
        "providers": [{"provider_id": "slow", "kind": "deterministic", "rules": [{"error": {"hang": True}}]}],
        "models": [{"model_id": "deterministic", "provider_id": "slow"}],
        "default_chat_model_id": "deterministic",
    }
}
#: What stands in placeholders and in queries that must be given, of a journal that has at least one run.
SAMPLES = {"chapter": "runs", "policy": "day", "key": "client.key", "run": "last", "event": "1", "a": 1, "b": 1}


def sample(question: Question[Any, Any]) -> tuple[str, dict[str, Any], Params]:
    """Return a path, a query and the same as parameters, of something that can be asked."""
    wanted = [field.name for field in msgspec.structs.fields(question.params) if field.required]
    given = {name: SAMPLES.get(name, "x") for name in wanted}
    path = question.path
    query = dict(given)
    for name in wanted:
        if f"{{{name}}}" in path:
            path = path.replace(f"{{{name}}}", str(query.pop(name)))
    params: Params = question.params(**given)
    return path, query, params


async def put(
    ask: Operator, question: Question[Any, Any], path: str, query: dict[str, Any], **frame: Any
) -> Answer:
    """Ask it, in an address or in a body; `frame` says of which moment."""
    if question.method == "POST":
        return await ask(path, method="POST", body=query, **frame)
    return await ask(path, **query, **frame)


#: A rule, so that there is something to ask about rules.
RULED: dict[str, Any] = {
    "budgets": {
        "policies": [
            {
                "policy_id": "day",
                "scope_kind": "global",
                "metric_kind": "tokens",
                "interval_kind": "daily",
                "hard_limit": 1_000_000,
            }
        ]
    }
}


async def test_every_question_is_answered(tmp_path: Path) -> None:
    """Each says of which journal, position and instant it is true."""
    async with open_console(tmp_path, RULED) as ask:
        run_id = await ask.say()
        for question in QUESTIONS:
            path, query, _ = sample(question)
            answer = await put(ask, question, path, query)
            if answer.status == 404:  # a name that nothing has
                assert answer.code.endswith("_not_found")
                continue
            assert answer.status == 200, answer.body
            assert answer.headers["cache-control"] == "no-store"
            at = answer.json["at"]
            assert at["journal_id"] == ask.daemon.journal.journal_id
            assert at["position"] == len(ask.daemon.journal)
        assert (await ask("runs")).json["items"][0]["run_id"] == run_id
        assert (await ask("status")).json["daemon"]["phase"] == "ready"


async def test_who_may_ask(tmp_path: Path) -> None:
    """Nobody without a key; no client key without the scope; changes are for the operator's key alone."""
    async with open_console(tmp_path) as ask:
        client_key = ask.daemon.client_key
        refused = await ask("status", key="")
        assert (refused.status, refused.code) == (401, "missing_client_key")
        assert "admin.token" in refused.json["error"]["message"]
        assert refused.headers["www-authenticate"].startswith("Bearer")
        assert (await ask("status", key=client_key)).code == "missing_scope"
        assert (await ask.post("runs/last/cancel", key=client_key)).code == "wrong_key_kind"
        assert (await ask("status", headers={"origin": "http://evil.example"})).code == "origin_refused"
        assert (await ask("status", headers={"host": "evil.example"})).code == "bad_host"
        denied = ask.daemon.core.state.keys.denied
        assert {kind.split("|")[0] for kind in denied} == {"console"}


async def test_what_is_not_there(tmp_path: Path) -> None:
    """An unknown place is 404, another method 405; a run that is not there names the command that lists them."""
    async with open_console(tmp_path) as ask:
        assert (await ask("nothing/here")).code == "route_not_found"
        assert (await ask("runs/")).code == "route_not_found"
        assert (await ask.post("status")).code == "method_not_allowed"
        missing = await ask("runs/01KNONE")
        assert (missing.status, missing.code) == (404, "run_not_found")
        assert "palyra runs list" in missing.error["hint"]


@pytest.mark.parametrize(
    ("path", "query", "field"),
    [
        ("status", {"sections": "all"}, "sections"),
        ("runs", {"limit": "0"}, "limit"),
        ("runs", {"limit": "501"}, "limit"),
        ("runs", {"limit": "many"}, "limit"),
        ("runs", {"open": "perhaps"}, "open"),
        ("runs", {"cursor": "!!"}, "cursor"),
        ("runs", {"cursor": "WyJhIiwgMV0"}, "cursor"),
        ("runs/last", {"run": "other"}, "run"),
        ("status", {"zone": "Mars/Olympus"}, "zone"),
        ("status", {"at_least": "-1"}, "at_least"),
    ],
)
async def test_a_query_is_read_strictly(path: str, query: dict[str, str], field: str, tmp_path: Path) -> None:
    """What is not taken is refused, and the refusal names it."""
    async with open_console(tmp_path) as ask:
        await ask.say()
        refused = await ask(path, **query)
        assert (refused.status, refused.code, refused.error["field"]) == (400, "invalid_query", field)


async def test_a_body_is_read_strictly(tmp_path: Path) -> None:
    """A change takes one JSON object of known fields, and nothing in its query."""
    async with open_console(tmp_path) as ask:
        unknown = await ask.post("runs/last/cancel", {"reason": "because"})
        assert (unknown.status, unknown.code, unknown.error["field"]) == (400, "unknown_field", "reason")
        assert (await ask.post("runs/last/cancel", {"run": "other"})).error["field"] == "run"
        assert (await ask.post("runs/last/cancel", b"[1]")).code == "invalid_json"
        assert (await ask.post("runs/last/cancel", now="yes")).code == "invalid_query"
        assert (await ask.post("runs/last/cancel", b"{}" + b" " * (1 << 20))).code == "body_too_large"
        past = await ask.post("runs/last/cancel", at="1")
        assert (past.status, past.code) == (409, "in_the_past")


async def test_lists_come_in_pages(tmp_path: Path) -> None:
    """A cursor goes on behind its page, whatever arrived meanwhile, until null says that nothing follows."""
    async with open_console(tmp_path) as ask:
        ids = [await ask.say(str(number)) for number in range(3)]
        first = (await ask("runs", limit=2)).json
        await ask.say("meanwhile")
        second = (await ask("runs", limit=2, cursor=first["next_cursor"])).json
        assert [row["run_id"] for row in [*first["items"], *second["items"]]] == ids[::-1]
        assert second["next_cursor"] is None
        newest = (await ask("journal/events", limit=5, names="run.*,attempt.*")).json
        older = (await ask("journal/events", limit=500, cursor=newest["next_cursor"], names="run.*,attempt.*")).json
        positions = [row["position"] for row in [*older["items"], *newest["items"]]]
        assert positions == sorted(positions)
        onward = (await ask("journal/events", limit=5, after=0)).json
        assert [row["position"] for row in onward["items"]] == [1, 2, 3, 4, 5]
        onward = (await ask("journal/events", limit=2, after=0, cursor=onward["next_cursor"])).json
        assert [row["position"] for row in onward["items"]] == [6, 7]


async def test_a_position_that_is_yet_to_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`at_least` waits for it; one that does not come in time is 412."""
    async with open_console(tmp_path) as ask:
        head = len(ask.daemon.journal)
        waiting = asyncio.ensure_future(ask("status", at_least=head + 4))
        await ask.say()
        answer = await waiting
        assert answer.status == 200
        assert answer.json["at"]["position"] >= head + 4
        monkeypatch.setattr("palyra.engine.console.live._AT_LEAST_S", 0.02)
        late = await ask("status", at_least=10**9)
        assert (late.status, late.code, late.error["field"]) == (412, "position_not_reached", "at_least")


async def test_the_past_is_what_the_file_says(tmp_path: Path) -> None:
    """The daemon's child and a command on the file give the same bytes, at any position."""
    async with open_console(tmp_path, RULED) as ask:
        await ask.say()
        paths, head = ask.daemon.paths, len(ask.daemon.journal)
        files = JournalFiles(paths.journal, paths.vault_key)
        for position in (0, 1, head // 2, head):
            for question in QUESTIONS:
                path, query, params = sample(question)
                answer = await put(ask, question, path, query, at=position, zone="UTC")
                if answer.status != 200:
                    assert answer.code.endswith("_not_found")
                    continue
                told = ask_file(
                    question,
                    params,
                    files=files,
                    lock=ask.daemon._home.lock_state,
                    at=str(position),
                    zone="UTC",
                    now_us=SystemClock().now_us(),
                )
                assert answer.body == told.data
        beyond = await ask("status", at=head + 1_000)
        assert (beyond.status, beyond.code) == (404, "position_not_found")
        assert (await ask("status", at="tomorrow")).status == 400


async def test_the_child_is_started_again(tmp_path: Path) -> None:
    """It is one process, which serves the next question too; one that was killed is replaced unseen."""
    async with open_console(tmp_path) as ask:
        past = ask.daemon.gateway.console._sights._past  # type: ignore[union-attr]
        assert isinstance(past, ChildPast)
        assert past.pid is None
        before = (await ask("status", at="1")).body
        first = past.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        assert (await ask("status", at="1")).body == before
        assert past.pid not in (None, first)
        child = past.pid
        assert child is not None
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


async def test_a_fold_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    """The asker hears 504, the child is gone, and the next question gets another one."""
    async with open_console(tmp_path) as ask:
        past = ask.daemon.gateway.console._sights._past  # type: ignore[union-attr]
        assert isinstance(past, ChildPast)
        past._answer_s = 0.0
        late = await ask("status", at="1")
        assert (late.status, late.code) == (504, "fold_timeout")
        assert past.pid is None
        past._answer_s = 30.0
        assert (await ask("status", at="1")).status == 200


async def test_what_a_decision_saw_needs_a_fold(tmp_path: Path) -> None:
    """`state=true` folds the state before the run, away from the loop."""
    async with open_console(tmp_path) as ask:
        run_id = await ask.say()
        seen = (await ask(f"runs/{run_id}/explain", state="true")).json["seen"]
        report = (await ask(f"runs/{run_id}/explain")).json
        assert report["seen"] is None
        assert seen["position"] == report["first_position"] - 1


async def test_a_journal_in_memory_has_a_past_too() -> None:
    """Every question is answered at the head and before, though there is no file; what is of files is null."""
    async with Daemon(RULED, journal=":memory:") as daemon:
        key = (await daemon.access.issue("admin", "operator")).reveal()
        async with operator_of(daemon, key) as ask:
            await ask.say()
            for question in QUESTIONS:
                path, query, _ = sample(question)
                now = await put(ask, question, path, query)
                assert now.status in (200, 404)
                then = await put(ask, question, path, query, at=len(daemon.journal))
                assert then.status == now.status
            assert (await ask("status", at=3)).json["position"] == 3
            assert (await ask("journal/status")).json["file"] is None
            assert (await ask("runs/last/explain", state="true")).json["seen"]["candidates"]


async def _start_slow(ask: Operator) -> asyncio.Task[str]:
    running = asyncio.ensure_future(ask.say())
    while not ask.daemon.core.state.runs.open:
        await asyncio.sleep(0)
    return running


async def test_a_run_is_cancelled_once(tmp_path: Path) -> None:
    """The run ends settled; a repeat with the same key gets the same answer and records nothing more."""
    async with open_console(tmp_path, SLOW) as ask:
        running = await _start_slow(ask)
        keyed = {"idempotency-key": "once"}
        first = await ask.post("runs/last/cancel", headers=keyed)
        assert (first.status, first.json["state"]) == (200, "cancelled")
        again = await ask.post("runs/last/cancel", headers=keyed)
        assert again.body == first.body
        other = await ask.post("runs/01K/cancel", headers=keyed)
        assert (other.status, other.code) == (422, "idempotency_key_reused")
        assert (await ask.post("runs/last/cancel")).code == "run_not_found"
        with pytest.raises(Exception, match="cancelled"):
            await running
        counts = fold_file(ask.daemon.paths.journal).state.counts
        assert counts["run.cancel_requested"] == counts["run.cancelled"] == 1
    async with open_console(tmp_path, SLOW) as ask:
        done = await ask.post("runs/last/cancel", headers=keyed)
        assert (done.status, done.code) == (409, "idempotency_result_gone")
        assert done.error["position"] == first.json["at"]["position"]


async def test_nothing_is_changed_while_it_drains(tmp_path: Path) -> None:
    """Questions are still answered; changes are refused as new runs are."""
    async with open_console(tmp_path) as ask:
        ask.daemon.gateway.is_draining = True
        assert (await ask("status")).status == 200
        refused = await ask.post("runs/last/cancel")
        assert (refused.status, refused.code) == (503, "draining")
        assert refused.headers["retry-after"] == "5"


def test_every_row_of_the_table_is_sound() -> None:
    """Paths are unique by method, and each placeholder is a field."""
    rows = [("GET", one.path, one.params) for one in QUESTIONS] + [(c.method, c.path, c.params) for c in CHANGES]
    assert len({row[:2] for row in rows}) == len(rows)
    for _, path, params in rows:
        places = {part[1:-1] for part in path.split("/") if part.startswith("{")}
        assert places <= set(params.__struct_fields__)
    assert [one.path for one in QUESTIONS] == sorted(one.path for one in QUESTIONS)
