"""The pictures of a request: how many there may be."""

from mistral_service.conversation.parts import PICTURE_FROM_EARLIER, Part, as_parts, is_image
from mistral_service.conversation.run import Messages, Run


def no_more_pictures_than_allowed(messages: Messages, run: Run) -> Messages:
    """R10: a request has at most eight pictures.

    The newest stay; older ones are replaced by a short text, and the words beside them kept.
    Prevents 400 "At most 8 images are allowed".
    """
    room = run.max_images
    result: Messages = []
    for message in reversed(messages):
        content = message.get("content")
        if isinstance(content, list) and any(is_image(part) for part in as_parts(content)):
            parts: list[Part] = []
            for part in reversed(as_parts(content)):
                if is_image(part):
                    room -= 1
                    if room < 0:
                        part = {"type": "text", "text": PICTURE_FROM_EARLIER}
                parts.append(part)
            if room < 0:
                reason = f"left out pictures: there is room for {run.max_images}, the newest"
                new = {**message, "content": parts[::-1]}
                message = run.changed("R10", message, reason, new)
        result.append(message)
    return result[::-1]
