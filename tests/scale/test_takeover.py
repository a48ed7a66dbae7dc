"""A call goes on after its machine: real Redis, real pipelines, the strict endpoint."""

import asyncio
from typing import Any

import pytest
from call import Call
from logged import logged
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.frames.frames import (
    CancelFrame,
    FunctionCallResultFrame,
    LLMFullResponseEndFrame,
    LLMRunFrame,
    LLMUpdateSettingsFrame,
)
from recorded import (
    ANSWERS_WITHIN,
    GREET,
    STORY,
    SYSTEM,
    Client,
    Machine,
    asked,
    recorders,
    redis,
    voice,
    written,
)
from tcp_relay import Wire
from waiting import until

from mistral_service import MistralLLMService, idempotent
from mistral_service.local import Reply
from mistral_service.scale.client_report import ClientReport
from mistral_service.scale.recorders import CallRecorders, UnknownCall
from mistral_service.scale.sealing import Codec
from mistral_service.scale.store import Store, StoreUnavailable
from mistral_service.turn.shared_services import SharedServices, shared_services

__all__ = ["recorders", "redis"]  # fixtures


def tools(handler: Any) -> list[FunctionSchema]:
    return [
        FunctionSchema(
            name="book",
            description="Books a table.",
            properties={"at": {"type": "string"}},
            required=["at"],
            handler=handler,
        )
    ]


async def test_a_reply_that_was_cut_goes_on_whole_and_exact(serve, recorders):
    mistral = serve(
        Reply("Hello."),
        Reply(STORY, pause=0.05),
        Reply(STORY[len("Once upon a time ") :]),
        Reply("Good night."),
    )
    async with Machine(mistral, await recorders.open()) as one:
        await one.goes_on()
        await one.call.begin("Tell me a story.")
        await one.call.until(lambda: "Once upon a time " in one.call.words)
        two_keeper = await recorders.open(
            one.recorder.id, ClientReport(heard="Once upon a time ", sent=one.sent())
        )
        assert two_keeper.resumed
        async with Machine(mistral, two_keeper) as two:
            await two.goes_on()
            assert "Once upon a time " + two.call.words == STORY
            await two.call.until(lambda: two.said()[-1][1] == STORY)
            assert two.said() == [
                ("system", SYSTEM["content"]),
                ("developer", GREET["content"]),
                ("assistant", "Hello."),
                ("user", "Tell me a story."),
                ("assistant", STORY),
            ]
            assert await two.call.say("Thank you.") == "Good night."


async def test_without_the_callers_word_the_journal_counts(serve, recorders):
    mistral = serve(Reply(STORY, stall_after=9), Reply("REST"))
    waits = {"stall_timeout": 60.0}
    async with Machine(mistral, await recorders.open(), settings=waits) as one:
        await one.call.begin("Tell me a story.")
        await one.call.until(lambda: len(one.call.words.split()) == 9)
        await written(one.recorder)
        async with Machine(mistral, await recorders.open(one.recorder.id)) as two:
            await two.goes_on()
            await two.call.until(lambda: two.said()[-1][0] == "assistant")
            words = two.said()[-1][1].removesuffix("REST")
            assert words.split() == STORY.split()[:9]
        await one.call.worker.queue_frame(CancelFrame())


async def test_of_a_voice_what_was_spoken_counts_and_not_what_was_written(serve, recorders):
    sentences = ["The king was old.", "His crown was gone.", "Nobody knew where.", "So it was."]
    mistral = serve(Reply(" ".join(sentences)), Reply(" And that is all."))
    async with Machine(mistral, await recorders.open(), voice=voice()) as one:
        await one.call.begin("Tell me a story.")
        await one.call.until(lambda: one.call.words.endswith("So it was."))
        await until(lambda: "crown" in one.recorder._journal.words)
        await written(one.recorder)
        recorder = await recorders.open(one.recorder.id)
        async with Machine(mistral, recorder, voice=voice()) as two:
            await two.greets()
            await until(lambda: len(asked(mistral)) == 2)
            cut = asked(mistral)[-1]["messages"][-1]
            assert cut == {"role": "assistant", "content": " ".join(sentences[:2]), "prefix": True}
            whole = " ".join([*sentences[:2], "And that is all."])
            await two.call.until(lambda: two.said()[-1] == ("assistant", whole))
            assert two.said()[1:] == [("user", "Tell me a story."), ("assistant", whole)]
            await until(lambda: recorder._journal.complete)
            assert recorder._journal.words == whole
        await one.call.worker.queue_frame(CancelFrame())


