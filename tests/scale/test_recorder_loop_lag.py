"""No call that is kept holds up the others of its process, however large it is.

What the event loop's thread spends on one callback is measured in CPU time, and compared with a
piece of work, so that a busy machine or a slow one changes nothing. The goal is 20 ms; a test fails
above 60.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from loop_cost import BOUND, watched
from pipecat.processors.aggregators.llm_context import LLMContext, LLMSpecificMessage
from recorded import service
from scale_redis import RedisServer, redis
from waiting import until

from mistral_service.reply.calls import PlannedCall
from mistral_service.reply.events import ToolCall
from mistral_service.scale.client_report import ClientReport
from mistral_service.scale.recorder import CallRecorder
from mistral_service.scale.recorders import CallRecorders
from mistral_service.scale.sealing import Codec
from mistral_service.scale.store import Store

__all__ = ["redis"]

KEY = "bG9vcGxhZ2xvb3BsYWdsb29wbGFnbG9vcGxhZ2xvb3A="
USER = {"role": "user", "content": "What time is it?"}


@pytest.fixture
async def recorders(redis: RedisServer) -> AsyncIterator[CallRecorders]:
    store = Store(redis.url, timeout=10)
    yield CallRecorders(store, codec=Codec([KEY]))
    await store.close()


def tool_messages(size: int, count: int) -> list[Any]:
    messages: list[Any] = [dict(USER)]
    for n in range(count):
        function = {"name": "read", "arguments": json.dumps({"page": n, "text": "a" * size})}
        call = {"id": f"call{n:05}", "type": "function", "function": function}
        messages.append({"role": "assistant", "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": "b" * size})
    return [*messages, dict(USER)]


def images(size: int, count: int) -> list[Any]:
    url = {"url": "data:image/jpeg;base64," + "A" * size}
    shown = [{"type": "image_url", "image_url": url}, {"type": "text", "text": "Look."}]
    return [{"role": "user", "content": list(shown)} for _ in range(count)]


NESTED = [{"a": n, "b": [None, True, {"c": "d"}]} for n in range(60_000)]
CONTEXTS: dict[str, Callable[[], list[Any]]] = {
    "4 MB of tool messages": lambda: tool_messages(2_000, 1_000),
    "one result of 4 MB": lambda: tool_messages(4_000_000, 1),
    "20,000 short messages": lambda: [{"role": "user", "content": "word " * 20}] * 20_000,
    "eight images": lambda: images(500_000, 8),
    "a text of 4 MB": lambda: [{"role": "user", "content": "word " * 800_000}],
    "a text of 4 MB that is escaped": lambda: [{"role": "user", "content": "é " * 700_000}],
    "small values": lambda: [dict(USER), LLMSpecificMessage("mistral", {"values": NESTED})],
    "a content of many parts": lambda: [
        {"role": "user", "content": [{"type": "text", "text": f"{n}"} for n in range(90_000)]}
    ],
}


async def open_(recorders: CallRecorders, call_id: str | None = None, **heard: Any) -> CallRecorder:
    recorder = await recorders.open(call_id, ClientReport(**heard))
    recorder._has_taps = True  # there is no pipeline to listen to
    return recorder


@pytest.mark.parametrize("name", CONTEXTS)
async def test_a_large_conversation_is_kept_and_taken_over_beside_the_loop(
    name: str, recorders: CallRecorders, monkeypatch: pytest.MonkeyPatch
):
    messages = CONTEXTS[name]()
    with watched(monkeypatch) as seen:
        one = await open_(recorders)
        await one.on_turn_start(service(), LLMContext(messages))
        await until(lambda: one._writer.idle, 60)
        one.on_text("It is noon.")
        await one.on_turn_end(complete=True)
        await one.close(over=False)
        two = await open_(recorders, one.id, heard="It is noon.", ended=True)
        context = LLMContext([])
        await two.on_turn_start(service(), context)
        await until(lambda: two._writer.idle, 60)
        await two.close(over=True)
    assert context.get_messages()[-1] == {"role": "assistant", "content": "It is noon."}
    assert seen.worst < BOUND, seen


async def test_large_arguments_and_results_are_noted_beside_the_loop(
    recorders: CallRecorders, monkeypatch: pytest.MonkeyPatch
):
    large = {"values": [{"a": n, "b": "text"} for n in range(100_000)], "text": "é" * 500_000}
    with watched(monkeypatch) as seen:
        one = await open_(recorders)
        await one.on_turn_start(service(), LLMContext([dict(USER)]))
        await one.on_function_calls([PlannedCall(f"call{n:05}", "read", large) for n in range(8)])
        for n in range(8):
            await one.on_function_result(f"call{n:05}", large)
        await until(lambda: one._writer.idle, 60)
        await one.close(over=False)
    assert seen.worst < BOUND, seen


async def test_large_settings_and_a_long_ledger_are_kept_beside_the_loop(
    recorders: CallRecorders, monkeypatch: pytest.MonkeyPatch
):
    schema = {"properties": {f"name{n}": {"type": "string"} for n in range(100_000)}}
    given = service(
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        system_instruction="word " * 800_000,
        metadata={"text": "word " * 800_000},
    )
    given.ledger.plan([ToolCall(f"call{n:05}", "f", f'{{"page": {n}}}') for n in range(1000)])
    with watched(monkeypatch) as seen:
        one = await open_(recorders)
        await one.on_turn_start(given, LLMContext([dict(USER)]))
        await until(lambda: one._writer.idle, 60)
        await one.close(over=False)
    assert seen.worst < BOUND, seen


async def test_a_reply_without_an_end_costs_the_same_for_every_word(
    recorders: CallRecorders, monkeypatch: pytest.MonkeyPatch
):
    with watched(monkeypatch) as seen:
        one = await open_(recorders)
        await one.on_turn_start(service(), LLMContext([dict(USER)]))
        for n in range(3000):
            one.on_text("word " * 200)
            if n % 100 == 0:
                await asyncio.sleep(0.001)
        await until(lambda: one._writer.idle, 60)
        await one.close(over=False)
    assert len(one._journal.words) == 100_000
    assert seen.worst < BOUND, seen
