"""Handlers that do not answer as Pipecat expects: what they return counts, and silence ends."""

import asyncio
import functools
import json
from typing import Any, cast

import pytest
from call import Call
from logged import logged
from pipecat.frames.frames import (
    FunctionCallInProgressFrame,
    FunctionCallResultFrame,
    FunctionCallResultProperties,
    LLMFullResponseEndFrame,
)
from pipecat.services.settings import TTSSettings
from pipecat.transports.base_transport import TransportParams
from recorded import Plays, Speaks
from tool_calls import called, tools

from mistral_service import MistralLLMService
from mistral_service.local import Reply
from mistral_service.pipecat.functions import handlers
from mistral_service.pipecat.functions.handlers import ReturningHandler
from mistral_service.settings import BadSetting

NO_RESULT = "gave no result within 0.3 s"


def service_of(mistral, limit: float | None = 0.3, **options) -> MistralLLMService:
    settings = MistralLLMService.Settings(**options.pop("settings", {}))
    return MistralLLMService(
        api_key="test-key",
        base_url=mistral.base_url,
        settings=settings,
        function_call_timeout_secs=limit,
        **options,
    )


def results(mistral, request: int = -1) -> list[str]:
    """What the model reads of its calls."""
    messages = mistral.exchanges[request].request["messages"]
    return [message["content"] for message in messages if message["role"] == "tool"]


@pytest.fixture
def warnings():
    with logged() as messages:
        yield messages


class Keeps:
    """A handler that keeps the callback, and returns nothing."""

    def __init__(self) -> None:
        self.params: Any = None

    async def __call__(self, params) -> None:
        self.params = params

    async def answers(self, result: Any, **properties: Any) -> None:
        how = FunctionCallResultProperties(**properties) if properties else None
        await self.params.result_callback(result, properties=how)


async def never(_params) -> None:
    await asyncio.Event().wait()


async def nothing(_params) -> None:
    pass


def plain_nothing(_params) -> None:
    pass


@pytest.mark.parametrize(
    ("value", "reads"),
    [
        *((value, json.dumps(value)) for value in ("sunny", "ü", 21, 2.5, ["a", 1], {"a": [1]})),
        (True, "true"),
        *((value, json.dumps(value)) for value in ("", 0, 0.0, [], {})),
        (False, '"false"'),
    ],
)
async def test_a_returned_value_is_the_result(serve, value, reads: str):
    mistral = serve(Reply(tool_calls=[called()]), Reply("So it is."))
    service = service_of(mistral)

    async def returns(_params) -> Any:
        return value

    service.register_function("one", returns)
    async with Call(service, tools=tools("one")) as call:
        assert await call.say("How is it?", turns=2) == "So it is."
    assert json.loads(results(mistral)[0]) == json.loads(reads)
    assert not call.errors


def kinds() -> dict[str, Any]:
    async def coroutine(params) -> str:
        return f"sunny in {params.arguments['a']}"

    def plain(params) -> str:
        return f"sunny in {params.arguments['a']}"

    def of_a_task(params) -> asyncio.Task[str]:
        return asyncio.create_task(coroutine(params))

    async def to_a_task(params) -> asyncio.Task[str]:
        return asyncio.create_task(coroutine(params))

    class Weather:
        async def method(self, params) -> str:
            return await coroutine(params)

        def __call__(self, params) -> str:
            return plain(params)

    async def with_more(_more, params) -> str:
        return plain(params)

    return {
        "coroutine": coroutine,
        "plain": plain,
        "lambda": lambda params: coroutine(params),
        "a plain one that returns a task": of_a_task,
        "a coroutine that returns a task": to_a_task,
        "method": Weather().method,
        "object": Weather(),
        "partial": functools.partial(with_more, 1),
        "a plain one that calls back": lambda p: p.result_callback(f"sunny in {p.arguments['a']}"),
    }


@pytest.mark.parametrize("catch_all", [False, True])
@pytest.mark.parametrize("kind", kinds())
async def test_handlers_of_every_kind_may_return_their_result(serve, kind: str, catch_all: bool):
    mistral = serve(Reply(tool_calls=[called(a=7)]), Reply("Sunny."))
    service = service_of(mistral)
    service.register_function(None if catch_all else "one", kinds()[kind])
    async with Call(service, tools=tools("one")) as call:
        assert await call.say("Weather?", turns=2) == "Sunny."
    assert results(mistral) == ['"sunny in 7"']
    assert not call.errors


