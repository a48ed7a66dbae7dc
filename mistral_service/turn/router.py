"""Which model is asked, and where: the routes there are, and what is known of each.

`routes.py` decides; here stand the models of the settings, and what the endpoints say of them.
"""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass

from openai import AsyncOpenAI

from mistral_service.turn.clients import FALLBACK, OWN, Clients
from mistral_service.turn.deadline import now
from mistral_service.turn.routes import Route, Routes
from mistral_service.wire.errors import MistralError, Reason
from mistral_service.wire.models import Catalogue, ModelCard

_ENDS_THE_SERVICE = (Reason.KEY, Reason.FORBIDDEN, Reason.UNKNOWN_MODEL)


@dataclass(frozen=True, slots=True)
class Needs:
    """What a conversation needs of a model.

    Parameters:
        functions: Whether it is offered functions.
        has_images: Finds out whether there are images; asked only where a model does not see.
    """

    functions: bool
    has_images: Callable[[], bool]


class Router:
    """Chooses the route of each request, and records what became of it.

    `models` returns the own model and those of the fallbacks, as the settings name them now.
    """

    def __init__(self, clients: Clients, models: Callable[[], tuple[str, Sequence[str]]]) -> None:
        self.clients = clients
        self._models = models
        self._routes = Routes()
        # A summary may be asked for while a turn runs: each task has its own route.
        self._route_of_task: ContextVar[Route] = ContextVar("route_of_task")
        self._answered: set[int] = set()
        self._catalogues: dict[int, Catalogue] = {}

    def choose(self, needs: Needs, *, but: Route | None = None) -> Route:
        """Choose where the next request of this task goes; to `but` only where all others rest."""
        route = self._choose(needs, but)
        self._route_of_task.set(route)
        return route

    def has_other(self, route: Route, needs: Needs) -> bool:
        """Whether there is another model to ask, which does not rest and can do what is needed."""
        other = self._choose(needs, route)
        return other != route and not self._routes.rests(other, now())

    def for_model(self, model: str) -> "Router":
        """The same with another own model: what is known of routes and endpoints is shared."""
        router = copy(self)
        fallbacks = self._models()[1]
        router._models = lambda: (model, fallbacks)
        return router

    @property
    def route(self) -> Route:
        """Where the requests of this task go; the bot's own model unless another was chosen."""
        route, routes = self._route_of_task.get(None), self.routes()
        return route if route in routes else routes[0]

    def routes(self) -> list[Route]:
        """All routes, the bot's own first."""
        own, fallbacks = self._models()
        there = FALLBACK if self.clients.has_fallback else OWN
        fallbacks = fallbacks or ([own] if there == FALLBACK else [])
        return [Route(own), *(Route(model, there) for model in fallbacks)]

    def client(self, route: Route) -> AsyncOpenAI:
        """The client of a route's endpoint."""
        return self.clients.of(route.endpoint)

    def card(self, route: Route) -> ModelCard | None:
        """What a route's endpoint has said of its model; None as long as it has said nothing."""
        catalogue = self._catalogues.get(route.endpoint)
        return catalogue.find(route.model) if catalogue is not None else None

    def learn(self, endpoint: int, catalogue: Catalogue) -> None:
        """Record what an endpoint says of its models."""
        self._catalogues[endpoint] = catalogue

    def failed(self, route: Route, error: MistralError, needs: Needs) -> tuple[Route, bool]:
        """Record that a request failed, and choose where the next one of this task goes.

        Returns that route, and whether it is another that has not failed too.
        """
        at = now()
        self._routes.failed(route, error, at)
        # There is no time to wait for the same model twice.
        chosen = self.choose(needs, but=route if error.reason is Reason.TIMEOUT else None)
        return chosen, chosen != route and not self._routes.rests(chosen, at)

    def answered(self, route: Route) -> None:
        """Record that a reply came."""
        self._routes.answered(route)
        self._answered.add(route.endpoint)

    def final_error(self, route: Route, error: MistralError) -> MistralError:
        """The error of a turn that cannot be saved.

        Where a fallback failed, that is still an error of the bot's own model, of which the
        developer should hear first. But where a fallback may answer again in a moment, what is
        wrong with the bot's own key does not end the service.
        """
        own, *fallbacks = self.routes()
        error = self.with_other_cause(route, error)
        first = error
        if route != own:
            failed = self._routes.last_error(own)
            first = failed and self.with_other_cause(own, failed)
        if first is not None and first.reason in _ENDS_THE_SERVICE:
            for fallback in fallbacks:
                passing = error if fallback == route else self._routes.last_error(fallback)
                if passing is not None and passing.retryable:
                    words = f"{fallback.model}: {passing.detail}; {own.model}: {first}"
                    return passing.with_detail(words)
        if route == own or first is None or first is error:
            return error
        return first.with_detail("; ".join(filter(None, (first.detail, f"{route.model}: {error}"))))

    def _choose(self, needs: Needs, but: Route | None) -> Route:
        return self._routes.choose(
            self.routes(), now(), lambda each: self._is_able(each, needs), but=but
        )

    def with_other_cause(self, route: Route, error: MistralError) -> MistralError:
        """The same error; a 401 to a key that was good names what else it may mean."""
        accepted = route.endpoint in self._answered
        return error.with_key_accepted_before() if accepted else error

    def _is_able(self, route: Route, needs: Needs) -> bool:
        """Whether a fallback can do what a conversation needs, as far as its endpoint has said."""
        catalogue = self._catalogues.get(route.endpoint)
        if catalogue is None or not catalogue.is_mistrals:
            return True
        card = self.card(route)
        if card is None or card.chat is False:
            return False
        if card.function_calling is False and needs.functions:
            return False
        return not (card.vision is False and needs.has_images())
