"""Function calls in a real pipeline: each runs once, and each leads to an answer."""

import asyncio
from datetime import date

import numpy as np
import pytest
from call import Call
from pipecat.frames.frames import (
    FunctionCallResultProperties,
    LLMFullResponseEndFrame,
    LLMMessagesAppendFrame,
)
from tool_calls import called, registered, tools

from mistral_service import MistralLLMService
from mistral_service.local import Reply
from mistral_service.pipecat.conversation import ContextConversation
from mistral_service.pipecat.functions.results import answerable
from mistral_service.reply.events import ToolCall


async def test_a_repeated_call_is_answered_from_its_stored_result(serve, service_for):
    mistral = serve(
        Reply(tool_calls=[called()]),
        Reply("It is done."),
        Reply("Let me look. ", tool_calls=[called()]),
        Reply("As I said, it is done."),
    )
    service = service_for(mistral)
    ran = registered(service)
    async with Call(service, tools=tools("one")) as call:
        await call.say("Do it.", turns=2)
        said = await call.say("And?")
    assert said == "Let me look. As I said, it is done."
    assert ran == ["abcdefgh1"]
    assert not call.errors
    reminder = mistral.exchanges[-1].request["messages"][-1]["content"]
    assert "one already" in reminder
    assert "already" not in str(call.context.get_messages())


async def test_a_model_that_repeats_itself_is_told_once_then_the_caller(serve, service_for):
    mistral = serve(
        Reply(tool_calls=[called()]),
        Reply("It is done."),
        Reply(tool_calls=[called()], times=None, when="."),
    )
    service = service_for(mistral)
    ran = registered(service)
    async with Call(service, tools=tools("one")) as call:
        await call.say("Do it.", turns=2)
        await call.say("And?")
        [error] = call.errors
        assert "one was called again" in error.error
        assert call.service.is_usable
    assert len(mistral.exchanges) == 4
    assert ran == ["abcdefgh1"]


async def test_a_reminder_outlasts_a_fault(serve, service_for):
    mistral = serve(
        Reply(tool_calls=[called()]),
        Reply("It is done."),
        Reply(tool_calls=[called()]),
        Reply(status=503, body={"message": "busy"}),
        Reply("As I said, it is done."),
    )
    service = service_for(mistral)
    registered(service)
    async with Call(service, tools=tools("one")) as call:
        await call.say("Do it.", turns=2)
        assert await call.say("And?") == "As I said, it is done."
    for exchange in mistral.exchanges[-2:]:
        assert "one already" in exchange.request["messages"][-1]["content"]


async def test_the_same_id_twice_in_a_reply_runs_once(serve, service_for):
    mistral = serve(Reply(tool_calls=[called(), called()]), Reply("Done."))
    service = service_for(mistral)
    ran = registered(service)
    async with Call(service, tools=tools("one")) as call:
        assert await call.say("Do it.", turns=2) == "Done."
    assert ran == ["abcdefgh1"]


async def test_like_calls_both_run_and_with_reuse_one(serve, service_for):
    for setting, runs in (("run", 2), ("reuse", 1)):
        alike = [called(), called(call_id="abcdefgh2")]
        mistral = serve(Reply(tool_calls=alike), Reply("Done."))
        service = service_for(mistral, repeated_calls=setting)
        ran = registered(service)
        async with Call(service, tools=tools("one")) as call:
            assert await call.say("Do it.", turns=2) == "Done."
        assert len(ran) == runs


async def test_broken_arguments_are_told_to_the_model_which_tries_again(serve, service_for):
    broken = {"name": "one", "id": "abcdefgh1", "arguments": "{broken"}
    mistral = serve(
        Reply(tool_calls=[broken]), Reply(tool_calls=[called(call_id="abcdefgh2")]), Reply("Done.")
    )
    service = service_for(mistral)
    ran = registered(service)
    async with Call(service, tools=tools("one")) as call:
        assert await call.say("Do it.", turns=3) == "Done."
    assert ran == ["abcdefgh2"]
    told = mistral.exchanges[1].request["messages"][-1]
    assert (told["role"], told["tool_call_id"]) == ("tool", "abcdefgh1")
    assert "{broken" in told["content"]
    assert not call.errors