async def test_direct_functions_and_handlers_of_schemas_may_return_their_result(serve):
    async def direct(params, city: str) -> dict[str, str]:
        """Tell the weather.

        Args:
            city: Where.
        """
        return {"city": city, "id": params.tool_call_id}

    [schema] = tools("one")
    schema._handler = lambda _params: ["by schema"]
    mistral = serve(
        Reply(tool_calls=[called("direct", city="Rome"), called("one", "abcdefgh2")]),
        Reply("Sunny."),
        Reply(tool_calls=[called("one", "abcdefgh3")]),
        Reply("Again."),
    )
    service = service_of(mistral)
    async with Call(service, tools=[direct, schema]) as call:
        assert await call.say("Weather?", turns=2) == "Sunny."
        assert await call.say("Once more.", turns=2) == "Again."
    assert results(mistral, 1) == ['{"city": "Rome", "id": "abcdefgh1"}', '["by schema"]']
    assert not call.errors


@pytest.mark.parametrize("later", [False, True])
async def test_a_result_that_was_called_back_wins_over_a_returned_value(serve, warnings, later):
    mistral = serve(Reply(tool_calls=[called()]), Reply("Done."))
    service = service_of(mistral)
    kept: list[Any] = []

    async def both(params) -> str:
        kept.append(params)
        if later:
            return "returned"
        await params.result_callback("called back")
        return "returned"

    service.register_function("one", both)
    async with Call(service, tools=tools("one")) as call:
        assert await call.say("Do it.", turns=2) == "Done."
        if later:
            await kept[0].result_callback("called back")
    assert results(mistral) == ['"returned"' if later else '"called back"']
    assert call.count(FunctionCallResultFrame) == 1
    assert bool([w for w in warnings if "returned a value" in w]) is later


async def test_a_returned_value_is_warned_of_once_for_each_function(serve, warnings):
    both = [called(call_id="abcdefgh3"), called("two", "abcdefgh4")]
    mistral = serve(
        Reply(tool_calls=[called()]),
        Reply("Once. "),
        Reply(tool_calls=both),
        Reply("Twice."),
    )
    service = service_of(mistral)
    for name in ("one", "two"):
        service.register_function(name, lambda _params: "done")
    async with Call(service, tools=tools("one", "two")) as call:
        await call.say("Do it.", turns=2)
        await call.say("Do both.", turns=2)
    found = [w for w in warnings if "returned a value" in w]
    assert ["handler of one" in w for w in found] == [True, False]
    assert "handler of two" in found[1]
    assert all("result_callback" in w for w in found)


@pytest.mark.parametrize("in_parallel", [True, False])
@pytest.mark.parametrize("result", ["sunny", None, 0])
async def test_a_handler_may_call_back_after_it_has_returned(serve, in_parallel, result):
    mistral = serve(Reply(tool_calls=[called()]), Reply("Done."))
    service = service_of(mistral, limit=20, run_in_parallel=in_parallel)
    handler = Keeps()
    service.register_function("one", handler)
    async with Call(service, tools=tools("one")) as call:
        await call.say("Do it.")
        await call.until(lambda: handler.params)
        await asyncio.sleep(0.1)
        ends = call.count(LLMFullResponseEndFrame)
        await asyncio.create_task(handler.answers(result))
        await call.until(lambda: call.count(LLMFullResponseEndFrame) > ends)
        await handler.answers("again")
        await asyncio.sleep(0.1)
    assert call.words == "Done."
    assert len(mistral.exchanges) == 2
    assert results(mistral) == [json.dumps("COMPLETED" if result is None else result)]


@pytest.mark.parametrize("in_parallel", [True, False])
@pytest.mark.parametrize("handler", [nothing, plain_nothing, never])
async def test_a_function_that_never_answers_leads_to_words(serve, handler, in_parallel: bool):
    mistral = serve(
        Reply(tool_calls=[called()]),
        Reply("I could not find out."),
        Reply(tool_calls=[called("two", "abcdefgh2")]),
        Reply("That one works."),
    )
    service = service_of(mistral, run_in_parallel=in_parallel)
    service.register_function("one", handler)
    service.register_function("two", lambda _params: "done")
    ended: list[str] = []

    @service.event_handler("on_function_calls_cancelled")
    async def on_cancelled(_service, calls) -> None:
        ended.extend(call.tool_call_id for call in calls)

    async with Call(service, tools=tools("one", "two")) as call:
        assert await call.say("Do it.", turns=2) == "I could not find out."
        assert await call.say("And two?", turns=2) == "That one works."
        await call.until(lambda: ended)
    [said, done] = results(mistral)
    assert "`one`" in said
    assert NO_RESULT in said
    assert done == '"done"'
    assert ended == ["abcdefgh1"]
    assert [exchange.refused for exchange in mistral.exchanges] == [None] * 4


