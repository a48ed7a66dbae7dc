"""Between a function's note, its start and its end: what one machine did, the next one knows."""

import asyncio
from typing import Any

import pytest
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.frames.frames import FunctionCallFromLLM
from recorded import ANSWERS_WITHIN, Client, Machine, asked, recorders, redis, written
from tcp_relay import Wire
from waiting import until

from mistral_service import FunctionCallParams
from mistral_service.local import Reply
from mistral_service.reply.calls import CallLedger, PlannedCall
from mistral_service.reply.events import ToolCall
from mistral_service.reply.rounds import key_of
from mistral_service.scale.client_report import ClientReport
from mistral_service.scale.recorder import CallRecorder
from mistral_service.scale.recorders import CallRecorders
from mistral_service.scale.store import Store

__all__ = ["recorders", "redis"]  # fixtures

ONE, TWO = (
    PlannedCall("call00001", "book", {"at": "8"}),
    PlannedCall("call00002", "order", {"at": "8"}),
)


def tool(name: str, handler: Any) -> FunctionSchema:
    return FunctionSchema(name, "Does it.", {"at": {"type": "string"}}, [], handler=handler)


def calls(*names: str) -> Reply:
    return Reply(tool_calls=[{"name": name, "arguments": {"at": "8"}} for name in names])


async def books(params: FunctionCallParams) -> None:
    KEYS.append(params.idempotency_key)
    await params.result_callback("booked")


async def hangs(params: FunctionCallParams) -> None:
    await asyncio.Event().wait()


KEYS: list[str] = []


async def test_a_call_that_is_repeated_after_its_result_has_another_key_on_the_next_machine(
    serve, recorders
):
    KEYS.clear()
    tools = [tool("book", books), tool("hang", hangs)]
    mistral = serve(calls("book", "hang"), Reply("Done."), calls("book"), Reply("Again."))
    async with Machine(mistral, await recorders.open(), tools=tools) as one:
        await one.call.begin("Book a table.")
        await until(lambda: "booked" in str(one.recorder._functions.started))
        await written(one.recorder)
        async with Machine(mistral, await recorders.open(one.recorder.id), tools=tools) as two:
            await two.goes_on()
            await two.call.say("Book another one.", turns=2)
        await one.call.interrupt()
    assert len(set(KEYS)) == len(KEYS) == 2


def test_of_two_like_calls_the_one_that_was_lost_is_the_one_that_is_repeated():
    def plan(ledger: CallLedger, *ids: str) -> list[int]:
        made = ledger.plan([ToolCall(i, "book", '{"at": "8"}') for i in ids]).calls
        return [call.repetition for call in made]

    one = CallLedger()
    assert plan(one, "abcdefgh1", "abcdefgh2") == [0, 1]
    one.settle("abcdefgh2", "book", {"at": "8"})
    two = CallLedger()
    two.restore(one.snapshot())
    assert plan(one, "abcdefgh3") == plan(two, "abcdefgh3") == [0]


def test_a_call_that_is_made_for_ever_has_a_new_key_each_time():
    ledger = CallLedger()
    numbers: list[int] = []
    for n in range(1200):
        messages = [{"role": "user", "content": f"{n}"}]
        ledger.learn(messages)
        ledger.rounds.begin(messages)
        [call] = ledger.plan([ToolCall(f"call{n:05}", "next", "{}")]).calls
        ledger.settle(call.id, "next", {})
        numbers.append(call.repetition)
    for n in range(1100):  # until no like call is remembered
        messages = [{"role": "user", "content": f"other {n}"}]
        ledger.learn(messages)
        ledger.rounds.begin(messages)
        [call] = ledger.plan([ToolCall(f"more{n:05}", "other", f'{{"n": {n}}}')]).calls
        ledger.settle(call.id, "other", {"n": n})
    two = CallLedger()
    two.restore(ledger.snapshot())
    for one in (ledger, two):
        [call] = one.plan([ToolCall("last00001", "next", "{}")]).calls
        numbers.append(call.repetition)
    assert numbers[-1] == numbers[-2]
    assert len(set(numbers)) == 1201


@pytest.mark.parametrize("other", ['{"n": 1.0, "m": [2]}', '{"m":[2.0],"n":1e0}'])
def test_a_number_may_be_written_in_any_form(other):
    assert key_of("book", '{"n": 1, "m": [2]}') == key_of("book", other)
    assert key_of("book", '{"n": 1.5}') != key_of("book", '{"n": 1}')
    assert key_of("book", '{"n": true}') != key_of("book", '{"n": 1}')


async def partitioned(redis: Any, recorders: CallRecorders) -> tuple[Wire, CallRecorders]:
    wire = await Wire(redis.port).__aenter__()
    store = Store(f"redis://127.0.0.1:{wire.port}/0", timeout=ANSWERS_WITHIN)
    return wire, CallRecorders(store, codec=recorders.codec)


