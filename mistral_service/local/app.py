"""The endpoint's HTTP side: its routes, its keys, and how large a body may be."""

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
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
from mistral_service.local.engine import ModelNotLoaded
from mistral_service.local.guard import guard
from mistral_service.local.limits import RateLimits
from mistral_service.local.models import find_model
from mistral_service.local.pieces import Engine, Json, Piece, Raw, Refusal
from mistral_service.local.script import Script
from mistral_service.local.unknown_routes import on_unknown_route

MOST_BYTES = 128 * 1024 * 1024
"""Bytes of a request's body: eight images of 10 MB, the most that Mistral takes, in base64."""

_MOST_PARTS = 1_000_000
"""Commas, colons and brackets of a body. A small part takes a hundred bytes of memory when read;
base64 has none of them, and a text that fills the longest context has a tenth."""

_NO_HEADERS: Mapping[str, str] = {}

_Handler = Callable[[Request], Awaitable[Response]]
_Validate = Callable[[object], Refusal | None]


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
        engine: What answers requests that pass the checks.
        checks: What requests are validated against; by default as strict as can be.
        api_key: The one valid key; None accepts any key, but not a request without one.
        exchanges: A list to which every request for a completion, vectors or moderation is added.
        limits: The account's rate limits; None for no limits.
        host: The address that the server listens on; see `guard`.
        allow_hosts: Further names of the server, as in a network of containers; None allows any.
        most_bytes: Bytes that a body may have; a larger one is refused with 413.
        behaviour: How another server answers chats, which this endpoint then imitates.

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
    unknown = on_unknown_route(api.key_refusal)

    async def too_large(_: Request, __: Exception) -> Response:
        return _too_large(f"The request has more than {most_bytes} bytes")

    return Starlette(
        routes=api.routes(),
        middleware=[guard(host=host, allow_hosts=allow_hosts, most_bytes=most_bytes)],
        exception_handlers={404: unknown, 405: unknown, 413: too_large},
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
        moderation = endpoints.validate_moderation, endpoints.moderations
        chat_moderation = endpoints.validate_chat_moderation, endpoints.moderations
        embedding = endpoints.validate_embedding, endpoints.embeddings
        return [
            *(self._limits_routes(self.limits) if self.limits is not None else []),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/fim/completions", self._fim, methods=["POST"]),
            self._computed_route("embeddings", *embedding),
            self._computed_route("moderations", *moderation),
            self._computed_route("chat/moderations", *chat_moderation),
            Route("/v1/models", self._keyed(self._models)),
            Route("/v1/models/{id}", self._keyed(self._model)),
            *(_catch_all_route(self.behaviour) if self.behaviour is not None else []),
        ]

    def key_refusal(self, request: Request) -> Response | None:
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
            if self.behaviour.takes_any_key():
                return None
            if (refusal := self.behaviour.refusal("wrong key")) is not None:
                return refusal_response(refusal)
        return JSONResponse({"detail": "Unauthorized"}, 401)

    def _keyed(self, handler: _Handler) -> _Handler:
        async def answer(request: Request) -> Response:
            return self.key_refusal(request) or await handler(request)

        return answer

    async def _answer(self, request: Request, validate: _Validate, engine: Engine) -> Response:
        if refused := self.key_refusal(request):
            return refused
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
        if self.exchanges is not None:
            self.exchanges.append(exchange)
        if refusal := validate(body):
            exchange.refused = refusal.body
            return exchange.refuse(refusal)
        refusal, headers = self.limits.take(data) if self.limits else (None, _NO_HEADERS)
        if refusal:
            return exchange.refuse(refusal)
        behaviour = self.behaviour
        if behaviour is not None and validate == behaviour.validate:
            headers = {**behaviour.headers(), **headers}
            body = {"model": behaviour.model, **body}
            return Answer(behaviour.engine(engine), body, exchange, headers, behaviour)
        return Answer(engine, body, exchange, headers)

    async def _chat(self, request: Request) -> Response:
        return await self._answer(request, (self.behaviour or self.checks).validate, self.engine)

    async def _fim(self, request: Request) -> Response:
        models = self.checks.models
        validate: _Validate = lambda body: endpoints.validate_fim(body, models)  # noqa: E731
        return await self._answer(request, validate, self.engine)

    def _computed_route(
        self, path: str, validate: endpoints.Validate, compute: Callable[[Json], Json]
    ) -> Route:
        engine = _Computed(path, self.engine, compute)

        async def answer(request: Request) -> Response:
            models = self.checks.models
            return await self._answer(request, lambda body: validate(body, models), engine)

        return Route(f"/v1/{path}", answer, methods=["POST"])

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


def _catch_all_route(behaviour: Behaviour) -> list[Route]:
    """What another server answers where it has no route."""
    if (refusal := behaviour.refusal("unknown route")) is None:
        return []

    async def answer(_: Request) -> Response:
        return refusal_response(refusal)

    return [Route("/{path:path}", answer, methods=["GET", "POST"])]


class _Computed:
    """An engine whose answers are computed, unless a script has a reply for that path."""

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
    return refusal_response(Refusal.error(sentence, "request_too_large", None, status=413))


def _read_json(data: bytes) -> Any:
    """Decode JSON, strictly; nesting 200 deep is refused before Python's own limits apply.

    Raises:
        ValueError: If the data is not JSON.
    """
    return from_json(data, allow_inf_nan=False)
