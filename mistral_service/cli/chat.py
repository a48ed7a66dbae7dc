"""`mistral-service chat`: a conversation in the terminal."""

import asyncio
import base64
import json
import mimetypes
import time
import unicodedata
from contextlib import aclosing
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text as Line

from mistral_service.cli import tools
from mistral_service.cli.endpoint import CommandError
from mistral_service.client import MistralClient
from mistral_service.client.parameters import ChatParameters
from mistral_service.conversation.conversion import Messages
from mistral_service.reply.events import Finish, Text, Thought, ToolCall, Unreadable
from mistral_service.wire.models import fastest_effort

_MAX_ROUNDS = 5
_MAX_IMAGE_BYTES = 10_000_000  # Mistral's own limit


class Chat:
    """A conversation with a model, printed as it goes."""

    def __init__(
        self,
        client: MistralClient,
        model: str,
        console: Console,
        *,
        system: str | None = None,
        with_tools: bool = True,
    ) -> None:
        """Begin; with tools, the model may call the clock and the calculator."""
        self._messages: Messages = [{"role": "system", "content": system}] if system else []
        self._client = client
        self._model = model
        self._console = console
        self._tools = tools.TOOLS if with_tools else []
        self._image: dict[str, Any] | None = None

    def show_image(self, path: Path) -> None:
        """Attach an image to the next message.

        Raises:
            CommandError: If it is no PNG, JPEG, WebP or GIF file of at most 10 MB.
        """
        kind = mimetypes.guess_type(path.name)[0] or ""
        if kind not in ("image/png", "image/jpeg", "image/webp", "image/gif"):
            raise CommandError(f"{path} is no image: Mistral takes PNG, JPEG, WebP and GIF files.")
        try:
            data = path.read_bytes()
        except OSError as e:
            raise CommandError(f"{path} cannot be read: {e.strerror}.") from None
        if len(data) > _MAX_IMAGE_BYTES:
            raise CommandError(f"{path} has {len(data) / 1e6:.0f} MB: Mistral takes up to 10 MB.")
        url = f"data:{kind};base64,{base64.b64encode(data).decode()}"
        self._image = {"type": "image_url", "image_url": {"url": url}}

    async def say(self, words: str) -> None:
        """Send a message, and print the answer.

        Raises:
            MistralError: If there is no reply, or it is cut.
        """
        # The loop does not run while the user types: let it notice closed connections first.
        await asyncio.sleep(0.01)
        content: Any = words
        if self._image is not None:
            content = [{"type": "text", "text": words}, self._image]
            self._image = None
        self._messages.append({"role": "user", "content": content})
        for _ in range(_MAX_ROUNDS):
            if not await self._answer():
                return
        self._console.print(Line(f"(stopped after {_MAX_ROUNDS} rounds of functions)", "yellow"))

    async def _answer(self) -> bool:
        """Print one reply; returns whether it called functions, so that another follows."""
        parameters: ChatParameters = {"tools": self._tools} if self._tools else {}
        if fastest_effort(self._model):
            parameters["reasoning_effort"] = "none"
        reply = self._client.stream_chat(self._messages, model=self._model, **parameters)
        began = time.perf_counter()
        first: float | None = None
        said = ""
        calls: list[ToolCall] = []
        finish = Finish(None, self._model, None)
        try:
            async with aclosing(reply) as events:
                async for event in events:
                    if isinstance(event, Text | Thought) and first is None:
                        first = time.perf_counter() - began
                    match event:
                        case Text(text):
                            said += text
                            self._print(text)
                        case Thought(text):
                            self._print(text, "dim italic")
                        case ToolCall():
                            calls.append(event)
                        case Unreadable(markup):
                            self._print(f"(a call that cannot be read: {markup})", "yellow")
                        case Finish():
                            finish = event
        finally:
            # An interrupted or broken reply counts as far as it was printed.
            if said:
                self._messages.append({"role": "assistant", "content": said})
                self._console.print(end="" if said.endswith("\n") else "\n")
        if calls:
            self._run_calls(calls)
        took = time.perf_counter() - began
        self._console.print(Line(_footer(finish, first, took), "dim"))
        return bool(calls)

    def _run_calls(self, calls: list[ToolCall]) -> None:
        made = [
            {
                "id": call.id or f"call{len(self._messages):05}{place}",
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments or "{}"},
            }
            for place, call in enumerate(calls)
        ]
        self._messages.append({"role": "assistant", "content": "", "tool_calls": made})
        for call, sent in zip(calls, made, strict=True):
            result = tools.call(call.name, call.arguments)
            self._console.print(Line(f"→ {_shown(call)} = {_printable(result)}", "magenta"))
            self._messages.append({"role": "tool", "tool_call_id": sent["id"], "content": result})

    def _print(self, text: str, style: str = "") -> None:
        line = Line(_printable(text), style)
        self._console.print(line, end="", soft_wrap=True)


def _footer(finish: Finish, first: float | None, took: float) -> str:
    marks, usage = [finish.model], finish.usage
    if usage is not None:
        cached = f" ({usage.cached_tokens} cached)" if usage.cached_tokens else ""
        marks.append(f"{usage.prompt_tokens}{cached} + {usage.completion_tokens} tokens")
    if first is not None:
        marks.append(f"first word {first:.2f} s")
        if usage is not None and usage.completion_tokens > 1 and took > first:
            speed = (usage.completion_tokens - 1) / (took - first)
            marks.append(f"{speed:.0f} tokens a second" if speed < 1000 else "all at once")
    marks.append(f"{took:.2f} s in all")
    if finish.reason not in ("stop", "tool_calls", None):
        marks.append(f"ended by {finish.reason}")
    return "  " + " · ".join(marks)


def _shown(call: ToolCall) -> str:
    try:
        arguments: Any = json.loads(call.arguments)
        given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    except (ValueError, AttributeError):
        given = call.arguments
    return _printable(f"{call.name}({given})")


def _printable(text: str) -> str:
    """The text without control characters."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")
