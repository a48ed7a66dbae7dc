"""What this process knows of each endpoint: which server it is, and what the server accepts.

A server is recognised by its address, its list of models and its headers, or it is set. What it
refuses is learned for each model, since a gateway may have several servers behind it. It is stored
once a request in the new form has been accepted.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from loguru import logger
from openai import APIStatusError, AsyncOpenAI

from mistral_service.wire.error_body import ErrorBody
from mistral_service.wire.errors import MistralError, Reason
from mistral_service.wire.faults import place_of
from mistral_service.wire.models import Catalogue
from mistral_service.wire.servers import (
    Server,
    adapt_body,
    by_address,
    by_headers,
    by_models,
    describe_learned,
    is_guess,
    merge_learned,
    revise_server,
)

T = TypeVar("T")

_MAX = 1_000
"""Addresses, and models of each, about which a process stores something."""

_REFUSED = (Reason.REQUEST, Reason.HISTORY)


class Endpoint:
    """One address (`place`, without secrets), and the kind of server there."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.server = self._by_address = by_address(place)
        self._is_set = False
        self._learned: dict[str, Server] = {}

    def set(self, server: Server) -> None:
        """Set the kind of server: it is not recognised any more, but still learns from refusals."""
        if self._is_set and server != self.server:
            logger.warning(
                f"{self.place} was set to {self.server.name} before, and is {server.name} now, for "
                "all services of this process that use it."
            )
        if server != self.server:
            self._learned.clear()
        self.server, self._is_set = server, True

    def recognise(
        self, catalogue: Catalogue | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        """Recognise the server by an answer, if neither its address nor a user has named it."""
        if self._is_set or self._by_address.name != "unknown":
            return
        found = by_headers(headers or {})
        if found is None and catalogue is not None:
            owners = (card.owned_by or "" for card in catalogue.cards)
            found = by_models(owners, has_capabilities=catalogue.is_mistrals)
        if found is not None and found != self.server:
            # What was learned from refusals still applies.
            for model, learned in self._learned.items():
                self._learned[model] = merge_learned(found, self.server, learned)
            self.server = found

    def of(self, model: str) -> Server:
        """What the server at the address accepts for a model."""
        return self._learned.get(model, self.server)

    async def send(
        self, body: Mapping[str, Any], post: Callable[[dict[str, Any]], Awaitable[T]]
    ) -> T:
        """Send a body for Mistral in the form that the server accepts.

        `post` is called again after each refusal that shows another form.

        Raises:
            openai.APIError: As `post`, if there is no other form to try.
        """
        model = str(body.get("model"))
        known = server = self.of(model)
        tried: list[Server] = []
        refusal: APIStatusError | None = None  # the one before a guess
        while True:
            try:
                answer = await post(adapt_body(body, server))
            except APIStatusError as e:
                tried.append(server)
                other = _revise(server, body, e)
                if other is None or other in tried:
                    raise (refusal if refusal is not None and _is_refusal(e) else e) from None
                if refusal is None and is_guess(server, other):
                    refusal = e
                server = other
            else:
                self._learn(model, known, server)
                return answer

    def _learn(self, model: str, known: Server, server: Server) -> None:
        now = self.of(model)
        learned = merge_learned(now, known, server)
        if learned == now or (len(self._learned) >= _MAX and model not in self._learned):
            return
        self._learned[model] = learned
        logger.warning(
            f"{self.place} refuses a part of Mistral's API: from now on requests for {model} are "
            f"sent {describe_learned(now, learned)}."
        )


def _revise(server: Server, body: Mapping[str, Any], refusal: APIStatusError) -> Server | None:
    if not _is_refusal(refusal):
        return None
    error = ErrorBody.read(refusal.response.content, refusal.response.headers)
    return revise_server(server, body, "\n".join([*error.words, *error.names]))


def _is_refusal(error: APIStatusError) -> bool:
    """Whether the request itself was refused, not its key or its rate."""
    status, headers = error.status_code, error.response.headers
    reason = MistralError.from_response(status, error.response.content, headers).reason
    return reason in _REFUSED


_endpoints: dict[str, Endpoint] = {}


def endpoint_of(client: AsyncOpenAI) -> Endpoint:
    """The endpoint of a client."""
    place = place_of(client)
    endpoint = _endpoints.get(place)
    if endpoint is None:
        endpoint = Endpoint(place)
        if len(_endpoints) < _MAX:
            _endpoints[place] = endpoint
    return endpoint


def set_server(client: AsyncOpenAI, server: Server | None) -> None:
    """Set the kind of server of a client; None leaves it to be recognised."""
    if server is not None:
        endpoint_of(client).set(server)


def forget_endpoints() -> None:
    """Forget all that was recognised, set and learned: for tests that reuse a port."""
    _endpoints.clear()
