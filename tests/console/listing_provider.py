"""A provider on loopback that lists its models to whoever shows the right key, or answers as it is told."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from aiohttp import web

GOOD_KEY = "sk-good-0123456789abcdef"


class Listing:
    """Serves `/v1/models`; `answers` are given first, each once, as (status, headers, body)."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Mapping[str, str], bytes]] = []
        self.keys = [GOOD_KEY]
        #: Path and credential of every request, in order.
        self.requests: list[tuple[str, str]] = []
        self.url = ""
        self._runner: web.AppRunner | None = None

    @property
    def origin(self) -> str:
        return self.url.removesuffix("/v1")

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        credential = request.headers.get("authorization", request.headers.get("x-api-key", ""))
        self.requests.append((request.path_qs, credential))
        if self.answers:
            status, headers, body = self.answers.pop(0)
            return web.Response(status=status, headers=dict(headers), body=body)
        if credential.removeprefix("Bearer ") not in self.keys:
            error: Any = {"error": {"message": f"Incorrect API key: {credential}", "code": "invalid_api_key"}}
            return web.json_response(error, status=401)
        if request.path.endswith("/chat/completions"):
            return web.json_response(
                {
                    "id": "c", "object": "chat.completion", "model": "m",
                    "choices": [
                        {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
                    ],
                    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
                }
            )  # fmt: skip
        return web.json_response({"object": "list", "data": [{"id": "m"}, {"id": "n"}]})
