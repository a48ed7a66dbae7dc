"""What a caller hears of unclean streams, from Pipecat's own Mistral service and ours.

Every row is a scripted stream from the strict local endpoint, through a real pipeline, with the
function `get_weather(city)` registered. Prints the table of `docs/dialects.md`.
"""

import asyncio
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
os.environ.pop("MISTRAL_BASE_URL", None)

from loguru import logger

logger.remove()
warnings.simplefilter("ignore")

from call import Call  # noqa: E402
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema  # noqa: E402
from pipecat.adapters.llm.schemas.tools_schema import ToolsSchema  # noqa: E402
from pipecat.frames.frames import LLMFullResponseEndFrame  # noqa: E402
from pipecat.services.llm_service import FunctionCallParams, LLMService  # noqa: E402
from pipecat.services.mistral.llm import MistralLLMService as Theirs  # noqa: E402

from mistral_service import MistralLLMService as Ours  # noqa: E402
from mistral_service.local import Checks, LocalMistral, Reply, Script  # noqa: E402

CALL = '{"name": "get_weather", "arguments": {"city": "Oslo"}}'
ARGUMENTS = '{"city": "Oslo"}'
LAST = Reply("It rains.", times=None)
QUIET_S = 3.0
MOST_RUNS = 100


def text(*pieces: str, **options: Any) -> Reply:
    return Reply(deltas=[{"content": piece} for piece in pieces], **options)


def call(index: int, call_id: str | None, name: str, arguments: str) -> dict[str, Any]:
    piece: dict[str, Any] = {"index": index, "function": {"name": name, "arguments": arguments}}
    return {"tool_calls": [piece | ({"id": call_id} if call_id else {})]}


def calls(*pieces: dict[str, Any], **options: Any) -> Reply:
    return Reply(deltas=pieces, finish_reason="tool_calls", **options)


ROWS: dict[str, list[Reply]] = {
    "`[TOOL_CALLS] [{…}]`, split within the marker": [
        text("[TOOL_CA", f"LLS] [{CALL}]"),
        LAST,
    ],
    "`[TOOL_CALLS]get_weather[ARGS]{…}`": [text(f"[TOOL_CALLS]get_weather[ARGS]{ARGUMENTS}"), LAST],
    "`<tool_call>{…}</tool_call>`": [text(f"<tool_call>{CALL}</tool_call>"), LAST],
    "a fenced block of JSON": [text(f"```json\n{CALL}\n```"), LAST],
    "the same call as text and as a call": [
        Reply(
            f"[TOOL_CALLS] [{CALL}]", tool_calls=[{"name": "get_weather", "arguments": ARGUMENTS}]
        ),
        LAST,
    ],
    "half a call, then the end": [text('[TOOL_CALLS] [{"name": "get_wea'), LAST],
    "`<think>…</think>Hello.`": [text("<think>The user", " greets.</thi", "nk>Hello.")],
    "`[THINK]…[/THINK]Hello.`": [text("[THINK]The user greets.[/THINK]Hello.")],
    "a thought without its opening tag": [text("The user greets.</think>Hello.")],
    "`reasoning_content`, then `Hello.`": [
        Reply(deltas=[{"reasoning_content": "The user greets."}, {"content": "Hello."}])
    ],
    "`Hello.</s>`": [text("Hello.", "</s>")],
    "the name twice, first without arguments": [
        calls(
            call(0, "a1b2c3d4e", "get_weather", ""),
            call(0, None, "get_weather", '{"city":'),
            {"tool_calls": [{"index": 0, "function": {"arguments": '"Oslo"}'}}]},
        ),
        LAST,
    ],
    "a whole call, sent twice": [
        calls(*[call(0, "a1b2c3d4e", "get_weather", ARGUMENTS)] * 2),
        LAST,
    ],
    "2,000 calls in one reply": [
        calls(*(call(n, f"call{n:05}", "get_weather", ARGUMENTS) for n in range(2000))),
        LAST,
    ],
    "a call after every result, for ever": [
        calls(call(0, None, "get_weather", ARGUMENTS), times=None),
    ],
    "`...` and nothing else": [text("..."), LAST],
    "`The quick brown `, then `abort`": [
        text("The quick ", "brown ", finish_reason="abort"),
        text("The quick brown fox jumps."),
    ],
    "a word every 1.2 s": [
        text(*(f"{w} " for w in ["sorry", "did", "you", "mean", "the", "one"]), pause=1.2)
    ],
}


def ours(base_url: str) -> LLMService:
    return Ours(api_key="k", base_url=base_url)


def theirs(base_url: str) -> LLMService:
    return Theirs(api_key="k", base_url=base_url)


async def heard(make: Callable[[str], LLMService], replies: list[Reply]) -> str:
    """What a caller hears after one question, and how often the function ran."""
    ran = 0
    # The checks allow thoughts and prefixes: only the replies matter here.
    with LocalMistral(Script(*replies), checks=Checks(versions=["v11", "v13", "v15"])) as mistral:
        service = make(mistral.base_url)

        async def get_weather(params: FunctionCallParams) -> None:
            nonlocal ran
            ran += 1
            if ran > MOST_RUNS:
                await asyncio.sleep(3600)
            await params.result_callback({"weather": "rain"})

        service.register_function("get_weather", get_weather)
        city = {"city": {"type": "string"}}
        tools = ToolsSchema(standard_tools=[FunctionSchema("get_weather", "", city, ["city"])])
        async with Call(service, tools=tools) as conversation:
            await conversation.begin("What is the weather in Oslo?")
            seen, quiet = -1, 0.0
            while quiet < QUIET_S:
                await asyncio.sleep(0.1)
                count = len(conversation.frames) + len(conversation.told)
                quiet = quiet + 0.1 if count == seen else 0.0
                seen = count
            said = conversation.words
            errors = [str(frame.error) for frame in conversation.errors]
            ended = conversation.count(LLMFullResponseEndFrame)
    outcome = f"“{said}”" if said.strip() else "" if errors else "nothing"
    outcome += "".join(f" error: {error[:70]}" for error in errors[:1])
    runs = f", runs {'more than ' * (ran > MOST_RUNS)}{min(ran, MOST_RUNS)}×" if ran else ""
    return (
        (outcome.strip() + runs + ("" if ended else " (no end)"))
        .replace("\n", " ")
        .replace("|", "\\|")
    )


async def main() -> None:
    """Print the table."""
    print("| what the server sends | Pipecat's own | ours |\n|---|---|---|")
    for title, replies in ROWS.items():
        pipecats, own = [await heard(make, replies) for make in (theirs, ours)]
        print(f"| {title} | {pipecats} | {own} |", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