async def test_a_bot_that_waits_for_its_caller_goes_on_by_itself(serve, recorders):
    mistral = serve(Reply(STORY, pause=0.05), Reply(STORY[17:]))
    async with Machine(mistral, await recorders.open()) as one:
        await one.call.begin("Tell me a story.")
        await one.call.until(lambda: STORY[:17] in one.call.words)
        async with Machine(
            mistral,
            await recorders.open(one.recorder.id, ClientReport(heard=STORY[:17], sent=one.sent())),
        ) as two:
            await two.call.until(lambda: two.said()[-1] == ("assistant", STORY))
            assert STORY[:17] + two.call.words == STORY


@pytest.mark.parametrize("opening", [True, False])
async def test_a_bot_that_greets_too_late_does_not_have_it_said_twice(serve, recorders, opening):
    mistral = serve(Reply(STORY, pause=0.05), Reply(STORY[17:]), Reply("Blue."))
    async with Machine(mistral, await recorders.open()) as one:
        await one.greets()
        await one.call.until(lambda: STORY[:17] in one.call.words)
        async with Machine(
            mistral,
            await recorders.open(one.recorder.id, ClientReport(heard=STORY[:17], sent=one.sent())),
        ) as two:
            await two.call.until(lambda: two.call.count(LLMFullResponseEndFrame) == 1)
            assert STORY[:17] + two.call.words == STORY
            if opening:
                await two.greets()
            else:
                await two.call.worker.queue_frame(LLMRunFrame())
            await until(lambda: two.recorder._greeting._resumed is None)  # it has come
            await two.call.until(lambda: two.call.count(LLMFullResponseEndFrame) == 2)
            assert await two.call.say("What colour is the sky?") == "Blue."
            await two.call.until(lambda: two.said()[-1][1] == "Blue.")
            assert two.said() == [
                ("system", SYSTEM["content"]),
                ("developer", GREET["content"]),
                ("assistant", STORY),
                ("user", "What colour is the sky?"),
                ("assistant", "Blue."),
            ]
    assert len(asked(mistral)) == 3


async def test_a_reply_that_was_interrupted_after_a_takeover_can_be_asked_for_again(
    serve, recorders
):
    mistral = serve(Reply(STORY, pause=0.05), Reply(STORY[17:], pause=0.3), Reply("Go on."))
    async with Machine(mistral, await recorders.open()) as one:
        await one.call.begin("Tell me a story.")
        await one.call.until(lambda: STORY[:17] in one.call.words)
        async with Machine(
            mistral,
            await recorders.open(one.recorder.id, ClientReport(heard=STORY[:17], sent=one.sent())),
        ) as two:
            await two.call.until(lambda: two.call.words)
            await two.call.interrupt()
            await two.call.worker.queue_frame(LLMRunFrame())
            await two.call.until(lambda: two.call.words.endswith("Go on."))


async def test_a_reply_about_a_result_is_cut_and_goes_on(serve, recorders):
    ran: list[str] = []

    async def books(params: Any) -> None:
        ran.append(params.arguments["at"])
        await params.result_callback({"table": 4})

    words = "It is table four, by the window that looks on the sea."
    mistral = serve(
        Reply(tool_calls=[{"name": "book", "arguments": {"at": "8"}}]),
        Reply(words, pause=0.1),
        Reply("table four, by the window that looks on the sea."),
    )
    async with Machine(mistral, await recorders.open(), tools=tools(books)) as one:
        await one.call.begin("Book a table.")
        await one.call.until(lambda: "four, " in one.call.words)
        recorder = await recorders.open(
            one.recorder.id, ClientReport(heard="It is table four, ", sent=one.sent())
        )
        async with Machine(mistral, recorder, tools=tools(books)) as two:
            await two.goes_on()
            assert "It is table four, " + two.call.words == words
            await two.call.until(lambda: two.said()[-1] == ("assistant", words))
        assert ran == ["8"]
        assert [m["role"] for m in asked(mistral)[-1]["messages"]].count("tool") == 1