@pytest.mark.parametrize("in_parallel", [True, False])
@pytest.mark.parametrize("silent", [nothing, never])
@pytest.mark.parametrize("first", [True, False])
async def test_a_call_that_never_answers_does_not_keep_the_others_of_its_reply(
    serve, silent, first: bool, in_parallel: bool
):
    names = ("one", "two") if first else ("two", "one")
    calls = [called(names[0]), called(names[1], "abcdefgh2")]
    mistral = serve(Reply(tool_calls=calls), Reply("Half of it.", times=None))
    service = service_of(mistral, run_in_parallel=in_parallel)
    service.register_function("one", silent)
    service.register_function("two", lambda _params: "done")
    async with Call(service, tools=tools("one", "two")) as call:
        await call.begin("Do both.")
        await call.until(
            lambda: (
                len(mistral.exchanges) > 1 and any(NO_RESULT in said for said in results(mistral))
            )
        )
        await call.until(lambda: call.words.endswith("Half of it."))
    said = results(mistral)
    assert NO_RESULT in said[0 if first else 1]
    assert said[1 if first else 0] == '"done"'
    assert len(mistral.exchanges) == 2


async def test_one_after_the_other_the_next_begins_when_a_handler_has_returned(serve):
    mistral = serve(
        Reply(tool_calls=[called(), called("two", "abcdefgh2")]), Reply("Both.", times=None)
    )
    service = service_of(mistral, limit=20, run_in_parallel=False)
    handler, ran = Keeps(), asyncio.Event()

    async def second(params) -> None:
        ran.set()
        await params.result_callback("second")

    service.register_function("one", handler)
    service.register_function("two", second)
    async with Call(service, tools=tools("one", "two")) as call:
        await call.begin("Do both.")
        await asyncio.wait_for(ran.wait(), 5)
        await handler.answers("first")
        await call.until(lambda: "Both." in call.words)
    assert results(mistral) == ['"first"', '"second"']
    assert len(mistral.exchanges) == 2


class Slow:
    """A handler that takes its time, and notes what ran beside it."""

    def __init__(self, seconds: float = 0.3) -> None:
        self.seconds, self.running, self.most = seconds, 0, 0
        self.began: list[str] = []

    async def __call__(self, params) -> None:
        self.began.append(params.tool_call_id)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.running -= 1
        await params.result_callback(f"of {params.function_name}")


BROKEN = {"name": "two", "id": "abcdefgh0", "arguments": "{"}


@pytest.mark.parametrize("in_parallel", [True, False])
@pytest.mark.parametrize("broken", [None, 0, 1, 2])
async def test_the_calls_of_a_reply_are_answered_by_one_request(serve, in_parallel: bool, broken):
    calls = [called(), called("two", "abcdefgh2")]
    if broken is not None:
        calls.insert(broken, BROKEN)
    mistral = serve(Reply(tool_calls=calls), Reply("All done.", times=None))
    service = service_of(mistral, limit=20, run_in_parallel=in_parallel)
    slow = Slow()
    for name in ("one", "two"):
        service.register_function(name, slow)
    async with Call(service, tools=tools("one", "two")) as call:
        assert await call.say("Do it.", turns=2) == "All done."
        await asyncio.sleep(0.4)
    assert len(mistral.exchanges) == 2
    assert slow.began == ["abcdefgh1", "abcdefgh2"]
    assert slow.most == (2 if in_parallel else 1)
    said = results(mistral)
    if broken is not None:
        assert "did not run" in said.pop(broken)
    assert said == ['"of one"', '"of two"']
    for kind in (FunctionCallInProgressFrame, FunctionCallResultFrame):
        assert call.count(kind) == len(calls)


async def test_in_turn_also_the_calls_of_the_next_reply_wait(serve):
    mistral = serve(
        Reply(tool_calls=[called()]), Reply(tool_calls=[called("two", "abcdefgh2")]), Reply("Both.")
    )
    service = service_of(mistral, limit=20, run_in_parallel=False)
    slow, both_are_asked_for, began = Slow(), asyncio.Event(), []

    async def waits(params) -> None:
        began.append(params.tool_call_id)
        await both_are_asked_for.wait()
        await slow(params)

    for name in ("one", "two"):
        service.register_function(name, waits, cancel_on_interruption=False)
    async with Call(service, tools=tools("one", "two")) as call:
        await call.say("Do one.")
        await call.say("And two.")
        assert began == ["abcdefgh1"]
        both_are_asked_for.set()
        await call.until(lambda: slow.began == ["abcdefgh1", "abcdefgh2"])
    assert slow.most == 1


