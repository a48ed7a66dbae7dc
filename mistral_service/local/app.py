"""The endpoint's HTTP side: its routes, its keys, and how large a body may be."""

import asyncio
import hmac
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic_core import from_json
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mistral_service.local.answer import Answer, Exchange, refusal_response
from mistral_service.local.behaviour import Behaviour
from mistral_service.local.checks import Checks
from mistral_service.local.endpoints import COMPUTED, FORMS, validate
from mistral_service.local.engine import ModelNotLoaded
from mistral_service.local.guard import guard
from mistral_service.local.limits import RateLimits
from mistral_service.local.models import find_model
from mistral_service.local.pieces import CHAT, Engine, Json, Piece, Raw, Refusal
from mistral_service.local.script import Script

MOST_BYTES = 128 * 1024 * 1024
"""Bytes of a request's body: eight images of 10 MB, the most that Mistral takes, in base64."""

_MOST_PARTS = 1_000_000
"""Commas, colons and brackets of a body. A small part takes a hundred bytes of memory when read;
base64 has none of them, and a text that fills the longest context has a tenth."""

_NOT_SERVED = (
    *("agents", "audio", "batch", "beta", "chat/classifications", "classifications", "client"),
    *("connectors", "conversations", "files", "fine_tuning", "libraries", "observability", "ocr"),
    *("prompts", "rag", "responses", "skills", "workflows"),
)
"""Routes of Mistral below `/v1/`, by the official SDK 3.7, that this endpoint does not have."""

_LONGEST_SHOWN = 100

_Handler = Callable[[Request], Awaitable[Response]]


def create_app(
    engine: Engine,
    checks: Checks | None = None,
    *,
    api_key: str | None = None,
    exchanges: list[Exchange] | None = None,
    limits: RateLimits | None = None,
    host: str = "127.0.0.1",
    allow_hosts: Sequence[str] | None = (),
    most_bytes: int = MOST_BYTES,
    behaviour: Behaviour | None = None,
) -> Starlette:
    """Make the ASGI application.

    `exchanges` is a list to which every request for a completion, vectors or moderation is added.
    A body of more than `most_bytes` is refused with 413. `host` and `allow_hosts` are as `guard`
    takes them, the other parameters as `LocalMistral` does.

    Returns:
        The application: `POST` to `/v1/chat/completions`, `/v1/fim/completions`, `/v1/embeddings`,
        `/v1/moderations`, `/v1/chat/moderations`; `GET /v1/models`, `GET /v1/models/{id}`. With
        limits, `PUT /limits` changes them, as `RateLimits.change` takes them, and `GET /limits`
        returns them and the number of refused requests. Every route requires the key. Any other
        request is answered in Mistral's form, with 404 or 405.

    Raises:
        ValueError: If an entry of `allow_hosts` is not a host.
    """
    api = _Api(engine, checks or Checks(), api_key, exchanges, limits, behaviour)

    async def too_large(_: Request, __: Exception) -> Response:
        return _too_large(f"The request has more than {most_bytes} bytes")

    return Starlette(
        routes=api.routes(),
        middleware=[guard(host=host, allow_hosts=allow_hosts, most_bytes=most_bytes)],
        exception_handlers={404: api.no_route, 405: api.no_method, 413: too_large},
    )


