"""Validates a request as Mistral does.

A request has to pass three sets of checks: the closed schema (422), the validators that Mistral
publishes in `mistral-common`, one for each version of its tokenizers, and the rules that the hosted
API, the servers of self-hosted models and their chat templates add. Every deployment accepts a
request that passes all of them.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

from mistral_common.exceptions import (
    InvalidAssistantMessageException,
    InvalidFunctionCallException,
    InvalidMessageStructureException,
    InvalidToolException,
    InvalidToolMessageException,
    InvalidToolSchemaException,
    MistralCommonException,
)
from mistral_common.protocol.instruct.messages import ChatMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.instruct.validator import (
    ValidationMode,
    get_validator,  # pyright: ignore[reportUnknownVariableType]
)
from mistral_common.tokens.tokenizers.base import TokenizerVersion
from pydantic import ValidationError

from mistral_service.local.endpoints import validate
from mistral_service.local.grammars import hosted_fault, self_hosted_fault
from mistral_service.local.models import MODELS, Model, find_model
from mistral_service.local.pieces import CHAT, Json, Refusal

VERSIONS = ("v3", "v7", "v11", "v13", "v15")
"""The tokenizer versions that models in use have."""

_INVALID = ("invalid_request_error", "3051")
_ORDER = ("invalid_request_message_order", "3230")
_CALL = ("invalid_function_call", "3280")
_CODES: tuple[tuple[type[MistralCommonException], tuple[str, str]], ...] = (
    (InvalidMessageStructureException, _ORDER),
    (InvalidFunctionCallException, _CALL),
    (InvalidToolMessageException, _CALL),
    (InvalidAssistantMessageException, ("invalid_request_assistant_message", "3240")),
    (InvalidToolException, ("invalid_tool", "3290")),
    (InvalidToolSchemaException, ("invalid_tool_schema", "3290")),
)

_MAX_IMAGES = 8
_MAX_IMAGE_BYTES = 10 * 1024 * 1024
_MAX_IMAGE_SIDE = 10_000

_EFFORTS = ("none", "high")


@dataclass(frozen=True)
class Checks:
    """What requests are validated against.

    Parameters:
        versions: The tokenizer versions whose validators must all accept: a subset of `VERSIONS`.
        hosted: Whether the rules that the hosted API adds apply (R2, R10, R11, R13).
        templates: Whether the rules of self-hosted models' chat templates and servers apply
            (R11, R12).
        models: The models that exist.
    """

    versions: Sequence[str] = VERSIONS
    hosted: bool = True
    templates: bool = True
    models: Sequence[Model] = MODELS

    def __post_init__(self) -> None:
        for version in self.versions:
            if version not in VERSIONS:
                raise ValueError(
                    f"there is no tokenizer version {version!r}: choose of {', '.join(VERSIONS)}"
                )

    def validate(self, body: object) -> Refusal | None:
        """Validate one request.

        Args:
            body: What the client sent, decoded from JSON.

        Returns:
            The refusal, with Mistral's status and body; None if the request is accepted.
        """
        if refusal := validate(CHAT, body, self.models):
            return refusal
        request = cast("Json", body)
        model = cast("Model", find_model(request["model"], self.models))
        if (request.get("max_tokens") or 0) >= model.context:
            issue = {
                "type": "value_error",
                "loc": ["body", "max_tokens"],
                "msg": f"max_tokens must be less than the model's context of {model.context}",
                "input": request["max_tokens"],
            }
            return Refusal(422, {"detail": [issue]})
        effort = request.get("reasoning_effort")
        if effort is not None and effort not in _EFFORTS:
            message = f"reasoning_effort {effort!r} is not supported: choose of {_EFFORTS}"
            return Refusal.error(message, *_INVALID)
        return self._validate_messages(request)

    def _validate_messages(self, request: Json) -> Refusal | None:
        messages = cast("list[Json]", request["messages"])
        if self.hosted:
            for previous, message in pairwise(messages):
                if previous["role"] == "tool" and message["role"] == "user":
                    return Refusal.error("Unexpected role 'user' after role 'tool'", *_ORDER)
            if messages[-1].get("prefix") and request.get("tools"):
                message = "Cannot set an assistant prefix with function calling"
                return Refusal.error(message, *_INVALID)
            if refusal := _validate_images(messages):
                return refusal
        for version in self.versions:
            if refusal := _validate_as(version, request):
                return refusal
        tools = cast("list[Json]", request.get("tools") or [])
        fault = hosted_fault(tools) if self.hosted else None
        if fault is None and self.templates:
            fault = self_hosted_fault(tools, request.get("tool_choice"))
        if fault:
            return Refusal.error(fault, *_INVALID)
        return _validate_turns(messages) if self.templates else None


def _validate_as(version: str, request: Json) -> Refusal | None:
    """Run the validator that Mistral publishes for one tokenizer version."""
    messages = [_for_validator(message) for message in cast("list[Json]", request["messages"])]
    tools = cast("list[Json]", request.get("tools") or [])
    functions = [tool for tool in tools if tool.get("type", "function") == "function"]
    validator = cast(Any, get_validator(TokenizerVersion(version), ValidationMode.serving))
    try:
        # Of the parameters only the model's name is passed: the older validators refuse
        # `reasoning_effort`, which the API accepts for every model.
        validator.validate_request(
            ChatCompletionRequest[ChatMessage].model_validate(
                {"model": request["model"], "messages": messages, "tools": functions or None}
            )
        )
    except MistralCommonException as e:
        kind, code = next((c for t, c in _CODES if isinstance(e, t)), _INVALID)
        return Refusal.error(str(e), kind, code)
    except ValidationError as e:
        return Refusal.error(str(e.errors()[0]["msg"]), *_INVALID)
    except (ValueError, RecursionError) as e:
        return Refusal.error(str(e), *_INVALID)
    return None


def _for_validator(message: Json) -> Json:
    """The message without what the API accepts and the validator does not know."""
    changed = {name: value for name, value in message.items() if value is not None}
    if isinstance(changed.get("content"), list):
        changed["content"] = [_part_for_validator(part) for part in changed["content"]]
    if "tool_calls" in changed:
        changed["tool_calls"] = [
            {name: value for name, value in call.items() if name != "index" and value is not None}
            for call in changed["tool_calls"]
        ]
    return changed


def _part_for_validator(part: Json) -> Json:
    if part["type"] == "thinking":
        words = "".join(item.get("text", "") for item in part["thinking"])
        return {"type": "thinking", "thinking": words, "closed": part.get("closed", True)}
    if part["type"] in ("document_url", "reference", "file", "resource", "resource_link"):
        return {"type": "text", "text": part["type"]}
    return part


def _validate_images(messages: list[Json]) -> Refusal | None:
    """R10: the number and size of images."""
    parts = [
        part["content"] if part["type"] == "resource" else part
        for message in messages
        if isinstance(message.get("content"), list)
        for part in message["content"]
    ]
    images = [part["image_url"] for part in parts if part["type"] == "image_url"]
    urls = [image if isinstance(image, str) else image["url"] for image in images]
    if len(urls) > _MAX_IMAGES:
        message = f"At most {_MAX_IMAGES} images are allowed in a request, got {len(urls)}"
        return Refusal.error(message, *_INVALID)
    for url in urls:
        if fault := _image_fault(url):
            return Refusal.error(fault, "invalid_request_error", "3310")
    return None


def _image_fault(url: str) -> str | None:
    if not url.startswith("data:"):
        fetched = url.startswith(("http://", "https://"))
        return None if fetched else f"Image could not be loaded: {url[:80]}"
    # Imported late: an endpoint that never sees an image needs no imaging library.
    from PIL import Image

    try:
        data = base64.b64decode(url.partition(",")[2], validate=True)
        if len(data) > _MAX_IMAGE_BYTES:
            return f"Image has {len(data)} bytes, more than the {_MAX_IMAGE_BYTES} allowed"
        with Image.open(io.BytesIO(data)) as image:
            side = max(image.size)
    except (Image.DecompressionBombError, OSError, ValueError):
        return "Image could not be decoded"
    if side > _MAX_IMAGE_SIDE:
        return f"Image side of {side} px is over {_MAX_IMAGE_SIDE} px"
    return None


def _validate_turns(messages: list[Json]) -> Refusal | None:
    """R12: user and assistant alternate, calls and results aside, and the user begins."""
    expected = "user"
    leading = True
    for message in messages:
        role = message["role"]
        if role == "system" and leading:
            continue
        leading = False
        if role == "tool" or (role == "assistant" and message.get("tool_calls")):
            continue
        if role != expected:
            text = (
                "After the optional system message, conversation roles must alternate "
                f"user/assistant/user/assistant/...; expected {expected}, got {role}"
            )
            return Refusal.error(text, *_ORDER)
        expected = "assistant" if expected == "user" else "user"
    return None
