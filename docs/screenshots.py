"""Makes the images of the terminal in docs/images: `make screenshots`.

The commands run for real, against the strict local endpoint; what they print is kept as SVG.
"""

import asyncio
import re
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from mistral_service.cli import checks, doctor, lint
from mistral_service.cli.chat import Chat
from mistral_service.cli.endpoint import Endpoint
from mistral_service.local import LocalMistral, Reply, Script

IMAGES = Path(__file__).parent / "images"
MODEL = "mistral-small-latest"
HISTORY = [
    {"role": "user", "content": "Is it raining in Paris?"},
    {
        "role": "assistant",
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "weather", "arguments": "{}"},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    {"role": "user", "content": "Thanks."},
    {"role": "system", "content": "Say goodbye."},
]


def _console() -> Console:
    return Console(record=True, width=104, force_terminal=True, color_system="truecolor")


def _typed(console: Console, command: str) -> None:
    console.print(Text.assemble(("$ ", "green"), (f"mistral-service {command}", "bold")))


def _save(console: Console, name: str) -> None:
    svg = console.export_svg(title="mistral-service", theme=MONOKAI, unique_id=name)
    # Fonts of the reader's own: an image should fetch nothing.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    (IMAGES / f"{name}.svg").write_text(svg)


async def _doctor() -> None:
    console = _console()
    waits = (0.31, 0.24, 0.27, 0.42, 0.25)
    script = Script(*(Reply("Hello to you.", first_wait=wait) for wait in waits))
    with LocalMistral(script) as mistral:
        _typed(console, "doctor")
        await doctor.show(checks.run_checks(Endpoint.given(mistral.base_url), MODEL), console)
    _save(console, "doctor")


def _lint() -> None:
    console = _console()
    _typed(console, "lint history.json")
    lint.show(lint.lint(HISTORY), "history.json", console)
    _save(console, "lint")


async def _chat() -> None:
    console = _console()
    question = "What is 17 times 23, and is that a prime?"
    call = {"name": "calculator", "arguments": {"expression": "17 * 23"}}
    script = Script(
        Reply(tool_calls=[call], first_wait=0.2),
        Reply("It is 391, and no prime: 17 and 23 divide it.", first_wait=0.24, pause=0.02),
        Reply("You are welcome.", first_wait=0.2, pause=0.02),
    )
    with LocalMistral(script) as mistral:
        async with Endpoint.given(mistral.base_url).client() as client:
            chat = Chat(client, MODEL, console)
            _typed(console, "chat")
            for words in (question, "Thanks."):
                console.print(Text.assemble(("you › ", "bold cyan"), words))
                await chat.say(words)
    _save(console, "chat")


if __name__ == "__main__":
    asyncio.run(_doctor())
    _lint()
    asyncio.run(_chat())
