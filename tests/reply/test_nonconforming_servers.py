"""What other servers than Mistral's send: what the caller hears of it, and what runs."""

import asyncio
import json
from typing import Any

import pytest
from call import Call
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.adapters.llm.schemas.tools_schema import ToolsSchema
from pipecat.frames.frames import LLMTextFrame, LLMThoughtTextFrame
from pipecat.services.llm_service import FunctionCallParams
from pipecat.utils.text.simple_text_aggregator import SimpleTextAggregator

from mistral_service import MistralClient, MistralError, MistralLLMService, Reason
from mistral_service.local import Reply

OSLO = ("get_weather", {"city": "Oslo"})
HELLO = {"role": "user", "content": "Hello."}


def texts(*pieces: str, **options: Any) -> Reply:
    """A reply of these pieces of content."""
    return Reply(deltas=[{"content": piece} for piece in pieces], **options)


def calls(*pieces: dict[str, Any], **options: Any) -> Reply:
    """A reply of these pieces of calls, one in each delta."""
    return Reply(deltas=[{"tool_calls": [piece]} for piece in pieces], **options)


class Functions:
    """`get_weather(city)` and `book(day)`, which note how they were called."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, dict[str, Any]]] = []

    def register(self, service: MistralLLMService) -> ToolsSchema:
        schemas = []
        for name, argument in (("get_weather", "city"), ("book", "day")):
            service.register_function(name, self.run)
            properties = {argument: {"type": "string"}}
            schemas.append(FunctionSchema(name, "A function.", properties, [argument]))
        return ToolsSchema(standard_tools=schemas)

    async def run(self, params: FunctionCallParams) -> None:
        self.ran.append((params.function_name, dict(params.arguments)))
        await params.result_callback({"done": True})


async def held(
    service: MistralLLMService, *said: str, seconds: float = 8.0
) -> tuple[Call, Functions]:
    """A call in which the caller says something, until each turn has had its last word."""
    functions = Functions()
    async with Call(service, tools=functions.register(service)) as call:
        for text in said:
            ended = len(call.words) + len(call.errors)
            await call.begin(text)
            await call.until(
                lambda ended=ended: call.at_rest and len(call.words) + len(call.errors) > ended,
                seconds,
            )
            await asyncio.sleep(0.1)
    return call, functions


# --- dialects -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pieces",
    [
        ("[TOOL_CA", 'LLS] [{"name": "get_wea', 'ther", "arguments": {"city": "Oslo"}}]'),
        ("[TOOL_CALLS]", "get_weather", "[AR", 'GS]{"city": ', '"Oslo"}', "</s>"),
        (
            "<tool",
            '_call>\n{"name": "get_weather", "arg',
            'uments": {"city": "Oslo"}}\n</tool_call>',
        ),
        ("```json\n", '{"name": "get_weather", ', '"arguments": {"city": "Oslo"}}', "\n```"),
    ],
)
@pytest.mark.parametrize("finish_reason", ["stop", "tool_calls"])
async def test_a_call_in_the_text_runs_once_and_is_not_heard(
    serve, service_for, pieces, finish_reason
):
    mistral = serve(texts(*pieces, finish_reason=finish_reason), Reply("It rains."))
    call, functions = await held(service_for(mistral), "Oslo?")
    assert functions.ran == [("get_weather", {"city": "Oslo"})]
    assert call.words == "It rains."
    assert call.errors == []
    assert all(exchange.refused is None for exchange in mistral.exchanges)


async def test_a_call_that_comes_as_text_and_as_a_call_runs_once(serve, service_for):
    text = '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Oslo"}}]'
    mistral = serve(
        Reply(text, tool_calls=[{"name": "get_weather", "arguments": {"city": "Oslo"}}]),
        Reply("It rains."),
    )
    call, functions = await held(service_for(mistral), "Oslo?")
    assert functions.ran == [("get_weather", {"city": "Oslo"})]
    assert call.words == "It rains."


async def test_a_call_of_a_function_that_was_not_offered_is_reported_to_the_model(
    serve, service_for
):
    mistral = serve(texts('[TOOL_CALLS]fly[ARGS]{"to": "Rome"}'), Reply("I cannot fly."))
    call, functions = await held(service_for(mistral), "Rome?")
    assert functions.ran == []
    assert call.words == "I cannot fly."
    assert "fly" in json.dumps(mistral.exchanges[1].request["messages"])


@pytest.mark.parametrize(
    "half", ['[TOOL_CALLS] [{"na', "[TOOL_CALLS]", "<tool_call>hm</tool_call>", "[TOOL_CA"]
)
async def test_half_a_call_is_asked_for_again(serve, service_for, half):
    mistral = serve(
        texts("Let me look. ", half),
        calls({"id": "abcdefgh1", "function": {"name": "book", "arguments": '{"day": "Monday"}'}}),
        Reply("It is booked."),
    )
    call, functions = await held(service_for(mistral), "Monday?", seconds=15)
    await_words = "Let me look. It is booked."
    assert functions.ran == [("book", {"day": "Monday"})]
    assert call.words.replace("  ", " ") == await_words
    assert call.errors == []


async def test_half_a_call_that_comes_twice_is_an_error(serve, service_for):
    mistral = serve(texts('[TOOL_CALLS] [{"na', times=None))
    call, functions = await held(service_for(mistral), "Monday?")
    assert (call.words, functions.ran) == ("", [])
    [error] = call.errors
    assert isinstance(error.exception, MistralError)
    assert error.exception.reason is Reason.CALL
    assert len(mistral.exchanges) == 2


async def test_a_call_of_which_the_arguments_are_cut_is_reported_to_the_model(serve, service_for):
    mistral = serve(
        texts('[TOOL_CALLS]book[ARGS]{"day": "Mon', finish_reason="length"), Reply("Which day?")
    )
    call, functions = await held(service_for(mistral), "Book.")
    assert functions.ran == []
    assert call.words == "Which day?"
    assert "did not run" in json.dumps(mistral.exchanges[1].request["messages"])


@pytest.mark.parametrize(
    "deltas",
    [
        [{"content": piece} for piece in ("<think>The user", " greets.</thi", "nk>Hello.")],
        [{"content": "[THINK]The user greets.[/THINK]Hello."}],
        [{"reasoning_content": "The user greets."}, {"content": "Hello."}],
        [{"reasoning": "The user greets.", "content": ""}, {"content": "Hello."}],
        [
            {"reasoning_details": [{"type": "reasoning.text", "text": "The user greets."}]},
            {"content": "Hello."},
        ],
        [{"content": "The user greets.</think>Hello."}],
    ],
)
async def test_a_thought_in_any_form_is_not_heard(serve, service_for, deltas):
    mistral = serve(Reply(deltas=deltas))
    async with Call(service_for(mistral)) as call:
        assert await call.say("Hello.") == "Hello."
    thought = "".join(frame.text for frame in call.of(LLMThoughtTextFrame))
    assert thought == "The user greets."
    assert "greets" not in str(call.context.get_messages())


async def test_a_model_that_leaves_out_the_opening_tag_is_remembered(serve, service_for):
    mistral = serve(
        texts("The user greets.", "</think>", "Hello."),
        texts("They are polite.", "</think>", "Good ", "day.", pause=0.02),
        texts("No thought."),
    )
    async with Call(service_for(mistral)) as call:
        await call.say("Hello.")
        assert await call.say("Good day.") == "Good day."
        assert await call.say("Bye.") == "No thought."


async def test_markers_of_an_end_are_not_heard(serve, service_for):
    mistral = serve(texts("Hello ", "there.", "</", "s>"))
    async with Call(service_for(mistral)) as call:
        assert await call.say("Hello.") == "Hello there."


async def test_a_sentence_that_is_cut_within_markup_is_finished(serve, service_for):
    mistral = serve(
        Reply(
            deltas=[
                {"content": "It is "},
                {"content": "raining"},
                {"content": "[TOOL_"},
                {"content": "x"},
            ],
            cut_after=3,
        ),
        Reply("It is raining in Oslo."),
    )
    async with Call(service_for(mistral)) as call:
        assert await call.say("Oslo?") == "It is raining in Oslo."


async def test_a_whole_answer_has_no_thought_whose_opening_tag_is_missing(serve):
    mistral = serve(texts("The user ", "greets.", "</think>", "Hello.", pause=0.05))
    async with MistralClient(api_key="k", base_url=mistral.base_url) as client:
        answer = await client.chat([HELLO])
    assert (answer.text, answer.thoughts) == ("Hello.", "The user greets.")


async def test_run_inference_and_the_client_read_the_same(serve, service_for):
    markup = "<think>hm</think>Hello.</s>"
    mistral = serve(texts(markup), texts(markup), texts(markup))
    service = service_for(mistral)
    from pipecat.processors.aggregators.llm_context import LLMContext

    assert await service.run_inference(LLMContext([HELLO])) == "Hello."  # type: ignore[list-item]
    async with MistralClient(api_key="k", base_url=mistral.base_url) as client:
        answer = await client.chat([HELLO])
        assert (answer.text, answer.thoughts) == ("Hello.", "hm")
        streamed = [event async for event in client.stream_chat([HELLO])]
    assert "".join(getattr(event, "text", "") for event in streamed) == "hmHello."


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        (('[THINK]I call [TOOL_CALLS]book[ARGS]{"day"', ':"Mon"}? No.[/THINK]Hello.'), "Hello."),
        (("[TOOL_CALLS]", " Hello ", "there."), "Hello there."),
        (("Hello.", "</s>", "How are you?"), "Hello. How are you?"),
        (("Hello there.</think>",), "Hello there."),
        (('{"name": "book", ', '"author": "Ibsen"}'), '{"name": "book", "author": "Ibsen"}'),
    ],
)
async def test_what_is_no_call_runs_nothing_and_hides_no_words(serve, service_for, pieces, said):
    mistral = serve(texts(*pieces))
    call, functions = await held(service_for(mistral), "Hello.")
    assert (call.words, functions.ran, call.errors) == (said, [], [])
    assert len(mistral.exchanges) == 1


@pytest.mark.parametrize("half", ['{"name": "bo', '```json\n{"name": "bo'])
async def test_half_a_call_without_a_marker_is_asked_for_again(serve, service_for, half):
    mistral = serve(texts(half), Reply("Which day?"))
    call, functions = await held(service_for(mistral), "Book.")
    assert (call.words, functions.ran) == ("Which day?", [])


async def test_a_written_call_without_arguments_is_reported_to_the_model(serve, service_for):
    mistral = serve(texts("[TOOL_CALLS]book"), Reply("Which day?"))
    call, functions = await held(service_for(mistral), "Book.")
    assert (call.words, functions.ran) == ("Which day?", [])
    assert "did not run" in json.dumps(mistral.exchanges[1].request["messages"])


async def test_code_that_is_filled_in_may_hold_what_would_be_markup(serve):
    code = 'x = "<s>[INST]"  # <think> [TOOL_CALLS] '
    mistral = serve(texts(*code), texts(*code))
    async with MistralClient(api_key="k", base_url=mistral.base_url) as client:
        assert (await client.fim("def f():")).text == code
        streamed = [event async for event in client.stream_fim("def f():")]
    assert "".join(getattr(event, "text", "") for event in streamed) == code


async def test_data_may_hold_what_would_be_markup(serve):
    data = {"html": "<s>x</s>", "mine": "[INST]"}
    mistral = serve(texts(*json.dumps(data), "</s>"))
    async with MistralClient(api_key="k", base_url=mistral.base_url) as client:
        assert await client.chat_json([HELLO]) == data


# --- calls --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pieces",
    [
        [
            {"index": 0, "id": "a1b2c3d4e", "function": {"name": "book", "arguments": ""}},
            {"index": 0, "function": {"name": "book", "arguments": '{"day":'}},
            {"index": 0, "function": {"arguments": '"Monday"}'}},
        ],
        [
            {
                "index": 0,
                "id": "a1b2c3d4e",
                "function": {"name": "book", "arguments": '{"day": "Monday"}'},
            }
        ]
        * 2,
        [
            {"index": 0, "id": "a1b2c3d4e", "function": {"name": "book", "arguments": '{"day":'}},
            {"index": 0, "function": {"arguments": '"Monday"}'}},
            {
                "index": 0,
                "id": "a1b2c3d4e",
                "function": {"name": "book", "arguments": '{"day": "Monday"}'},
            },
        ],
        [
            {
                "index": 0,
                "id": "a1b2c3d4e",
                "function": {"name": "book", "arguments": '"{\\"day\\": \\"Monday\\"}"'},
            }
        ],
        [
            {
                "index": 0,
                "id": "a1b2c3d4e",
                "function": {"name": " book\n", "arguments": {"day": "Monday"}},
            }
        ],
        [
            {
                "index": 0,
                "id": "a1b2c3d4e",
                "function": {"name": "functions.book", "arguments": '{"day": "Monday"}'},
            }
        ],
        [
            {
                "index": 0,
                "id": "a1b2c3d4e",
                "function": {"name": "book()", "arguments": '{"day": "Monday"}'},
            }
        ],
        [
            {"index": 0, "id": "a1b2c3d4e", "function": {"name": "book", "arguments": "{}"}},
            {"index": 0, "function": {"arguments": '{"day": "Monday"}'}},
        ],
        [
            {"index": 0, "id": "a1b2c3d4e", "function": {"name": "book", "arguments": '{"day":'}},
            {
                "index": 0,
                "id": "a1b2c3d4e",
                "function": {"name": "book", "arguments": '{"day": "Mon'},
            },
            {
                "index": 0,
                "id": "a1b2c3d4e",
                "function": {"name": "book", "arguments": '{"day": "Monday"}'},
            },
        ],
    ],
)
async def test_one_call_runs_once_however_it_is_spelt(serve, service_for, pieces):
    mistral = serve(calls(*pieces, finish_reason="tool_calls"), Reply("It is booked."))
    call, functions = await held(service_for(mistral), "Monday?")
    assert functions.ran == [("book", {"day": "Monday"})]
    assert call.words == "It is booked."


async def test_pieces_of_two_calls_that_only_an_id_tells_apart_are_two_calls(serve, service_for):
    def piece(call_id: str, name: str, arguments: str) -> dict[str, Any]:
        function = {"name": name, "arguments": arguments}
        return {"index": 0, "id": call_id, "function": function}

    mistral = serve(
        calls(
            piece("a1b2c3d4e", "book", ""),
            piece("b1b2c3d4e", "get_weather", ""),
            piece("a1b2c3d4e", "", '{"day": "Monday"}'),
            piece("b1b2c3d4e", "", '{"city": "Oslo"}'),
        ),
        Reply("It is booked."),
    )
    _call, functions = await held(service_for(mistral), "Monday?")
    assert sorted(functions.ran) == [("book", {"day": "Monday"}), OSLO]


async def test_the_older_form_of_a_call_runs(serve, service_for):
    mistral = serve(
        Reply(
            deltas=[{"function_call": {"name": "book", "arguments": '{"day": "Monday"}'}}],
            finish_reason="function_call",
        ),
        Reply("It is booked."),
    )
    _call, functions = await held(service_for(mistral), "Monday?")
    assert functions.ran == [("book", {"day": "Monday"})]


@pytest.mark.parametrize(
    "arguments", ['{"day": NaN}', '{"day": Infinity}', "[1]", '{"a": 1}{"b": 2}']
)
async def test_what_is_ambiguous_is_reported_to_the_model(serve, service_for, arguments):
    mistral = serve(
        calls(
            {"index": 0, "id": "a1b2c3d4e", "function": {"name": "book", "arguments": arguments}}
        ),
        Reply("Which day?"),
    )
    call, functions = await held(service_for(mistral), "Book.")
    assert (functions.ran, call.words) == ([], "Which day?")


async def test_a_reply_that_calls_without_end_is_bounded(serve, service_for):
    def call_number(n: int) -> dict:
        arguments = json.dumps({"day": str(n)})
        return {
            "index": n,
            "id": f"call{n:05}",
            "function": {"name": "book", "arguments": arguments},
        }

    mistral = serve(
        calls(*map(call_number, range(2000)), finish_reason="tool_calls"), Reply("That is enough.")
    )
    call, functions = await held(service_for(mistral), "Book all.", seconds=20)
    assert len(functions.ran) == 64
    assert call.words == "That is enough."
    results = [m for m in mistral.exchanges[1].request["messages"] if m["role"] == "tool"]
    assert len(results) == 65
    assert "did not" in results[-1]["content"]


async def test_a_chain_of_calls_ends_in_words(serve, service_for):
    def chain(n: int) -> Reply:
        return calls(
            {
                "id": f"chain{n:04}",
                "function": {"name": "book", "arguments": json.dumps({"day": str(n)})},
            },
            finish_reason="tool_calls",
        )

    mistral = serve(*map(chain, range(10)), Reply("I have booked ten days."), Reply("Bye."))
    call, functions = await held(service_for(mistral), "Book.", "Bye.", seconds=20)
    assert len(functions.ran) == 10
    assert "tools" not in mistral.exchanges[10].request
    assert "tools" in mistral.exchanges[11].request
    assert call.words == "I have booked ten days.Bye."


async def test_a_chain_of_calls_without_a_word_ends_in_an_error(serve, service_for):
    text = '[TOOL_CALLS]book[ARGS]{"day": "DAY"}'
    mistral = serve(*(texts(text.replace("DAY", str(n))) for n in range(20)))
    call, functions = await held(service_for(mistral, max_tool_rounds=4), "Book.", seconds=20)
    assert len(functions.ran) == 4
    [error] = call.errors
    assert isinstance(error.exception, MistralError)
    assert error.exception.reason is Reason.CALL


async def test_the_same_call_again_and_again_is_stopped_sooner(serve, service_for):
    def same(n: int) -> Reply:
        function = {"name": "book", "arguments": '{"day": "Monday"}'}
        return calls({"id": f"again{n:04}", "function": function}, finish_reason="tool_calls")

    mistral = serve(*map(same, range(4)), Reply("It is booked."))
    call, functions = await held(service_for(mistral), "Monday?", seconds=20)
    assert len(functions.ran) == 3
    assert call.words == "It is booked."


@pytest.mark.parametrize(
    "choice", ["any", "required", {"type": "function", "function": {"name": "book"}}]
)
@pytest.mark.parametrize("where", ["settings", "context"])
async def test_a_forced_choice_holds_for_the_request_of_the_caller(
    serve, service_for, choice, where
):
    book = {"name": "book", "arguments": {"day": "Monday"}}
    mistral = serve(
        Reply(tool_calls=[book]), Reply("Booked."), Reply(tool_calls=[book]), Reply("Again.")
    )
    service = (
        service_for(mistral, tool_choice=choice) if where == "settings" else service_for(mistral)
    )
    functions = Functions()
    async with Call(service, tools=functions.register(service)) as call:
        if where == "context":
            call.context.set_tool_choice(choice)
        await call.begin("Monday?")
        await call.until(lambda: call.words == "Booked.")
        await call.begin("And again?")
        await call.until(lambda: call.words == "Booked.Again.")
    sent = [exchange.request["tool_choice"] for exchange in mistral.exchanges]
    assert sent == [choice, "auto", choice, "auto"]


# --- words that are no speech, ends, dribbling streams -------------------------------------------


@pytest.mark.parametrize("nothing", ["...", "…", "*", "🙂", "<break/>", "**", "```", "—", "。"])
async def test_a_reply_without_a_letter_or_a_digit_is_an_empty_reply(serve, service_for, nothing):
    mistral = serve(texts(nothing), Reply("Hello."))
    async with Call(service_for(mistral)) as call:
        assert (await call.say("Hello.")).endswith("Hello.")
    assert len(mistral.exchanges) == 2


@pytest.mark.parametrize("short", ["5", "да", "はい", "é", "۵"])
async def test_one_letter_or_digit_in_any_script_is_speech(serve, service_for, short):
    mistral = serve(texts(short))
    async with Call(service_for(mistral)) as call:
        assert await call.say("Hello.") == short
    assert len(mistral.exchanges) == 1


@pytest.mark.parametrize("end", ["abort", "unknown_word", {"type": "x"}, "cancelled", 7])
async def test_an_end_that_is_not_a_good_one_is_a_break(serve, service_for, end):
    mistral = serve(
        texts("The quick ", "brown ", finish_reason=end), Reply("The quick brown fox jumps.")
    )
    async with Call(service_for(mistral)) as call:
        assert await call.say("Hello.") == "The quick brown fox jumps."


async def test_a_call_behind_which_the_reply_broke_does_not_run_without_its_arguments(
    serve, service_for
):
    name = {"index": 0, "id": "a1b2c3d4e", "function": {"name": "book", "arguments": ""}}
    whole = {"id": "a1b2c3d4f", "function": {"name": "book", "arguments": '{"day": "Monday"}'}}
    mistral = serve(calls(name, finish_reason="abort"), calls(whole), Reply("Booked."))
    call, functions = await held(service_for(mistral), "Monday?")
    assert functions.ran == [("book", {"day": "Monday"})]
    assert call.words == "Booked."


@pytest.mark.parametrize("end", ["stop", "STOP", "eos", "function_call", "length"])
async def test_good_ends_are_ends(serve, service_for, end):
    mistral = serve(texts("Hello ", "there.", finish_reason=end))
    async with Call(service_for(mistral)) as call:
        assert await call.say("Hello.") == "Hello there."
    assert len(mistral.exchanges) == 1


DRIBBLE = "sorry did you mean the one in Oslo or the other one"


async def test_a_dribbling_stream_is_heard(serve, service_for):
    mistral = serve(texts(*(f"{word} " for word in DRIBBLE.split()), pause=0.3))
    sentences: list[str] = []
    aggregator = SimpleTextAggregator()  # what Pipecat's voices wait for
    async with Call(service_for(mistral, sentence_timeout=1.0, hedging=False)) as call:
        await call.begin("Hello.")
        for count in range(40):
            await call.until(lambda count=count: len(call.of(LLMTextFrame)) > count)
            text = call.of(LLMTextFrame)[count].text
            sentences += [each.text async for each in aggregator.aggregate(text)]
            if sentences:
                break
        assert "Oslo" not in call.words  # the voice has begun long before the reply was there
        await call.until(lambda: "other one" in call.words)
    assert call.words.replace(".", "").split() == DRIBBLE.split()
    assert len(mistral.exchanges) == 1


async def test_json_has_no_sentences(serve, service_for):
    mistral = serve(texts('{"a": ', '"two ', "words ", 'more"}', pause=0.2))
    service = service_for(
        mistral, sentence_timeout=0.1, hedging=False, response_format={"type": "json_object"}
    )
    async with Call(service) as call:
        assert await call.say("Hello.") == '{"a": "two words more"}'


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
async def test_thinking_is_progress_whatever_its_field(serve, service_for, field):
    deltas = [{field: f"step {n} "} for n in range(8)] + [{"content": "Done."}]
    mistral = serve(Reply(deltas=deltas, pause=0.2))
    service = service_for(mistral, first_token_timeout=0.6, hedging=False)
    async with Call(service) as call:
        assert await call.say("Think.") == "Done."
    assert len(mistral.exchanges) == 1


async def test_half_of_a_surrogate_pair_waits_for_the_other(serve, service_for):
    def raw(*contents: str) -> bytes:
        chunks = [
            '{"choices": [{"index": 0, "delta": {"content": "' + content + '"}}]}'
            for content in contents
        ]
        end = '{"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}]}'
        return b"".join(b"data: %s\n\n" % c.encode() for c in [*chunks, end, "[DONE]"])

    mistral = serve(
        Reply(raw=raw("Hi ", "\\ud83d", "\\ude00", " you.")), Reply(raw=raw("Hi \\ud83d", " you."))
    )
    async with Call(service_for(mistral)) as call:
        assert await call.say("Hello.") == "Hi 😀 you."
        assert await call.say("Hello.") == "Hi \ufffd you."
