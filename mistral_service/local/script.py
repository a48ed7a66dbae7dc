"""Scripted replies and faults: what the endpoint answers in a test, as data."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

from mistral_service.local.pieces import (
    Cut,
    Delta,
    End,
    Headers,
    Json,
    Piece,
    Raw,
    Refusal,
    Wait,
)

_ENGINES = ("chat/completions", "fim/completions")

STALL_SECONDS = 60.0
"""Seconds that a stalled stream stays open: longer than any caller waits."""


@dataclass(frozen=True)
class Reply:
    """One scripted reply, or one fault.

    Parameters:
        text: The reply's text, streamed word by word.
        deltas: In place of `text`: the `delta` objects of the chunks, verbatim.
        tool_calls: Function calls at the end, whole, in one delta, as Mistral sends them: each
            `{"name": …, "arguments": {…}}`, with an `id` or without (it then gets one).
        finish_reason: By default `tool_calls` where there are some, else `stop`.
        usage: The `usage` object, verbatim; by default an estimate.
        status: The HTTP status; from 400 on, the reply is an error with `body` and `headers`.
        body: An error's body: JSON, or text that is sent verbatim.
        headers: Further headers of the answer.
        raw: In place of chunks: the bytes of the stream, verbatim.
        wait: Seconds before anything is sent, headers included.
        first_wait: Seconds between the headers and the first chunk.
        pause: Seconds between chunks.
        stall_after: The stream goes silent after so many chunks, and stays open.
        cut_after: The connection breaks after so many chunks.
        when: Only for requests whose last message, prompt or input matches this regular expression
            (anywhere in its text, case-insensitive).
        path: Only for requests to this endpoint, such as `embeddings` or `moderations`; by default
            for `chat/completions` and `fim/completions`.
        times: How many requests get this reply; None for any number.
    """

    text: str = ""
    deltas: Sequence[Json] = ()
    tool_calls: Sequence[Mapping[str, Any]] = ()
    finish_reason: str | None = None
    usage: Json | None = None
    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    raw: bytes | None = None
    wait: float = 0.0
    first_wait: float = 0.0
    pause: float = 0.0
    stall_after: int | None = None
    cut_after: int | None = None
    when: str | None = None
    path: str | None = None
    times: int | None = 1

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any]) -> "Reply":
        """Read a reply from JSON.

        Args:
            data: The parameters by name.

        Raises:
            ValueError: If a name is unknown; the message lists the known ones.
        """
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise ValueError(
                f"a scripted reply has no field {unknown[0]!r}; it has {', '.join(sorted(known))}"
            )
        values = dict(data)
        if isinstance(values.get("raw"), str):
            values["raw"] = values["raw"].encode()
        return cls(**values)

    def matches(self, request: Json) -> bool:
        """Whether a request gets this reply."""
        if self.when is None:
            return True
        messages = cast("list[Json]", request.get("messages") or [{}])
        content = messages[-1].get("content") or request.get("prompt") or request.get("input") or ""
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        return re.search(self.when, text, re.IGNORECASE) is not None

    def pieces(self, serial: int) -> list[Piece]:
        """The reply as pieces; the ids of calls derive from a number unique in the script."""
        pieces: list[Piece] = [Wait(self.wait)] if self.wait else []
        if self.status >= 400:
            return [*pieces, Refusal(self.status, self.body, self.headers)]
        if self.first_wait or self.headers:
            pieces += [Headers(self.headers), Wait(self.first_wait)]
        if self.raw is not None:
            return [*pieces, Raw(self.raw)]

        words = [{"content": word} for word in re.findall(r"\S+\s*|\s+", self.text)]
        chunks: list[Piece] = [Delta(delta) for delta in self.deltas or words]
        last: Json = {"content": ""}
        if self.tool_calls:
            last["tool_calls"] = [
                _call(call, index, serial) for index, call in enumerate(self.tool_calls)
            ]
        reason = self.finish_reason or ("tool_calls" if self.tool_calls else "stop")
        chunks.append(End(reason, self.usage, last))
        for count, chunk in enumerate(chunks):
            if count == self.stall_after:
                return [*pieces, Headers(), Wait(STALL_SECONDS), Cut()]
            if count == self.cut_after:
                return [*pieces, Headers(), Cut()]
            if self.pause and count:
                pieces.append(Wait(self.pause))
            pieces.append(chunk)
        return pieces


class Script:
    """An engine that answers what a test has written down.

    A request gets the first reply that is left and matches it. Where none does, the answer is an
    error that says so.

    Example::

        Script(Reply("Good morning."), Reply(when="weather", tool_calls=[{"name": "weather"}]))
    """

    def __init__(self, *replies: Reply) -> None:
        self._replies = list(replies)
        self._serial = 0

    @classmethod
    def from_file(cls, path: Path) -> "Script":
        """Read a script from a JSON file.

        Args:
            path: A file with a list of replies, each an object with the fields of `Reply`.

        Raises:
            ValueError: If the file is not such a list; the message says where.
        """
        data: object = json.loads(path.read_text())
        if not isinstance(data, list):
            raise ValueError(f"{path}: a script is a list of replies")  # noqa: TRY004
        return cls(*(Reply.from_mapping(item) for item in cast("list[Json]", data)))

    def add(self, *replies: Reply) -> None:
        """Append replies."""
        self._replies += replies

    def clear(self) -> None:
        """Remove the remaining replies."""
        self._replies = []

    async def answer(self, request: Json) -> AsyncIterator[Piece]:
        """Answer with the first remaining reply that matches."""
        path = "fim/completions" if "prompt" in request else "chat/completions"
        pieces = self.pieces_for(request, path)
        if pieces is None:
            last = request.get("messages", [])[-1:] or request.get("prompt")
            shown = json.dumps(last, ensure_ascii=False)
            error = {"object": "error", "message": f"the script has no reply for {shown}"}
            pieces = [Refusal(500, error)]
        for piece in pieces:
            yield piece
            await asyncio.sleep(0)

    def pieces_for(self, request: Json, path: str) -> list[Piece] | None:
        """Take the first remaining reply for a path (`embeddings`) and a request, if any."""
        for number, reply in enumerate(self._replies):
            if path not in (_ENGINES if reply.path is None else (reply.path,)):
                continue
            if reply.times is not None and reply.times < 1:
                continue
            if reply.matches(request):
                if reply.times is not None:
                    self._replies[number] = replace(reply, times=reply.times - 1)
                self._serial += 1
                return reply.pieces(self._serial)
        return None

    async def close(self) -> None:
        """Nothing to release."""


def _call(call: Mapping[str, Any], index: int, serial: int) -> Json:
    arguments = call.get("arguments", {})
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {
        "id": call.get("id", f"call{serial:03}{index:02}"),
        "function": {"name": call["name"], "arguments": arguments},
        "index": index,
    }