@pytest.mark.parametrize("ends_slowly", [True, False])
async def test_an_interruption_cancels_the_calls_that_wait_for_their_turn(serve, ends_slowly: bool):
    names = ("one", "two", "gone")
    mistral = serve(
        Reply(tool_calls=[called(name, f"abcdefgh{n}") for n, name in enumerate(names, 1)]),
        Reply("As you wish."),
        Reply(tool_calls=[called("two", "abcdefgh4")]),
        Reply("Done."),
    )
    service = service_of(mistral, limit=20, run_in_parallel=False)
    slow, waits = Slow(), Slow(0)

    async def first(params) -> None:
        service.unregister_function("gone")
        try:
            await slow(params)
        finally:
            if ends_slowly:
                await asyncio.sleep(0.1)

    for name, handler in zip(names, (first, waits, waits), strict=True):
        service.register_function(name, handler)
    cancelled: list[str] = []

    @service.event_handler("on_function_calls_cancelled")
    async def on_cancelled(_service, calls) -> None:
        cancelled.extend(call.tool_call_id for call in calls)

    async with Call(service, tools=tools(*names)) as call:
        await call.say("Do it.")
        await call.until(lambda: slow.began)
        await call.interrupt()
        await call.until(lambda: not call.aggregators.assistant().has_function_calls_in_progress)
        await asyncio.sleep(0.3)
        assert len(mistral.exchanges) == 1
        assert await call.say("Never mind.") == "As you wish."
        assert all("was cancelled" in said for said in results(mistral))
        assert waits.began == []
        assert await call.say("Only two.", turns=2) == "Done."
    assert cancelled == ["abcdefgh1", "abcdefgh2", "abcdefgh3"]
    assert waits.began == ["abcdefgh4"]
    assert [exchange.refused for exchange in mistral.exchanges] == [None] * 4


@pytest.mark.parametrize("in_parallel", [True, False])
@pytest.mark.parametrize("pauses", [True, False])
async def test_an_interruption_of_the_words_before_a_call_leaves_none_in_progress(
    serve, pauses: bool, in_parallel: bool
):
    """The context learns of a call when the words before it are spoken."""
    mistral = serve(
        Reply("Let me look into this.", tool_calls=[called(), called("two", "abcdefgh2")]),
        Reply("As you wish."),
    )
    service = service_of(mistral, limit=20, run_in_parallel=in_parallel)
    slow = Slow(20)
    for name in ("one", "two"):
        service.register_function(name, slow)
    none = TTSSettings(model=None, voice=None, language=None)
    speaks = Speaks(
        sample_rate=16000,
        settings=none,
        push_start_frame=True,
        push_stop_frames=True,
        pause_frame_processing=pauses,
    )
    plays = Plays(TransportParams(audio_out_enabled=True, audio_out_sample_rate=16000))
    async with Call(service, tools=tools("one", "two"), voice=[speaks, plays]) as call:
        await call.begin("Do both.")
        await call.until(lambda: slow.began)
        assert not [m for m in call.context.get_messages() if m["role"] == "tool"]
        await call.interrupt()
        await call.until(lambda: [m for m in call.context.get_messages() if m["role"] == "tool"])
        await call.until(lambda: not call.aggregators.assistant().has_function_calls_in_progress)
        assert await call.say("Never mind.") == "As you wish."
    assert len(mistral.exchanges) == 2
    assert ["was cancelled" in said for said in results(mistral)] == [True, True]


async def test_an_asynchronous_call_that_waits_for_its_turn_outlasts_an_interruption(serve):
    mistral = serve(
        Reply(tool_calls=[called(), called("two", "abcdefgh2")]), Reply("The job is done.")
    )
    service = service_of(mistral, limit=20, run_in_parallel=False)
    slow, job = Slow(), Slow()
    service.register_function("one", slow)
    service.register_function("two", job, cancel_on_interruption=False)
    async with Call(service, tools=tools("one", "two")) as call:
        await call.say("Do it.")
        await call.until(lambda: slow.began)
        assert job.began == []
        await call.interrupt()
        await call.until(lambda: call.words == "The job is done.")
        assert not call.aggregators.assistant().has_function_calls_in_progress
    assert slow.running == 0
    assert job.began == ["abcdefgh2"]
    assert len(mistral.exchanges) == 2


