"""Mistral's wire format of a reply: the chunks of a stream, or one whole object."""

import json
import time
import uuid
from typing import Any, cast

from mistral_service.local.pieces import Delta, End, Json, usage_of

_MOST_CHOICES = 16
"""Choices that one request gets at most; they are all the same."""


class ReplyFormat:
    """Formats the pieces of one reply."""

    def __init__(self, request: Json) -> None:
        self._request = request
        self._head: Json = {
            "id": uuid.uuid4().hex,
            "object": "chat.completion",
            "created": int(time.time()),
            "model": request["model"],
        }
        self._begun = False
        self._words: list[str] = []
        self._parts: list[Any] = []
        self._calls: list[Json] = []
        self._finish_reason: str | None = None
        self._usage: Json | None = None

    def chunks(self, piece: Delta | End) -> list[Json]:
        """The chunks of a piece; the first piece is preceded by the chunk with the role."""
        self.gather(piece)
        chunks: list[Json] = []
        if not self._begun:
            self._begun = True
            chunks.append(self._chunk({"role": "assistant", "content": ""}))
        chunk = self._chunk(piece.delta)
        if isinstance(piece, End):
            chunk["choices"][0]["finish_reason"] = piece.finish_reason
            chunk["usage"] = self._usage
        chunks.append(chunk)
        return chunks

    def gather(self, piece: Delta | End) -> None:
        """Add a piece to the whole."""
        content = piece.delta.get("content")
        if isinstance(content, str):
            self._words.append(content)
        elif isinstance(content, list):
            self._parts += cast("list[Any]", content)
        self._calls += piece.delta.get("tool_calls") or []
        if isinstance(piece, End):
            self._finish_reason = piece.finish_reason
            self._usage = piece.usage or self._estimated_usage()

    def whole(self) -> Json:
        """The reply to a request that is not streamed."""
        words = "".join(self._words)
        content: Any = words
        if self._parts:
            content = [*self._parts, {"type": "text", "text": words}] if words else self._parts
        calls = self._calls or None
        message: Json = {"role": "assistant", "content": content, "tool_calls": calls}
        asked: object = self._request.get("n")
        count = min(asked, _MOST_CHOICES) if isinstance(asked, int) and asked > 0 else 1
        return {
            **self._head,
            "usage": self._usage or self._estimated_usage(),
            "choices": [
                {"index": index, "message": message, "finish_reason": self._finish_reason}
                for index in range(count)
            ],
        }

    def _chunk(self, delta: Json) -> Json:
        return {
            **self._head,
            "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": delta, "finish_reason": None}],
        }

    def _estimated_usage(self) -> Json:
        """An estimate, four characters a token, without a tokenizer."""
        prompt = self._request.get("messages") or self._request.get("prompt")
        written = len("".join(self._words)) + len(json.dumps(self._calls))
        return usage_of(len(json.dumps(prompt, ensure_ascii=False)) // 4, max(written // 4, 1))
