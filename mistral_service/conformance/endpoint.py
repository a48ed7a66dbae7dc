"""The list of models, headers, errors, and images."""

from collections.abc import Sequence

from mistral_service.conformance import predicates
from mistral_service.conformance.answer import Answer, Request
from mistral_service.conformance.bodies import USER, chat, images
from mistral_service.conformance.probe import Finding, Probe, accepted, of_reply, refused_with
from mistral_service.conformance.replies import of_plain
from mistral_service.wire.errors import MistralError
from mistral_service.wire.reasons import Reason
from mistral_service.wire.trees import object_of, objects_of

NO_MODEL = "no-such-model-of-mistral-service"
"""A model that no server has."""

_WRONG_KEY = "wrong-key-of-mistral-service-conform"
_PAGE = "faults.md"


def _listed(answer: Answer) -> Finding:
    cards = objects_of(object_of(answer.body).get("data", answer.body))
    owners = sorted({str(card.get("owned_by")) for card in cards})
    can = any(isinstance(card.get("capabilities"), dict) for card in cards)
    aliases = any(isinstance(card.get("aliases"), list) for card in cards)
    said = f"owned by {', '.join(owners[:3]) or '?'}; capabilities {'' if can else 'not '}reported"
    said += f", aliases {'' if aliases else 'not '}reported"
    facts = {"capabilities": can, "aliases": aliases, "owners": owners[:3]}
    return Finding.of(can and aliases, said, **facts)


def _rates(answer: Answer) -> Finding:
    names = sorted(name for name in answer.headers if "ratelimit" in name)
    left = {"x-ratelimit-remaining-req-minute", "x-ratelimit-remaining-tokens-minute"}
    said = ", ".join(names) or "no header reports the rate"
    return Finding.of(bool(left & set(names)), said, headers=names)


def _correlated(answer: Answer) -> Finding:
    ours = "mistral-correlation-id"
    other = sorted(n for n in answer.headers if n.endswith(("request-id", "correlation-id")))
    good = ours in answer.headers
    said = ours if good else ", ".join(other) or "no header names the request"
    return Finding.of(good, said, header=good)


def _no_such_model(answers: Sequence[Answer]) -> Finding:
    refused = answers[0].refused
    if refused is None:
        return Finding.of(False, "accepted")
    error = MistralError.from_response(refused.status, answers[0].body)
    return Finding.of_refusal(refused, as_assumed=error.reason is Reason.UNKNOWN_MODEL)


ENDPOINT: tuple[Probe, ...] = (
    Probe(
        "models",
        "The list of models has what each can do, and its other names.",
        "switching.md",
        (Request(None, path="models"),),
        of_reply(_listed),
    ),
    of_plain(
        "rate headers",
        "Headers report how many requests and tokens are left in the minute.",
        "observability.md",
        _rates,
    ),
    of_plain(
        "correlation id",
        "The header `mistral-correlation-id` names the request.",
        _PAGE,
        _correlated,
    ),
    Probe(
        "wrong key",
        "A key that is none is refused: 401.",
        _PAGE,
        (Request({"messages": [USER], "max_tokens": 1}, key=_WRONG_KEY),),
        refused_with(401),
    ),
    Probe(
        "unknown model",
        "A model that does not exist is refused in words or codes that say so: the service then "
        "asks another one.",
        _PAGE,
        (Request({"messages": [USER], "max_tokens": 1}, model=NO_MODEL),),
        _no_such_model,
    ),
    Probe(
        "wrong type",
        "Messages that are no list are refused: 422, with `detail`.",
        _PAGE,
        (Request({"messages": "Hello.", "max_tokens": 1}),),
        refused_with(422),
        lambda body: not isinstance(body.get("messages"), list),
    ),
    Probe(
        "no messages",
        "An empty list of messages is refused: 400 or 422.",
        _PAGE,
        (Request({"messages": [], "max_tokens": 1}),),
        refused_with(400, 422),
        lambda body: body.get("messages") == [],
    ),
    Probe(
        "unknown route",
        "A route that does not exist is refused: 404.",
        "endpoints.md",
        (Request({"messages": [USER]}, path="no/such/route"),),
        refused_with(404),
    ),
    Probe(
        "small image",
        "An image of 32 pixels a side is accepted.",
        "vision.md",
        (chat(images([(32, 32)])),),
        accepted,
        predicates.one_image,
        needs="vision",
    ),
)
"""The probes of the list of models, headers, errors, and images."""