async def test_broken_arguments_twice_are_told_to_the_caller(serve, service_for):
    def broken(call_id: str) -> dict:
        return {"name": "one", "id": call_id, "arguments": "[1, 2]"}

    mistral = serve(
        Reply(tool_calls=[broken("abcdefgh1")]), Reply(tool_calls=[broken("abcdefgh2")])
    )
    service = service_for(mistral)
    ran = registered(service)
    async with Call(service, tools=tools("one")) as call:
        await call.say("Do it.", turns=2)
        [error] = call.errors
        assert "[1, 2]" in error.error
    assert ran == []


async def test_a_broken_call_beside_a_good_one_is_told_in_the_same_group(serve, service_for):
    broken = {"name": "two", "id": "abcdefgh2", "arguments": "{"}
    mistral = serve(Reply(tool_calls=[called(), broken]), Reply("Half of it is done."))
    service = service_for(mistral)
    ran = registered(service)
    async with Call(service, tools=tools("one", "two")) as call:
        assert await call.say("Do both.", turns=2) == "Half of it is done."
    assert ran == ["abcdefgh1"]
    results = [m for m in mistral.exchanges[1].request["messages"] if m["role"] == "tool"]
    assert [r["tool_call_id"] for r in results] == ["abcdefgh1", "abcdefgh2"]


@pytest.mark.parametrize("first", ["broken", "at once"])
async def test_one_answer_follows_a_group_whose_first_call_ends_before_the_next_begins(
    serve, service_for, first: str
):
    begins = {"name": "one", "id": "abcdefgh1", "arguments": "{" if first == "broken" else "{}"}
    slow = called("two", "abcdefgh2")
    mistral = serve(Reply(tool_calls=[begins, slow]), Reply("All is done."), Reply("Too much."))
    service = service_for(mistral)
    registered(service)

    async def takes_time(params) -> None:
        await asyncio.sleep(0.2)
        await params.result_callback("slow")

    service.register_function("two", takes_time)
    async with Call(service, tools=tools("one", "two")) as call:
        assert await call.say("Do both.", turns=2) == "All is done."
        await asyncio.sleep(0.2)
    assert len(mistral.exchanges) == 2
    results = [m for m in mistral.exchanges[1].request["messages"] if m["role"] == "tool"]
    assert [r["tool_call_id"] for r in results] == ["abcdefgh1", "abcdefgh2"]
    assert "slow" in results[1]["content"]


async def test_news_of_nothing_is_no_result(serve, service_for):
    mistral = serve(Reply(tool_calls=[called()]), Reply("It is on its way."), Reply("Done."))
    service = service_for(mistral)

    async def reports(params) -> None:
        news = FunctionCallResultProperties(is_final=False)
        await params.result_callback(None, properties=news)
        await asyncio.sleep(0.3)
        await params.result_callback("delivered")

    service.register_function("one", reports, cancel_on_interruption=False)
    async with Call(service, tools=tools("one")) as call:
        await call.say("Deliver it.", turns=2)
        await call.until(lambda: any("delivered" in str(m) for m in call.context.get_messages()))
        assert not any("COMPLETED" in str(m) for m in call.context.get_messages())


async def test_an_unknown_function_is_told_to_the_model(serve, service_for):
    mistral = serve(Reply(tool_calls=[called("nonesuch")]), Reply("I cannot do that."))
    service = service_for(mistral)
    async with Call(service, tools=tools("one")) as call:
        assert await call.say("Do it.", turns=2) == "I cannot do that."
    assert "not currently available" in mistral.exchanges[1].request["messages"][-1]["content"]


@pytest.mark.parametrize(
    ("result", "reads"),
    [(0, "0"), ([], "[]"), ({}, "{}"), ("", '""'), (0.0, "0.0"), (None, '"COMPLETED"')],
)
async def test_a_falsy_result_gets_a_spoken_answer(serve, service_for, result, reads: str):
    mistral = serve(Reply(tool_calls=[called()]), Reply("There are none."))
    service = service_for(mistral)
    registered(service, result)
    async with Call(service, tools=tools("one")) as call:
        assert await call.say("How many?", turns=2) == "There are none."
    assert mistral.exchanges[1].request["messages"][-1]["content"] == reads


def test_a_falsy_result_stays_equal_to_itself():
    for result in (0, 0.0, "", [], {}):
        assert answerable(result) == result
        assert bool(answerable(result))
        assert isinstance(answerable(result), type(result))
    assert answerable([1]) == [1]


