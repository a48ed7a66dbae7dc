"""Who is asked: the endpoints, the models there, and what is known of both before a turn."""

from contextvars import ContextVar
from typing import Any, cast

from loguru import logger
from openai import AsyncOpenAI
from pipecat.frames.frames import StartFrame
from pipecat.processors.aggregators.llm_context import LLMContext, LLMSpecificMessage
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.utils.errors import ErrorCategory

from mistral_service.conversation.foreign import in_mistrals_form
from mistral_service.conversation.run import Run
from mistral_service.settings import MistralLLMSettings, given
from mistral_service.turn.deadline import now
from mistral_service.turn.routes import Route, Routes
from mistral_service.wire.client import error_of, fetch_models, place_of
from mistral_service.wire.endpoint import set_server
from mistral_service.wire.errors import MistralError, Reason
from mistral_service.wire.holding import hold, let_go
from mistral_service.wire.http import http_client
from mistral_service.wire.models import Catalogue, ModelCard
from mistral_service.wire.servers import ServerName, check_server

_WARM_UP_SECONDS = 10.0
"""Seconds after which the list of models is not waited for any longer: a caller speaks by then."""


_ENDS_THE_SERVICE = (Reason.KEY, Reason.FORBIDDEN, Reason.UNKNOWN_MODEL)


