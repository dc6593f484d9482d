"""An authorization server on loopback, with the model list and chat of the provider that takes its tokens.

It checks what a real one checks: client, redirect address, PKCE challenge, codes and refresh tokens that are good
once. A refresh token that is shown twice ends everything that it gave (RFC 9700, 4.14.2).
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

from aiohttp import web

CLIENT_ID = "app-palyra-test"


class Grant:
    """What somebody has allowed once: its tokens, and whether it still holds."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.is_alive = True
        self.access: list[str] = []
        self.refresh: list[str] = []
        self.used_refresh: list[str] = []


class AuthorizationServer:
    """Serves `/oauth/authorize`, `/oauth/token`, `/oauth/revoke`, `/v1/models` and `/v1/chat/completions`."""

    def __init__(self) -> None:
        self.url = ""
        self.subject = "user-1"
        self.expires_in: Any = 3_600
        self.rotates = True
        #: Left out of the next answers: refresh_token, id_token.
        self.leaves_out: list[str] = []
        self.more: dict[str, Any] = {}
        self.claims: dict[str, Any] = {}
        #: Status of the model list, 200 unless told otherwise.
        self.models_status = 200
        #: Answers of the token and revocation endpoint that are given first: status, headers, body.
        self.token_answers: list[tuple[int, dict[str, str], bytes]] = []
        self.revoke_answers: list[tuple[int, dict[str, str], bytes]] = []
        #: Awaited before a token is given.
        self.before_token: Callable[[], Awaitable[object]] | None = None
        self.token_requests: list[dict[str, str]] = []
        self.revocations: list[dict[str, str]] = []
        #: Credentials with which the provider was asked, in order.
        self.asked_with: list[str] = []
        self.chat: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None
        #: Tokens that the provider itself takes no more, whatever this server says.
        self.refused_tokens: list[str] = []
        self.grants: list[Grant] = []
        self._codes: dict[str, dict[str, str]] = {}
        self._runner: web.AppRunner | None = None

    @property
    def config(self) -> dict[str, Any]:
        """The part of a configuration that logs in here."""
        return {
            "auth": {"oauth": {"openai": {
                "authorize_url": f"{self.url}/oauth/authorize", "token_url": f"{self.url}/oauth/token",
                "revoke_url": f"{self.url}/oauth/revoke", "client_id": CLIENT_ID,
            }}},
            "model_provider": {
                "providers": [
                    {
                        "provider_id": "up", "kind": "openai", "base_url": f"{self.url}/v1", "max_retries": 0,
                        "allow_private_base_url": True, "auth_scheme": "bearer", "auth_provider_kind": "openai",
                    },
                    {"provider_id": "det", "kind": "deterministic"},
                ],
                "models": [
                    {"model_id": "m", "provider_id": "up"}, {"model_id": "deterministic", "provider_id": "det"},
                ],
            },
        }  # fmt: skip

    @property
    def secrets(self) -> list[str]:
        """Everything that it has given out."""
        return [token for grant in self.grants for token in (*grant.access, *grant.refresh, *grant.used_refresh)]

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/oauth/authorize", self._authorize)
        app.router.add_post("/oauth/token", self._token)
        app.router.add_post("/oauth/revoke", self._revoke)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    # -- what a person allows

    async def _authorize(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=303, headers={"location": self.allow(dict(request.query))})

    def allow(self, asked: dict[str, str], **more: str) -> str:
        """Return where a person who allows it is sent back to."""
        assert asked["response_type"] == "code"
        assert asked["client_id"] == CLIENT_ID
        assert asked["code_challenge_method"] == "S256"
        assert len(asked["code_challenge"]) == 43
        code = secrets.token_urlsafe(24)
        self._codes[code] = asked
        return f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state'], **more})}"

    # -- tokens

    async def _token(self, request: web.Request) -> web.StreamResponse:
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.token_requests.append(form)
        if self.before_token is not None:
            await self.before_token()
        if self.token_answers:
            status, headers, body = self.token_answers.pop(0)
            return web.Response(status=status, headers=headers, body=body)
        if form.get("client_id") != CLIENT_ID:
            return _error("invalid_client", 401)
        if form["grant_type"] == "authorization_code":
            asked = self._codes.pop(form["code"], None)
            digest = hashlib.sha256(form["code_verifier"].encode()).digest()
            challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
            if (
                asked is None
                or asked["code_challenge"] != challenge
                or asked["redirect_uri"] != form["redirect_uri"]
            ):
                return _error("invalid_grant")
            grant = Grant(self.subject)
            self.grants.append(grant)
            return web.json_response(self._give(grant, asked["nonce"]))
        assert form["grant_type"] == "refresh_token"
        token = form["refresh_token"]
        found = next((one for one in self.grants if token in (*one.refresh, *one.used_refresh)), None)
        if found is not None and token in found.used_refresh:
            found.is_alive = False  # shown twice: somebody else has it
        if found is None or not found.is_alive:
            return _error("invalid_grant")
        return web.json_response(self._give(found, ""))

    def _give(self, grant: Grant, nonce: str) -> dict[str, Any]:
        access = f"at-{secrets.token_urlsafe(24)}"
        grant.access.append(access)
        answer: dict[str, Any] = {"access_token": access, "token_type": "Bearer", "expires_in": self.expires_in}
        if self.expires_in is None:
            del answer["expires_in"]
        if self.rotates or not grant.refresh:
            grant.used_refresh += grant.refresh
            grant.refresh = [f"rt-{secrets.token_urlsafe(24)}"]
            answer["refresh_token"] = grant.refresh[0]
        claims = {"sub": grant.subject, "aud": CLIENT_ID, "exp": 4_000_000_000, "nonce": nonce, **self.claims}
        if nonce:
            answer["id_token"] = ".".join([_part({"alg": "none"}), _part(claims), "c2ln"])
        answer |= self.more
        return {name: value for name, value in answer.items() if name not in self.leaves_out}

    async def _revoke(self, request: web.Request) -> web.StreamResponse:
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.revocations.append(form)
        if self.revoke_answers:
            status, headers, body = self.revoke_answers.pop(0)
            return web.Response(status=status, headers=headers, body=body)
        for grant in self.grants:
            if form["token"] in (*grant.access, *grant.refresh):
                grant.is_alive = False
        return web.Response()

    # -- the provider

    def _refusal(self, request: web.Request) -> web.StreamResponse | None:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        self.asked_with.append(token)
        alive = [access for grant in self.grants if grant.is_alive for access in grant.access]
        if token in alive and token not in self.refused_tokens:
            return None
        error: Any = {"error": {"message": f"Bad token {token}", "code": "token_expired"}}
        return web.json_response(error, status=401)

    async def _models(self, request: web.Request) -> web.StreamResponse:
        if self.models_status != 200:
            return web.json_response({"error": {"message": "no"}}, status=self.models_status)
        return self._refusal(request) or web.json_response({"object": "list", "data": [{"id": "m"}]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        if self.chat is not None:
            return await self.chat(request)
        return web.json_response(
            {
                "id": "c", "object": "chat.completion", "model": "m",
                "choices": [
                    {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
                ],
                "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
            }
        )  # fmt: skip


def _error(code: str, status: int = 400) -> web.Response:
    return web.json_response({"error": code, "error_description": "no"}, status=status)


def _part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")