async def test_a_function_may_want_no_answer(serve, service_for):
    mistral = serve(Reply(tool_calls=[called()]))
    service = service_for(mistral)

    async def handler(params) -> None:
        quiet = FunctionCallResultProperties(run_llm=False)
        await params.result_callback(None, properties=quiet)

    service.register_function("one", handler)
    async with Call(service, tools=tools("one")) as call:
        await call.say("Do it.")
        await asyncio.sleep(0.3)
    assert len(mistral.exchanges) == 1


async def test_parallel_calls_run_side_by_side_and_lead_to_one_answer(serve, service_for):
    mistral = serve(
        Reply(tool_calls=[called(), called("two", "abcdefgh2")]), Reply("Both are done.")
    )
    service = service_for(mistral)
    running, most = 0, 0

    async def handler(params) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.2)
        running -= 1
        await params.result_callback("done")

    for name in ("one", "two"):
        service.register_function(name, handler)
    started: list[int] = []

    @service.event_handler("on_function_calls_started")
    async def on_started(_service, calls) -> None:
        started.append(len(calls))

    async with Call(service, tools=tools("one", "two")) as call:
        assert await call.say("Do both.", turns=2) == "Both are done."
    assert most == 2
    assert started == [2]
    assert len(mistral.exchanges) == 2


async def test_in_sequence_one_runs_after_the_other(serve, service_for):
    mistral = serve(Reply(tool_calls=[called(), called("two", "abcdefgh2")]), Reply("Done."))
    service = service_for(mistral, run_in_parallel=False)
    running, most = 0, 0

    async def handler(params) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.05)
        running -= 1
        await params.result_callback("done")

    for name in ("one", "two"):
        service.register_function(name, handler)
    async with Call(service, tools=tools("one", "two")) as call:
        assert await call.say("Do both.", turns=2) == "Done."
    assert most == 1


async def test_an_interruption_cancels_the_function_and_the_next_request_is_accepted(
    serve, service_for
):
    mistral = serve(Reply(tool_calls=[called()]), Reply("As you wish."))
    service = service_for(mistral)
    cancelled = asyncio.Event()

    async def handler(params) -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    service.register_function("one", handler)
    async with Call(service, tools=tools("one")) as call:
        await call.say("Do it.")
        await asyncio.sleep(0.1)
        await call.interrupt()
        await asyncio.wait_for(cancelled.wait(), 3)
        assert await call.say("Never mind.") == "As you wish."
    told = mistral.exchanges[1].request["messages"][2]["content"]
    assert "cancelled" in told


async def test_an_async_function_lets_the_conversation_go_on(serve, service_for):
    mistral = serve(
        Reply(tool_calls=[called()]),
        Reply("It is on its way.", times=None),
    )
    service = service_for(mistral)
    release = asyncio.Event()

    async def handler(params) -> None:
        await release.wait()
        await params.result_callback("sunny")

    service.register_function("one", handler, cancel_on_interruption=False)
    async with Call(service, tools=tools("one")) as call:
        await call.say("Do it.")
        assert await call.say("Are you there?") == "It is on its way."
        ends = call.count(LLMFullResponseEndFrame)
        release.set()
        await call.until(lambda: call.count(LLMFullResponseEndFrame) > ends)
    assert [exchange.status for exchange in mistral.exchanges] == [200] * len(mistral.exchanges)
    assert "sunny" in str(mistral.exchanges[-1].request["messages"][-1])


async def test_a_call_that_still_runs_is_not_started_again(serve, service_for):
    mistral = serve(
        Reply(tool_calls=[called()]), Reply(tool_calls=[called()]), Reply("Done.", times=None)
    )
    service = service_for(mistral)
    release, ran = asyncio.Event(), []

    async def handler(params) -> None:
        ran.append(params.tool_call_id)
        await release.wait()
        await params.result_callback("done")

    service.register_function("one", handler, cancel_on_interruption=False)
    async with Call(service, tools=tools("one")) as call:
        await call.say("Do it.")
        await call.say("Well?")
        assert ran == ["abcdefgh1"]
        release.set()
        await call.until(lambda: "Done." in call.words)
    assert not call.errors