async def test_a_call_is_taken_over_twice_in_one_reply(serve, recorders):
    mistral = serve(Reply(STORY, pause=0.05), Reply(STORY[17:], pause=0.05), Reply(STORY[33:]))
    async with Machine(mistral, await recorders.open()) as one:
        await one.call.begin("Tell me a story.")
        await one.call.until(lambda: STORY[:17] in one.call.words)
        recorder = await recorders.open(
            one.recorder.id, ClientReport(heard=STORY[:17], sent=one.sent())
        )
        async with Machine(mistral, recorder) as two:
            await two.greets()
            await two.call.until(lambda: STORY[17:33] in two.call.words)
            recorder = await recorders.open(
                one.recorder.id, ClientReport(heard=STORY[:33], sent=two.sent())
            )
            async with Machine(mistral, recorder) as three:
                await three.goes_on()
                assert STORY[:33] + three.call.words == STORY
                await three.call.until(lambda: three.said()[-1] == ("assistant", STORY))
                assert len(three.said()) == 3


async def test_a_turn_costs_few_round_trips(serve, recorders):
    mistral = serve(Reply(STORY), Reply("Good night."))
    async with Machine(mistral, await recorders.open()) as one:
        await one.call.say("Tell me a story.")
        await written(one.recorder)
        before = recorders.store.stats.operations
        await one.call.say("Thanks.")
        await written(one.recorder)
        await asyncio.sleep(0.3)
        assert recorders.store.stats.operations - before <= 3


async def test_a_call_in_which_nobody_speaks_does_not_expire(serve, redis):
    store = Store(redis.url, timeout=ANSWERS_WITHIN)
    recorders = CallRecorders(store, keep_seconds=3.0, codec=Codec())
    mistral = serve(Reply("Hello."))
    async with Machine(mistral, await recorders.open()) as one:
        await one.goes_on()
        await written(one.recorder)
        for _ in range(2):  # without a turn, the time that is left grows again, long before its end
            left = before = await store._redis.pttl("call:" + one.recorder.id)
            while left <= before:
                before = left
                await asyncio.sleep(0.01)
                left = await store._redis.pttl("call:" + one.recorder.id)
                assert left > 0
        two = await recorders.open(one.recorder.id)
        await until(one.recorder.ownership_lost.is_set)  # learned by a heartbeat, without a turn
        await two.close(over=False)
    await store.close()


async def test_a_reply_that_was_heard_to_its_end_is_not_asked_for_again(serve, recorders):
    mistral = serve(Reply("It is noon."), Reply("You are welcome."))
    async with Machine(mistral, await recorders.open()) as one:
        await one.call.say("What time is it?")
        recorder = await recorders.open(
            one.recorder.id, ClientReport(heard="It is noon.", sent=one.sent(), ended=True)
        )
        async with Machine(mistral, recorder) as two:
            await two.goes_on()
            assert two.call.words == ""
            assert two.said()[1:] == [("user", "What time is it?"), ("assistant", "It is noon.")]
            assert await two.call.say("Thanks.") == "You are welcome."
    assert len(asked(mistral)) == 2


async def test_the_callers_unanswered_words_are_answered(serve, recorders):
    mistral = serve(Reply("Too late.", wait=30), Reply("It is noon."))
    async with Machine(mistral, await recorders.open()) as one:
        await one.call.begin("What time is it?")
        await until(lambda: len(asked(mistral)) == 1)
        await written(one.recorder)
        async with Machine(mistral, await recorders.open(one.recorder.id)) as two:
            await two.goes_on()
            assert two.call.words == "It is noon."
            assert two.said()[1] == ("user", "What time is it?")
        await one.call.worker.queue_frame(CancelFrame())


