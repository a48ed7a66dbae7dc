"""The form of replies: chunks, usage, thoughts, prefixes, JSON, cached tokens."""

import json
from collections.abc import Callable, Sequence

from mistral_service.conformance import predicates
from mistral_service.conformance.answer import Answer, Json, Request
from mistral_service.conformance.bodies import CITY, USER, chat, said, stream
from mistral_service.conformance.probe import (
    Evaluate,
    Finding,
    Predicate,
    Probe,
    of_reply,
    refused_with,
)
from mistral_service.wire.errors import printable
from mistral_service.wire.trees import first_of, object_of, objects_of

_PAGE = "odd-replies.md"
_PREFIX = "The capital of France is"
_RULES = (f"Rule {n}: answer question {n} in one word." for n in range(120))
_LONG = f"Be brief. {' '.join(_RULES)}"
_SEPARATED = "one\u2028two\u2029three"

PLAIN = stream(
    said("user", "Count from one to fifty, in words: one, two, three, and so on."), max_tokens=8
)
"""The stream that most probes read."""
_WHOLE = chat(USER, max_tokens=8)
_THINKS = stream(
    said("user", "Is 91 a prime number? Answer with one word."),
    max_tokens=300,
    reasoning_effort="high",
)
_THINKS_UNASKED = Request(
    {k: v for k, v in (_THINKS.body or {}).items() if k != "reasoning_effort"}, if_refused=True
)
_CAPITAL = said("user", "Which is the capital of France?")
_PREFIXED = stream(_CAPITAL, said("assistant", _PREFIX, prefix=True), max_tokens=12)
_CONTINUED = stream(
    _CAPITAL,
    said("assistant", _PREFIX),
    max_tokens=12,
    continue_final_message=True,
    add_generation_prompt=False,
)


def _content_of(delta: Json) -> str:
    if "content" not in delta:
        return "absent"
    content = delta["content"]
    if content is None:
        return "null"
    return "words" if content else "empty"


def _first(answer: Answer) -> Finding:
    if not answer.deltas:
        return Finding.of(False, "no chunk came")
    delta = answer.deltas[0]
    role, content = delta.get("role"), _content_of(delta)
    said = f"role {role!r}, content {content}"
    return Finding.of((role, content) == ("assistant", "empty"), said, role=role, content=content)


def _last(answer: Answer) -> Finding:
    for piece in answer.streamed:
        if piece.get("finish_reason"):
            content = _content_of(object_of(piece.get("delta")))
            said = f"finish_reason {piece['finish_reason']!r}, content {content}"
            return Finding.of(content == "empty", said, content=content)
    return Finding.of(False, "no chunk has a finish_reason", content="none")


def _length(answer: Answer) -> Finding:
    reason = answer.finish_reason
    if reason == "stop":
        return Finding.unknown("the model ended by itself")
    return Finding.of(reason == "length", f"finish_reason {reason!r}", reason=reason)


def _usage(answer: Answer) -> Finding:
    places = [
        "finish"
        if any(c.get("finish_reason") for c in objects_of(chunk.get("choices")))
        else "after"
        for chunk in answer.chunks
        if chunk.get("usage")
    ]
    place = "never" if not places else places[0] if len(places) == 1 else "every"
    said = {
        "finish": "reported in the chunk with finish_reason",
        "after": "reported in a chunk of its own, at the end",
        "every": f"reported in {len(places)} chunks",
        "never": "not reported",
    }[place]
    return Finding.of(place == "finish", said, place=place)


def _done(answer: Answer) -> Finding:
    said = "[DONE] came" if answer.done else "no [DONE] came"
    return Finding.of(answer.done, said, done=answer.done)


def _whole(answer: Answer) -> Finding:
    content = answer.message.get("content")
    counted = {"prompt_tokens", "completion_tokens", "total_tokens"} <= answer.usage.keys()
    good = isinstance(content, str) and answer.finish_reason is not None and counted
    kind = "text" if isinstance(content, str) else type(content).__name__
    reported = "usage reported" if counted else "usage not reported"
    said = f"content {kind}, finish_reason {answer.finish_reason!r}, {reported}"
    return Finding.of(good, said)


def _separators(answer: Answer) -> Finding:
    kept = any(each in answer.text for each in "\u2028\u2029")
    said = "came back" if kept else "accepted, and the model did not repeat it"
    if answer.garbled:
        return Finding.of(False, f"{answer.garbled} events of the stream are no JSON")
    return Finding.of(True, said)


def _closed(answers: Sequence[Answer]) -> Finding:
    for answer in answers:
        if answer.refused is not None:
            return Finding.of_refusal(answer.refused)
    return Finding.of(True, "the stream was closed, and the next request answered")


def _thoughts(answer: Answer) -> Finding:
    forms = {_form_of_thought(delta) for delta in answer.deltas} - {""}
    if "<think>" in answer.text or "[THINK]" in answer.text:
        forms.add("markup")
    form = next(iter(sorted(forms)), "")
    if not form:
        return Finding.unknown("the model thought nothing that is shown")
    return Finding.of(form == "parts", f"thoughts come as {form}", form=form)


def _form_of_thought(delta: Json) -> str:
    content = delta.get("content")
    if any(part.get("type") == "thinking" for part in objects_of(content)):
        return "parts"
    return next((name for name in ("reasoning_content", "reasoning") if delta.get(name)), "")