async def test_a_function_that_takes_too_long_leads_to_an_answer(serve, service_for):
    mistral = serve(Reply(tool_calls=[called()]), Reply("It takes too long."))
    service = service_for(mistral)

    async def handler(params) -> None:
        await asyncio.sleep(10)

    service.register_function("one", handler, timeout_secs=0.2)
    async with Call(service, tools=tools("one")) as call:
        assert await call.say("Do it.", turns=2) == "It takes too long."


async def test_a_direct_function_and_a_catch_all_run(serve, service_for):
    async def weather(params, city: str) -> None:
        """Tell the weather.

        Args:
            city: Where.
        """
        await params.result_callback(f"sunny in {city}")

    mistral = serve(
        Reply(tool_calls=[called("weather", city="Rome")]),
        Reply("Sunny."),
        Reply(tool_calls=[called("anything", "abcdefgh3")]),
        Reply("Anything goes."),
    )
    service = service_for(mistral)
    caught: list[str] = []

    async def catch_all(params) -> None:
        caught.append(params.function_name)
        await params.result_callback("ok")

    service.register_function(None, catch_all)
    async with Call(service, tools=[weather]) as call:
        assert await call.say("Weather?", turns=2) == "Sunny."
        assert await call.say("Else?", turns=2) == "Anything goes."
    assert caught == ["anything"]
    assert "sunny in Rome" in str(mistral.exchanges[1].request["messages"])


async def test_a_developer_message_in_mid_call_keeps_its_place(serve, service_for):
    mistral = serve(Reply(tool_calls=[called()]), Reply("Done."), Reply("Kindly done."))
    service = service_for(mistral)
    registered(service)
    async with Call(service, tools=tools("one")) as call:
        await call.say("Do it.", turns=2)
        note = {"role": "developer", "content": "Be kind from now on."}
        await call.worker.queue_frame(LLMMessagesAppendFrame([note], run_llm=False))
        assert await call.say("And now?") == "Kindly done."
    last = mistral.exchanges[-1].request["messages"][-1]["content"]
    assert last == "[Instruction] Be kind from now on.\n\nAnd now?"


async def test_the_model_may_cancel_a_call_by_the_id_that_it_was_told(serve, service_for):
    """Pipecat's `cancel_…` function takes an id: a foreign one is sent respelled, and led back."""
    foreign = {"name": "one", "id": "call_foreign_7", "arguments": {}}
    mistral = serve(Reply(tool_calls=[foreign]), Reply("Working on it."))
    service = service_for(mistral)
    cancelled = asyncio.Event()

    async def handler(params) -> None:
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    service.register_function("one", handler, cancel_on_interruption=False, cancellable_by_llm=True)
    async with Call(service, tools=tools("one")) as call:
        await call.say("Do it.")
        await call.say("Are you there?")
        request = mistral.exchanges[1].request
        sent_id = next(m["tool_call_id"] for m in request["messages"] if m["role"] == "tool")
        assert sent_id != "call_foreign_7"
        assert "call_foreign_7" not in str(request)
        offered = [tool["function"]["name"] for tool in request["tools"]]
        cancel = next(name for name in offered if name.startswith("cancel"))
        mistral.script.add(
            Reply(tool_calls=[{"name": cancel, "arguments": {"tool_call_id": sent_id}}]),
            Reply("It is cancelled.", times=None),
        )
        await call.begin("Stop it.")
        await asyncio.wait_for(cancelled.wait(), 5)
        await call.until(lambda: "It is cancelled." in call.words)
    assert [exchange.refused for exchange in mistral.exchanges] == [None] * len(mistral.exchanges)


async def test_flows_lead_the_conversation(serve, service_for):
    from pipecat.flows import FlowManager, FlowsFunctionSchema, NodeConfig

    mistral = serve(
        Reply("What is your name?"),
        Reply(tool_calls=[{"name": "note_name", "arguments": {"name": "Anna"}}]),
        Reply("Thank you, Anna."),
    )
    service = service_for(mistral)
    noted: list[str] = []

    async def note_name(args, manager):
        noted.append(args["name"])
        return {"noted": True}, end_node()

    def end_node() -> NodeConfig:
        return NodeConfig(
            name="end",
            task_messages=[{"role": "developer", "content": "Thank the caller."}],
            functions=[],
        )

    begin = NodeConfig(
        name="begin",
        role_message="You take names.",
        task_messages=[{"role": "developer", "content": "Ask for the name."}],
        functions=[
            FlowsFunctionSchema(
                name="note_name",
                description="Notes the name.",
                properties={"name": {"type": "string"}},
                required=["name"],
                handler=note_name,
            )
        ],
    )
    async with Call(service) as call:
        manager = FlowManager(worker=call.worker, llm=service, context_aggregator=call.aggregators)
        await manager.initialize(begin)
        await call.until(lambda: "What is your name?" in call.words)
        await call.begin("Anna.")
        await call.until(lambda: "Thank you, Anna." in call.words or call.errors)
    assert noted == ["Anna"]
    assert not call.errors
    assert [exchange.refused for exchange in mistral.exchanges] == [None] * 3


