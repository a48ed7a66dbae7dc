"""What a small model cannot do by itself: call functions, see, and go on where it was cut.

The model of the offline demo has 135 million parameters. So a question that asks for one of the
demo's functions is recognised by its words, and what a function returns is put into a sentence
here. The page says so. A model of one's own (`--model`) calls functions itself, as far as it can;
no local model sees.
"""

import base64
import io
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from PIL import Image, UnidentifiedImageError

from mistral_service.local.pieces import Engine, Json, Piece
from mistral_service.local.script import Reply
from mistral_service.wire.servers import CONTINUE_TEXT
from mistral_service.wire.trees import last_of, object_of, objects_of

SCRIPTED = "This answer is scripted: the offline model has no eyes."

_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"a": 1, "an": 1, **{word: number for number, word in enumerate(_WORDS)}}
_UNITS = {"second": 1, "minute": 60, "hour": 3600}
_AMOUNT = rf"\d{{1,4}}|{'|'.join(_NUMBERS)}"
_DURATION = re.compile(rf"\b({_AMOUNT})\W+({'|'.join(_UNITS)})s?\b", re.I)
_TIMER = re.compile(r"\b(timer|alarm|countdown|wake me)\b", re.I)
_NOTE = re.compile(
    r"\b(?:(?:take|make) a note(?: that| to| of)?|note that|remember)\b\W*(.*)", re.I
)
_WEATHER = re.compile(r"\b(weather|rain|raining|sunny|umbrella|how (?:warm|cold|hot))\b", re.I)
_TOWN = re.compile(r"\b(?:in|at|of|for) ((?:[A-Z][\w'-]+ ?)+)")
_LOOK = re.compile(r"\b(what (?:do|can) you see|look at|can you see|camera|show you)\b", re.I)

HOME = "Port Amber"
"""The town whose weather is meant where none is named; there is no such town."""


class SmallModel:
    """An engine that helps a small model: see this module."""

    def __init__(self, engine: Engine, *, calls: bool) -> None:
        """Lie over a model, and call functions for it, or (`calls=False`) leave them to it."""
        self._engine = engine
        self._calls = calls
        self._serial = 0

    async def answer(self, request: Json) -> AsyncIterator[Piece]:
        """Answer with a scripted reply where there is one, else with the model's."""
        reply = image_reply(request)
        if reply is None and self._calls:
            reply = scripted_reply(request)
            # A model that cannot call would only be confused by them.
            request = {k: v for k, v in request.items() if k not in ("tools", "tool_choice")}
        self._serial = (self._serial + 1) % 1000
        if reply is not None:
            for piece in reply.pieces(self._serial):
                yield piece
            return
        async for piece in self._engine.answer(continued(request)):
            yield piece

    async def close(self) -> None:
        """Release what the model holds."""
        await self._engine.close()


def scripted_reply(request: Json) -> Reply | None:
    """The call that a question asks for, or the sentence about what a function returned."""
    last = last_of(request.get("messages"))
    content: Any = last.get("content")
    if last.get("role") == "tool":
        return Reply(said_of(str(last.get("name") or _name_of(request, last)), str(content)))
    if last.get("role") != "user":
        return None
    call = call_for(last_words(content))
    offered = {
        object_of(tool.get("function")).get("name") for tool in objects_of(request.get("tools"))
    }
    if call is None or call["name"] not in offered or request.get("tool_choice") == "none":
        return None
    return Reply(tool_calls=[call])


def last_words(content: Any) -> str:
    """What the user said last, in a message that may hold more than that.

    Where the bot was interrupted before it said anything, two messages of the user become one.
    """
    if isinstance(content, str):
        return content.strip().rpartition("\n")[2]
    parts = objects_of(content)
    return last_words(str(parts[-1].get("text") or "")) if parts else ""


def call_for(question: str) -> Json | None:
    """The function that a question asks for, with its arguments; None where it asks for none."""
    if _TIMER.search(question):
        return {"name": "set_timer", "arguments": {"seconds": seconds_in(question)}}
    if note := _NOTE.search(question):
        return {"name": "take_note", "arguments": {"text": note[1].strip() or question}}
    if _WEATHER.search(question):
        town = _TOWN.search(question)
        return {"name": "weather", "arguments": {"town": town[1].strip() if town else HOME}}
    if _LOOK.search(question):
        return {"name": "look", "arguments": {"question": question}}
    return None


def seconds_in(text: str) -> int:
    """The duration in a sentence, "one minute and 30 seconds"; ten seconds where there is none."""
    total = 0
    for amount, unit in _DURATION.findall(text.lower()):
        number = _NUMBERS[amount] if amount in _NUMBERS else int(amount)
        total += number * _UNITS[unit]
    return total or 10


def said_of(name: str, content: str) -> str:
    """A sentence about what a function returned."""
    try:
        result = object_of(json.loads(content))
    except ValueError:
        result = {}
    if "error" in result:
        return f"That did not work: {result['error']}"
    say = _SENTENCES.get(name)
    return say(result) if say and result else "That is done."


_SENTENCES: Mapping[str, Callable[[Json], str]] = {
    "weather": lambda r: f"In {r.get('town')} it is {r.get('sky')}, at {r.get('celsius')} degrees.",
    "set_timer": lambda r: f"The timer runs: {r.get('seconds')} seconds.",
    "take_note": lambda r: f"I noted: {r.get('text')}.",
    "look": lambda r: "I cannot see you. Is the camera on?",
}


def image_reply(request: Json) -> Reply | None:
    """What is said about an image with which a conversation ends, and that it is scripted."""
    parts = objects_of(last_of(request.get("messages")).get("content"))
    if not parts or parts[-1].get("type") != "image_url":
        return None
    image = parts[-1].get("image_url")
    url = image if isinstance(image, str) else object_of(image).get("url")
    said = f"{SCRIPTED} {described(str(url))}"
    # Counted without the image, whose base64 is no text: roughly, four characters a token.
    words = sum(len(str(part.get("text") or "")) for part in parts) // 4
    usage = {"prompt_tokens": words, "completion_tokens": len(said) // 4}
    return Reply(said, usage={**usage, "total_tokens": sum(usage.values())})


def described(url: str) -> str:
    """The size of an image, and whether it is light or dark: as much as a script can say."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
            width, height = image.size
            [light] = image.convert("L").resize((1, 1), Image.Resampling.BOX).tobytes()
    except (ValueError, UnidentifiedImageError, OSError):
        return "The image that arrived cannot be read."
    tone = "dark" if light < 85 else "light" if light > 170 else "neither light nor dark"
    return f"The image that arrived has {width} by {height} pixels, and is {tone}."


def continued(request: Json) -> Json:
    """A request to go on after a cut reply, as a reply that has begun: the model finishes it."""
    messages = objects_of(request.get("messages"))
    if len(messages) < 2 or messages[-1].get("content") != CONTINUE_TEXT:
        return request
    if messages[-2].get("role") != "assistant":
        return request
    return {**request, "messages": messages[:-1]}


def _name_of(request: Json, result: Json) -> str:
    """The function whose result a message is."""
    for message in objects_of(request.get("messages")):
        for call in objects_of(message.get("tool_calls")):
            if call.get("id") == result.get("tool_call_id"):
                return str(object_of(call.get("function")).get("name"))
    return ""
