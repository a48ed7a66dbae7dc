"""The allowed values of each setting: a type for pydantic, and the words of an error."""

import json
from typing import Annotated, Any, Literal, cast

from pydantic import Field

_Named = dict[Literal["type", "function"], Any]

ALLOWED: dict[str, tuple[Any, str]] = {
    "model": (Annotated[str, Field(min_length=1)], "the name of a model"),
    "system_instruction": (str, "a string"),
    "temperature": (Annotated[float, Field(ge=0, le=1.5)], "a number from 0 to 1.5"),
    "top_p": (Annotated[float, Field(gt=0, le=1)], "a number above 0 and up to 1"),
    "top_k": (Annotated[int, Field(ge=1)], "a whole number from 1"),
    "max_tokens": (Annotated[int, Field(ge=1)], "a whole number from 1"),
    "max_completion_tokens": (Annotated[int, Field(ge=1)], "a whole number from 1"),
    "frequency_penalty": (Annotated[float, Field(ge=-2, le=2)], "a number from -2 to 2"),
    "presence_penalty": (Annotated[float, Field(ge=-2, le=2)], "a number from -2 to 2"),
    "seed": (Annotated[int, Field(ge=0)], "a whole number from 0"),
    "random_seed": (Annotated[int, Field(ge=0)], "a whole number from 0"),
    "safe_prompt": (bool, "True or False"),
    "response_format": (
        dict[str, Any],
        'a mapping whose type is "text", "json_object" or "json_schema", the last with a '
        "json_schema that has a name and a schema",
    ),
    "tool_choice": (
        Literal["auto", "any", "required", "none"] | _Named,
        '"auto", "any", "required", "none" or {"type": "function", "function": {"name": …}}',
    ),
    "parallel_tool_calls": (bool, "True or False"),
    "min_tokens": (Annotated[int, Field(ge=0)], "a whole number from 0"),
    "repetition_penalty": (Annotated[float, Field(gt=0)], "a number above 0"),
    "logprobs": (bool, "True or False"),
    "top_logprobs": (Annotated[int, Field(ge=0)], "a whole number from 0"),
    "prompt_logprobs": (bool, "True or False"),
    "top_prompt_logprobs": (Annotated[int, Field(ge=0)], "a whole number from 0"),
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
    "prompt_cache_key": (str, "a string"),
    "guardrails": (list[dict[str, Any]], "a list of mappings"),
    "service_tier": (Literal["auto", "standard_only"], '"auto" or "standard_only"'),
    "metadata": (dict[str, Any], "a mapping"),
    "keep_thoughts": (bool, "True or False"),
    "repeated_calls": (Literal["run", "reuse"], '"run" or "reuse"'),
    "text_frames": (Literal["token", "clause"], '"token" or "clause"'),
    **{
        name: (Annotated[float, Field(gt=0, le=600)], "a number of seconds above 0, up to 600")
        for name in (
            "connect_timeout",
            "first_token_timeout",
            "stall_timeout",
            "turn_timeout",
            "hedge_after",
            "sentence_timeout",
            "slow_function_after",
            "inference_timeout",
        )
    },
    "max_attempts": (Annotated[int, Field(ge=1, le=10)], "a whole number from 1 to 10"),
    "max_calls_per_reply": (Annotated[int, Field(ge=1, le=1000)], "a whole number from 1 to 1,000"),
    "max_tool_rounds": (Annotated[int, Field(ge=1, le=1000)], "a whole number from 1 to 1,000"),
    "hedging": (bool, "True or False"),
    "fallback_models": (list[Annotated[str, Field(min_length=1)]], "a list of model names"),
    "max_images": (Annotated[int, Field(ge=0, le=8)], "a whole number from 0 to 8"),
    "max_images_bytes": (
        Annotated[int, Field(ge=1, le=80_000_000)],
        "a whole number of bytes from 1 to 80,000,000",
    ),
    "images_of_last_turn_only": (bool, "True or False"),
    "max_context_images_bytes": (
        Annotated[int, Field(ge=1, le=100_000_000_000)],
        "a whole number of bytes from 1 to 100,000,000,000",
    ),
    "max_image_pixels": (
        Annotated[int, Field(ge=1024, le=67_108_864)],
        "a whole number of pixels from 1,024 to 67,108,864",
    ),
    "image_side": (
        Annotated[int, Field(ge=32, le=10_000)],
        "a whole number of pixels from 32 to 10,000",
    ),
    "image_quality": (Annotated[int, Field(ge=1, le=95)], "a whole number from 1 to 95"),
    "empty_reply_text": (Annotated[str, Field(min_length=1)], "a string, or None"),
    "use_provider_thinking_default": (bool, "True or False"),
    "filter_incomplete_user_turns": (bool, "True or False"),
    "slow_function_text": (Annotated[str, Field(min_length=1)], "a string, or None"),
}

SENT_AS_THEY_ARE = (
    *("top_k", "min_tokens", "repetition_penalty", "stop", "n"),
    *("logprobs", "top_logprobs", "prompt_logprobs", "top_prompt_logprobs"),
    *("response_format", "parallel_tool_calls", "prompt_mode", "prediction"),
    *("safe_prompt", "prompt_cache_key", "guardrails", "metadata"),
)
"""Settings that are sent to Mistral under the same name, with the same value."""


def is_well_formed(name: str, value: Any) -> bool:
    """Whether a value has the form that its type does not say.

    Args:
        name: The setting.
        value: What it was set to.
    """
    if not isinstance(value, dict | list):
        return True
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    fields = _mapping(cast(Any, value))
    if name == "response_format":
        if fields.get("type") != "json_schema":
            return fields.get("type") in ("text", "json_object")
        schema = _mapping(fields.get("json_schema"))
        return isinstance(schema.get("name"), str) and isinstance(schema.get("schema"), dict)
    if name == "tool_choice":
        return bool(_mapping(fields.get("function")).get("name"))
    return True


def _mapping(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
