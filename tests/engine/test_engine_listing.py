"""Asking for a list of models, over real HTTP: pages, bounds, refusals, and that nothing else is asked."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from engine_world import World, house, one
from upstream import Behaviour, Upstream

from palyra.engine.listing import Listing, ModelLists
from palyra.errors import PalyraError, TransportFailed
from palyra.providers.port import Call


@asynccontextmanager
async def asking(upstream: Upstream, **changes: Any) -> AsyncIterator[tuple[World, ModelLists]]:
    async with house(one(upstream.url, **changes)) as world:
        yield world, ModelLists(world, lambda: world.state, world.core.clock)


async def ask(world: World, lists: ModelLists, **arguments: Any) -> Listing:
    (entry,) = world.registry.providers
    return await lists.ask(entry, **arguments)


async def test_a_list_is_read() -> None:
    """With one GET and nothing else."""
    async with Upstream(models=["one", "two"]) as up, asking(up) as (world, lists):
        listing = await ask(world, lists)
        assert (listing.result, [model.upstream_model for model in listing.models]) == ("ok", ["one", "two"])
        assert [(seen.method, seen.path) for seen in up.lists] == [("GET", "/v1/models")]
        assert up.requests == []
        assert "content-length" not in up.lists[0].headers


@pytest.mark.parametrize(
    ("status", "body", "result", "failure_class"),
    [
        (404, {"error": {"message": "no"}}, "unsupported", ""),
        (405, {}, "unsupported", ""),
        (401, {"error": {"message": "bad key"}}, "failed", "auth_invalid"),
        (403, {}, "failed", "permission_denied"),
        (429, {}, "failed", "rate_limited"),
        (503, {}, "failed", "transient_upstream"),
        (200, {"hello": "there"}, "failed", "malformed_response"),
    ],
)
async def test_what_else_may_come(status: int, body: Any, result: str, failure_class: str) -> None:
    """Each is told by the classes that requests know."""
    async with Upstream() as up, asking(up) as (world, lists):
        up.models_behaviour = Behaviour.raw(json.dumps(body).encode(), status=status)
        listing = await ask(world, lists)
        assert (listing.result, listing.failure_class, listing.models) == (result, failure_class, [])


class Pages:
    """A provider whose list has pages."""

    def __init__(self, pages_count: int, rows_count: int = 1) -> None:
        self.calls: list[Call] = []
        self._pages_count = pages_count
        self._rows_count = rows_count

    async def send(self, call: Call, secret: Any) -> Any:
        self.calls.append(call)
        number = len(self.calls)
        rows = [{"id": f"m-{number}-{row}"} for row in range(self._rows_count)]
        has_more = number < self._pages_count
        return _Answer(json.dumps({"data": rows, "has_more": has_more, "last_id": f"m-{number}-0"}).encode())

    async def close(self) -> None:
        pass


class _Answer:
    status, headers = 200, {"content-type": "application/json"}

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def chunk(self) -> bytes:
        raise AssertionError("lists are read whole")

    async def flow(self, take: Any) -> None:
        raise AssertionError("lists are read whole")

    async def body(self, max_bytes: int) -> bytes:
        if len(self._data) > max_bytes:
            raise TransportFailed("response_too_large", "body", "too large")
        return self._data

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(("pages", "asked"), [(1, 1), (3, 3), (99, 20)])
async def test_all_pages_are_read_within_a_bound(pages: int, asked: int) -> None:
    """Each after the last model of the one before."""
    fake = Pages(pages)
    async with house(one(), extra={"a": fake}) as world:
        lists = ModelLists(world, lambda: world.state, world.core.clock)
        listing = await ask(world, lists)
        assert len(fake.calls) == len(listing.models) == asked
        assert fake.calls[0].path == "/models"
        assert all(call.method == "GET" and not call.body for call in fake.calls)
        assert asked == 1 or fake.calls[1].path == "/models?after=m-1-0&after_id=m-1-0"
        assert len((await ask(world, lists, pages_count=1)).models) == 1


async def test_a_list_is_bounded() -> None:
    """What is beyond is counted."""
    fake = Pages(3, rows_count=4_000)
    async with house(one(), extra={"a": fake}) as world:
        listing = await ask(world, ModelLists(world, lambda: world.state, world.core.clock))
        assert (len(listing.models), listing.dropped_count) == (10_000, 2_000)


async def test_a_missing_key_is_told_and_nothing_sent() -> None:
    """It is a failure of ours."""
    fake = Pages(1)
    async with house(one(credential_ref="env:GONE", auth_scheme="bearer"), extra={"a": fake}) as world:
        listing = await ask(world, ModelLists(world, lambda: world.state, world.core.clock))
        assert (listing.result, listing.failure_class) == ("failed", "missing_credential")
        assert fake.calls == []
        with pytest.raises(PalyraError):
            world.secret("a", "env:GONE", 0)
