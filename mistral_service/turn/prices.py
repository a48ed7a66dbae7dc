"""What a turn costs, as far as tokens and a price list can say.

An estimate for dashboards and limits, not a bill: what a request cost whose reply was closed before
its end (an interruption, the slower of two requests) is not reported, discounts and taxes are not
known, and `-latest` names move on to other models.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mistral_service.wire.chunks import Usage

_MILLION = 1_000_000
_CACHED = 0.1


@dataclass(frozen=True, slots=True)
class Price:
    """What a model's tokens cost, in dollars per million.

    Parameters:
        input: Tokens of the request.
        output: Tokens of the reply, thinking included.
        cached_input: Tokens of the request that came from Mistral's cache; by default a tenth of
            `input`, as Mistral charges.
    """

    input: float
    output: float
    cached_input: float | None = None

    def of(self, usage: Usage) -> float:
        """The cost of one request and its reply, in dollars."""
        cached = min(usage.cached_tokens or 0, usage.prompt_tokens)
        cheap = self.input * _CACHED if self.cached_input is None else self.cached_input
        dollars = (
            (usage.prompt_tokens - cached) * self.input
            + cached * cheap
            + usage.completion_tokens * self.output
        )
        return dollars / _MILLION


PRICES: Mapping[str, Price] = {
    **dict.fromkeys(("mistral-small-latest", "mistral-small-2603"), Price(0.15, 0.6)),
    "mistral-small-2506": Price(0.1, 0.3),
    **dict.fromkeys(("mistral-medium-latest", "mistral-medium-2604"), Price(1.5, 7.5)),
    **dict.fromkeys(("mistral-medium-2508", "mistral-medium-2505"), Price(0.4, 2)),
    **dict.fromkeys(("mistral-large-latest", "mistral-large-2512"), Price(0.5, 1.5)),
    **dict.fromkeys(("ministral-3b-latest", "ministral-3b-2512"), Price(0.1, 0.1)),
    **dict.fromkeys(("ministral-8b-latest", "ministral-8b-2512"), Price(0.15, 0.15)),
    **dict.fromkeys(("ministral-14b-latest", "ministral-14b-2512"), Price(0.2, 0.2)),
    "magistral-small-latest": Price(0.5, 1.5),
    "magistral-medium-latest": Price(2, 5),
    "codestral-latest": Price(0.3, 0.9),
}
"""Mistral's list prices, in dollars per million tokens, as of 21 November 2026.

Source: https://mistral.ai/pricing, by way of public lists that repeat it (OpenRouter's catalogue of
models among them), since the page itself says nothing to a program; look there before you rely on a
figure. Models in preview, whose price is to change, are left out. A tenth for cached input is what
Mistral's documentation of `prompt_cache_key` says.

Your own: `MistralLLMService(prices={**PRICES, "my-model": Price(1, 3)})`.
"""


def cost_of(usage: Usage, prices: Mapping[str, Price], *models: str) -> float | None:
    """What one request and its reply cost, in dollars; None if no name is on the price list.

    The names that the model goes by are given the most telling first.
    """
    price = next((prices[model] for model in models if model in prices), None)
    return price.of(usage) if price is not None else None


def total(costs: list[float | None]) -> float | None:
    """The sum of some costs; None if there is none, or one of them is unknown."""
    known = [cost for cost in costs if cost is not None]
    return sum(known) if known and len(known) == len(costs) else None