def _prefixed(answer: Answer) -> Finding:
    if not answer.text:
        return Finding.unknown("the model said nothing")
    repeated = answer.text.lstrip().startswith(_PREFIX)
    said = "repeated" if repeated else "not repeated"
    return Finding.of(repeated, f"accepted, the beginning is {said}", repeated=repeated)


def _json(keys: set[str]) -> Evaluate:
    def evaluate(answer: Answer) -> Finding:
        try:
            read: object = json.loads(answer.text)
            found = object_of(read)
        except ValueError:
            if answer.finish_reason == "length":
                return Finding.unknown(f"cut before its end: {printable(answer.text, 60)}")
            return Finding.of(False, f"no JSON: {printable(answer.text, 60)}")
        good = found == read and keys <= found.keys()
        return Finding.of(good, f"accepted, {printable(json.dumps(read), 60)}")

    return of_reply(evaluate)


def _cached(answers: Sequence[Answer]) -> Finding:
    usage = answers[1].usage
    names = ("prompt_tokens_details", "prompt_token_details")
    details = first_of([usage[name] for name in names if usage.get(name)])
    reported = details.get("cached_tokens", usage.get("num_cached_tokens"))
    if answers[1].refused is not None:
        return _closed(answers[1:])
    if reported is None:
        return Finding.of(False, "cached tokens are not reported", reported=False)
    if not reported:
        return Finding.unknown("reported, but nothing was cached", reported=True)
    return Finding.of(
        True, f"{reported} of {usage.get('prompt_tokens')} tokens cached", reported=True
    )


def _of_format(kind: str) -> Predicate:
    return lambda body: object_of(body.get("response_format")).get("type") == kind


def _cacheable() -> Request:
    return chat(said("system", _LONG), USER, prompt_cache_key="mistral-service-conform-2")


def of_plain(name: str, assumed: str, source: str, evaluate: Callable[[Answer], Finding]) -> Probe:
    """A probe that reads the plain stream."""
    return Probe(name, assumed, source, (PLAIN,), of_reply(evaluate))


REPLIES: tuple[Probe, ...] = (
    of_plain(
        "first chunk",
        "The first chunk of a stream has the role `assistant` and an empty content.",
        _PAGE,
        _first,
    ),
    of_plain("last chunk", "The chunk with the finish_reason has an empty content.", _PAGE, _last),
    of_plain(
        "cut reply",
        "A reply that `max_tokens` cuts ends with the finish_reason `length`.",
        _PAGE,
        _length,
    ),
    of_plain(
        "usage in a stream",
        "The tokens are reported in the chunk with the finish_reason, without being asked for.",
        "observability.md",
        _usage,
    ),
    of_plain("[DONE]", "A stream ends with `[DONE]`.", _PAGE, _done),
    Probe(
        "whole reply",
        "A reply that is not streamed has text, a finish_reason and the tokens.",
        "endpoints.md",
        (_WHOLE,),
        of_reply(_whole),
    ),
    Probe(
        "U+2028",
        "The line separator of Unicode breaks neither the request nor an event of the stream.",
        _PAGE,
        (stream(said("user", f"Repeat exactly this line:\n{_SEPARATED}"), max_tokens=24),),
        of_reply(_separators),
    ),
    Probe(
        "closed stream",
        "A stream can be closed in the middle, and the next request is answered.",
        "faults.md",
        (stream(said("user", "Count to a hundred."), max_tokens=200, leave_after=2), chat(USER)),
        _closed,
    ),
    Probe(
        "thoughts",
        "A model that thinks streams its thoughts as parts of the type `thinking`.",
        _PAGE,
        (_THINKS, _THINKS_UNASKED),
        of_reply(_thoughts),
        needs="reasoning",
    ),
    Probe(
        "prefix",
        "A reply can be begun with `prefix: true`, and repeats its beginning.",
        "rules.md#r5",
        (_PREFIXED,),
        of_reply(_prefixed),
        predicates.prefix_last,
    ),
    Probe(
        "continue_final_message",
        "The fields with which vLLM and SGLang continue a reply are refused: 422.",
        "self-hosted.md",
        (_CONTINUED,),
        refused_with(422),
        predicates.has("continue_final_message"),
    ),
    Probe(
        "JSON mode",
        "`response_format: json_object` is accepted, and the reply is a JSON object.",
        "endpoints.md",
        (
            chat(
                said("user", "Name one city, as a short JSON object."),
                max_tokens=60,
                response_format={"type": "json_object"},
            ),
        ),
        _json(set()),
        _of_format("json_object"),
    ),
    Probe(
        "JSON schema",
        "`response_format: json_schema` is accepted, and the reply follows the schema.",
        "endpoints.md",
        (
            chat(
                said("user", "Name one city, as JSON."),
                max_tokens=60,
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": "answer", "schema": CITY, "strict": True},
                },
            ),
        ),
        _json({"city"}),
        _of_format("json_schema"),
    ),
    Probe(
        "cached tokens",
        "The same request with the same `prompt_cache_key` reports how many tokens were cached.",
        "observability.md",
        (_cacheable(), _cacheable()),
        _cached,
    ),
)
"""The probes of replies."""
