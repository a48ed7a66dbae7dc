"""R1 to R15: whether a request that breaks the rule is refused, and a valid one accepted."""

from collections.abc import Sequence
from typing import Any

from mistral_service.conformance import predicates
from mistral_service.conformance.answer import Json, Request
from mistral_service.conformance.bodies import (
    CITY,
    USER,
    WEATHER,
    called,
    chat,
    images,
    result,
    said,
    tool,
)
from mistral_service.conformance.probe import Predicate, Probe, refused_with

_ID, _OTHER = "abcdefgh1", "abcdefgh2"
_HELLO = said("assistant", "Hello.")
_ORDER = ("3230",)
_SMALL = (32, 32)


def _rule(
    name: str,
    assumed: str,
    applies_to: Predicate,
    broken: Request,
    valid: Request | None = None,
    *,
    statuses: Sequence[int] = (400,),
    codes: tuple[str, ...] = (),
    types: tuple[str, ...] = (),
    may: bool = False,
    **more: Any,
) -> Probe:
    """A probe of a rule: a request that breaks it, and perhaps one that does not."""
    source = f"rules.md#{name.partition(' ')[0].lower()}"
    requests = (broken,) if valid is None else (broken, valid)
    evaluate = refused_with(*statuses, codes=codes, types=types, may=may)
    return Probe(name, assumed, source, requests, evaluate, applies_to, **more)


def _with_result(*after: Json) -> tuple[Json, ...]:
    return (USER, called(_ID), result(_ID), *after)


def _shown(size: tuple[int, int]) -> list[Json]:
    return images([size])["content"]


