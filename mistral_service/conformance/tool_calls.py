"""Function calls: which `tool_choice` is accepted, and how calls are streamed."""

import re
from collections.abc import Callable
from typing import Any

from mistral_service.conformance import predicates
from mistral_service.conformance.answer import Answer, Json, Request
from mistral_service.conformance.bodies import WEATHER, chat, said, stream
from mistral_service.conformance.probe import Finding, Probe, of_reply
from mistral_service.wire.trees import object_of, objects_of

_PAGE = "odd-replies.md#function-calls"
_NAMED: Json = {"type": "function", "function": {"name": "weather"}}
_BOTH = said("user", "How is the weather in Paris and in Rome? Call the function for each.")
_CALLS = stream(_BOTH, max_tokens=160, temperature=0, tools=[WEATHER], tool_choice="any")
_CALLS_REQUIRED = Request({**(_CALLS.body or {}), "tool_choice": "required"}, if_refused=True)
_NINE = re.compile(r"[a-zA-Z0-9]{9}")
_ONE = said("user", "How is the weather in Paris?")


def _whole(answer: Answer) -> Finding:
    calls = answer.calls
    whole = all(_name(call) and isinstance(predicates.arguments_of(call), dict) for call in calls)
    named = sum(bool(_name(call)) for call in calls)
    said = "each call whole" if whole else f"{len(calls)} pieces of {named} calls"
    return Finding.of(whole, said, pieces=not whole)


def _together(answer: Answer) -> Finding:
    counts = [
        sum(bool(_name(c)) for c in objects_of(delta.get("tool_calls"))) for delta in answer.deltas
    ]
    counts = [count for count in counts if count]
    if sum(counts) < 2:
        return Finding.unknown("the model called once")
    said = f"{sum(counts)} calls in {len(counts)} deltas"
    return Finding.of(len(counts) == 1, said, together=len(counts) == 1)


def _indices(answer: Answer) -> Finding:
    given = [call.get("index") for call in answer.calls if _name(call)]
    good = given == list(range(len(given)))
    said = f"index {', '.join(map(str, given))}"
    return Finding.of(good, said, index="none" if None in given else "counted" if good else "same")


def _ids(answer: Answer) -> Finding:
    ids = [str(call.get("id")) for call in answer.calls if _name(call)]
    good = all(_NINE.fullmatch(each) for each in ids)
    kind = "nine letters and digits" if good else f"{len(ids[0])} characters, {_shape(ids[0])}"
    return Finding.of(good, kind, ids="nine" if good else _shape(ids[0]))


def _shape(text: str) -> str:
    """An id without its random part."""
    return re.sub(r"[0-9a-zA-Z]{9,}", "…", text)


def _ended(answer: Answer) -> Finding:
    reason = answer.finish_reason
    if reason == "length":
        return Finding.unknown("cut before its end")
    return Finding.of(reason == "tool_calls", f"finish_reason {reason!r}", reason=reason)


def _called(answer: Answer) -> Finding:
    names = [str(_name(call)) for call in answer.calls]
    said = f"accepted, calls {', '.join(names) or 'nothing'}"
    if not names and answer.finish_reason == "length":
        return Finding.unknown("accepted; cut before its end")
    return Finding.of("weather" in names, said)


def _not_called(answer: Answer) -> Finding:
    called = len(answer.calls)
    said = f"accepted, calls {f'{called} functions' if called else 'nothing'}"
    return Finding.of(not called, said)


def _taken(answer: Answer) -> Finding:
    return Finding.of(True, f"accepted, calls {len(answer.calls) or 'nothing'}")


def _name(call: Json) -> Any:
    return object_of(call.get("function")).get("name")


def _choice(
    choice: object, assumed: str, evaluate: Callable[[Answer], Finding], *, name: str = ""
) -> Probe:
    body = chat(_ONE, max_tokens=120, temperature=0, tools=[WEATHER], tool_choice=choice)
    name = f"tool_choice {name or choice}"
    applies_to = predicates.has("tool_choice", choice)
    return Probe(name, assumed, "functions.md", (body,), of_reply(evaluate), applies_to)


def _streamed(name: str, assumed: str, evaluate: Callable[[Answer], Finding]) -> Probe:
    def of_calls(answer: Answer) -> Finding:
        if not answer.calls:
            return Finding.unknown(f"the model called nothing ({answer.finish_reason})")
        return evaluate(answer)

    requests = (_CALLS, _CALLS_REQUIRED)
    return Probe(name, assumed, _PAGE, requests, of_reply(of_calls), needs="function_calling")


TOOL_CALLS: tuple[Probe, ...] = (
    _choice("auto", "`tool_choice: auto` is accepted.", _taken),
    _choice("any", "`tool_choice: any` is accepted, and a function is called.", _called),
    _choice("required", "`tool_choice: required` is accepted, and a function is called.", _called),
    _choice(
        _NAMED, "A named function is accepted as the choice, and called.", _called, name="named"
    ),
    _choice("none", "`tool_choice: none` is accepted, and nothing is called.", _not_called),
    _streamed("calls whole", "In a stream, each call arrives whole.", _whole),
    _streamed(
        "calls together", "In a stream, all calls of a reply arrive in one delta.", _together
    ),
    _streamed("calls' index", "Calls in a stream are counted by `index`, from 0.", _indices),
    _streamed("calls' ids", "Ids of calls are nine letters and digits.", _ids),
    _streamed("calls' end", "A reply with calls ends with the finish_reason `tool_calls`.", _ended),
)
"""The probes of function calls."""