class Routing(OpenAILLMService):
    """Holds the clients, chooses the route of each request, and warms up before the first."""

    _settings: MistralLLMSettings  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str,
        fallback_api_key: str | None = None,
        fallback_base_url: str | None = None,
        warm_up: bool = True,
        server: ServerName | None = None,
        fallback_server: ServerName | None = None,
        **kwargs: Any,
    ) -> None:
        kinds = [
            check_server(type(self).__name__, name, value)
            for name, value in (("server", server), ("fallback_server", fallback_server))
        ]
        self._connection: dict[str, Any] = {
            "api_key": api_key,
            "base_url": base_url,
            **{k: kwargs.get(k) for k in ("organization", "project", "default_headers")},
        }
        super().__init__(  # pyright: ignore[reportUnknownMemberType]
            api_key=api_key, base_url=base_url, **kwargs
        )
        self._fallback_connection: dict[str, Any] | None = None
        self._fallback_client: AsyncOpenAI | None = None
        if fallback_base_url:
            self._fallback_connection = {
                **self._connection,
                "api_key": fallback_api_key or api_key,
                "base_url": fallback_base_url,
            }
            self._fallback_client = self.create_client(**self._fallback_connection)
        clients = (self._client, self._fallback_client)
        self._held = [hold(client) for client in clients if client is not None]
        for client, kind in zip(clients, kinds, strict=True):
            if client is not None:
                set_server(client, kind)
        self._routes = Routes()
        # A summary may be asked for while a turn runs: each task has its own route.
        self._route_of_task: ContextVar[Route] = ContextVar("route_of_task")
        self._answered: set[int] = set()
        self._catalogues: dict[int, Catalogue] = {}
        self._warms_up = warm_up

    def create_client(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        organization: str | None = None,
        project: str | None = None,
        default_headers: Any = None,
        **kwargs: Any,
    ) -> AsyncOpenAI:
        """Create the client of an endpoint; called when the service is made, once for each.

        Override it to set a proxy or certificates of your own: what you return is used as it is.
        The service closes its clients in `cleanup()`; one that several services share is closed
        by the last of them.

        Args:
            api_key: The key.
            base_url: Where the endpoint is.
            organization: As in Pipecat's OpenAI service.
            project: As in Pipecat's OpenAI service.
            default_headers: Headers that every request carries.
            **kwargs: Further arguments of the service, as Pipecat hands them on; unused.

        Returns:
            The client; its connections are shared with those of the other services in the process.
        """
        return AsyncOpenAI(
            api_key=api_key,
            base_url=base_url,
            organization=organization,
            project=project,
            default_headers=default_headers,
            http_client=http_client(),
            max_retries=0,
        )

    async def start(self, frame: StartFrame) -> None:
        """Begin to work; in the background, look whether Mistral is there and knows us.

        Args:
            frame: The frame that starts the pipeline.
        """
        await super().start(frame)
        if self._warms_up:
            self.create_task(  # pyright: ignore[reportUnknownMemberType]
                self._warm_up(), "warm_up"
            )

    async def cleanup(self) -> None:
        """Release what the service holds, its connections among it."""
        await super().cleanup()
        held, self._held = self._held, []
        for client in held:
            await let_go(client)

    # --- which route ------------------------------------------------------------------------------

    def choose_route(self, context: LLMContext, *, but: Route | None = None) -> Route:
        """Choose where the next request of this task goes; to `but` only where all others rest."""
        routes = self._all_routes()

        def able(route: Route) -> bool:
            return self._is_able(route, context)

        route = self._routes.choose(routes, now(), able, but=but)
        self._route_of_task.set(route)
        return route

    def has_other(self, route: Route, context: LLMContext) -> bool:
        """Whether there is another model to ask, which does not rest and can do what is needed."""
        routes = self._all_routes()
        other = self._routes.choose(
            routes, now(), lambda each: self._is_able(each, context), but=route
        )
        return other != route and not self._routes.rests(other, now())

    @property
    def route(self) -> Route:
        """Where the requests of this task go; the bot's own model unless told otherwise."""
        route = self._route_of_task.get(None)
        return route if route in self._all_routes() else self._all_routes()[0]

    def card_of(self, route: Route) -> ModelCard | None:
        """What a route's endpoint has said of its model; None as long as it has said nothing."""
        catalogue = self._catalogues.get(route.endpoint)
        return catalogue.find(route.model) if catalogue is not None else None

    def client_of(self, route: Route) -> AsyncOpenAI:
        """The client of a route's endpoint."""
        if route.endpoint and self._fallback_client is not None:
            return self._fallback_client
        return self._client

    def open_client_of(self, route: Route) -> AsyncOpenAI:
        """The same; a new one where a question comes after `cleanup()`, as a summary may."""
        client = self.client_of(route)
        if not client.is_closed():
            return client
        own = client is self._client or self._fallback_connection is None
        return self.create_client(**(self._connection if own else self._fallback_connection or {}))

    def failed(self, route: Route, error: MistralError, context: LLMContext) -> tuple[Route, bool]:
        """Take note that a request failed, and choose where the next one of this task goes.

        Returns:
            The next route, and whether it is another that has not failed too.
        """
        at = now()
        self._routes.failed(route, error, at)
        # There is no time to wait for the same model twice.
        chosen = self.choose_route(context, but=route if error.reason is Reason.TIMEOUT else None)
        return chosen, chosen != route and not self._routes.rests(chosen, at)

    def answered(self, route: Route) -> None:
        """Take note that a reply came."""
        self._routes.answered(route)
        self._answered.add(route.endpoint)

    def told(self, route: Route, error: MistralError) -> MistralError:
        """What is told of a turn that cannot be saved.

        Where a fallback failed, that is still an error of the bot's own model, of which the
        developer should hear first. But where a fallback may answer again in a moment, what is
        wrong with the bot's own key does not end the service.
        """
        own, *fallbacks = self._all_routes()
        error = self._with_other_cause(route, error)
        first = error
        if route != own:
            failed = self._routes.last_error(own)
            first = failed and self._with_other_cause(own, failed)
        if first is not None and first.reason in _ENDS_THE_SERVICE:
            errors = [(r, error if r == route else self._routes.last_error(r)) for r in fallbacks]
            for fallback, passing in errors:
                if passing is not None and passing.retryable:
                    words = f"{fallback.model}: {passing.detail}; {own.model}: {first}"
                    return passing.but(detail=words)
        if route == own or first is None or first is error:
            return error
        return first.but(detail="; ".join(filter(None, (first.detail, f"{route.model}: {error}"))))

    def _with_other_cause(self, route: Route, error: MistralError) -> MistralError:
        """The same error; a 401 to a key that was good names what else it may mean."""
        accepted = route.endpoint in self._answered
        return error.with_key_accepted_before() if accepted else error

    def _all_routes(self) -> list[Route]:
        own = str(self._settings.model)
        there = 1 if self._fallback_client is not None else 0
        models: list[str] = given(self._settings.fallback_models) or ([own] if there else [])
        return [Route(own), *(Route(model, there) for model in models)]

    def _is_able(self, route: Route, context: LLMContext) -> bool:
        """Whether a fallback can do what a conversation needs, as far as its endpoint has said."""
        catalogue = self._catalogues.get(route.endpoint)
        if catalogue is None or not catalogue.is_mistrals:
            return True
        card = self.card_of(route)
        if card is None or card.chat is False:
            return False
        if card.function_calling is False and given(context.tools):
            return False
        return not (card.vision is False and _has_pictures(context))

    # --- before the first turn --------------------------------------------------------------------

    async def _warm_up(self) -> None:
        """Open the connection, and hold key and models against what the endpoint says of them."""
        await self._look_around(0, self._client)
        if self._fallback_client is not None:
            await self._look_around(1, self._fallback_client)

    async def _look_around(self, endpoint: int, client: AsyncOpenAI) -> None:
        try:
            catalogue = await fetch_models(client, _WARM_UP_SECONDS)
        except Exception as e:
            error = error_of(e, client)
            if error is None:
                raise
            if error.reason is Reason.KEY and not endpoint:
                # Where the fallbacks have a key of their own, the turns go on with them.
                passes = ErrorCategory.APPLICATION if self._fallback_client else None
                await self.push_error("", exception=error, category=passes)
            elif error.status_code in (404, 405, 501):
                logger.debug(f"{self}: the endpoint has no list of models")
            else:
                # What passes is met by the turns; a fallback's key is not the bot's own.
                logger.warning(f"{self}: could not look for models at {place_of(client)}: {error}")
            return
        self._catalogues[endpoint] = catalogue
        for route in self._all_routes():
            if route.endpoint == endpoint:
                await self._look_at(route, catalogue)

    async def _look_at(self, route: Route, catalogue: Catalogue) -> None:
        card = catalogue.find(route.model)
        if card is None or card.chat is False:
            what = "does not list" if card is None else "does not chat with"
            if not catalogue.is_mistrals:
                return  # servers of one model answer to any name
            error = MistralError(
                Reason.UNKNOWN_MODEL, f"the endpoint {what} {route.model!r} for this key"
            )
            if route == self._all_routes()[0]:
                # Not unusable yet: the list may be shorter than the truth, the first turn tells.
                await self.push_error("", exception=error, category=ErrorCategory.APPLICATION)
            else:
                logger.warning(f"{self}: fallback model: {error}")
        elif card.deprecation:
            then = f"; {card.replacement} takes its place" if card.replacement else ""
            logger.warning(f"{self}: {route.model} is to be gone from {card.deprecation}{then}")


def _has_pictures(context: LLMContext) -> bool:
    messages = [m for m in context.get_messages() if not isinstance(m, LLMSpecificMessage)]
    for message in in_mistrals_form(cast("list[dict[str, Any]]", messages), Run()):
        content = message.get("content")
        if isinstance(content, list) and any(map(_is_picture, cast("list[Any]", content))):
            return True
    return False


def _is_picture(part: Any) -> bool:
    if not isinstance(part, dict):
        return False
    fields = cast("dict[str, Any]", part)
    file: Any = fields.get("file")
    if fields.get("type") in ("file_base64", "file_url") and isinstance(file, dict):
        kind = cast("dict[str, Any]", file).get("mime_type")
        return str(kind).startswith("image/")
    return fields.get("type") == "image_url"
