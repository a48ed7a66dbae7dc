"""What a context needs of a model, for the choice of a fallback."""

from typing import Any, cast

from pipecat.processors.aggregators.llm_context import LLMContext, LLMSpecificMessage

from mistral_service.conversation.conversion import Conversion
from mistral_service.conversation.foreign import in_mistrals_form
from mistral_service.settings import given
from mistral_service.turn.router import Needs


def needs_of(context: LLMContext) -> Needs:
    """What a conversation needs of the model that answers it."""
    return Needs(bool(given(context.tools)), lambda: _has_images(context))


def _has_images(context: LLMContext) -> bool:
    messages = [m for m in context.get_messages() if not isinstance(m, LLMSpecificMessage)]
    for message in in_mistrals_form(cast("list[dict[str, Any]]", messages), Conversion()):
        content = message.get("content")
        if isinstance(content, list) and any(map(_is_image, cast("list[Any]", content))):
            return True
    return False


def _is_image(part: Any) -> bool:
    if not isinstance(part, dict):
        return False
    fields = cast("dict[str, Any]", part)
    file: Any = fields.get("file")
    if fields.get("type") in ("file_base64", "file_url") and isinstance(file, dict):
        kind = cast("dict[str, Any]", file).get("mime_type")
        return str(kind).startswith("image/")
    return fields.get("type") == "image_url"
