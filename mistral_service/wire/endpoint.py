"""What this process knows of each address that it asks: which server it is, and what it takes.

A server is recognised by its address, its list of models and its headers, or it is set. What it
refuses is learned per model: behind one gateway stand many servers. A lesson counts once a request
that follows it has been accepted.
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
    by_address,
    by_headers,
    by_models,
    difference,
    fitted,
    is_guess,
    revised,
    with_lesson,
)

T = TypeVar("T")

_MOST = 1_000
"""Addresses, and models of each, of which a process remembers something."""

_REFUSED = (Reason.REQUEST, Reason.HISTORY)


class Endpoint:
    """One address.

    Attributes:
        server: What kind of server it is.
    """

    def __init__(self, place: str) -> None:
        """Begin with what the address says.

        Args:
            place: The address, without secrets.
        """
        self.place = place
        self.server = self._by_address = by_address(place)
        self._is_set = False
        self._learned: dict[str, Server] = {}

    def set(self, server: Server) -> None:
        """Set what kind of server it is: nothing is recognised from now on, refusals still count.

        Args:
            server: One of `SERVERS`.
        """
        if self._is_set and server != self.server:
            logger.warning(
                f"{self.place} was set to {self.server.name} before, and is {server.name} now, for "
                "all services of this process that ask it."
            )
        if server != self.server:
            self._learned.clear()
        self.server, self._is_set = server, True

    def recognise(
        self, catalogue: Catalogue | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        """Take note of what an answer shows, where neither the address nor a user says it.

        Args:
            catalogue: The list of models.
            headers: The headers of any answer.
        """
        if self._is_set or self._by_address.name != "unknown":
            return
        found = by_headers(headers or {})
        if found is None and catalogue is not None:
            owners = (card.owned_by or "" for card in catalogue.cards)
            found = by_models(owners, tells_capabilities=catalogue.is_mistrals)
        if found is not None and found != self.server:
            # What was refused is refused whatever the server's name is.
            for model, learned in self._learned.items():
                self._learned[model] = with_lesson(found, self.server, learned)
            self.server = found

    def of(self, model: str) -> Server:
        """What the server behind the address takes for a model."""
        return self._learned.get(model, self.server)

    async def send(
        self, body: Mapping[str, Any], post: Callable[[dict[str, Any]], Awaitable[T]]
    ) -> T:
        """Send a body in the form that the server takes; again at once, where a refusal shows it.

        Args:
            body: The body for Mistral.
            post: Sends a body; called once, or once more for each thing that is learned.

        Returns:
            What `post` returned.

        Raises:
            openai.APIError: As `post`, where no other form is to be tried.
        """
        model = str(body.get("model"))
        known = server = self.of(model)
        tried: list[Server] = []
        refusal: APIStatusError | None = None  # the one that was answered with a guess
        while True:
            try:
                answer = await post(fitted(body, server))
            except APIStatusError as e:
                tried.append(server)
                other = _revised(server, body, e)
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
        learned = with_lesson(now, known, server)
        if learned == now or (len(self._learned) >= _MOST and model not in self._learned):
            return
        self._learned[model] = learned
        logger.warning(
            f"{self.place} refuses a part of Mistral's API: from now on {model} is asked "
            f"{difference(now, learned)}."
        )


def _revised(server: Server, body: Mapping[str, Any], refusal: APIStatusError) -> Server | None:
    if not _is_refusal(refusal):
        return None
    said = ErrorBody.read(refusal.response.content, refusal.response.headers)
    return revised(server, body, "\n".join([*said.words, *said.names]))


def _is_refusal(error: APIStatusError) -> bool:
    """Whether it is the request that was refused, and not its caller or its time."""
    status, headers = error.status_code, error.response.headers
    reason = MistralError.from_response(status, error.response.content, headers).reason
    return reason in _REFUSED


_endpoints: dict[str, Endpoint] = {}


def endpoint_of(client: AsyncOpenAI) -> Endpoint:
    """What this process knows of the address that a client asks."""
    place = place_of(client)
    endpoint = _endpoints.get(place)
    if endpoint is None:
        endpoint = Endpoint(place)
        if len(_endpoints) < _MOST:
            _endpoints[place] = endpoint
    return endpoint


def set_server(client: AsyncOpenAI, server: Server | None) -> None:
    """Set what kind of server a client asks; None leaves it to be recognised."""
    if server is not None:
        endpoint_of(client).set(server)


def forget_endpoints() -> None:
    """Forget all that was recognised, set and learned, as a test that reuses a port wants it."""
    _endpoints.clear()
