"""The official client against a real gateway: what works at OpenAI works here."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest
from daemon_house import chat, open_house
from upstream import CUT, Behaviour

from palyra.decisions.naming import VIRTUAL_NAMES
from palyra.events.attempts import AttemptStarted
from palyra.events.runs import RequestServed, RunAdmitted, RunCompleted, RunFailed, RunRefused


async def test_a_chat_is_answered_and_recorded(tmp_path: Path) -> None:
    """A unary chat gives the provider's answer under the public model name, with a run in the journal."""
    async with open_house(tmp_path) as house, house.sdk() as sdk:
        raw = await sdk.chat.completions.with_raw_response.create(
            **chat(model="fast"), extra_headers={"x-palyra-session": "s", "x-palyra-tags": "team=x"}
        )
        answer = raw.parse()
        assert answer.choices[0].message.content == "Hello from upstream."
        assert answer.model == "gpt"
        assert answer.usage is not None
        assert answer.usage.total_tokens == 16
        (admitted,) = house.facts(RunAdmitted)
        assert admitted.principal_id.startswith("key:")
        assert admitted.session_id == f"{admitted.principal_id}/s"
        assert (admitted.tags, admitted.model_requested) == ({"team": "x"}, "fast")
        assert len(house.facts(RunCompleted)) == 1
        run_id = raw.headers["x-palyra-run-id"]
        assert raw.headers["x-request-id"] == run_id
        assert raw.headers["x-palyra-model"] == "gpt"
        assert raw.headers["x-palyra-requested-model"] == "fast"
        (line,) = house.lines
        assert (line.method, line.route, line.status) == ("POST", "/v1/chat/completions", 200)
        assert (line.run_id, line.sent_bytes) == (run_id, len(raw.content))


async def test_a_chat_is_streamed(tmp_path: Path) -> None:
    """A stream arrives piece by piece, ends with its usage, and carries the headers of an event stream."""
    async with open_house(tmp_path) as house, house.sdk() as sdk:
        raw = await sdk.chat.completions.with_raw_response.create(
            **chat(), stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in raw.parse()]
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello from upstream."
        assert {chunk.model for chunk in chunks} == {"gpt"}
        assert chunks[-1].usage is not None
        assert raw.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert raw.headers["cache-control"] == "no-store"
        assert raw.headers["x-accel-buffering"] == "no"
        await house.wait_until_idle()
        assert len(house.facts(RunCompleted)) == 1
        assert house.facts(RunAdmitted)[0].stream


async def test_embeddings_are_answered(tmp_path: Path) -> None:
    """Embeddings come in order, split over calls where the provider takes fewer; base64 is the client's default."""
    async with open_house(tmp_path) as house, house.sdk() as sdk:
        answer = await sdk.embeddings.create(model="vec", input=["a", "b", "c"])
        assert [one.index for one in answer.data] == [0, 1, 2]
        assert answer.data[0].embedding == [1.0] + [0.0] * 7
        assert answer.model == "vec"
        assert len(house.facts(AttemptStarted)) == 2
        assert house.facts(RunCompleted)[0].attempts_count == 2


async def test_models_are_listed(tmp_path: Path) -> None:
    """The list has ids first, then what else leads to them; a model is found by any of its names."""
    async with open_house(tmp_path) as house, house.sdk() as sdk:
        listed = [one async for one in await sdk.models.list()]
        assert [one.id for one in listed] == ["gpt", "fast", *VIRTUAL_NAMES, "vec"]
        assert {one.owned_by for one in listed} == {"up"}
        one = await sdk.models.retrieve("up/gpt")
        assert one.id == "up/gpt"
        assert one.model_extra is not None
        assert one.model_extra["palyra"]["role"] == "chat"
        assert one.model_extra["palyra"]["aliases"] == ["fast"]
        with pytest.raises(openai.NotFoundError) as caught:
            await sdk.models.retrieve("gtp")
        assert caught.value.body["code"] == "model_not_found"  # type: ignore[index]
        assert house.counted("request.served") == 3
        await house.core.record([])
        await house.access.flush()
    assert [fact.http_status for fact in house.facts(RequestServed)] == [200, 200, 404]


@pytest.mark.parametrize(
    ("behaviour", "error", "code"),
    [
        (Behaviour.error(429), openai.RateLimitError, "rate_limited"),
        (Behaviour.error(401), openai.InternalServerError, "upstream_auth"),
        (Behaviour.error(500), openai.InternalServerError, "transient_upstream"),
        (
            Behaviour.error(400, message="bad", kind="invalid_request_error"),
            openai.BadRequestError,
            "invalid_request",
        ),
    ],
)
async def test_failures_of_a_provider_are_typed(
    tmp_path: Path, behaviour: Behaviour, error: type[openai.APIStatusError], code: str
) -> None:
    """A provider's failure reaches the client as the exception it knows, in our envelope, with the run's id."""
    async with open_house(tmp_path) as house, house.sdk() as sdk:
        house.upstream.reply_with(behaviour)
        with pytest.raises(error) as caught:
            await sdk.chat.completions.create(**chat())
        assert caught.value.body["code"] == code  # type: ignore[index]
        assert caught.value.request_id == caught.value.response.json()["palyra"]["run_id"]
        assert [fact.code for fact in house.facts(RunFailed)] == [code]


async def test_refusals_are_typed(tmp_path: Path) -> None:
    """Wrong keys, unknown models and bad requests are the exceptions that a program catches at OpenAI."""
    async with open_house(tmp_path) as house:
        async with house.sdk("palyra_client_0_x") as sdk:
            with pytest.raises(openai.AuthenticationError) as unknown:
                await sdk.chat.completions.create(**chat())
            assert unknown.value.response.headers["www-authenticate"] == 'Bearer realm="palyra"'
        async with house.sdk() as sdk:
            with pytest.raises(openai.NotFoundError, match="Did you mean 'gpt'"):
                await sdk.chat.completions.create(**chat(model="gtp"))
            with pytest.raises(openai.BadRequestError) as bad:
                await sdk.chat.completions.create(**chat(n=0))
            assert bad.value.body["param"] == "n"  # type: ignore[index]
        assert [fact.code for fact in house.facts(RunRefused)] == ["model_not_found", "invalid_request"]
        assert house.denied == {"chat|invalid_client_key": 1}


async def test_a_stream_that_breaks_says_so(tmp_path: Path) -> None:
    """A provider that breaks off mid-stream ends the client's stream with an error, not with silence."""
    async with open_house(tmp_path) as house, house.sdk() as sdk:
        house.upstream.reply_with(Behaviour(after={3: CUT}))
        stream = await sdk.chat.completions.create(**chat(), stream=True)
        with pytest.raises(openai.APIError) as caught:
            async for _ in stream:
                pass
        assert caught.value.code == "stream_truncated"
        assert [fact.code for fact in house.facts(RunFailed)] == ["stream_truncated"]
