"""How another server behaves, as a report of `mistral-service conform` describes it.

`serve --as report.json` refuses what that server refused, with its statuses and bodies, accepts
what it accepted, and streams as it does. Whatever a report does not cover is as at Mistral.
"""

import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from mistral_service.conformance.answer import Refused
from mistral_service.conformance.probe import Predicate, State
from mistral_service.conformance.probes import PROBES
from mistral_service.conformance.report import NoReport, Report
from mistral_service.local.pieces import Delta, End, Json, Piece, Refusal
from mistral_service.wire.trees import last_of, object_of, objects_of

_COUNTED = ("prompt_tokens", "completion_tokens", "total_tokens")
_CHUNK = 6  # characters of a call's arguments in one delta


@dataclass(frozen=True)
class Behaviour:
    """How a server behaves.

    Parameters:
        model: Its only model.
        facts: The facts of the report, by probe.
        refusals: Which bodies it refuses, and how, by probe, in the order of the probes.
    """

    model: str
    facts: Mapping[str, Json] = field(default_factory=dict[str, Json])
    refusals: Mapping[str, tuple[Predicate | None, Refused]] = field(
        default_factory=dict[str, tuple[Predicate | None, Refused]]
    )

    @classmethod
    def from_file(cls, path: Path) -> "Behaviour":
        """Read it from the file of a report.

        Raises:
            NoReport: If the file is not a report, or has another version.
        """
        return cls.of(Report.from_file(path))

    @classmethod
    def of(cls, report: Report) -> "Behaviour":
        """The behaviour that a report describes.

        Raises:
            NoReport: If a refusal in it cannot be read.
        """
        known = {r.name: r.facts for r in report.rows if r.state != State.NOT_KNOWN.value}
        refusals: dict[str, tuple[Predicate | None, Refused]] = {}
        for probe in PROBES:
            said = known.get(probe.name, {}).get("refused")
            if isinstance(said, dict):
                try:
                    refusals[probe.name] = (probe.applies_to, Refused.from_json(cast("Json", said)))
                except ValueError as e:
                    raise NoReport(f"The report's probe {probe.name} has {e}.") from None
        return cls(report.model, known, refusals)

    def validate(self, body: object) -> Refusal | None:
        """Validate one request, as `Checks.validate`, with that server's statuses and bodies."""
        request = object_of(body)
        if request.get("messages") != objects_of(request.get("messages")):
            return self.refusal("wrong type") or _refusal(_MALFORMED)
        if request.get("model") != self.model and "unknown model" in self.refusals:
            return self.refusal("unknown model")
        for applies_to, refused in self.refusals.values():
            if applies_to is not None and applies_to(request):
                return _refusal(refused)
        return None

    def refusal(self, probe: str) -> Refusal | None:
        """How the server refuses the request of a probe; None where it accepts it."""
        return _refusal(self.refusals[probe][1]) if probe in self.refusals else None

    def headers(self) -> dict[str, str]:
        """The rate-limit headers of every answer."""
        names = self.facts_of("rate headers").get("headers", ["x-ratelimit-remaining-req-minute"])
        return dict.fromkeys(cast("list[str]", names), "1000")

    def names_requests(self) -> bool:
        """Whether answers have Mistral's correlation id."""
        return bool(self.facts_of("correlation id").get("header", True))

    def models(self) -> Json:
        """The list of models."""
        reported = self.facts_of("models")
        owners = cast("list[str]", reported.get("owners") or ["mistralai"])
        card: Json = {"id": self.model, "object": "model", "created": int(time.time())}
        card["owned_by"] = owners[0]
        if reported.get("capabilities", True):
            card["capabilities"] = {"completion_chat": True, "function_calling": True}
        if reported.get("aliases", True):
            card["aliases"] = []
        return {"object": "list", "data": [card]}

    async def rewrite(self, pieces: AsyncIterator[Piece], request: Json) -> AsyncIterator[Piece]:
        """Rewrite the pieces of Mistral's reply to a request as this server writes them."""
        last = last_of(request.get("messages"))
        prefix = last.get("content") if last.get("role") == "assistant" else None
        repeated = self.facts_of("prefix").get("repeated", True)
        skip = "" if repeated else str(prefix or "")
        async for piece in pieces:
            if skip and isinstance(piece, Delta) and isinstance(piece.delta.get("content"), str):
                words: str = piece.delta["content"]
                shared = min(len(skip), len(words))
                skip, words = skip[shared:], words[shared:]
                if not words:
                    continue
                piece = Delta({"content": words})
            for each in self._rewrite(piece):
                yield each

    def facts_of(self, probe: str) -> Json:
        """The facts of a probe; none where the report does not cover it."""
        return self.facts.get(probe, {})

    def _rewrite(self, piece: Piece) -> list[Piece]:
        if isinstance(piece, Delta):
            return self._rewrite_thought(piece)
        if isinstance(piece, End):
            if not self.facts_of("cached tokens").get("reported", True) and piece.usage:
                piece = replace(piece, usage={k: piece.usage[k] for k in _COUNTED})
            return self._rewrite_calls(piece)
        return [piece]

    def _rewrite_thought(self, piece: Delta) -> list[Piece]:
        form = self.facts_of("thoughts").get("form", "parts")
        parts = objects_of(piece.delta.get("content"))
        if form == "parts" or not parts:
            return [piece]
        words = "".join(
            inner.get("text", "") for part in parts for inner in objects_of(part.get("thinking"))
        )
        if form == "markup":
            return [Delta({"content": f"<think>{words}" if words else "</think>"})]
        return [Delta({str(form): words})] if words else []

    def _rewrite_calls(self, piece: End) -> list[Piece]:
        calls = cast("list[Json]", piece.delta.get("tool_calls") or [])
        if not calls:
            return [piece]
        index = self.facts_of("calls' index").get("index", "counted")
        ids = self.facts_of("calls' ids").get("ids", "nine")
        rewritten = [
            _with_id({**call, "index": 0 if index == "same" else place}, str(ids))
            for place, call in enumerate(calls)
        ]
        if index == "none":
            rewritten = [{k: v for k, v in call.items() if k != "index"} for call in rewritten]
        reason = self.facts_of("calls' end").get("reason", piece.finish_reason)
        end = replace(piece, finish_reason=cast("str", reason))
        if self.facts_of("calls whole").get("pieces"):
            deltas = [Delta({"tool_calls": [each]}) for call in rewritten for each in _cut(call)]
        elif not self.facts_of("calls together").get("together", True):
            deltas = [Delta({"tool_calls": [call]}) for call in rewritten]
        else:
            return [replace(end, delta={**piece.delta, "tool_calls": rewritten})]
        return [*deltas, replace(end, delta={"content": ""})]


