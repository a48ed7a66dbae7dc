"""Which parameters a model accepts, each by itself, and how it refuses unknown ones."""

from mistral_service.conformance import predicates
from mistral_service.conformance.answer import Answer, Json, Request
from mistral_service.conformance.bodies import USER, WEATHER, chat
from mistral_service.conformance.probe import (
    Evaluate,
    Finding,
    Predicate,
    Probe,
    accepted,
    of_reply,
    refused_with,
)

_PAGE = "settings.md"
_PLAIN: Json = {"messages": [USER], "max_tokens": 1}


def _accepts(
    field: str,
    value: object,
    *,
    applies_to: Predicate | None = None,
    evaluate: Evaluate = accepted,
    **more: object,
) -> Probe:
    named = isinstance(value, str) and field in ("reasoning_effort", "service_tier")
    name = f"{field} {value}" if named else field
    body = Request({**_PLAIN, field: value, **more})
    applies_to = applies_to or (predicates.has(field, value) if named else predicates.has(field))
    return Probe(name, f"`{name}` is accepted.", _PAGE, (body,), evaluate, applies_to)


def _refuses(field: str, value: object, what: str = "is no field of Mistral's") -> Probe:
    body = Request({**_PLAIN, "stream": True, field: value})
    return Probe(
        field,
        f"`{field}` {what}: 422, extra_forbidden.",
        "rules.md#r9",
        (body,),
        refused_with(422, types=("extra_forbidden",)),
        predicates.has(field),
    )


def _two_choices(answer: Answer) -> Finding:
    count = len(answer.choices)
    return Finding.of(count == 2, f"accepted, {count} choices", choices=count)


def _high_temperature(body: Json) -> bool:
    temperature = body.get("temperature")
    return isinstance(temperature, int | float) and temperature > 1.5


def _valid_temperature(body: Json) -> bool:
    return body.get("temperature") is not None and not _high_temperature(body)


PARAMETERS: tuple[Probe, ...] = (
    _accepts("temperature", 0.3, applies_to=_valid_temperature),
    _accepts("top_p", 0.9),
    _accepts("stop", ["\n\n"]),
    _accepts("random_seed", 7),
    _accepts("presence_penalty", 0.1),
    _accepts("frequency_penalty", 0.1),
    _accepts("min_tokens", 1),
    _accepts("top_k", 20),
    _accepts("repetition_penalty", 1.1),
    _accepts("logprobs", True, top_logprobs=2),
    _accepts("prompt_logprobs", True, top_prompt_logprobs=2),
    _accepts("n", 2, evaluate=of_reply(_two_choices)),
    _accepts("metadata", {"call": "probe"}),
    _accepts("prediction", {"type": "content", "content": "Yes."}),
    _accepts("safe_prompt", True),
    _accepts("prompt_cache_key", "mistral-service-conform"),
    _accepts("service_tier", "auto"),
    _accepts("service_tier", "standard_only"),
    _accepts("parallel_tool_calls", False, tools=[WEATHER]),
    _accepts("reasoning_effort", "none"),
    _accepts("reasoning_effort", "high"),
    Probe(
        "reasoning_effort other",
        "A `reasoning_effort` that is neither `none` nor `high` is refused: 400, code 3051.",
        _PAGE,
        (chat(USER, reasoning_effort="medium"),),
        refused_with(400, codes=("3051",)),
        lambda body: body.get("reasoning_effort") not in (None, "none", "high"),
    ),
    Probe(
        "prompt_mode",
        "`prompt_mode` is accepted by some models, and refused by those that take "
        "`reasoning_effort`: 400.",
        _PAGE,
        (chat(USER, prompt_mode="reasoning"),),
        refused_with(400, 422, may=True),
        predicates.has("prompt_mode"),
    ),
    Probe(
        "temperature 2",
        "A temperature of more than 1.5 is refused: 422.",
        _PAGE,
        (chat(USER, temperature=2),),
        refused_with(422),
        _high_temperature,
    ),
    _refuses("seed", 7),
    _refuses("user", "anna"),
    _refuses("store", False),
    _refuses("stream_options", {"include_usage": True}),
    _refuses("max_completion_tokens", 1),
    _refuses("no_such_field", True),
)
"""The probes of parameters: our settings, and fields that Mistral's closed schema refuses."""
