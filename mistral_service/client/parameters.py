"""What may be asked of a model, by name: for editors and type checkers."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict


class SamplingParameters(TypedDict, total=False):
    """How a reply is chosen.

    Parameters:
        temperature: From 0, always the likeliest, to 1.5.
        top_p: Above 0, at most 1: only so much of the likelihood is chosen from.
        max_tokens: The most tokens of a reply.
        min_tokens: The fewest.
        stop: Words at which it ends.
        random_seed: The same seed, the same reply.
        metadata: Goes along with the request.
        prompt_cache_key: Requests of one key share Mistral's cache.
    """

    temperature: float
    top_p: float
    max_tokens: int
    min_tokens: int
    stop: str | list[str]
    random_seed: int
    metadata: dict[str, Any]
    prompt_cache_key: str


class ChatParameters(SamplingParameters, total=False):
    """How a chat is answered.

    Parameters:
        tools: Functions in OpenAI's form, and Mistral's own tools by their type.
        tool_choice: `auto`, `any`, `none`, or the one function.
        parallel_tool_calls: Whether several may be called at once.
        response_format: `{"type": "json_object"}`, or a schema.
        presence_penalty: From -2 to 2.
        frequency_penalty: From -2 to 2.
        repetition_penalty: Above 0; above 1, what stands there already is less likely.
        top_k: From 1: only so many of the likeliest tokens are chosen from.
        logprobs: Whether the reply comes with its tokens' log probabilities.
        top_logprobs: How many other likely tokens are given for each.
        prompt_logprobs: As `logprobs`, for the tokens of the prompt.
        top_prompt_logprobs: As `top_logprobs`, for the tokens of the prompt.
        reasoning_effort: `none` or `high`; models that Mistral hosts for others know more words.
        prompt_mode: `reasoning`.
        prediction: What the reply will probably be.
        guardrails: Mistral's guardrails, as it takes them.
        service_tier: `auto` or `standard_only`.
        safe_prompt: Whether Mistral's safety prompt stands before the messages.
    """

    tools: Sequence[Mapping[str, Any]]
    tool_choice: str | dict[str, Any]
    parallel_tool_calls: bool
    response_format: dict[str, Any]
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    top_k: int
    logprobs: bool
    top_logprobs: int
    prompt_logprobs: bool
    top_prompt_logprobs: int
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
    prompt_mode: Literal["reasoning"]
    prediction: dict[str, Any]
    guardrails: list[dict[str, Any]]
    service_tier: Literal["auto", "standard_only"]
    safe_prompt: bool