async def test_new_words_of_the_callers_are_not_taken_for_the_bots_opening(serve, recorders):
    mistral = serve(Reply("Hello."), Reply("It is noon."))
    async with Machine(mistral, await recorders.open()) as one:
        await one.goes_on()
        recorder = await recorders.open(
            one.recorder.id, ClientReport(heard="Hello.", sent=one.sent(), ended=True)
        )
        async with Machine(mistral, recorder) as two:
            assert await two.call.say("What time is it?") == "It is noon."
            assert [role for role, _ in two.said()] == [
                "system",
                "developer",
                "assistant",
                "user",
            ] + (["assistant"] if len(two.said()) > 4 else [])


async def test_a_function_that_was_started_is_not_run_again(serve, recorders):
    ran: list[str] = []

    async def books(params: Any) -> None:
        ran.append("one")
        await asyncio.sleep(30)

    async def books_too(params: Any) -> None:
        ran.append("two")
        await params.result_callback("done")

    mistral = serve(
        Reply(tool_calls=[{"name": "book", "arguments": {"at": "8"}}]),
        Reply("I cannot tell whether it is booked."),
    )
    async with Machine(mistral, await recorders.open(), tools=tools(books)) as one:
        await one.call.begin("Book a table.")
        await until(lambda: ran)
        async with Machine(
            mistral, await recorders.open(one.recorder.id), tools=tools(books_too)
        ) as two:
            await two.goes_on()
            assert two.call.words == "I cannot tell whether it is booked."
        assert ran == ["one"]
        told = asked(mistral)[-1]["messages"][-1]
        assert told["role"] == "tool"
        assert "was not run again" in told["content"]
        await one.call.worker.queue_frame(CancelFrame())


async def test_a_result_that_came_is_told(serve, recorders):
    ran: list[str] = []

    async def books(params: Any) -> None:
        ran.append(params.arguments["at"])
        await params.result_callback({"table": 4})

    mistral = serve(
        Reply("Let me see. ", tool_calls=[{"name": "book", "arguments": {"at": "8"}}]),
        Reply("Too late.", wait=30),
        Reply("It is table 4."),
    )
    async with Machine(mistral, await recorders.open(), tools=tools(books)) as one:
        await one.call.begin("Book a table.")
        await until(lambda: len(asked(mistral)) == 2)
        await written(one.recorder)
        async with Machine(
            mistral, await recorders.open(one.recorder.id), tools=tools(books)
        ) as two:
            await two.goes_on()
            assert two.call.words == "It is table 4."
        assert ran == ["8"]
        assert "4" in asked(mistral)[-1]["messages"][-1]["content"]
        await one.call.worker.queue_frame(CancelFrame())


async def test_who_has_lost_the_call_starts_no_function_and_writes_nothing(serve, recorders):
    ran: list[str] = []

    async def books(params: Any) -> None:
        ran.append("ran")
        await params.result_callback("done")

    mistral = serve(Reply("Hello."), Reply(tool_calls=[{"name": "book", "arguments": {"at": "8"}}]))
    async with Machine(mistral, await recorders.open(), tools=tools(books)) as one:
        await one.goes_on()
        await written(one.recorder)
        await recorders.open(one.recorder.id)
        await one.call.begin("Book a table.")
        await one.call.until(lambda: one.call.errors)
        assert one.recorder.ownership_lost.is_set()
        assert ran == []
        assert not one.call.of(FunctionCallResultFrame)
        assert recorders.store.stats.fenced >= 1
        third = await recorders.open(one.recorder.id)
        assert third._snapshot.turn == 1
        await third.close(over=False)