@pytest.mark.parametrize("how", ["all", "the end"])
async def test_nothing_begins_where_all_calls_are_cancelled(serve, how: str):
    mistral = serve(Reply(tool_calls=[called(), called("two", "abcdefgh2")]))
    service = service_of(mistral, limit=20, run_in_parallel=False)
    slow = Slow(20)
    for name in ("one", "two"):
        service.register_function(name, slow)
    async with Call(service, tools=tools("one", "two")) as call:
        await call.say("Do it.")
        await call.until(lambda: slow.began)
        if how == "all":
            assert len(await service.cancel_function_calls()) == 2
            await call.until(
                lambda: not call.aggregators.assistant().has_function_calls_in_progress
            )
    assert slow.began == ["abcdefgh1"]
    assert slow.running == 0
    assert not [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]


async def test_a_function_that_is_gone_when_its_turn_comes_does_not_run(serve):
    calls = [called(), called("two", "abcdefgh2"), called("nonesuch", "abcdefgh3")]
    mistral = serve(Reply(tool_calls=calls), Reply("One of three.", times=None))
    service = service_of(mistral, limit=20, run_in_parallel=False)
    slow = Slow()

    async def first(params) -> None:
        service.unregister_function("two")
        await slow(params)

    service.register_function("one", first)
    service.register_function("two", slow)
    async with Call(service, tools=tools("one", "two")) as call:
        assert await call.say("Do it.", turns=2) == "One of three."
        await asyncio.sleep(0.2)
    assert slow.began == ["abcdefgh1"]
    done, *others = results(mistral)
    assert done == '"of one"'
    assert ["not currently available" in other for other in others] == [True, True]
    assert len(mistral.exchanges) == 2


@pytest.mark.parametrize("name", ["one", None])
@pytest.mark.parametrize("in_parallel", [True, False])
async def test_an_interruption_cancels_a_call_whose_handler_has_returned(serve, in_parallel, name):
    mistral = serve(
        Reply(tool_calls=[called()]),
        Reply("As you wish."),
        Reply(tool_calls=[called("two", "abcdefgh2")]),
        Reply("Done."),
    )
    service = service_of(mistral, limit=20, run_in_parallel=in_parallel)
    handler = Keeps()
    service.register_function(name, handler)
    service.register_function("two", lambda _params: "done")
    cancelled: list[str] = []

    @service.event_handler("on_function_calls_cancelled")
    async def on_cancelled(_service, calls) -> None:
        cancelled.extend(call.tool_call_id for call in calls)

    async with Call(service, tools=tools("one", "two")) as call:
        await call.say("Do it.")
        await call.until(lambda: handler.params)
        await call.until(lambda: call.aggregators.assistant().has_function_calls_in_progress)
        await asyncio.sleep(0.1)
        await call.interrupt()
        await call.until(lambda: cancelled)
        await handler.answers("too late")
        assert not call.aggregators.assistant().has_function_calls_in_progress
        assert await call.say("Never mind.") == "As you wish."
        assert await call.say("Do two.", turns=2) == "Done."
    assert cancelled == ["abcdefgh1"]
    assert "cancelled" in results(mistral)[0]
    assert call.count(FunctionCallResultFrame) == 1


async def test_an_interrupted_group_of_which_one_has_answered_is_over(serve):
    mistral = serve(
        Reply(tool_calls=[called(), called("two", "abcdefgh2")]), Reply("As you wish.", times=None)
    )
    service = service_of(mistral, limit=20)
    service.register_function("one", nothing)
    service.register_function("two", lambda _params: "done")
    async with Call(service, tools=tools("one", "two")) as call:
        await call.say("Do both.")
        await call.until(lambda: call.count(FunctionCallResultFrame) == 1)
        await call.interrupt()
        await call.until(lambda: not call.aggregators.assistant().has_function_calls_in_progress)
        assert await call.say("Never mind.") == "As you wish."
    assert results(mistral)[1] == '"done"'
    assert "cancelled" in results(mistral)[0]


async def test_a_functions_own_limit_wins(serve):
    mistral = serve(Reply(tool_calls=[called()]), Reply("No result."))
    service = service_of(mistral, limit=20)
    service.register_function("one", nothing, timeout_secs=0.3)
    async with Call(service, tools=tools("one")) as call:
        assert await call.say("Do it.", turns=2) == "No result."
    assert NO_RESULT in results(mistral)[0]


@pytest.mark.parametrize("limit", [None, 0])
async def test_without_a_limit_a_call_waits_as_long_as_it_takes(serve, monkeypatch, limit):
    monkeypatch.setattr(handlers, "FUNCTION_CALL_TIMEOUT", 0.1)
    mistral = serve(Reply(tool_calls=[called()]), Reply("Done."))
    service = service_of(mistral, limit=limit)
    handler = Keeps()
    service.register_function("one", handler)
    async with Call(service, tools=tools("one")) as call:
        await call.say("Do it.")
        await asyncio.sleep(0.5)
        assert call.count(LLMFullResponseEndFrame) == 1
        await handler.answers("at last")
        await call.until(lambda: call.words == "Done.")
    assert results(mistral) == ['"at last"']


