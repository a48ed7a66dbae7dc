"""Rewrites Mistral's streams into the format of another server."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mistral_service.local.pieces import Json
from mistral_service.wire.trees import object_of


@dataclass(frozen=True)
class StreamFormat:
    """The format of a server's streams; by default Mistral's.

    Parameters:
        role: Whether the first chunk has the role.
        first: The content of the first chunk: `empty`, `null`, `absent`, or `words` of the reply.
        last: The content of the chunk with the finish_reason; `none` where no chunk has one.
        usage: Where the usage is reported: in the chunk with the finish_reason (`finish`), in a
            chunk of its own (`after`), in every chunk (`every`), or only on request (`never`).
        done: Whether `[DONE]` ends a stream.
    """

    role: bool = True
    first: str = "empty"
    last: str = "empty"
    usage: str = "finish"
    done: bool = True


class StreamRewriter:
    """Rewrites the chunks of one stream."""

    def __init__(self, form: StreamFormat, request: Mapping[str, Any]) -> None:
        """Prepare.

        Args:
            form: The format of the stream.
            request: The request's body: `stream_options` may ask for the usage.
        """
        self._form = form
        asked = bool(object_of(request.get("stream_options")).get("include_usage"))
        self._usage = "after" if asked and form.usage == "never" else form.usage
        self._held: list[Json] = []
        self._begun = False

    def chunks(self, chunks: list[Json]) -> list[Json]:
        """The chunks as the server sends them; some are held until the next call.

        Args:
            chunks: What Mistral sends next.
        """
        rewritten: list[Json] = []
        for chunk in chunks:
            delta: Json = chunk["choices"][0]["delta"]
            if not self._begun:
                self._begun = True
                _set(delta, self._form.first)
                if not self._form.role:
                    delta.pop("role", None)
                (self._held if self._form.first == "words" else rewritten).append(chunk)
                continue
            if self._held:
                _join(self._held.pop(), chunk)
            if chunk["choices"][0]["finish_reason"] is not None:
                rewritten += self._ended(chunk)
            elif self._form.last == "words" and "tool_calls" not in delta:
                self._held.append(chunk)  # it may be the last one
            else:
                rewritten.append(chunk)
            if self._usage == "every":
                for each in rewritten:
                    each.setdefault("usage", {"prompt_tokens": 1, "completion_tokens": 1})
        return rewritten

    def _ended(self, chunk: Json) -> list[Json]:
        delta = chunk["choices"][0]["delta"]
        if not delta.get("content"):
            _set(delta, self._form.last)
        if self._form.last == "none":
            chunk["choices"][0]["finish_reason"] = None
        usage = chunk.pop("usage", None)
        if self._usage in ("finish", "every"):
            chunk["usage"] = usage
        elif self._usage == "after":
            return [chunk, {**chunk, "choices": [], "usage": usage}]
        return [chunk]


def _set(delta: Json, content: str) -> None:
    if content == "null":
        delta["content"] = None
    elif content in ("absent", "words"):
        delta.pop("content", None)


def _join(before: Json, chunk: Json) -> None:
    """Prepend the content of an earlier chunk to a chunk."""
    first, second = before["choices"][0]["delta"], chunk["choices"][0]["delta"]
    content = second.get("content")
    words = first.get("content")
    second |= {k: v for k, v in first.items() if k not in second}
    if words and not content:
        second["content"] = words
    elif isinstance(words, str) and isinstance(content, str):
        second["content"] = words + content
