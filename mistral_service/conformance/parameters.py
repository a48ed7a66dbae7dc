"""Which parameters a model takes, each alone, and what it says to those that are none."""

from collections.abc import Sequence

from mistral_service.conformance import signs
from mistral_service.conformance.answer import Answer, Json, Request
from mistral_service.conformance.bodies import USER, WEATHER, chat
from mistral_service.conformance.probe import Finding, Judge, Probe, Sign, refused_with, taken

_PAGE = "settings.md"
_PLAIN: Json = {"messages": [USER], "max_tokens": 1}


def _takes(
    field: str, value: object, *, sign: Sign | None = None, judge: Judge = taken, **more: object
) -> Probe:
    named = isinstance(value, str) and field in ("reasoning_effort", "service_tier")
    name = f"{field} {value}" if named else field
    body = Request({**_PLAIN, field: value, **more})
    own = sign or (signs.has(field, value) if named else signs.has(field))
    return Probe(name, f"`{name}` is accepted.", _PAGE, (body,), judge, own)


def _refuses(field: str, value: object, what: str = "is no field of Mistral's") -> Probe:
    body = Request({**_PLAIN, "stream": True, field: value})
    return Probe(
        field,
        f"`{field}` {what}: 422, extra_forbidden.",
        "rules.md#r9",
        (body,),
        refused_with(422, types=("extra_forbidden",)),
        signs.has(field),
    )


def _choices(answers: Sequence[Answer]) -> Finding:
    """Two replies were asked for."""
    refused = answers[0].refused
    if refused is not None:
        return Finding.of(False, str(refused), refused=refused.as_json())
    count = len(answers[0].choices)
    return Finding.of(count == 2, f"accepted, {count} choices", choices=count)


def _too_hot(body: Json) -> bool:
    temperature = body.get("temperature")
    return isinstance(temperature, int | float) and temperature > 1.5


def _warm(body: Json) -> bool:
    return body.get("temperature") is not None and not _too_hot(body)


def _other_effort(body: Json) -> bool:
    return body.get("reasoning_effort") not in (None, "none", "high")


PARAMETERS: tuple[Probe, ...] = (
    _takes("temperature", 0.3, sign=_warm),
    _takes("top_p", 0.9),
    _takes("stop", ["\n\n"]),
    _takes("random_seed", 7),
    _takes("presence_penalty", 0.1),
    _takes("frequency_penalty", 0.1),
    _takes("min_tokens", 1),
    _takes("top_k", 20),
    _takes("repetition_penalty", 1.1),
    _takes("logprobs", True, top_logprobs=2),
    _takes("prompt_logprobs", True, top_prompt_logprobs=2),
    _takes("n", 2, judge=_choices),
    _takes("metadata", {"call": "probe"}),
    _takes("prediction", {"type": "content", "content": "Yes."}),
    _takes("safe_prompt", True),
    _takes("prompt_cache_key", "mistral-service-conform"),
    _takes("service_tier", "auto"),
    _takes("service_tier", "standard_only"),
    _takes("parallel_tool_calls", False, tools=[WEATHER]),
    _takes("reasoning_effort", "none"),
    _takes("reasoning_effort", "high"),
    Probe(
        "reasoning_effort other",
        "A `reasoning_effort` that is neither `none` nor `high` is refused: 400, code 3051.",
        _PAGE,
        (chat(USER, reasoning_effort="medium"),),
        refused_with(400, codes=("3051",)),
        _other_effort,
    ),
    Probe(
        "prompt_mode",
        "`prompt_mode` is accepted by some models, and refused by those that take "
        "`reasoning_effort`: 400.",
        _PAGE,
        (chat(USER, prompt_mode="reasoning"),),
        refused_with(*(400, 422), may=True),
        signs.has("prompt_mode"),
    ),
    Probe(
        "temperature 2",
        "A temperature of more than 1.5 is refused: 422.",
        _PAGE,
        (chat(USER, temperature=2),),
        refused_with(422),
        _too_hot,
    ),
    _refuses("seed", 7),
    _refuses("user", "anna"),
    _refuses("store", False),
    _refuses("stream_options", {"include_usage": True}),
    _refuses("max_completion_tokens", 1),
    _refuses("no_such_field", True),
)
"""The probes of parameters: what is a setting of ours, and what Mistral's closed schema refuses."""