@pytest.mark.parametrize("handler", [nothing, never])
async def test_by_default_a_call_has_a_limit_unless_it_is_asynchronous(serve, monkeypatch, handler):
    assert handlers.FUNCTION_CALL_TIMEOUT == 30
    monkeypatch.setattr(handlers, "FUNCTION_CALL_TIMEOUT", 0.3)
    mistral = serve(
        Reply(tool_calls=[called("two", "abcdefgh2")]),
        Reply(tool_calls=[called()]),
        Reply("No result."),
        Reply("The job is done."),
    )
    service = MistralLLMService(api_key="test-key", base_url=mistral.base_url)
    job = Keeps()
    service.register_function("one", handler)
    service.register_function("two", job, cancel_on_interruption=False)
    async with Call(service, tools=tools("one", "two")) as call:
        await call.say("Begin the job.")
        await asyncio.sleep(0.5)
        assert await call.say("Do it.", turns=2) == "No result."
        await asyncio.sleep(0.2)
        await job.answers("sunny")
        await call.until(lambda: "The job is done." in call.words)
    assert "sunny" in str(mistral.exchanges[-1].request["messages"])
    assert [exchange.refused for exchange in mistral.exchanges] == [None] * 4


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("handler", [nothing, never])
async def test_a_limit_that_is_given_holds_for_asynchronous_functions(serve, handler, own: bool):
    mistral = serve(Reply(tool_calls=[called()]), Reply("No result.", times=None))
    service = service_of(mistral, limit=20 if own else 0.3)
    options = {"timeout_secs": 0.3} if own else {}
    service.register_function("one", handler, cancel_on_interruption=False, **options)
    async with Call(service, tools=tools("one")) as call:
        await call.begin("Do it.")
        await call.until(lambda: "No result." in call.words)
    assert NO_RESULT in str(mistral.exchanges[-1].request["messages"])


async def test_news_and_a_returned_value_of_an_asynchronous_function(serve):
    mistral = serve(
        Reply(tool_calls=[called()]), Reply("On its way.", times=3), Reply("Delivered.", times=None)
    )
    service = service_of(mistral, limit=20)
    release = asyncio.Event()

    async def delivers(params) -> str:
        news = FunctionCallResultProperties(is_final=False)
        await params.result_callback("half way", properties=news)
        await release.wait()
        return "delivered"

    service.register_function("one", delivers, cancel_on_interruption=False)
    async with Call(service, tools=tools("one")) as call:
        await call.say("Deliver it.", turns=2)
        await call.interrupt()
        assert await call.say("Well?") == "On its way."
        release.set()
        await call.until(lambda: "delivered" in str(mistral.exchanges[-1].request["messages"]))
        await call.until(lambda: not call.aggregators.assistant().has_function_calls_in_progress)
    assert "half way" in str(mistral.exchanges[1].request["messages"])
    assert [exchange.refused for exchange in mistral.exchanges] == [None] * len(mistral.exchanges)


async def test_news_after_the_return_leave_the_call_open(serve):
    mistral = serve(Reply(tool_calls=[called()]), Reply("On its way."), Reply("Delivered."))
    service = service_of(mistral, limit=20)
    handler = Keeps()
    service.register_function("one", handler, cancel_on_interruption=False)
    async with Call(service, tools=tools("one")) as call:
        await call.say("Deliver it.")
        await call.until(lambda: handler.params)
        await handler.answers("half way", is_final=False)
        await call.until(lambda: "On its way." in call.words)
        assert call.aggregators.assistant().has_function_calls_in_progress
        await handler.answers("delivered")
        await call.until(lambda: "Delivered." in call.words)


async def test_a_job_in_the_background_does_not_keep_its_reply_from_being_answered(serve):
    mistral = serve(
        Reply(tool_calls=[called(), called("two", "abcdefgh2")]),
        Reply("It is sunny."),
        Reply("The job is done."),
    )
    service = service_of(mistral, limit=None)
    job = Keeps()
    service.register_function("one", job, cancel_on_interruption=False)
    service.register_function("two", lambda _params: "sunny")
    async with Call(service, tools=tools("one", "two")) as call:
        assert await call.say("Both.", turns=2) == "It is sunny."
        await job.answers("42 pages")
        await call.until(lambda: "The job is done." in call.words)
    assert "42 pages" in str(mistral.exchanges[-1].request["messages"])
    assert [exchange.refused for exchange in mistral.exchanges] == [None] * 3


