"""The endpoints: the forms of their requests, and the answers that no model gives.

The schemas are those of the official `mistralai` SDK, closed as the API's are; the limits are those
that the API's errors name.
"""

import base64
import json
import re
import struct
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, Field

from mistral_service.local.models import Model, find_model
from mistral_service.local.pieces import CHAT, Json, Refusal
from mistral_service.local.schema import ChatCompletionRequest, Sampled, issues_of
from mistral_service.local.schema_messages import Closed, Message

DIMENSIONS = 1024
"""Numbers in a vector of `mistral-embed`."""

MAX_INPUTS = 512
"""Texts of one request: `Too many inputs in request, split into more batches.` (code 3210)."""

MAX_BATCH_TOKENS = 16_384
"""Tokens of one request: `Too many tokens overall, split into more batches.` (code 3210)."""

MAX_INPUT_TOKENS = 8192
"""Tokens of one text: `mistral-embed`'s context."""

_TOO_MUCH = ("invalid_request_prompt", "3210")


class EmbeddingRequest(Closed):
    """The body of `POST /v1/embeddings`."""

    model: str
    input: str | Annotated[list[str], Field(min_length=1)]
    metadata: Json | None = None
    output_dimension: int | None = Field(default=None, gt=0)
    output_dtype: Literal["float", "int8", "uint8", "binary", "ubinary"] = "float"
    encoding_format: Literal["float", "base64"] = "float"


class FIMCompletionRequest(Sampled):
    """The body of `POST /v1/fim/completions`."""

    prompt: str
    suffix: str | None = None


class ModerationRequest(Closed):
    """The body of `POST /v1/moderations`."""

    model: str
    input: str | list[str]
    metadata: Json | None = None


class ChatModerationRequest(Closed):
    """The body of `POST /v1/chat/moderations`."""

    model: str
    input: list[Message] | list[list[Message]]


FORMS: Mapping[str, type[BaseModel]] = {
    CHAT: ChatCompletionRequest,
    "fim/completions": FIMCompletionRequest,
    "embeddings": EmbeddingRequest,
    "moderations": ModerationRequest,
    "chat/moderations": ChatModerationRequest,
}
"""The form of a request's body, by endpoint."""


def validate(path: str, body: object, models: Sequence[Model]) -> Refusal | None:
    """Validate the form, the model and the size of a request to one of `FORMS`."""
    if issues := issues_of(body, FORMS[path]):
        return Refusal(422, {"detail": issues})
    request = cast("Json", body)
    if find_model(request["model"], models, path) is None:
        return Refusal.error(f"Invalid model: {request['model']}", "invalid_model", "1500")
    return _embedding_refusal(request) if path == "embeddings" else None


def _embedding_refusal(request: Json) -> Refusal | None:
    if request.get("output_dimension") or request.get("output_dtype", "float") != "float":
        message = f"{request['model']} does not support output_dimension or output_dtype"
        return Refusal.error(message, "invalid_request_error", "3051")
    texts = texts_of(request)
    if len(texts) > MAX_INPUTS:
        return Refusal.error("Too many inputs in request, split into more batches.", *_TOO_MUCH)
    tokens = [_tokens(text) for text in texts]
    for number, count in enumerate(tokens):
        if count > MAX_INPUT_TOKENS:
            message = f"Input id {number} has {count} tokens, exceeding max {MAX_INPUT_TOKENS}."
            return Refusal.error(message, *_TOO_MUCH)
    if sum(tokens) > MAX_BATCH_TOKENS:
        return Refusal.error("Too many tokens overall, split into more batches.", *_TOO_MUCH)
    return None


# --- the answers --------------------------------------------------------------------------------


def embeddings(request: Json) -> Json:
    """Answer a request for vectors: MiniLM's, with zeros up to Mistral's length.

    Raises:
        ModelNotLoaded: If the model's package is not installed.
    """
    # Imported late: numpy is needed for vectors only.
    from mistral_service.local.minilm import Array, embed

    def encoded(vector: Array) -> str | list[float]:
        numbers = [*map(float, vector), *[0.0] * (DIMENSIONS - len(vector))]
        if request.get("encoding_format") != "base64":
            return numbers
        return base64.b64encode(struct.pack(f"<{DIMENSIONS}f", *numbers)).decode()

    texts = texts_of(request)
    tokens = sum(map(_tokens, texts))
    return {
        "id": uuid.uuid4().hex,
        "object": "list",
        "model": request["model"],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0},
        "data": [
            {"object": "embedding", "embedding": encoded(vector), "index": index}
            for index, vector in enumerate(embed(texts))
        ],
    }


_WORDS = {
    "sexual": "porn|nude|sex",
    "hate_and_discrimination": "hate|inferior|vermin",
    "violence_and_threats": "kill|murder|stab|shoot|bomb|beat you",
    "dangerous_and_criminal_content": "bomb|explosive|launder|counterfeit|steal",
    "selfharm": "suicide|kill myself|hurt myself|cut myself",
    "health": "diagnos|dosage|prescri|symptom",
    "financial": "invest|stock tip|guaranteed return",
    "law": "sue|lawsuit|legal advice",
    "pii": r"passport|social security|credit card|\d{4}[ -]\d{4}[ -]\d{4}",
}
CATEGORIES = tuple(_WORDS)
"""The categories of Mistral's moderation, in its order."""

_SURE, _UNLIKELY = 0.98, 0.01


def moderations(request: Json) -> Json:
    """Answer a request to moderate texts or conversations.

    The scores come from a list of words, so the same text always has the same scores. Of a
    conversation, the last message is moderated, as at Mistral.
    """
    return {
        "id": uuid.uuid4().hex,
        "model": request["model"],
        "results": [_moderation(text) for text in texts_of(request)],
    }


def _moderation(text: str) -> Json:
    scores = {
        category: _SURE if re.search(rf"\b(?:{words})", text, re.IGNORECASE) else _UNLIKELY
        for category, words in _WORDS.items()
    }
    return {
        "categories": {category: score > 0.5 for category, score in scores.items()},
        "category_scores": scores,
    }


COMPUTED: Mapping[str, Callable[[Json], Json]] = {
    "embeddings": embeddings,
    "moderations": moderations,
    "chat/moderations": moderations,
}
"""What computes an answer, by endpoint; the engine answers the others."""


def texts_of(request: Json) -> list[str]:
    """The texts of a request, or the last message of each of its conversations."""
    given: Any = request["input"]
    if isinstance(given, str):
        return [given]
    if given and isinstance(given[0], dict):
        given = [given]
    return [item if isinstance(item, str) else _last_words(item) for item in given]


def _last_words(messages: list[Json]) -> str:
    content = messages[-1].get("content") or "" if messages else ""
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def _tokens(text: str) -> int:
    """An estimate, four bytes a token, without a tokenizer."""
    return len(text.encode("utf-8", "replace")) // 4 + 1
