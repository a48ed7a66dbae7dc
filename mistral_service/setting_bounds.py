"""The allowed values of each setting: a type for pydantic, and the words of an error."""

import json
from typing import Annotated, Any, Literal, cast

from pydantic import Field

from mistral_service.wire.trees import object_of

Allowed = tuple[Any, str]

_FLAGS = (
    *("safe_prompt", "parallel_tool_calls", "logprobs", "prompt_logprobs", "keep_thoughts"),
    *("hedging", "images_of_last_turn_only"),
    *("use_provider_thinking_default", "filter_incomplete_user_turns"),
)
_TIMES = (
    *("connect_timeout", "first_token_timeout", "stall_timeout", "turn_timeout", "hedge_after"),
    *("sentence_timeout", "slow_function_after", "inference_timeout"),
)

_Named = dict[Literal["type", "function"], Any]
_STRING: Allowed = (str, "a string")
_SAID: Allowed = (Annotated[str, Field(min_length=1)], "a string, or None")
_PENALTY: Allowed = (Annotated[float, Field(ge=-2, le=2)], "a number from -2 to 2")


def _whole(least: int, most: int | None = None, what: str = "a whole number") -> Allowed:
    upper = "" if most is None else f" to {most:,}"
    return Annotated[int, Field(ge=least, le=most)], f"{what} from {least:,}{upper}"


ALLOWED: dict[str, Allowed] = {
    "model": (Annotated[str, Field(min_length=1)], "the name of a model"),
    "system_instruction": _STRING,
    "temperature": (Annotated[float, Field(ge=0, le=1.5)], "a number from 0 to 1.5"),
    "top_p": (Annotated[float, Field(gt=0, le=1)], "a number above 0 and up to 1"),
    "top_k": _whole(1),
    "max_tokens": _whole(1),
    "max_completion_tokens": _whole(1),
    "frequency_penalty": _PENALTY,
    "presence_penalty": _PENALTY,
    "seed": _whole(0),
    "random_seed": _whole(0),
    "response_format": (
        dict[str, Any],
        'a mapping whose type is "text", "json_object" or "json_schema", the last with a '
        "json_schema that has a name and a schema",
    ),
    "tool_choice": (
        Literal["auto", "any", "required", "none"] | _Named,
        '"auto", "any", "required", "none" or {"type": "function", "function": {"name": …}}',
    ),
    "min_tokens": _whole(0),
    "repetition_penalty": (Annotated[float, Field(gt=0)], "a number above 0"),
    "top_logprobs": _whole(0),
    "top_prompt_logprobs": _whole(0),
    "reasoning_effort": (
        Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"],
        '"none" or "high" (models that Mistral hosts for others also know "minimal", "low", '
        '"medium", "xhigh" and "max")',
    ),
    "prompt_mode": (Literal["reasoning"], '"reasoning"'),
    "prediction": (
        dict[Literal["type", "content"], str],
        'a mapping like {"type": "content", "content": "…"}',
    ),
    "stop": (str | list[str], "a string or a list of strings"),
    "n": (Literal[1], "1 (a voice speaks one reply)"),
    "prompt_cache_key": _STRING,
    "guardrails": (list[dict[str, Any]], "a list of mappings"),
    "service_tier": (Literal["auto", "standard_only"], '"auto" or "standard_only"'),
    "metadata": (dict[str, Any], "a mapping"),
    "repeated_calls": (Literal["run", "reuse"], '"run" or "reuse"'),
    "text_frames": (Literal["token", "clause"], '"token" or "clause"'),
    "max_attempts": _whole(1, 10),
    "max_calls_per_reply": _whole(1, 1000),
    "max_tool_rounds": _whole(1, 1000),
    "fallback_models": (list[Annotated[str, Field(min_length=1)]], "a list of model names"),
    "max_images": _whole(0, 8),
    "max_images_bytes": _whole(1, 80_000_000, "a whole number of bytes"),
    "max_context_images_bytes": _whole(1, 100_000_000_000, "a whole number of bytes"),
    "max_image_pixels": _whole(1024, 67_108_864, "a whole number of pixels"),
    "image_side": _whole(32, 10_000, "a whole number of pixels"),
    "image_quality": _whole(1, 95),
    "empty_reply_text": _SAID,
    "slow_function_text": _SAID,
    **dict.fromkeys(_FLAGS, (bool, "True or False")),
    **dict.fromkeys(
        _TIMES, (Annotated[float, Field(gt=0, le=600)], "a number of seconds above 0, up to 600")
    ),
}

SENT_AS_THEY_ARE = (
    *("top_k", "min_tokens", "repetition_penalty", "stop", "n"),
    *("logprobs", "top_logprobs", "prompt_logprobs", "top_prompt_logprobs"),
    *("response_format", "parallel_tool_calls", "prompt_mode", "prediction"),
    *("safe_prompt", "prompt_cache_key", "guardrails", "metadata"),
)
"""Settings that are sent to Mistral under the same name, with the same value."""


def is_well_formed(name: str, value: Any) -> bool:
    """Whether the value of a setting has the form that its type does not say."""
    if not isinstance(value, dict | list):
        return True
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    fields = object_of(cast("object", value))
    if name == "response_format":
        if fields.get("type") != "json_schema":
            return fields.get("type") in ("text", "json_object")
        schema = object_of(fields.get("json_schema"))
        return isinstance(schema.get("name"), str) and isinstance(schema.get("schema"), dict)
    if name == "tool_choice":
        return bool(object_of(fields.get("function")).get("name"))
    return True
