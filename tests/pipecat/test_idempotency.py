"""The key by which a bot's own backend knows a call again, and the mark of what may run twice."""

import functools
from typing import Any

import pytest
from call import Call
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.services.llm_service import FunctionCallParams as PipecatFunctionCallParams

from mistral_service import FunctionCallParams, idempotent
from mistral_service.local import Reply
from mistral_service.pipecat.functions.idempotency import idempotency_key, is_idempotent
from mistral_service.reply.calls import CallLedger
from mistral_service.reply.events import ToolCall
from mistral_service.reply.rounds import key_of


def key(repetition: int = 0, conversation: str = "c", name: str = "book", **arguments: Any) -> str:
    return idempotency_key(conversation, *key_of(name, arguments), repetition)


def test_a_key_is_the_same_for_the_same_call_and_for_no_other():
    assert key(day="Friday", people=2) == key(people=2, day="Friday")
    keys = [
        key(day="Friday"),
        key(day="Monday"),
        key(1, day="Friday"),
        key(conversation="d", day="Friday"),
        key(name="cancel", day="Friday"),
        key(),
        key(day="\ud800"),
    ]
    assert len(set(keys)) == len(keys)
    assert all(len(k) == 32 and int(k, 16) >= 0 for k in keys)


def repetition(ledger: CallLedger, call_id: str, in_flight: tuple[str, ...] = ()) -> int:
    [call] = ledger.plan([ToolCall(call_id, "book", '{"day": "Friday"}')], in_flight).calls
    return call.repetition


def says(ledger: CallLedger, words: str) -> None:
    messages = [{"role": "user", "content": words}]
    ledger.learn(messages)
    ledger.rounds.begin(messages)


def test_a_call_is_a_repetition_of_those_that_are_settled_or_run_now():
    ledger = CallLedger()
    assert repetition(ledger, "abcdefgh1") == 0
    # Its result was lost, or it was cancelled: who calls again means the same.
    assert repetition(ledger, "abcdefgh2") == 0
    assert repetition(ledger, "abcdefgh3", in_flight=("abcdefgh2",)) == 1
    ledger.settle("abcdefgh3", "book", {"day": "Friday"})
    says(ledger, "Again.")
    # 1 has its result. Who calls again means one that has none.
    assert repetition(ledger, "abcdefgh4") == 0
    ledger.settle("abcdefgh4", "book", {"day": "Friday"})
    # Another machine counts alike.
    other = CallLedger()
    other.restore(ledger.snapshot())
    says(ledger, "And again.")
    says(other, "And again.")
    assert repetition(other, "abcdefgh5") == repetition(ledger, "abcdefgh5") == 2


def test_two_like_calls_of_one_reply_have_keys_of_their_own():
    calls = [ToolCall(f"abcdefgh{n}", "book", "{}") for n in range(3)]
    assert [call.repetition for call in CallLedger().plan(calls).calls] == [0, 1, 2]


def test_what_an_older_version_remembers_is_read():
    ledger = CallLedger()
    entry = {"id": "abcdefgh1", "name": "book", "arguments": "{}", "result": "done"}
    ledger.restore([{**entry, "in_context": True, "this_turn": False}])
    assert not ledger.plan([ToolCall("abcdefgh1", "book", "{}")]).error


async def book(params: FunctionCallParams, day: str) -> None:
    """Book a table.

    Args:
        day: The day.
    """
    KEYS.append(params.idempotency_key)
    await params.result_callback("done")


async def handle(params: FunctionCallParams) -> None:
    await book(params, **params.arguments)


KEYS: list[str] = []
SCHEMA = FunctionSchema("book", "Books.", {"day": {"type": "string"}}, ["day"], handler=handle)


@pytest.mark.parametrize("tool", [book, SCHEMA], ids=["direct", "schema"])
async def test_a_handler_gets_the_key(serve, service_for, tool):
    KEYS.clear()
    called = {"name": "book", "arguments": {"day": "Friday"}}
    mistral = serve(
        Reply(tool_calls=[called]), Reply("Done."), Reply(tool_calls=[called]), Reply("Done again.")
    )
    async with Call(service_for(mistral), tools=[tool]) as call:
        await call.say("Book.", turns=2)
        await call.say("Once more.", turns=2)
    assert len(set(KEYS)) == 2
    assert all(len(k) == 32 for k in KEYS)


async def test_a_call_that_failed_keeps_its_key(serve, service_for):
    keys: list[str] = []

    async def fails(params: FunctionCallParams) -> None:
        keys.append(params.idempotency_key)
        raise RuntimeError("the backend did not answer")

    called = {"name": "book", "arguments": {"day": "Friday"}}
    mistral = serve(
        Reply(tool_calls=[called]), Reply("It failed."), Reply(tool_calls=[called]), Reply("Again.")
    )
    schema = FunctionSchema("book", "Books.", {"day": {"type": "string"}}, ["day"], handler=fails)
    async with Call(service_for(mistral), tools=[schema]) as call:
        await call.say("Book.", turns=2)
        await call.say("Try again.", turns=2)
    assert len(keys) == 2
    assert len(set(keys)) == 1


def test_the_mark_is_found_however_a_handler_is_wrapped():
    @idempotent
    async def reads(params: PipecatFunctionCallParams) -> None: ...

    @functools.wraps(reads)
    async def logs(params: PipecatFunctionCallParams) -> None: ...

    class Bot:
        @idempotent
        async def look_up(self, params: PipecatFunctionCallParams) -> None: ...

        async def book(self, params: PipecatFunctionCallParams) -> None: ...

    assert all(map(is_idempotent, [reads, logs, functools.partial(reads), Bot().look_up]))
    assert not is_idempotent(Bot().book)
    assert is_idempotent(idempotent(Bot().book))
    assert not is_idempotent(None)
