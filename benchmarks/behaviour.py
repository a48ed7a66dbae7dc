"""What our service does, compared with the one that Pipecat ships: `make bench`.

Both run in the same process, alternating, several times; the table has the medians. Both talk over
real HTTP to the strict local endpoint. `speed.py` compares what they cost.
"""

import argparse
import asyncio
import os
import statistics
import sys
import time
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
os.environ.pop("MISTRAL_BASE_URL", None)

from loguru import logger

logger.remove()
warnings.simplefilter("ignore")

import psutil  # noqa: E402
from call import Call  # noqa: E402
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema  # noqa: E402
from pipecat.metrics.metrics import TTFBMetricsData  # noqa: E402
from pipecat.services.llm_service import FunctionCallParams, LLMService  # noqa: E402
from pipecat.services.mistral.llm import MistralLLMService as Theirs  # noqa: E402

from mistral_service import MistralLLMService as Ours  # noqa: E402
from mistral_service.local import LocalMistral, Reply, Script  # noqa: E402

Make = Callable[..., LLMService]
Measure = Callable[[Make], Awaitable[object]]

TOOLS = [
    FunctionSchema(name=name, description="", properties={}, required=[]) for name in ("one", "two")
]


def ours(base_url: str, **settings: object) -> LLMService:
    return Ours(api_key="k", base_url=base_url, settings=Ours.Settings(**settings))


def theirs(base_url: str, **settings: object) -> LLMService:
    return Theirs(api_key="k", base_url=base_url, settings=Theirs.Settings(**settings))


async def reported_first_byte(make: Make) -> float:
    """The reported time to first byte, in seconds, where the first word comes after 0.3 s."""
    with LocalMistral(Script(Reply(deltas=[{"content": ""}, {"content": "Hi."}], pause=0.3))) as m:
        async with Call(make(m.base_url)) as call:
            await call.say("Hello.")
    return max(data.value for data in call.metrics(TTFBMetricsData))


async def close_after_interruption(make: Make) -> float:
    """Milliseconds from an interruption to the closed connection, as the server sees it."""
    with LocalMistral(Script(Reply("One two three.", stall_after=2))) as m:
        async with Call(make(m.base_url)) as call:
            await call.begin("Count.")
            await call.until(lambda: call.words)
            began = time.monotonic()
            await call.interrupt()
            await call.until(lambda: m.exchanges[0].ended)
    return (m.exchanges[0].ended - began) * 1e3


async def sockets_left(make: Make) -> int:
    """Open sockets after ten calls have ended."""
    with LocalMistral(Script(Reply("Hi.", times=None))) as m:
        port = int(m.base_url.split(":")[2].split("/")[0])
        services = [make(m.base_url) for _ in range(10)]
        for service in services:
            async with Call(service) as call:
                await call.say("Hello.")
        await asyncio.sleep(0.2)
        return sum(
            1
            for c in psutil.Process().net_connections("tcp")
            if c.raddr and c.raddr.port == port and c.status == psutil.CONN_ESTABLISHED
        )


async def functions_run(make: Make) -> int:
    """Functions that run, of two called in one reply."""
    ran: list[str] = []

    async def handler(params: FunctionCallParams) -> None:
        ran.append(params.function_name)
        await params.result_callback("done")

    calls = [{"name": "one"}, {"name": "two"}]
    with LocalMistral(Script(Reply(tool_calls=calls), Reply("Done.", times=None))) as m:
        service = make(m.base_url)
        for name in ("one", "two"):
            service.register_function(name, handler)
        async with Call(service, tools=TOOLS) as call:
            await call.begin("Do both.")
            await asyncio.sleep(1.0)
    return len(ran)


async def turn_after_function(make: Make) -> str:
    """Whether the caller hears an answer after a function's result and another question."""
    calls = [{"name": "one"}]
    with LocalMistral(Script(Reply(tool_calls=calls), Reply("Done.", times=None))) as m:
        service = make(m.base_url)

        async def handler(params: FunctionCallParams) -> None:
            await params.result_callback("done")

        service.register_function("one", handler)
        async with Call(service, tools=TOOLS) as call:
            await call.begin("Do it.")
            await asyncio.sleep(0.8)
            await call.begin("And now?")
            await asyncio.sleep(0.5)
    return "yes" if call.words.count("Done.") == 2 else "no"


async def seed_is_sent(make: Make) -> str:
    """Whether a turn with `seed` and `max_completion_tokens` is answered, and both are sent."""
    with LocalMistral(Script(Reply("Hi."))) as m:
        async with Call(make(m.base_url, seed=7, max_completion_tokens=50)) as call:
            await call.say("Hello.")
    sent = m.exchanges[0].request if m.exchanges else {}
    right = (sent.get("random_seed"), sent.get("max_tokens")) == (7, 50)
    return "yes" if right and call.words else "no"


async def broken_call_is_reported(make: Make) -> str:
    """Whether a call with broken arguments is reported, rather than dropped in silence."""
    with LocalMistral(Script(Reply(tool_calls=[{"name": "one", "arguments": "{"}]))) as m:
        async with Call(make(m.base_url), tools=TOOLS) as call:
            await call.say("Do it.")
    return "yes" if call.errors or call.words else "no"


# The row, the measurement, its format, and whether the ratio is shown.
ROWS: list[tuple[str, Measure, str, bool]] = [
    ("reported time to first byte, words after 0.30 s (s)", reported_first_byte, "{:.2f}", False),
    ("interruption to closed connection (ms)", close_after_interruption, "{:.1f}", True),
    ("sockets left after 10 calls", sockets_left, "{}", False),
    ("functions run, of 2 called in one reply", functions_run, "{}", False),
    ("an answer after a function and a further question", turn_after_function, "{}", False),
    ("`seed` and `max_completion_tokens` are honoured", seed_is_sent, "{}", False),
    ("a call with broken arguments is reported", broken_call_is_reported, "{}", False),
]


async def main(times: int) -> None:
    print("| | ours | Pipecat's own | ratio |")
    print("|---|---|---|---|")
    for name, measure, form, with_ratio in ROWS:
        taken: dict[str, list] = {"ours": [], "theirs": []}
        for _ in range(times):
            for who, make in (("ours", ours), ("theirs", theirs)):
                taken[who].append(await asyncio.wait_for(measure(make), 60))
        shown, ratio = [], ""
        for values in taken.values():
            numbers = all(isinstance(value, int | float) for value in values)
            shown.append(form.format(statistics.median(values) if numbers else values[0]))
        if with_ratio:
            pairs = zip(taken["ours"], taken["theirs"], strict=True)
            ratio = f"{statistics.median(a / b for a, b in pairs):.2f}×"
        print(f"| {name} | {shown[0]} | {shown[1]} | {ratio} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=3, help="runs of each (default: 3)")
    asyncio.run(main(parser.parse_args().times))
