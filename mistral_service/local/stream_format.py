"""Rewrites Mistral's streams into the format of another server."""

from mistral_service.local.behaviour import Behaviour
from mistral_service.local.pieces import Json
from mistral_service.wire.trees import object_of


class StreamRewriter:
    """Rewrites the chunks of one stream; what a report does not cover stays as at Mistral.

    Attributes:
        done: Whether `[DONE]` ends the stream.
    """

    def __init__(self, behaviour: Behaviour, request: Json) -> None:
        first, last = behaviour.facts_of("first chunk"), behaviour.facts_of("last chunk")
        self._role = first.get("role", "assistant") is not None
        # `empty`, `null`, `absent`, or `words` of the reply; `none` where no chunk is the last.
        self._first = first.get("content", "empty")
        self._last = last.get("content", "empty")
        # In the chunk with the finish_reason (`finish`), in a chunk of its own (`after`), in every
        # chunk (`every`), or only on request (`never`).
        self._usage = behaviour.facts_of("usage in a stream").get("place", "finish")
        if self._usage == "never" and object_of(request.get("stream_options")).get("include_usage"):
            self._usage = "after"
        self.done = bool(behaviour.facts_of("[DONE]").get("done", True))
        self._held: list[Json] = []
        self._begun = False

    def chunks(self, chunks: list[Json]) -> list[Json]:
        """Mistral's next chunks as the server sends them; some are held until the next call."""
        rewritten: list[Json] = []
        for chunk in chunks:
            delta: Json = chunk["choices"][0]["delta"]
            if not self._begun:
                self._begun = True
                _set(delta, self._first)
                if not self._role:
                    delta.pop("role", None)
                (self._held if self._first == "words" else rewritten).append(chunk)
                continue
            if self._held:
                _join(self._held.pop(), chunk)
            if chunk["choices"][0]["finish_reason"] is not None:
                rewritten += self._ended(chunk)
            elif self._last == "words" and "tool_calls" not in delta:
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
            _set(delta, self._last)
        if self._last == "none":
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