def _cut(call: Json) -> list[Json]:
    """A call in deltas, as servers that stream arguments send it."""
    function = cast("Json", call["function"])
    arguments = str(function["arguments"])
    place = {"index": call["index"]} if "index" in call else {}
    first = {**call, "function": {**function, "arguments": ""}}
    rest = [arguments[at : at + _CHUNK] for at in range(0, len(arguments), _CHUNK)]
    return [first, *({**place, "function": {"arguments": piece}} for piece in rest)]


def _with_id(call: Json, ids: str) -> Json:
    if ids == "nine":
        return call
    return {**call, "id": ids.replace("…", f"{call['id']}{call['id']}"[:12])}


_MALFORMED = Refused(422, "detail", type="list_type", message="messages: a list is expected")


def _refusal(refused: Refused) -> Refusal:
    """A refusal with a body of the recorded form."""
    said: Json = {"message": refused.message, "type": refused.type, "code": refused.code}
    bodies: Mapping[str, Any] = {
        "object": {"object": "error", **said, "param": None, "raw_status_code": refused.status},
        "error": {"error": {**said, "param": None}},
        "message": {k: v for k, v in said.items() if v is not None},
        "text": refused.message,
    }
    if refused.form == "detail":
        place, mark, words = refused.message.partition(": ")
        issue = {"type": refused.type, "loc": ["body", *(place.split(".") if mark else [])]}
        listed = [{**issue, "msg": words if mark else place}]
        return Refusal(refused.status, {"detail": listed if refused.type else refused.message})
    return Refusal(refused.status, bodies.get(refused.form, {"said": refused.message}))
