"""The endpoint's HTTP side: routes and keys, and what a body may cost."""

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from pydantic_core import from_json
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mistral_service.local import endpoints
from mistral_service.local.answer import Answer, Exchange, refusal_response
from mistral_service.local.behaviour import Behaviour
from mistral_service.local.checks import Checks
from mistral_service.local.elsewhere import on_unknown_route
from mistral_service.local.engine import ModelNotLoaded
from mistral_service.local.guard import guard
from mistral_service.local.limits import RateLimits
from mistral_service.local.models import find_model
from mistral_service.local.pieces import Engine, Json, Piece, Raw, Refusal
from mistral_service.local.script import Script

MOST_BYTES = 128 * 1024 * 1024
"""Bytes of a request's body: eight images of 10 MB, the most that Mistral takes, in base64."""

_MOST_PARTS = 1_000_000
"""Commas, colons and brackets of a body. A small part takes a hundred bytes of memory when read;
base64 has none of them, and a text that fills the longest context has a tenth."""

_NO_HEADERS: Mapping[str, str] = {}

_Endpoint = Callable[[Request], Awaitable[Response]]


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

    Args:
        engine: What answers requests that pass.
        checks: The judges; by default as strict as can be.
        api_key: The one key that is right; None takes any, but never none.
        exchanges: A list to which every request is appended that asks for more than the models.
        limits: How much may be asked for in a minute; None for as much as one likes.
        host: The address that the server listens on; see `guard`.
        allow_hosts: Further names of the server, as in a network of containers; None takes any.
        most_bytes: Bytes that a body may have; a larger one is refused with 413.
        behaviour: How another server answers chats, which this endpoint then imitates.

    Returns:
        The application: `POST` to `/v1/chat/completions`, `/v1/fim/completions`, `/v1/embeddings`,
        `/v1/moderations`, `/v1/chat/moderations`; `GET /v1/models`, `GET /v1/models/{id}`; where
        there are limits, `PUT /limits` changes them, as `RateLimits.change` takes them, and
        `GET /limits` tells them and how many requests were refused. All of them want the key. What
        else is asked for is answered in Mistral's form, with 404 or 405.

    Raises:
        ValueError: If one of `allow_hosts` is no host.
    """
    judges = checks or Checks()

    def refused_key(request: Request) -> Response | None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        key = given.strip().encode()
        right = bool(key) if api_key is None else hmac.compare_digest(key, api_key.encode())
        if scheme.lower() == "bearer" and right:
            return None
        if behaviour is not None:
            if behaviour.takes_any_key():
                return None
            if (refusal := behaviour.refusal("wrong key")) is not None:
                return refusal_response(refusal, Exchange(None, {}))
        return JSONResponse({"detail": "Unauthorized"}, 401)

    def keyed(endpoint: _Endpoint) -> _Endpoint:
        async def answer(request: Request) -> Response:
            return refused_key(request) or await endpoint(request)

        return answer

    async def too_large(_: Request, __: Exception) -> Response:
        return _too_large(f"The request has more than {most_bytes} bytes")

    async def answer(
        request: Request, judge: Callable[[object], Refusal | None], engine: Engine
    ) -> Response:
        if refusal := refused_key(request):
            return refusal
        data = await request.body()
        if sum(map(data.count, b",:[{")) > _MOST_PARTS:
            return _too_large(f"The request has more than {_MOST_PARTS} parts")
        try:
            body = _read_json(data)
        except ValueError as e:
            issue = {"type": "json_invalid", "loc": ["body"], "msg": f"JSON decode error: {e}"}
            return JSONResponse({"detail": [{**issue, "input": {}}]}, 422)
        headers = {k: v for k, v in request.headers.items() if k != "authorization"}
        exchange = Exchange(body, headers, path=request.url.path.removeprefix("/v1/"))
        if exchanges is not None:
            exchanges.append(exchange)
        if refusal := judge(body):
            exchange.refused = refusal.body
            return refusal_response(refusal, exchange)
        refusal, headers = limits.take(data) if limits is not None else (None, _NO_HEADERS)
        if refusal:
            return refusal_response(refusal, exchange)
        if behaviour is not None and judge == behaviour.judge:
            headers = {**behaviour.headers(), **headers}
            body = {"model": behaviour.model, **body}
            return Answer(behaviour.engine(engine), body, exchange, headers, behaviour)
        return Answer(engine, body, exchange, headers)

    async def chat(request: Request) -> Response:
        return await answer(request, (behaviour or judges).judge, engine)

    async def fim(request: Request) -> Response:
        return await answer(request, lambda body: endpoints.judge_fim(body, judges.models), engine)

    def beside(path: str, judge: endpoints.Judge, compute: Callable[[Json], Json]) -> Route:
        computed = _Computed(path, engine, compute)

        async def endpoint(request: Request) -> Response:
            return await answer(request, lambda body: judge(body, judges.models), computed)

        return Route(f"/v1/{path}", endpoint, methods=["POST"])

    async def models(_: Request) -> Response:
        if behaviour is not None:
            return JSONResponse(behaviour.models())
        return JSONResponse({"object": "list", "data": [m.card() for m in judges.models]})

    async def model(request: Request) -> Response:
        name = request.path_params["id"]
        found = find_model(name, judges.models)
        if found is None:
            error = {"object": "error", "message": f"Model {name} not found", "type": "not_found"}
            return JSONResponse({**error, "param": None, "code": "1500"}, 404)
        return JSONResponse(found.card())

    unknown = on_unknown_route(refused_key)
    return Starlette(
        routes=[
            *(_routes_of(limits, keyed) if limits is not None else []),
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/fim/completions", fim, methods=["POST"]),
            beside("embeddings", endpoints.judge_embedding, endpoints.embeddings),
            beside("moderations", endpoints.judge_moderation, endpoints.moderations),
            beside("chat/moderations", endpoints.judge_chat_moderation, endpoints.moderations),
            Route("/v1/models", keyed(models)),
            Route("/v1/models/{id}", keyed(model)),
            *(_elsewhere(behaviour) if behaviour is not None else []),
        ],
        middleware=[guard(host=host, allow_hosts=allow_hosts, most_bytes=most_bytes)],
        exception_handlers={404: unknown, 405: unknown, 413: too_large},
    )


def _routes_of(limits: RateLimits, keyed: Callable[[_Endpoint], _Endpoint]) -> list[Route]:
    async def change(request: Request) -> Response:
        try:
            limits.change(_read_json(await request.body()))
        except (TypeError, ValueError) as e:
            return JSONResponse({"detail": str(e)}, 422)
        return Response(status_code=204)

    async def tell(_: Request) -> Response:
        return JSONResponse(limits.state())

    return [Route("/limits", keyed(change), methods=["PUT"]), Route("/limits", keyed(tell))]


def _elsewhere(behaviour: Behaviour) -> list[Route]:
    """What another server answers where it has no route."""
    if (refusal := behaviour.refusal("unknown route")) is None:
        return []

    async def answer(_: Request) -> Response:
        return refusal_response(refusal, Exchange(None, {}))

    return [Route("/{path:path}", answer, methods=["GET", "POST"])]


class _Computed:
    """An engine whose answers are computed, unless a script has another for that path."""

    def __init__(self, path: str, engine: Engine, compute: Callable[[Json], Json]) -> None:
        self._path = path
        self._script = engine if isinstance(engine, Script) else None
        self._compute = compute

    async def answer(self, request: Json) -> AsyncIterator[Piece]:
        pieces = self._script.pieces_for(request, self._path) if self._script else None
        if pieces is None:
            try:
                computed = await asyncio.to_thread(self._compute, request)
                pieces = [Raw(json.dumps(computed).encode())]
            except ModelNotLoaded as e:
                pieces = [Refusal(503, {"object": "error", "message": str(e)})]
        for piece in pieces:
            yield piece

    async def close(self) -> None:
        """Nothing to release."""


def _too_large(sentence: str) -> Response:
    error = {"object": "error", "message": sentence, "type": "request_too_large", "param": None}
    return JSONResponse({**error, "code": None, "raw_status_code": 413}, 413)


def _read_json(data: bytes) -> Any:
    """Decode JSON, strictly; what is nested 200 deep is refused before Python's own limits are met.

    Raises:
        ValueError: If it is none.
    """
    return from_json(data, allow_inf_nan=False)