async def test_tools_of_an_mcp_server_run(serve, service_for, tmp_path):
    import sys

    from mcp import StdioServerParameters
    from pipecat.services.mcp_service import MCPClient

    server = tmp_path / "server.py"
    server.write_text(
        "from mcp.server.mcpserver import MCPServer\n"
        "mcp = MCPServer('tests')\n"
        "@mcp.tool()\n"
        "def add(a: int, b: int) -> int:\n"
        "    'Adds two numbers.'\n"
        "    return a + b\n"
        "mcp.run()\n"
    )
    mistral = serve(
        Reply(tool_calls=[{"name": "add", "arguments": {"a": 20, "b": 22}}]), Reply("Forty-two.")
    )
    service = service_for(mistral)
    client = MCPClient(StdioServerParameters(command=sys.executable, args=[str(server)]))
    async with client:
        offered = await client.tools()
        async with Call(service, tools=offered) as call:
            assert await call.say("Add.", turns=2) == "Forty-two."
    assert "42" in mistral.exchanges[1].request["messages"][-1]["content"]


async def test_a_call_with_long_arguments_after_some_words_runs(serve, service_for):
    """Calls come whole: the stream is silent while the model writes them."""
    mistral = serve(Reply("Let me book that.", tool_calls=[called()], pause=0.7), Reply("Booked."))
    service = service_for(mistral, stall_timeout=0.5)
    ran = registered(service)
    async with Call(service, tools=tools("one")) as call:
        assert await call.say("Book it.", turns=2) == "Let me book that.Booked."
    assert ran == ["abcdefgh1"]
    assert len(mistral.exchanges) == 2


@pytest.mark.parametrize("reason", ["length", "error"])
async def test_a_call_whose_arguments_were_cut_does_not_run_without_them(
    serve, service_for, reason: str
):
    cut = {"name": "one", "id": "abcdefgh1", "arguments": ""}
    mistral = serve(Reply(tool_calls=[cut], finish_reason=reason), Reply("Once more?", times=None))
    service = service_for(mistral)
    ran = registered(service)
    async with Call(service, tools=tools("one")) as call:
        await call.begin("Do it.")
        await call.until(lambda: call.words or call.errors)
    assert ran == []


async def test_a_finished_async_call_that_is_repeated_leads_to_words(serve, service_for):
    mistral = serve(
        Reply(tool_calls=[called()]),
        Reply("It is on its way.", times=2),
        Reply(tool_calls=[called()], when="well"),
        Reply("It was sunny.", times=None),
    )
    service = service_for(mistral)
    release = asyncio.Event()

    async def handler(params) -> None:
        await release.wait()
        await params.result_callback("sunny")

    service.register_function("one", handler, cancel_on_interruption=False)
    async with Call(service, tools=tools("one")) as call:
        await call.say("Do it.")
        await call.say("Are you there?")
        ends = call.count(LLMFullResponseEndFrame)
        release.set()
        await call.until(lambda: call.count(LLMFullResponseEndFrame) > ends)
        said = await call.say("And, well?")
        assert said or call.errors