async def test_redis_may_go_and_come_back(serve, recorders, redis):
    ran: list[str] = []

    async def books(params: Any) -> None:
        ran.append("ran")
        await params.result_callback("done")

    mistral = serve(
        Reply("Hello."),
        Reply(tool_calls=[{"name": "book", "arguments": {"at": "8"}}]),
        Reply("It is booked."),
        Reply("Good night."),
    )
    async with Machine(mistral, await recorders.open(), tools=tools(books)) as one:
        one.recorder.client = client = Client()
        await one.goes_on()
        redis.stop()
        await one.call.say("Book a table.", turns=2)
        assert one.call.words == "Hello.It is booked."
        assert ran == ["ran"]
        assert client.note
        with pytest.raises(StoreUnavailable):
            await recorders.open(one.recorder.id)
        redis.start()
        await written(one.recorder)
        assert not one.recorder.ownership_lost.is_set()
        async with Machine(
            mistral, await recorders.open(one.recorder.id), tools=tools(books)
        ) as two:
            await two.goes_on()
            assert [text for role, text in two.said() if role == "user"] == ["Book a table."]
            assert two.said()[-1] == ("assistant", "It is booked.")
            assert await two.call.say("Thanks.") == "Good night."
    assert ran == ["ran"]


@pytest.mark.parametrize("line", [None, Client(answers=False)], ids=["none", "silent"])
async def test_without_a_safe_note_a_function_does_not_start(serve, recorders, redis, line):
    ran: list[str] = []

    async def books(params: Any) -> None:
        ran.append("ran")
        await params.result_callback("done")

    @idempotent
    async def looks_up(params: Any) -> None:
        ran.append("looked up")
        await params.result_callback("eight o'clock")

    mistral = serve(
        Reply(
            tool_calls=[
                {"name": "book", "arguments": {"at": "8"}},
                {"name": "look_up", "arguments": {}},
            ]
        ),
        Reply("I cannot book now."),
    )
    look_up = FunctionSchema("look_up", "Looks up the hours.", {}, [], handler=looks_up)
    opened = [*tools(books), look_up]
    async with Machine(mistral, await recorders.open(), tools=opened) as one:
        one.recorder.client = line
        redis.pause()
        try:
            assert await one.call.say("Book a table.", turns=2) == "I cannot book now."
        finally:
            redis.resume()
        assert ran == ["looked up"]
        results = [m["content"] for m in asked(mistral)[-1]["messages"] if m["role"] == "tool"]
        assert "did not run" in results[0]
        assert "eight" in results[1]
        await written(one.recorder)
        # Nothing is left of it for the next machine to take for a function that has started.
        two = await recorders.open(one.recorder.id)
        assert "book" not in {call.name for call in two._functions.started.values()}
        await two.close(over=False)


async def test_what_the_client_keeps_is_known_to_the_next_machine(serve, recorders, redis):
    held = asyncio.Event()
    ran: list[str] = []

    async def books(params: Any) -> None:
        ran.append(params.idempotency_key)
        await held.wait()

    mistral = serve(
        Reply("Hello."),
        Reply(tool_calls=[{"name": "book", "arguments": {"at": "8"}}]),
        Reply("It may be booked."),
        Reply(tool_calls=[{"name": "book", "arguments": {"at": "8"}}]),
        Reply("Now it is."),
    )
    wire = Wire(redis.port)
    async with wire:
        store = Store(f"redis://127.0.0.1:{wire.port}/0", timeout=ANSWERS_WITHIN)
        cut_off = CallRecorders(store, codec=recorders.codec)
        async with Machine(mistral, await cut_off.open(), tools=tools(books)) as one:
            one.recorder.client = client = Client()
            await one.goes_on()
            await written(one.recorder)
            wire.cut()
            await one.call.begin("Book a table.")
            await until(lambda: ran)
            assert client.note is not None
            taken = {"heard": "Hello.", "ended": True, "asked": "Book a table."}
            # A note that someone else wrote is none, nor is one of another call.
            other = await recorders.open(report=ClientReport(note=client.note))
            changed = client.note.swapcase()
            forged = await recorders.open(one.recorder.id, ClientReport(**taken, note=changed))
            assert not other._functions.started
            assert not forged._functions.started
            await other.close(over=True)
            await forged.close(over=False)
            recorder = await recorders.open(
                one.recorder.id, ClientReport(**taken, note=client.note)
            )
            async with Machine(mistral, recorder, tools=tools(books)) as two:
                await two.goes_on()
                await two.call.until(lambda: two.said()[-1] == ("assistant", "It may be booked."))
                assert len(ran) == 1
                messages = asked(mistral)[-1]["messages"]
                assert [m["role"] for m in messages[-3:]] == ["user", "assistant", "tool"]
                assert "its result was lost" in messages[-1]["content"]
                # Who repeats a call whose result was lost means the same one: so says its key.
                await two.call.begin("Try again.")
                await until(lambda: len(ran) == 2)
                assert ran[0] == ran[1]
                held.set()
            wire.heal()
        await store.close()


