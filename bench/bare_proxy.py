"""The floor of the request path: a proxy of aiohttp and uvloop that does nothing but pass bytes on.

It has no journal, no metering, no budgets, no failover and no authentication. `python bench/bare_proxy.py UPSTREAM`
prints the port that it listens on.
"""

from __future__ import annotations

import asyncio
import sys

import aiohttp
import uvloop
from aiohttp import web


async def main(upstream: str) -> None:
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
    )

    async def pass_on(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {"content-type": "application/json", "authorization": "Bearer sk-upstream"}
        async with session.post(upstream + request.path, data=body, headers=headers) as answer:
            if answer.headers["content-type"] != "text/event-stream":
                return web.Response(body=await answer.read(), content_type="application/json")
            response = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", pass_on)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