async def test_jobs_of_one_reply_are_answered_together(serve):
    mistral = serve(
        Reply(tool_calls=[called(), called("two", "abcdefgh2")]), Reply("Both are done.")
    )
    service = service_of(mistral, limit=None)
    jobs = Keeps(), Keeps()
    for name, job in zip(("one", "two"), jobs, strict=True):
        service.register_function(name, job, cancel_on_interruption=False)
    async with Call(service, tools=tools("one", "two")) as call:
        await call.say("Both.")
        await call.until(lambda: call.count(FunctionCallInProgressFrame) == 2)
        await jobs[0].answers("first")
        await asyncio.sleep(0.2)
        assert len(mistral.exchanges) == 1
        await jobs[1].answers("second")
        await call.until(lambda: call.words == "Both are done.")


@pytest.mark.parametrize("after", ["raises", "again"])
async def test_only_the_first_result_counts(serve, after: str):
    mistral = serve(Reply(tool_calls=[called()]), Reply("Done."))
    service = service_of(mistral)

    async def handler(params) -> None:
        await params.result_callback("first")
        if after == "raises":
            raise ValueError("too late")
        await params.result_callback("second")

    service.register_function("one", handler)
    async with Call(service, tools=tools("one")) as call:
        assert await call.say("Do it.", turns=2) == "Done."
        await asyncio.sleep(0.4)
    assert results(mistral) == ['"first"']
    assert len(mistral.exchanges) == 2


async def cancelled_inside(_params) -> None:
    task = asyncio.create_task(asyncio.sleep(10))
    task.cancel()
    await task


async def generator(_params):
    yield "one"


def plain_generator(_params):
    yield "one"


def raises(_params) -> None:
    raise ValueError("broken")


class Halt(BaseException):
    """What a framework raises to end a task."""


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("not to be printed")


def raising(error: BaseException) -> Any:
    async def raises_it(_params) -> None:
        raise error

    return raises_it