RULES: tuple[Probe, ...] = (
    _rule(
        "R1",
        "A system message after the assistant's is refused: 400, code 3230.",
        predicates.later_system,
        chat(USER, _HELLO, said("system", "Be brief."), USER),
        chat(USER, _HELLO, said("user", "[Instruction] Be brief.\n\nSay yes.")),
        codes=_ORDER,
    ),
    _rule(
        "R2",
        "A user message right after a function's result is refused: 400, code 3230.",
        predicates.user_after_tool,
        chat(*_with_result(USER), tools=[WEATHER]),
        chat(*_with_result(said("assistant", "Understood."), USER), tools=[WEATHER]),
        codes=_ORDER,
    ),
    _rule(
        "R3",
        "A result that does not follow its call is refused: 400, code 3230.",
        predicates.stray_result,
        chat(USER, result(_ID), tools=[WEATHER]),
        chat(*_with_result(), tools=[WEATHER]),
        codes=_ORDER,
    ),
    _rule(
        "R4",
        "Two calls with one result are refused: 400, code 3230.",
        predicates.unequal_results,
        chat(USER, called(_ID, _OTHER), result(_ID), tools=[WEATHER]),
        chat(USER, called(_ID, _OTHER), result(_ID), result(_OTHER), tools=[WEATHER]),
        codes=(*_ORDER, "3280"),
    ),
    _rule(
        "R5",
        "A request whose last message is the assistant's, without `prefix`, is refused: 400, "
        "code 3230.",
        predicates.assistant_last,
        chat(USER, said("assistant", "Let me")),
        chat(USER, said("assistant", "Let me"), said("user", "(Go on.)")),
        codes=_ORDER,
    ),
    _rule(
        "R6",
        "Ids of calls that are not nine letters and digits are refused: 400, code 3280.",
        predicates.invalid_ids,
        chat(USER, called("call_9aF3kQ"), result("call_9aF3kQ"), tools=[WEATHER]),
        chat(*_with_result(), tools=[WEATHER]),
        codes=("3280",),
    ),
    _rule(
        "R7",
        "A message of the assistant without words and calls is refused: 400, code 3240; or 3600, "
        "as if the service were unavailable.",
        predicates.empty_assistant,
        chat(USER, said("assistant", ""), USER),
        chat(USER, _HELLO, USER),
        statuses=(400, 500, 503),
        codes=("3240", "3600"),
        opens=True,
    ),
    _rule(
        "R8",
        "Words and calls in one message are refused by models with an old tokenizer, and accepted "
        "by others.",
        predicates.text_and_calls,
        chat(USER, {**called(_ID), "content": "Let me see."}, result(_ID), tools=[WEATHER]),
        may=True,
    ),
    _rule(
        "R9",
        "A field that a message does not have is refused: 422, extra_forbidden.",
        predicates.message_field,
        chat(said("user", "Say yes.", name="anna")),
        statuses=(422,),
        types=("extra_forbidden",),
    ),
    _rule(
        "R10 nine images",
        "Nine images are refused: 400.",
        predicates.many_images,
        chat(images([_SMALL] * 9)),
        chat(images([_SMALL] * 8)),
        needs="vision",
        after="small image",
    ),
    _rule(
        "R10 long side",
        "An image with a side of more than 10,000 pixels is refused: 400.",
        predicates.long_image,
        chat(images([(10_001, 8)])),
        needs="vision",
        after="small image",
    ),
    _rule(
        "R11 name",
        "A function's name with a dot is refused: 400.",
        predicates.invalid_name,
        chat(USER, tools=[tool("weather.today")]),
        chat(USER, tools=[tool("weather_today")]),
    ),
    _rule(
        "R11 129 tools",
        "More than 128 tools are refused: 400 or 422.",
        predicates.many_tools,
        chat(USER, tools=[tool(f"w{n}", {"type": "object"}) for n in range(129)]),
        statuses=(400, 422),
    ),
    _rule(
        "R11 arguments",
        "Arguments of a call that are no JSON object are refused by some servers, and accepted by "
        "others.",
        predicates.broken_arguments,
        chat(USER, called(_ID, arguments="{broken"), result(_ID), tools=[WEATHER]),
        statuses=(400, 422, 500),
        may=True,
    ),
    _rule(
        "R11 $schema",
        "A schema with `$schema` is refused by some models, since no grammar is made of it: 400.",
        predicates.schema_id,
        chat(USER, tools=[tool("weather", {"$schema": "http://json-schema.org/draft-07", **CITY})]),
        may=True,
    ),
    _rule(
        "R12 turns",
        "Two turns of the user in a row are refused by the templates of self-hosted models, and "
        "accepted elsewhere.",
        predicates.repeated_role,
        chat(USER, USER),
        chat(said("user", "Say yes.\n\nSay yes.")),
        may=True,
    ),
    _rule(
        "R12 beginning",
        "A conversation that the assistant begins is refused by the templates of self-hosted "
        "models, and accepted elsewhere.",
        predicates.assistant_first,
        chat(_HELLO, USER),
        chat(said("user", "(The conversation begins.)"), _HELLO, USER),
        may=True,
    ),
    _rule(
        "R13",
        "`prefix: true` together with functions is refused: 400.",
        predicates.prefix_and_tools,
        chat(USER, said("assistant", "Yes", prefix=True), tools=[WEATHER]),
        chat(USER, said("assistant", "Yes"), said("user", "(Go on.)"), tools=[WEATHER]),
    ),
    _rule(
        "R14",
        "The role `developer` is refused: 422.",
        predicates.developer,
        chat(said("developer", "Be brief."), USER),
        chat(said("system", "Be brief."), USER),
        statuses=(422,),
    ),
    _rule(
        "R15 tool",
        "An image in a function's result is refused: 400 or 422.",
        predicates.image_in("tool"),
        chat(USER, called(_ID), result(_ID, _shown(_SMALL)), tools=[WEATHER]),
        statuses=(400, 422),
        needs="vision",
        after="small image",
    ),
    _rule(
        "R15 system",
        "An image in a system message is refused: 400 or 422.",
        predicates.image_in("system"),
        chat(said("system", _shown(_SMALL)), USER),
        statuses=(400, 422),
        needs="vision",
        after="small image",
    ),
)
"""The probes of the message rules."""