async def test_a_call_that_begins_without_redis_goes_on(serve, recorders, redis):
    redis.stop()
    mistral = serve(Reply("Hello."))
    async with Machine(mistral, await recorders.open()) as one:
        await one.goes_on()
        assert one.call.words == "Hello."


async def test_settings_that_changed_survive(serve, recorders):
    mistral = serve(Reply("Hello."), Reply("Salut."), Reply("Oui."))
    async with Machine(mistral, await recorders.open()) as one:
        await one.goes_on()
        delta = MistralLLMService.Settings(temperature=0.2, system_instruction="Speak French.")
        await one.call.worker.queue_frame(LLMUpdateSettingsFrame(delta=delta))
        await one.call.say("Bonjour.")
        recorder = await recorders.open(
            one.recorder.id, ClientReport(heard="Salut.", sent=one.sent(), ended=True)
        )
        async with Machine(mistral, recorder) as two:
            await two.goes_on()
            await two.call.say("Vraiment ?")
        last, before = asked(mistral)[-1], asked(mistral)[-2]
        assert last["temperature"] == 0.2
        assert last["prompt_cache_key"] == before["prompt_cache_key"]
        assert last["messages"][0]["content"].startswith("Speak French.")


async def test_a_second_service_of_the_bot_can_be_left_out(serve, recorders):
    mistral = serve(Reply("Hello."), Reply("Yes, it is."))
    async with Machine(mistral, await recorders.open()) as one:
        await one.goes_on()
        await judged(mistral, one.recorder, recorder=False)
        recorder = await recorders.open(
            one.recorder.id, ClientReport(heard="Hello.", sent=one.sent(), ended=True)
        )
        async with Machine(mistral, recorder) as two:
            await two.goes_on()
            assert two.said() == one.said()


async def test_two_services_that_are_kept_as_one_are_warned_of(serve, recorders):
    mistral = serve(Reply("Hello."), Reply("Yes, it is."))
    with logged() as warnings:
        async with Machine(mistral, await recorders.open()) as one:
            await one.goes_on()
            await judged(mistral, one.recorder)
    assert any("recorder=False" in warning for warning in warnings)


async def judged(mistral: Any, shared: Any, **options: Any) -> None:
    """Ask a second service of the same bot something that the caller does not hear."""
    token = shared_services.set(SharedServices(recorder=shared))
    judge = MistralLLMService(api_key="k", base_url=mistral.base_url, **options)
    shared_services.reset(token)
    async with Call(judge, {"role": "system", "content": "You are a judge."}) as aside:
        assert await aside.say("Was that polite?") == "Yes, it is."


async def test_a_call_that_is_over_is_gone(serve, recorders):
    mistral = serve(Reply("Hello."))
    recorder = await recorders.open()
    async with Machine(mistral, recorder) as one:
        await one.goes_on()
        await recorder.close(over=True)
    with pytest.raises(UnknownCall):
        await recorders.open(recorder.id)


@pytest.mark.parametrize("call_id", ["", "short", "x" * 200, "../../etc/passwd", "a b c d e f"])
async def test_an_id_that_is_none_is_unknown(recorders, call_id):
    with pytest.raises(UnknownCall):
        await recorders.open(call_id, create=True)


async def test_an_id_of_a_telephone_company_opens_and_takes_over(recorders):
    one = await recorders.open("CA0123456789abcdef0123456789abcdef", create=True)
    two = await recorders.open(one.id, create=True)
    assert (one.resumed, two.resumed) == (False, True)
    with pytest.raises(UnknownCall):
        await recorders.open("CA00000000000000000000000000000000")
    for recorder in (one, two):
        await recorder.close(over=False)
    assert two._writer._fence > one._writer._fence