@pytest.mark.parametrize(
    "error",
    [
        Halt("enough"),
        Halt(),
        BaseExceptionGroup("several", [Halt(), ValueError()]),
        BaseExceptionGroup("several", [asyncio.CancelledError()]),
        GeneratorExit(),
        Unprintable(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("in_parallel", [True, False])
async def test_what_is_no_exception_is_reported_like_one(serve, in_parallel: bool, error):
    calls = [called(), called("two", "abcdefgh2")]
    mistral = serve(Reply(tool_calls=calls), Reply("One failed.", times=None))
    service = service_of(mistral, limit=20, run_in_parallel=in_parallel)
    service.register_function("one", raising(error))
    service.register_function("two", Slow(0.1))
    async with Call(service, tools=tools("one", "two")) as call:
        assert await call.say("Do it.", turns=2) == "One failed."
        [told] = call.errors
    assert type(error).__name__ in told.error
    assert told.exception is not None
    assert told.exception.__cause__ is error
    assert "failed" in results(mistral)[0]
    assert results(mistral)[1] == '"of two"'
    assert len(mistral.exchanges) == 2


async def test_a_handler_that_is_thrown_away_ends_in_silence():
    async def returned(_params, _value) -> None:
        raise AssertionError

    thrown_away = ReturningHandler(never, returned, lambda params: params).invoke(
        {}, cast(Any, None)
    )

    async def begins() -> None:
        thrown_away.send(None)

    await asyncio.create_task(begins())
    thrown_away.close()


@pytest.mark.parametrize("handler", [cancelled_inside, generator, plain_generator, raises])
async def test_a_handler_that_fails_leads_to_a_result_and_an_error_frame(serve, handler):
    mistral = serve(Reply(tool_calls=[called()]), Reply("That failed."))
    service = service_of(mistral, limit=20)
    service.register_function("one", handler)
    async with Call(service, tools=tools("one")) as call:
        assert await call.say("Do it.", turns=2) == "That failed."
        [error] = call.errors
        assert "one" in error.error
    assert "failed" in results(mistral)[0]


async def test_a_handler_that_is_slow_to_end_does_not_delay_the_answer(serve):
    mistral = serve(Reply(tool_calls=[called()]), Reply("No result."))
    service = service_of(mistral)
    answered, ended = asyncio.Event(), asyncio.Event()

    async def handler(params) -> None:
        try:
            await asyncio.sleep(20)
        finally:
            await answered.wait()
            await params.result_callback("too late")
            ended.set()

    service.register_function("one", handler)
    async with Call(service, tools=tools("one")) as call:
        assert await call.say("Do it.", turns=2) == "No result."
        answered.set()
        await asyncio.wait_for(ended.wait(), 5)
    assert NO_RESULT in results(mistral)[0]
    assert call.count(FunctionCallResultFrame) == 1


async def test_a_call_ends_with_its_pipeline(serve):
    mistral = serve(Reply(tool_calls=[called()]))
    service = service_of(mistral, limit=None)
    service.register_function("one", nothing)
    async with Call(service, tools=tools("one")) as call:
        await call.say("Do it.")
        await call.until(lambda: call.count(FunctionCallInProgressFrame))
    assert not [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
    assert not call.errors


async def test_a_call_without_its_result_is_not_started_again(serve):
    mistral = serve(
        Reply(tool_calls=[called()]), Reply(tool_calls=[called()]), Reply("Done.", times=None)
    )
    service = service_of(mistral, limit=20)
    ran: list[Any] = []
    service.register_function("one", ran.append, cancel_on_interruption=False)
    async with Call(service, tools=tools("one")) as call:
        await call.say("Do it.")
        await call.say("Well?")
        assert len(ran) == 1
        await ran[0].result_callback("done")
        await call.until(lambda: "Done." in call.words)
    assert not call.errors


async def test_the_model_may_cancel_a_call_whose_handler_has_returned(serve):
    mistral = serve(Reply(tool_calls=[called()]), Reply("Working on it."))
    service = service_of(mistral, limit=20)
    service.register_function("one", nothing, cancel_on_interruption=False, cancellable_by_llm=True)
    cancelled: list[str] = []

    @service.event_handler("on_function_calls_cancelled")
    async def on_cancelled(_service, calls) -> None:
        cancelled.extend(call.tool_call_id for call in calls)

    async with Call(service, tools=tools("one")) as call:
        await call.say("Do it.")
        await call.say("Are you there?")
        mistral.script.add(
            Reply(tool_calls=[{"name": "cancel_one", "arguments": {}}]),
            Reply("It is cancelled.", times=None),
        )
        await call.begin("Stop it.")
        await call.until(lambda: "It is cancelled." in call.words)
    assert cancelled == ["abcdefgh1"]


class Notes:
    """A recorder that notes results."""

    is_pending = False

    def __init__(self) -> None:
        self.returns: list[tuple[str, Any]] = []

    def on_start(self, service) -> None:
        pass

    async def on_turn_start(self, service, context) -> None:
        pass

    def on_text(self, words) -> None:
        pass

    async def on_function_calls(self, calls) -> None:
        pass

    async def on_function_result(self, call_id, result) -> None:
        await asyncio.sleep(0.05)
        self.returns.append((call_id, result))

    async def on_turn_end(self, *, complete) -> None:
        pass


@pytest.mark.parametrize("late", [True, False])
async def test_a_late_result_and_the_lack_of_one_are_kept(serve, late: bool):
    mistral = serve(Reply(tool_calls=[called()]), Reply("Done."))
    recorder, handler = Notes(), Keeps()
    service = service_of(mistral, limit=20 if late else 0.3, recorder=recorder)
    service.register_function("one", handler)
    async with Call(service, tools=tools("one")) as call:
        await call.say("Do it.")
        if late:
            await call.until(lambda: handler.params)
            await handler.answers("late")
        await call.until(lambda: call.words == "Done.")
    [(call_id, result)] = recorder.returns
    assert call_id == "abcdefgh1"
    assert result == "late" if late else NO_RESULT in result


@pytest.mark.parametrize("value", [-1, "30", True, float("nan")])
def test_a_limit_that_is_no_number_of_seconds_is_refused(value):
    with pytest.raises(BadSetting, match=r"function_call_timeout_secs .* a number of seconds"):
        MistralLLMService(api_key="k", function_call_timeout_secs=value)


async def test_a_function_that_is_registered_anew_while_its_call_waits_may_return(serve):
    mistral = serve(
        Reply(tool_calls=[called("one", "abcdefgh1"), called("two", "abcdefgh2")]), Reply("Done.")
    )
    service = service_of(mistral, run_in_parallel=False)

    async def two(_params: Any) -> str:
        return "of two"

    async def one(params: Any) -> None:
        service.register_function("two", two)
        await params.result_callback("of one")

    service.register_function("one", one)
    service.register_function("two", nothing)
    async with Call(service, tools=tools("one", "two")) as call:
        assert await call.say("Do both.", turns=2) == "Done."
    assert results(mistral) == ['"of one"', '"of two"']