@dataclass(frozen=True)
class _Api:
    """The handlers of the routes, and what they share; the fields are those of `create_app`."""

    engine: Engine
    checks: Checks
    api_key: str | None
    exchanges: list[Exchange] | None
    limits: RateLimits | None
    behaviour: Behaviour | None

    def routes(self) -> list[Route]:
        return [
            *(self._limits_routes(self.limits) if self.limits is not None else []),
            *(Route(f"/v1/{path}", self._keyed(self._answer), methods=["POST"]) for path in FORMS),
            Route("/v1/models", self._keyed(self._models)),
            Route("/v1/models/{id}", self._keyed(self._model)),
        ]

    def _keyed(self, handler: _Handler) -> _Handler:
        async def answer(request: Request) -> Response:
            return self._key_refusal(request) or await handler(request)

        return answer

    def _key_refusal(self, request: Request) -> Response | None:
        """The response to a request without the right key; None for one that has it."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        key = given.strip().encode()
        if self.api_key is None:
            right = bool(key)
        else:
            right = hmac.compare_digest(key, self.api_key.encode())
        if scheme.lower() == "bearer" and right:
            return None
        if self.behaviour is not None:
            refusal = self.behaviour.refusal("wrong key")
            if refusal or "wrong key" in self.behaviour.facts:
                return refusal_response(refusal) if refusal else None
        return JSONResponse({"detail": "Unauthorized"}, 401)

    async def _answer(self, request: Request) -> Response:
        data = await request.body()
        if sum(map(data.count, b",:[{")) > _MOST_PARTS:
            return _too_large(f"The request has more than {_MOST_PARTS} parts")
        try:
            body = _read_json(data)
        except ValueError as e:
            issue = {"type": "json_invalid", "loc": ["body"], "msg": f"JSON decode error: {e}"}
            return JSONResponse({"detail": [{**issue, "input": {}}]}, 422)
        headers = {k: v for k, v in request.headers.items() if k != "authorization"}
        path = request.url.path.removeprefix("/v1/")
        exchange = Exchange(body, headers, path=path)
        if self.exchanges is not None:
            self.exchanges.append(exchange)
        behaviour = self.behaviour if path == CHAT else None
        if path == CHAT:
            refusal = (behaviour or self.checks).validate(body)
        else:
            refusal = validate(path, body, self.checks.models)
        if refusal:
            exchange.refused = refusal.body
            return exchange.refuse(refusal)
        refusal, headers = self.limits.take(data) if self.limits else (None, {})
        if refusal:
            return exchange.refuse(refusal)
        if path in COMPUTED:
            return Answer(self._compute(path, body), body, exchange, headers)
        if behaviour is not None:
            headers = {**behaviour.headers(), **headers}
            body = {"model": behaviour.model, **body}
            pieces = behaviour.rewrite(self.engine.answer(body), body)
            return Answer(pieces, body, exchange, headers, behaviour)
        return Answer(self.engine.answer(body), body, exchange, headers)

    async def _compute(self, path: str, request: Json) -> AsyncIterator[Piece]:
        """Compute the answer, unless a script has a reply for that path."""
        script = self.engine if isinstance(self.engine, Script) else None
        pieces = script.pieces_for(request, path) if script else None
        if pieces is None:
            try:
                computed = await asyncio.to_thread(COMPUTED[path], request)
                pieces = [Raw(json.dumps(computed).encode())]
            except ModelNotLoaded as e:
                pieces = [Refusal(503, {"object": "error", "message": str(e)})]
        for piece in pieces:
            yield piece

    async def _models(self, _: Request) -> Response:
        if self.behaviour is not None:
            return JSONResponse(self.behaviour.models())
        return JSONResponse({"object": "list", "data": [m.card() for m in self.checks.models]})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["id"]
        found = find_model(name, self.checks.models)
        if found is None:
            message = f"Model {name} not found"
            return refusal_response(Refusal.error(message, "not_found", "1500", status=404))
        return JSONResponse(found.card())

    def _limits_routes(self, limits: RateLimits) -> list[Route]:
        async def change(request: Request) -> Response:
            try:
                limits.change(_read_json(await request.body()))
            except (TypeError, ValueError) as e:
                return JSONResponse({"detail": str(e)}, 422)
            return Response(status_code=204)

        async def show(_: Request) -> Response:
            return JSONResponse(limits.state())

        return [
            Route("/limits", self._keyed(change), methods=["PUT"]),
            Route("/limits", self._keyed(show)),
        ]

    async def no_route(self, request: Request, _: Exception) -> Response:
        """Answer with 404 as Mistral's gateway does, and list the routes that there are."""
        if self.behaviour and (refusal := self.behaviour.refusal("unknown route")):
            return refusal_response(refusal)
        if refused := self._key_refusal(request):
            return refused
        path = request.url.path
        fault = f"{request.method} {path}"[:_LONGEST_SHOWN]
        if f"{path}/".startswith(tuple(f"/v1/{each}/" for each in _NOT_SERVED)):
            fault = f"this local endpoint does not serve {fault}, as Mistral does"
        served = ", ".join([*(f"POST /v1/{path}" for path in FORMS), "GET /v1/models"])
        message = f"no Route matched with those values: {fault}; served are {served}."
        return JSONResponse({"message": message, "request_id": uuid.uuid4().hex}, 404)

    async def no_method(self, request: Request, error: Exception) -> Response:
        """Answer with 405 as Mistral's application does, and `OPTIONS` with the methods."""
        if refused := self._key_refusal(request):
            return refused
        headers = cast("HTTPException", error).headers
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
        return JSONResponse({"detail": "Method Not Allowed"}, 405, headers)


def _too_large(sentence: str) -> Response:
    return refusal_response(Refusal.error(sentence, "request_too_large", None, status=413))


def _read_json(data: bytes) -> Any:
    """Decode JSON, strictly; nesting 200 deep is refused before Python's own limits apply."""
    return from_json(data, allow_inf_nan=False)