async def test_the_client_keeps_what_ran_before_in_the_same_partition(serve, recorders, redis):
    ran: list[str] = []

    async def runs(params: FunctionCallParams) -> None:
        ran.append(params.function_name)
        await params.result_callback(f"{params.function_name}: done")

    tools = [tool("book", runs), tool("order", runs)]
    mistral = serve(
        Reply("Hello."), calls("book"), calls("order"), Reply("Late.", wait=30), Reply("Yes.")
    )
    wire, cut_off = await partitioned(redis, recorders)
    async with Machine(mistral, await cut_off.open(), tools=tools) as one:
        one.recorder.client = client = Client()
        await one.goes_on()
        await written(one.recorder)
        wire.cut()
        await one.call.begin("Book a table, and order a taxi.")
        await until(lambda: len(asked(mistral)) == 4)
        assert ran == ["book", "order"]
        said = {"heard": "Hello.", "ended": True, "asked": "Book a table, and order a taxi."}
        recorder = await recorders.open(one.recorder.id, ClientReport(**said, note=client.note))
        async with Machine(mistral, recorder, tools=tools) as two:
            await two.goes_on()
            results = [m for m in asked(mistral)[-1]["messages"] if m["role"] == "tool"]
            assert len(results) == 2
            assert "book: done" in results[0]["content"]
        await one.call.interrupt()
        wire.heal()
    await wire.__aexit__(None, None, None)
    await cut_off.store.close()


class Stuck(Client):
    """A client that has the note, and whose answer is on its way."""

    async def store_note(self, note: str, within: float) -> bool:
        self.note = note
        await asyncio.Event().wait()
        return True


async def test_a_function_that_an_interruption_kept_from_starting_was_not_started(
    serve, recorders, redis
):
    mistral = serve(Reply("Hello."), calls("book"), Reply("Yes?"), Reply("Still here."))
    KEYS.clear()
    async with Machine(mistral, await recorders.open(), tools=[tool("book", books)]) as one:
        one.recorder.client = client = Stuck()
        await one.goes_on()
        redis.pause()
        try:
            await one.call.begin("Book a table.")
            await until(lambda: client.note)
            await one.call.interrupt()
        finally:
            redis.resume()
        await one.call.say("No, wait.")
        await written(one.recorder)
        two = await recorders.open(one.recorder.id)
        assert KEYS == []
        assert two._functions.started == {}
        await two.close(over=False)


async def noted(recorder: CallRecorder, *calls: PlannedCall) -> list[str]:
    return list(await recorder.on_function_calls(calls))


async def test_a_redis_that_lost_its_calls_proves_nothing_about_who_has_them(recorders, redis):
    one = await recorders.open()
    assert await noted(one, ONE) == []
    await recorders.open(one.id)  # another machine has it, and Redis forgets that
    redis.kill()
    redis.start()
    assert await noted(one, TWO) == [TWO.id]
    one.client = client = Client()  # which has not called another machine
    assert await noted(one, TWO) == []
    assert client.note
    await one.close(over=False)


async def test_a_machine_whose_taking_was_lost_is_not_the_owner(recorders, redis):
    one = await recorders.open()
    before = await recorders.store._redis.dump(f"call:{one.id}")
    two = await recorders.open(one.id)
    # A replica that had not heard of it took over from the master.
    await recorders.store._redis.restore(f"call:{one.id}", 60_000, before, replace=True)
    assert await noted(one, ONE) == []
    assert await noted(two, TWO) == [TWO.id]
    for recorder in (one, two):
        await recorder.close(over=False)


async def test_what_is_written_anew_is_whole_also_where_no_replica_confirms(recorders, redis):
    store = Store(f"{redis.url}?replicas=1", timeout=ANSWERS_WITHIN)
    lonely = CallRecorders(store, codec=recorders.codec)
    recorder = await lonely.open()
    recorder._snapshot.turn = 3
    redis.kill()
    redis.start()
    assert await noted(recorder, ONE) == [ONE.id]
    assert await store._redis.hexists(f"call:{recorder.id}", "snapshot")
    await recorder.close(over=False)
    await store.close()


async def test_what_cannot_have_an_effect_needs_no_note(serve, recorders, redis):
    mistral = serve(calls("no_such_function"), Reply("There is none."))
    async with Machine(mistral, await recorders.open()) as one:
        redis.pause()
        try:
            await one.call.say("Do it.", turns=2)
        finally:
            redis.resume()
        [result] = [m for m in asked(mistral)[-1]["messages"] if m["role"] == "tool"]
        assert "not available now" not in result["content"]


async def test_a_function_that_the_bot_itself_calls_is_noted_too(serve, recorders, redis):
    KEYS.clear()
    mistral = serve(Reply("Hello."), Reply("Not now."))
    async with Machine(mistral, await recorders.open(), tools=[tool("book", books)]) as one:
        await one.goes_on()
        context = one.call.context
        own = FunctionCallFromLLM("book", "call00001", {"at": "8"}, context)
        redis.pause()
        try:
            await one.service.run_function_calls([own])
            await one.call.until(lambda: "Not now." in one.call.words)
        finally:
            redis.resume()
    assert KEYS == []


async def test_a_call_of_which_only_the_client_has_a_note_goes_on(serve, recorders, redis):
    """Redis knows that there is such a call, and no turn of it."""
    KEYS.clear()
    mistral = serve(calls("book"), Reply("Late.", wait=30), Reply("It may be booked."))
    wire, cut_off = await partitioned(redis, recorders)
    tools = [tool("book", books)]
    async with Machine(mistral, await cut_off.open(), tools=tools) as one:
        one.recorder.client = client = Client()
        wire.cut()
        await one.call.begin("Book a table.")
        await until(lambda: len(asked(mistral)) == 2)
        async with Machine(
            mistral,
            await recorders.open(one.recorder.id, ClientReport(note=client.note)),
            tools=tools,
        ) as two:
            await two.goes_on()
            assert [m["role"] for m in asked(mistral)[-1]["messages"]].count("tool") == 1
        await one.call.interrupt()
        wire.heal()
    await wire.__aexit__(None, None, None)
    await cut_off.store.close()
    assert len(KEYS) == 1