async def test_a_stored_conversation_with_a_call_in_progress_goes_on(serve, service_for):
    """The process that ran the function is gone: nothing waits for its result."""
    history = [
        {"role": "user", "content": "Do it."},
        {
            "role": "assistant",
            "tool_calls": [
                {
                    "id": "abcdefgh1",
                    "type": "function",
                    "function": {"name": "one", "arguments": "{}"},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "abcdefgh1", "content": "IN_PROGRESS"},
    ]
    mistral = serve(Reply(tool_calls=[called()]), Reply("I lost that, sorry."))
    service = service_for(mistral)
    ran = registered(service)
    async with Call(service, *history, tools=tools("one")) as call:
        assert await call.say("Well?") == "I lost that, sorry."
    assert ran == []


async def test_a_speculative_call_runs_when_its_turn_is_confirmed(serve, service_for):
    """Pipecat withdraws a call that it only speculated about; the ledger has to forget it."""
    mistral = serve(Reply(tool_calls=[called()]), Reply(tool_calls=[called()]), Reply("Done."))
    service = service_for(mistral)
    ran = registered(service)
    async with Call(service, tools=tools("one")) as call:
        service._speculation_gate._speculation = object()
        speculating = type(service._speculation_gate).is_speculating
        try:
            type(service._speculation_gate).is_speculating = property(lambda _self: True)
            await call.begin("Do it.")
            await call.until(lambda: mistral.exchanges and mistral.exchanges[0].ended)
            await asyncio.sleep(0.2)
        finally:
            type(service._speculation_gate).is_speculating = speculating
            service._speculation_gate._speculation = None
        assert ran == []
        await call.begin("Do it, please.")
        await call.until(lambda: "Done." in call.words)
    assert ran == ["abcdefgh1"]


async def test_an_override_may_add_to_the_arguments(serve, service_for):
    """What is told in place of a result is known by the call's id, not by its arguments."""
    from dataclasses import replace

    from mistral_service import MistralLLMService

    class Own(MistralLLMService):
        async def run_function_calls(self, function_calls):
            await super().run_function_calls(
                [replace(c, arguments={**c.arguments, "caller": "42"}) for c in function_calls]
            )

    broken = {"name": "one", "id": "abcdefgh1", "arguments": "{broken"}
    mistral = serve(Reply(tool_calls=[broken]), Reply("I will not."))
    service = Own(api_key="k", base_url=mistral.base_url)
    ran = registered(service)
    async with Call(service, tools=tools("one")) as call:
        assert await call.say("Do it.", turns=2) == "I will not."
    assert ran == []


@pytest.mark.parametrize("result", [(), set(), False])
async def test_any_falsy_result_gets_an_answer(serve, service_for, result):
    mistral = serve(Reply(tool_calls=[called()]), Reply("There are none."))
    service = service_for(mistral)
    registered(service, result)
    async with Call(service, tools=tools("one")) as call:
        assert await call.say("How many?", turns=2) == "There are none."


class Odd:
    def __init__(self, text: str | None = "an odd thing") -> None:
        self.text = text

    def __str__(self) -> str:
        if self.text is None:
            raise RuntimeError("not to be printed")
        return self.text


class Undecided(dict):
    def __bool__(self) -> bool:
        raise ValueError("neither true nor false")


def circle() -> list:
    around: list = [1]
    around.append(around)
    return around


@pytest.mark.parametrize("returned", [True, False])
@pytest.mark.parametrize(
    ("result", "reads"),
    [
        (date(2026, 1, 2), '"2026-01-02"'),
        ({"at": date(2026, 1, 2), "n": 1}, '{"at": "2026-01-02", "n": 1}'),
        ({7}, '"{7}"'),
        (b"a", "\"b'a'\""),
        ([Odd()], '["an odd thing"]'),
        (Odd(None), '"COMPLETED"'),
        ({"a": Odd(None), "n": 1}, '{"a": "", "n": 1}'),
        (Odd(""), '"COMPLETED"'),
        (Undecided(a=1), '{"a": 1}'),
        (Undecided(), '"COMPLETED"'),
        ({(1, 2): "a"}, "\"{(1, 2): 'a'}\""),
        (circle(), '"[1, [...]]"'),
        (np.array([1, 2]), '"[1 2]"'),
    ],
)
async def test_a_result_that_json_cannot_hold_is_read_as_text(
    serve, service_for, result, reads: str, returned: bool
):
    mistral = serve(Reply(tool_calls=[called()]), Reply("So it is."))
    service = service_for(mistral)

    async def handler(params):
        if returned:
            return result
        await params.result_callback(result)

    service.register_function("one", handler)
    async with Call(service, tools=tools("one")) as call:
        assert await call.say("How is it?", turns=2) == "So it is."
        assert not call.errors
    assert mistral.exchanges[1].request["messages"][-1]["content"] == reads


async def test_news_that_json_cannot_hold_are_read_as_text(serve, service_for):
    mistral = serve(Reply(tool_calls=[called()]), Reply("So it is.", times=None))
    service = service_for(mistral)

    async def handler(params) -> None:
        news = FunctionCallResultProperties(is_final=False)
        await params.result_callback({"at": date(2026, 1, 2)}, properties=news)
        await asyncio.sleep(20)

    service.register_function("one", handler, cancel_on_interruption=False)
    async with Call(service, tools=tools("one")) as call:
        assert await call.say("How is it?", turns=2) == "So it is."
        assert not call.errors
    assert "2026-01-02" in str(mistral.exchanges[1].request["messages"])


@pytest.mark.parametrize("catch_all", [True, False])
@pytest.mark.parametrize("sent", [True, False])
async def test_a_call_in_the_text_of_a_function_that_is_not_offered_does_not_run(
    serve, service_for, catch_all: bool, sent: bool
):
    mistral = serve(Reply("It is done." if sent else "I may not."))
    service = service_for(mistral)
    ran: list[str] = []

    async def handler(params) -> None:
        ran.append(params.function_name)
        await params.result_callback("wiped")

    service.register_function(None if catch_all else "wipe", handler)
    async with Call(service, {"role": "user", "content": "Hello."}, tools=tools("one")) as call:
        wipe, asked = (
            ToolCall(None, "wipe", "{}", written=not sent),
            ContextConversation(call.context),
        )
        plan = service._function_calls.plan(asked, [wipe], offered=["one"])
        await service._function_calls.start(asked, plan.calls)
        await call.until(lambda: call.words)
    assert ran == (["wipe"] if sent else [])
    assert call.words == ("It is done." if sent else "I may not.")
    told = mistral.exchanges[0].request["messages"][-1]["content"]
    assert ("did not run: it is not offered" in told) is not sent


FORCED = ["any", "required", {"type": "function", "function": {"name": "one"}}]


class Overrides(MistralLLMService):
    """A service that chooses on its own."""

    choice: object = None

    def build_chat_completion_params(self, params_from_context):
        params = super().build_chat_completion_params(params_from_context)
        return {**params, "tool_choice": self.choice}


@pytest.mark.parametrize("place", ["settings", "extra", "extra_body", "override"])
@pytest.mark.parametrize("choice", FORCED, ids=str)
async def test_a_forced_choice_holds_for_the_callers_request_alone(serve, place: str, choice):
    mistral = serve(
        Reply(tool_calls=[called()]),
        Reply(tool_calls=[called(call_id="abcdefgh2", a=2)]),
        Reply("Done."),
        Reply(tool_calls=[called(call_id="abcdefgh3")]),
        Reply("Again."),
    )
    extra = {"tool_choice": choice}
    settings = {
        "settings": {"tool_choice": choice},
        "extra": {"extra": extra},
        "extra_body": {"extra": {"extra_body": extra}},
        "override": {},
    }[place]
    kind = Overrides if place == "override" else MistralLLMService
    service = kind(
        api_key="k",
        base_url=mistral.base_url,
        settings=MistralLLMService.Settings(**settings),
    )
    if isinstance(service, Overrides):
        service.choice = choice
    ran = registered(service)
    async with Call(service, tools=tools("one")) as call:
        assert await call.say("Do it.", turns=3) == "Done."
        assert await call.say("Once more.", turns=2) == "Again."
    assert len(ran) == 3
    chosen = [exchange.request["tool_choice"] for exchange in mistral.exchanges]
    assert chosen == [choice, "auto", "auto", choice, "auto"]


async def test_a_model_that_is_made_to_call_for_ever_has_to_speak_at_last(serve):
    rounds = [
        Reply(tool_calls=[called(call_id=f"abcdefgh{n}", a=n)], finish_reason="tool_calls")
        for n in range(3)
    ]
    mistral = serve(*rounds, Reply("Enough."))
    settings = MistralLLMService.Settings(extra={"tool_choice": "any"}, max_tool_rounds=3)
    service = MistralLLMService(api_key="k", base_url=mistral.base_url, settings=settings)
    ran = registered(service)
    async with Call(service, tools=tools("one")) as call:
        assert await call.say("Do it.", turns=4) == "Enough."
    assert len(ran) == 3
    assert "tools" not in mistral.exchanges[-1].request
