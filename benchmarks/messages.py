"""What converting a history costs, compared with Pipecat: `python benchmarks/messages.py`.

Both adapters convert the same context in the same run, alternating; the table has the medians of
the CPU time, and of the ratios of each pair. The history is that of a voice agent: a system
message, then turns of user and assistant, every tenth with a function call and its result.
"""

import argparse
import asyncio
import random
import statistics
import time
import warnings

from loguru import logger

logger.remove()
warnings.simplefilter("ignore")

from pipecat.adapters.llm.services.mistral_adapter import MistralLLMAdapter as Theirs  # noqa: E402
from pipecat.processors.aggregators.llm_context import LLMContext  # noqa: E402

from mistral_service import MistralLLMAdapter as Ours  # noqa: E402
from mistral_service.local import Checks  # noqa: E402

SIZES = (10, 100, 1000)


def history(size: int, *, call_id: str = "abcdefgh1") -> list[dict]:
    messages: list[dict] = [{"role": "system", "content": "You are brief. " * 20}]
    turn = 0
    while len(messages) < size - 1:
        turn += 1
        messages.append({"role": "user", "content": f"Question {turn}? " * 5})
        if turn % 10 == 0:
            function = {"name": "weather", "arguments": '{"city": "Rome"}'}
            call = {"id": call_id, "type": "function", "function": function}
            messages.append({"role": "assistant", "tool_calls": [call]})
            messages.append({"role": "tool", "tool_call_id": call_id, "content": '{"sky": "blue"}'})
        messages.append({"role": "assistant", "content": f"Answer {turn}. " * 8})
    messages.append({"role": "user", "content": "And now?"})
    return messages


async def cost(adapter: Ours | Theirs, context: LLMContext, rounds: int) -> float:
    """Microseconds of CPU for one conversion."""
    before = time.process_time()
    for _ in range(rounds):
        await adapter.get_llm_invocation_params(context, convert_developer_to_user=True)
    return (time.process_time() - before) / rounds * 1e6


def random_history(rng: random.Random) -> list[dict]:
    """A realistic history: interrupted, trimmed, with late results and foreign ids."""
    messages: list[dict] = []
    if rng.random() < 0.5:
        messages.append({"role": "system", "content": "Be brief."})
    for turn in range(rng.randint(1, 6)):
        kind = rng.choice(["talk", "talk", "greet", "instruct", "call", "cut", "lone", "two"])
        call_id = rng.choice(["abcdefgh1", "call_9aF3", "toolu_01A"]) if turn else "abcdefgh1"
        function = {"name": "weather", "arguments": "{}"}
        call = {"id": call_id, "type": "function", "function": function}
        made = {"role": "assistant", "tool_calls": [call]}
        result = {"role": "tool", "tool_call_id": call_id, "content": '"sunny"'}
        user, said = {"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Yes."}
        messages += {
            "talk": [user, said],
            "greet": [said],
            "instruct": [{"role": rng.choice(["system", "developer"]), "content": "Be kind."}],
            "call": [user, made, result, said],
            "cut": [user, made, user],
            "lone": [result],
            "two": [user, user],
        }[kind]
    if rng.random() < 0.7:
        messages.append({"role": "user", "content": "And now?"})
    return messages


async def accepted(adapter: Ours | Theirs, count: int) -> int:
    """The number of random histories, of `count`, that pass every check."""
    rng, checks, good = random.Random(7), Checks(), 0
    for _ in range(count):
        context = LLMContext(messages=random_history(rng))
        params = await adapter.get_llm_invocation_params(context, convert_developer_to_user=True)
        body = {"model": "mistral-small-latest", "messages": params["messages"]}
        good += bool(params["messages"]) and checks.validate(body) is None
    return good


async def main(times: int) -> None:
    print("| | ours | Pipecat's own | ratio |\n|---|---|---|---|")
    ours, theirs = Ours(), Theirs()
    for size in SIZES:
        context = LLMContext(messages=history(size))
        rounds = max(3, 3000 // size)
        pairs = [
            (await cost(ours, context, rounds), await cost(theirs, context, rounds))
            for _ in range(times)
        ]
        mine, other = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        print(
            f"| CPU to convert {size:,} messages (µs) | {mine:,.0f} | {other:,.0f} | {ratio:.2f}× |"
        )
    count = 1000
    a, b = await accepted(ours, count), await accepted(theirs, count)
    print(
        "| random histories that pass Mistral's validators, hosted rules and templates, of "
        f"{count:,} | {a:,} | {b:,} | |"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5, help="runs of each (default: 5)")
    asyncio.run(main(parser.parse_args().times))
