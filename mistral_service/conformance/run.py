"""Sends the probes one after the other, within a budget, and evaluates the answers."""

import difflib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from mistral_service.conformance.answer import Answer, Request
from mistral_service.conformance.bodies import USER, chat
from mistral_service.conformance.probe import Finding, Probe
from mistral_service.conformance.probes import PROBES
from mistral_service.conformance.raw_client import RawClient
from mistral_service.turn.prices import PRICES, Price
from mistral_service.wire.chunks import Usage
from mistral_service.wire.errors import MistralError
from mistral_service.wire.models import Catalogue, ModelCard
from mistral_service.wire.numbers import tokens
from mistral_service.wire.reasons import Reason

_DEAREST = max(PRICES.values(), key=lambda price: price.input + price.output)
_OVERLOADED = (429, 502, 503, 504)
_MOST_UNANSWERED = 3

_WITHOUT = {
    "vision": "the model sees no images",
    "reasoning": "the model does not think",
    "function_calling": "the model calls no functions",
}


class CannotRun(Exception):
    """Nothing can be probed; the message says why, in a sentence."""


@dataclass(frozen=True)
class Plan:
    """The requests of a run.

    Parameters:
        probes: The probes.
        price: The model's price.
        known: Whether the price list has the model; otherwise `price` is the highest of the list.
    """

    probes: tuple[Probe, ...]
    price: Price
    known: bool

    @classmethod
    def of(cls, model: str, probes: Sequence[Probe] = PROBES) -> "Plan":
        """The plan for a model."""
        return cls(tuple(probes), PRICES.get(model, _DEAREST), model in PRICES)

    @property
    def requests(self) -> list[Request]:
        """The requests, each once, after the list of models and the plainest one."""
        own = {id(r): r for probe in self.probes for r in probe.requests}
        return [Request(None, path="models"), PLAINEST, *own.values()]

    @property
    def dollars(self) -> float:
        """The most that they cost, estimated."""
        return sum(request.cost(self.price) for request in self.requests)


PLAINEST = chat(USER)
"""The request that every server must answer."""


class Run:
    """One run of the probes against one endpoint.

    Attributes:
        spent: Dollars so far, by the reported tokens, or else by the estimate.
        tokens: Tokens so far, of requests and replies.
        answers: The answers, by the name of the probe and the position of the request.
        stopped: Why the remaining probes were not sent; empty where all were.
        catalogue: The models that the endpoint lists.
        plain: The answer to the plainest request.
    """

    def __init__(self, client: RawClient, model: str, plan: Plan, *, budget: float) -> None:
        """Prepare; the budget is in dollars."""
        self.spent = 0.0
        self.stopped = ""
        self.tokens = 0
        self.answers: dict[tuple[str, int], Answer] = {}
        self.catalogue = Catalogue()
        self.plain = Answer()
        self._client = client
        self._model = model
        self._plan = plan
        self._budget = budget
        self._unanswered = 0
        self._refused: set[str] = set()
        self._answered: dict[int, Answer] = {}
        self._card: ModelCard | None = None

    async def begin(self) -> None:
        """Check that the endpoint can be probed.

        Raises:
            CannotRun: If the key is refused, the model does not exist, or nothing answers.
        """
        listed = await self._client.send(Request(None, path="models"))
        if listed.status is None:
            raise CannotRun(f"The endpoint cannot be reached: {listed.fault}.")
        _check_key(listed)
        self.catalogue = Catalogue.from_reply(listed.body if listed.accepted else None)
        self._card = self.catalogue.find(self._model)
        if self.catalogue.is_mistrals and self._card is None:
            raise CannotRun(_no_model(self._model, self.catalogue))
        self.plain = await self._send(PLAINEST)
        if self.plain.status is None:
            raise CannotRun(f"The plainest request gets no answer: {self.plain.fault}.")
        _check_key(self.plain)
        if not self.plain.accepted:
            error = _error(self.plain)
            if error.reason is Reason.UNKNOWN_MODEL:
                raise CannotRun(_no_model(self._model, self.catalogue))
            raise CannotRun(f"The plainest request is refused, so nothing can be probed: {error}")
        if not self.plain.choices:
            raise CannotRun(
                f"This is not a chat endpoint: the plainest request got status {self.plain.status} "
                "and no choices (the address of a chat endpoint usually ends in /v1)."
            )

    async def findings(self) -> AsyncGenerator[tuple[Probe, Finding]]:
        """Send every probe, in order; yields each with its finding."""
        for probe in self._plan.probes:
            yield probe, await self._finding(probe)

    async def _finding(self, probe: Probe) -> Finding:
        if probe.needs is not None and getattr(self._card, probe.needs, None) is False:
            return Finding.unknown(_WITHOUT[probe.needs])
        if probe.after is not None and probe.after in self._refused:
            return Finding.unknown(f"{probe.after} is refused already")
        if self._unanswered >= _MOST_UNANSWERED:
            return self._stop("the endpoint has stopped answering")
        answers: list[Answer] = []
        for place, request in enumerate(probe.requests):
            if request.if_refused and not (answers and answers[-1].refused):
                answers.append(Answer(skipped=True))
                continue
            if (why := self._spent(request)) is not None:
                return self._stop(why)
            answer = await self._send(request)
            self.answers[probe.name, place] = answer
            if answer.status is None:
                return Finding.unknown(answer.fault)
            if answer.status == 429:
                return Finding.unknown("the rate limit is reached, also after a wait")
            if answer.status in _OVERLOADED and not probe.opens:
                return Finding.unknown(str(answer.refused))
            answers.append(answer)
        if answers[-1].refused is not None:
            self._refused.add(probe.name)
        return probe.evaluate(answers)

    def _stop(self, why: str) -> Finding:
        self.stopped = self.stopped or why
        return Finding.unknown(f"not asked: {why}")

    def _spent(self, request: Request) -> str | None:
        if id(request) in self._answered:
            return None
        most = self._client.most_requests
        if self._client.requests >= most:
            return f"{most} requests have been sent, which is the most allowed"
        if self.spent + request.cost(self._plan.price) > self._budget:
            return f"the budget of ${self._budget:g} would be exceeded"
        return None

    async def _send(self, request: Request) -> Answer:
        """Send a request, unless it has been answered already."""
        if (known := self._answered.get(id(request))) is not None:
            return known
        answer = await self._client.send(request)
        self._answered[id(request)] = answer
        self._unanswered = 0 if answer.status is not None else self._unanswered + 1
        if answer.accepted:
            prompt, completion = request.tokens
            reported = answer.usage
            prompt = _count(reported.get("prompt_tokens"), prompt)
            completion = _count(reported.get("completion_tokens"), completion)
            self.spent += self._plan.price.of(Usage(prompt, completion))
            self.tokens += prompt + completion
        return answer


def _check_key(answer: Answer) -> None:
    if answer.status in (401, 403):
        raise CannotRun(f"{_error(answer)}")


def _error(answer: Answer) -> MistralError:
    return MistralError.from_response(answer.status or 500, answer.body, answer.headers)


def _no_model(model: str, catalogue: Catalogue) -> str:
    names = [card.id for card in catalogue.cards]
    close = difflib.get_close_matches(model, names, 1, 0.5)
    advice = f": did you mean {close[0]}?" if close else ""
    listed = f" (it lists {', '.join(names[:5])})" if names and not close else ""
    return f"The endpoint has no model {model}{advice or listed + '.'}"


def _count(value: object, estimate: int) -> int:
    count = tokens(value)
    return estimate if count is None else count
