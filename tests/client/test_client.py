"""Mistral's endpoints without a pipeline, against the strict one."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from scripted_server import answering
from waiting import until

from mistral_service import MistralClient, MistralError, Reason
from mistral_service.client.form import form_of
from mistral_service.client.vectors import MAX_INPUTS, MAX_TOKENS, batches_of
from mistral_service.local import LocalMistral, Reply, Script
from mistral_service.local.endpoints import CATEGORIES
from mistral_service.reply.events import Finish, Text, Thought
from mistral_service.turn.retries import Limits

USER = [{"role": "user", "content": "Hello."}]
BOUND = Limits(connect=5.0, first_token=10.0, stall=1.5, turn=30.0)
"""Only a stream that goes silent is given up."""
KEY = "a-key-that-nobody-may-see"
MODEL = "mistral-small-latest"
TOOL = {"type": "function", "function": {"name": "one", "parameters": {"type": "object"}}}
TOO_MANY = {"object": "error", "message": "Too many tokens overall", "code": "3210"}


@pytest.fixture
async def client_for():
    """Make clients that talk to an endpoint, and close them."""
    made: list[MistralClient] = []

    def make(mistral: LocalMistral, **options) -> MistralClient:
        made.append(MistralClient(api_key=KEY, base_url=mistral.base_url, **options))
        return made[-1]

    yield make
    for client in made:
        await client.close()


def paths(mistral: LocalMistral) -> list[str]:
    return [exchange.path for exchange in mistral.exchanges]


# --- chat ---------------------------------------------------------------------------------------


async def test_a_chat_answers_as_a_whole(serve, client_for):
    mistral = serve(Reply("Good morning."))
    answer = await client_for(mistral).chat(USER, temperature=0.2, random_seed=7)
    assert answer.text == "Good morning."
    assert answer.finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens > 0
    asked = mistral.exchanges[0].request
    assert (asked["temperature"], asked["random_seed"]) == (0.2, 7)


async def test_a_chat_may_say_all_that_mistral_knows(serve, client_for):
    mistral = serve(Reply("Hi."))
    asking = {
        "top_k": 40,
        "min_tokens": 1,
        "repetition_penalty": 1.1,
        "logprobs": True,
        "top_logprobs": 2,
        "prompt_logprobs": True,
        "top_prompt_logprobs": 1,
    }
    assert (await client_for(mistral).chat(USER, **asking)).text == "Hi."
    assert asking.items() <= mistral.exchanges[0].request.items()


async def test_a_chat_streams_words_thoughts_and_its_end(serve, client_for):
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
    mistral = serve(Reply(deltas=[{"content": [thinking]}, {"content": "Yes."}]))
    events = [event async for event in client_for(mistral).stream_chat(USER)]
    assert events[:2] == [Thought("Hm."), Text("Yes.")]
    assert isinstance(events[2], Finish)


async def test_any_history_is_made_acceptable(serve, client_for):
    mistral = serve(Reply("Fine."))
    history = [
        {"role": "assistant", "content": "Hi.", "name": "bot"},
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "How"},
        {"role": "user", "content": "are you?"},
    ]
    before = json.dumps(history)
    assert (await client_for(mistral).chat(history)).text == "Fine."
    assert mistral.exchanges[0].refused is None
    assert json.dumps(history) == before


async def test_words_that_the_assistant_began_are_not_repeated(serve, client_for):
    mistral = serve(Reply("Once upon a time."))
    begun = [*USER, {"role": "assistant", "content": "Once upon"}]
    assert (await client_for(mistral).chat(begun)).text == " a time."
    assert mistral.exchanges[0].request["messages"][-1]["prefix"]


async def test_functions_are_called_by_the_names_that_they_were_given(serve, client_for):
    mistral = serve(Reply(tool_calls=[{"name": "the_weather_ax92", "arguments": {"city": "Oslo"}}]))
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "the weather", "parameters": schema}}
    choice = {"type": "function", "function": {"name": "the weather"}}
    answer = await client_for(mistral).chat(USER, tools=[tool], tool_choice=choice)
    [call] = answer.tool_calls
    assert call.name == "the weather"
    assert json.loads(call.arguments) == {"city": "Oslo"}
    assert mistral.exchanges[0].request["tool_choice"]["function"]["name"] == "the_weather_ax92"


# --- forms --------------------------------------------------------------------------------------


class Guest(BaseModel):
    name: str
    age: int = Field(ge=0)
    tags: list[str] = []


class Table(BaseModel):
    guests: list[Guest]
    head: Guest | None = None


async def test_json_mode_gives_what_the_json_says(serve, client_for):
    mistral = serve(Reply('{"colour": "red"}'), Reply("Red."))
    client = client_for(mistral)
    assert await client.chat_json(USER) == {"colour": "red"}
    assert mistral.exchanges[0].request["response_format"] == {"type": "json_object"}
    with pytest.raises(MistralError, match=r"no|expected") as raised:
        await client.chat_json(USER)
    assert raised.value.reason is Reason.FORM


async def test_a_reply_becomes_a_pydantic_model(serve, client_for):
    mistral = serve(Reply('{"guests": [{"name": "Ada", "age": 36, "tags": []}], "head": null}'))
    table = await client_for(mistral).chat_as(Table, USER)
    assert table == Table(guests=[Guest(name="Ada", age=36)])
    asked = mistral.exchanges[0].request["response_format"]["json_schema"]
    assert asked["strict"]
    assert asked["name"] == "Table"


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply('{"name": "Ada", "age": -1}'), "age: Input should be greater than or equal to 0"),
        (Reply('{"name": "Ada"}'), "age: Field required"),
        (Reply("I would rather not."), "I would rather not."),
        (Reply('{"name": "Ad', finish_reason="length"), "cut at the limit of tokens"),
    ],
)
async def test_a_reply_of_another_form_is_told_with_its_fault(serve, client_for, reply, said):
    with pytest.raises(MistralError) as raised:
        await client_for(serve(reply)).chat_as(Guest, USER)
    assert raised.value.reason is Reason.FORM
    assert said in str(raised.value)
    assert "Guest" in str(raised.value)


def test_a_form_leaves_nothing_open():
    schema = form_of(Table)["json_schema"]["schema"]
    for part in (schema, schema["$defs"]["Guest"]):
        assert part["additionalProperties"] is False
        assert part["required"] == list(part["properties"])


def test_a_field_may_have_any_name_and_a_mapping_stays_open():
    class Odd(BaseModel):
        properties: dict[str, int]
        items: str = "x"

    schema = form_of(Odd)["json_schema"]["schema"]
    assert schema["required"] == ["properties", "items"]
    assert schema["properties"]["properties"]["additionalProperties"] == {"type": "integer"}


# --- filling in ---------------------------------------------------------------------------------


async def test_the_middle_is_filled_in_whole_and_streamed(serve, client_for):
    mistral = serve(Reply("a + b"), Reply("a - b"))
    client = client_for(mistral)
    answer = await client.fim("def f(a, b):\n    return ", "\n", max_tokens=9, stop=["\n\n"])
    assert (answer.text, answer.finish_reason) == ("a + b", "stop")
    events = [event async for event in client.stream_fim("def g(a, b):\n    return ")]
    assert "".join(event.text for event in events if isinstance(event, Text)) == "a - b"
    assert isinstance(events[-1], Finish)
    assert paths(mistral) == ["fim/completions"] * 2
    assert mistral.exchanges[0].request["suffix"] == "\n"
    assert "suffix" not in mistral.exchanges[1].request


async def test_codestral_may_have_a_host_and_a_key_of_its_own(serve, client_for):
    main, codestral = serve(Reply("Hi.")), serve(Reply("pass"), api_key="codestral-key")
    client = client_for(
        main, codestral_base_url=codestral.base_url, codestral_api_key="codestral-key"
    )
    assert (await client.fim("def f():\n    ")).text == "pass"
    assert (await client.chat(USER)).text == "Hi."
    assert (paths(main), paths(codestral)) == (["chat/completions"], ["fim/completions"])


# --- vectors ------------------------------------------------------------------------------------


def close(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def test_vectors_are_long_as_mistrals_and_near_where_texts_are(serve, client_for):
    texts = ["Dogs are welcome.", "May I bring my puppy?", "The pool opens at seven."]
    dogs, puppy, pool = await client_for(serve()).embed(texts)
    assert len(dogs) == len(puppy) == len(pool) == 1024
    assert close(dogs, dogs) == pytest.approx(1, abs=1e-5)
    assert close(dogs, puppy) > close(pool, puppy) + 0.1


async def test_many_texts_go_in_batches_and_come_in_order(serve, client_for):
    def vectors(*numbers: float, path="embeddings", **more) -> Reply:
        data = [{"index": i, "embedding": [n]} for i, n in enumerate(numbers)]
        # The answer may have any order; the index counts.
        return Reply(path=path, raw=json.dumps({"data": data[::-1]}).encode(), **more)

    count = MAX_INPUTS + 3
    mistral = serve(
        vectors(*range(MAX_INPUTS), when="first", wait=0.2),
        vectors(*range(MAX_INPUTS, count)),
    )
    texts = ["first", *["text"] * (count - 1)]
    assert await client_for(mistral).embed(texts) == [[n] for n in range(count)]
    assert sorted(len(e.request["input"]) for e in mistral.exchanges) == [3, MAX_INPUTS]


async def test_only_so_many_batches_are_under_way_at_once(serve, client_for):
    answer = json.dumps({"data": [{"index": 0, "embedding": [1.0]}]}).encode()
    mistral = serve(Reply(path="embeddings", raw=answer, wait=0.3, times=None))
    long = "word " * 6000  # of these no two fit into a batch
    assert len(await client_for(mistral, concurrency=2).embed([long] * 5)) == 5
    spans = [(e.began, e.ended) for e in mistral.exchanges]
    assert max(sum(b < end and begin < e for b, e in spans) for begin, end in spans) <= 3
    assert max(sum(b <= begin < e for b, e in spans) for begin, _ in spans) == 2


async def test_a_batch_that_mistral_finds_too_long_is_halved(serve, client_for):
    mistral = serve(Reply(path="embeddings", status=400, body=TOO_MANY))
    assert len(await client_for(mistral).embed(["a", "b", "c"])) == 3
    assert [e.request["input"] for e in mistral.exchanges] == [["a", "b", "c"], ["a"], ["b", "c"]]


async def test_a_text_that_is_too_long_by_itself_is_told(serve, client_for):
    with pytest.raises(MistralError, match="exceeding max 8192") as raised:
        await client_for(serve()).embed(["short", "long " * 20_000])
    assert raised.value.reason is Reason.TOO_LARGE


async def test_with_a_batch_that_fails_the_others_end(serve, client_for):
    mistral = serve(
        Reply(path="embeddings", when="bad", status=422, body={"detail": "no"}, wait=1.5),
        Reply(path="embeddings", when="word", wait=20, times=None),
    )
    texts = ["bad " * 8000, "word " * 6000, "word " * 6000]
    with pytest.raises(MistralError) as raised:
        await asyncio.wait_for(client_for(mistral).embed(texts), 10)
    assert raised.value.reason is Reason.REQUEST
    await until(lambda: all(exchange.ended for exchange in mistral.exchanges))
    assert [exchange.left for exchange in mistral.exchanges].count(True) == 2


async def test_no_text_costs_no_request(serve, client_for):
    mistral = serve()
    client = client_for(mistral)
    assert await client.embed([]) == []
    assert await client.moderate([]) == []
    assert mistral.exchanges == []
    with pytest.raises(TypeError, match="list"):
        await client.embed("one text")


@given(st.lists(st.text(max_size=40) | st.just("word " * 4000), max_size=40))
def test_batches_joined_are_the_texts(texts: list[str]):
    batches = batches_of(texts)
    assert [text for batch in batches for text in batch] == texts
    assert all(batches)
    for batch in batches:
        size = sum(len(text.encode()) // 3 + 1 for text in batch)
        assert len(batch) == 1 or (size <= MAX_TOKENS and len(batch) <= MAX_INPUTS)


# --- moderation and models ----------------------------------------------------------------------


async def test_texts_are_judged_each_by_itself(serve, client_for):
    fine, threat = await client_for(serve()).moderate(["What a day.", "I will kill you."])
    assert fine.flagged == ()
    assert threat.flagged == ("violence_and_threats",)
    assert tuple(threat.scores) == CATEGORIES
    assert all(0 <= score <= 1 for score in threat.scores.values())


async def test_of_a_conversation_the_last_message_is_judged(serve, client_for):
    mistral = serve()
    said = [*USER, {"role": "assistant", "content": "I will kill you.", "name": "bot"}]
    client = client_for(mistral)
    assert (await client.moderate_chat(said)).flagged == ("violence_and_threats",)
    asked = mistral.exchanges[0].request["input"]
    assert asked[-1] == {"role": "assistant", "content": "I will kill you."}
    assert (await client.moderate_chat([*said, *USER])).flagged == ()


async def test_the_models_are_listed_with_what_they_can_do(serve, client_for):
    models = await client_for(serve()).models()
    small, embed = models.find("mistral-small-latest"), models.find("mistral-embed")
    assert small is not None
    assert small.vision
    assert embed is not None
    assert embed.chat is False
    assert models.find("mistral-medium") is models.find("mistral-medium-latest")


# --- what goes wrong ----------------------------------------------------------------------------

BUSY = {"status": 503, "body": {"message": "Service tier capacity exceeded"}}


async def test_a_fault_that_passes_is_met_with_another_attempt(serve, client_for):
    vectors = json.dumps({"data": [{"index": 0, "embedding": [1.0]}]}).encode()
    mistral = serve(
        Reply(**BUSY),
        Reply("There.", cut_after=0),
        Reply("There."),
        Reply("", finish_reason="stop"),
        Reply("Not empty."),
        Reply(path="embeddings", **BUSY),
        Reply(path="embeddings", raw=vectors),
    )
    client = client_for(mistral)
    assert (await client.chat(USER)).text == "There."
    assert (await client.chat(USER)).text == "Not empty."
    assert await client.embed(["x"]) == [[1.0]]
    assert len(mistral.exchanges) == 7


async def test_a_whole_reply_that_breaks_is_asked_for_again(serve, client_for):
    mistral = serve(Reply("One two three.", stall_after=2), Reply("One two three."))
    assert (await client_for(mistral, limits=BOUND).chat(USER)).text == "One two three."
    await until(lambda: mistral.exchanges[0].ended)
    assert mistral.exchanges[0].left


async def test_a_server_that_is_silent_is_given_up_in_time():
    asked: list[object] = []

    async def silent(writer: asyncio.StreamWriter) -> None:
        asked.append(writer)
        await asyncio.Event().wait()

    async def is_given_up(asking: Awaitable[object]) -> None:
        with pytest.raises(MistralError) as raised:
            await asyncio.wait_for(asking, 10)
        assert raised.value.reason is Reason.TIMEOUT

    limits = Limits(connect=1.0, first_token=1.0, stall=1.0, turn=2.5, thinking=4.0)
    async with (
        answering(silent) as address,
        MistralClient(api_key=KEY, base_url=address, limits=limits) as client,
    ):
        await asyncio.gather(is_given_up(client.chat(USER)), is_given_up(client.embed(["x"])))
    assert len(asked) == 4


async def test_who_takes_events_slowly_is_no_silence_of_the_server(serve, client_for):
    mistral = serve(Reply("One two.", pause=0.05))
    heard = []
    async for event in client_for(mistral, limits=BOUND).stream_chat(USER):
        heard.append(event)
        await asyncio.sleep(BOUND.stall + 0.1)
    assert isinstance(heard[-1], Finish)


async def test_who_leaves_early_closes_the_connection(serve, client_for):
    mistral = serve(Reply("One two three four.", stall_after=2))
    async with aclosing(client_for(mistral).stream_chat(USER)) as events:
        async for _ in events:
            break
    await until(lambda: mistral.exchanges[0].ended)
    assert mistral.exchanges[0].left


async def test_a_refusal_is_told_at_once_and_without_the_keys(serve, client_for):
    gateways = "virtual-key-of-the-gateway"
    said = {"message": f"Unauthorized: {KEY} of {gateways}"}
    mistral = serve(Reply(status=401, body=said))
    client = client_for(mistral, default_headers={"x-portkey-virtual-key": gateways})
    with pytest.raises(MistralError) as raised:
        await client.chat(USER)
    assert raised.value.reason is Reason.KEY
    assert "Unauthorized" in str(raised.value)
    for text in (str(raised.value), repr(raised.value), repr(client), str(vars(raised.value))):
        assert KEY not in text
        assert gateways not in text


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_of_a_key_that_was_good_names_the_other_causes(
    serve, client_for, stream: bool
):
    mistral = serve(Reply("Hello."), Reply(status=401, body={"message": "Unauthorized"}))
    client = client_for(mistral)

    async def ask() -> None:
        if stream:
            async for _ in client.stream_chat(USER):
                pass
        else:
            await client.chat(USER)

    await ask()
    with pytest.raises(MistralError, match="budget of its workspace") as raised:
        await ask()
    assert raised.value.reason is Reason.KEY
    assert "Unauthorized" in str(raised.value)


async def test_a_wrong_answer_is_an_error_and_no_crash(serve, client_for):
    mistral = serve(
        Reply(path="embeddings", raw=b'{"data": []}', times=1),
        Reply(path="moderations", raw=b"[]", times=None),
    )
    client = client_for(mistral)
    with pytest.raises(MistralError, match="1 texts with 0 vectors"):
        await client.embed(["x"])
    with pytest.raises(MistralError, match="no JSON object"):
        await client.moderate(["x"])


def test_what_cannot_work_is_told_when_the_client_is_made(monkeypatch):
    with pytest.raises(ValueError, match="MistralClient needs a key"):
        MistralClient()
    with pytest.raises(ValueError, match=r"base_url='api\.mistral\.ai'"):
        MistralClient(api_key="any", base_url="api.mistral.ai")
    with pytest.raises(ValueError, match="codestral_base_url"):
        MistralClient(api_key="any", codestral_base_url="codestral")
    with pytest.raises(ValueError, match="concurrency"):
        MistralClient(api_key="any", concurrency=0)
    monkeypatch.setenv("MISTRAL_API_KEY", KEY)
    monkeypatch.setenv("MISTRAL_BASE_URL", "http://127.0.0.1:9/v1")
    assert "127.0.0.1:9" in repr(MistralClient())
    assert KEY not in repr(vars(MistralClient()))


def test_the_client_needs_no_pipecat():
    code = (
        "import sys, asyncio; from mistral_service import MistralClient\n"
        "from mistral_service.local import LocalMistral, Script, Reply\n"
        "async def main():\n"
        "    with LocalMistral(Script(Reply('Hi.'))) as mistral:\n"
        "        async with MistralClient(api_key='any', base_url=mistral.base_url) as client:\n"
        "            print((await client.chat([{'role': 'user', 'content': 'Hello.'}])).text)\n"
        "asyncio.run(main())\n"
        "print('pipecat' in sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=240
    )
    assert out.stdout.split() == ["Hi.", "False"], out.stderr


def test_the_script_may_be_used_by_itself():
    script = Script(Reply("x", path="embeddings"), Reply("y"))
    assert script.pieces_for({"messages": USER}, "chat/completions") is not None
    assert script.pieces_for({"messages": USER}, "chat/completions") is None
    assert script.pieces_for({"input": "x"}, "embeddings") is not None


# --- a chat is a turn ---------------------------------------------------------------------------


async def test_a_chat_that_is_cut_goes_on_after_its_words(serve, client_for):
    mistral = serve(Reply("One two three.", cut_after=2), Reply("three."))
    assert (await client_for(mistral).chat(USER)).text == "One two three."
    again = mistral.exchanges[1].request["messages"]
    assert again[-1] == {"role": "assistant", "content": "One two ", "prefix": True}


async def test_a_stream_that_is_cut_goes_on_after_its_words(serve, client_for):
    mistral = serve(Reply("One two three.", cut_after=2), Reply("three."))
    events = [event async for event in client_for(mistral).stream_chat(USER)]
    assert "".join(event.text for event in events if isinstance(event, Text)) == "One two three."
    assert isinstance(events[-1], Finish)
    assert len(mistral.exchanges) == 2


async def test_words_that_the_assistant_began_are_in_the_prefix_once(serve, client_for):
    mistral = serve(Reply("One two three.", cut_after=2), Reply("three."))
    begun = [*USER, {"role": "assistant", "content": "Zero "}]
    assert (await client_for(mistral).chat(begun)).text == "One two three."
    again = mistral.exchanges[1].request["messages"]
    assert again[-1] == {"role": "assistant", "content": "Zero One two ", "prefix": True}


async def test_json_that_is_cut_begins_anew(serve, client_for):
    mistral = serve(Reply('{"a": 1, "b": 2}', cut_after=2), Reply('{"a": 3, "b": 4}'))
    assert await client_for(mistral).chat_json(USER) == {"a": 3, "b": 4}
    assert mistral.exchanges[1].request["messages"] == USER


async def test_json_that_is_cut_after_it_was_given_away_is_an_error(serve, client_for):
    mistral = serve(Reply('{"a": 1, "b": 2}', cut_after=2), Reply("Never."))
    form = {"type": "json_object"}
    events = client_for(mistral).stream_chat(USER, response_format=form)
    assert isinstance(await anext(events), Text)
    with pytest.raises(MistralError) as raised:
        _ = [event async for event in events]
    assert raised.value.retryable
    assert len(mistral.exchanges) == 1


async def test_code_that_is_cut_begins_anew(serve, client_for):
    mistral = serve(
        Reply("return a + b", path="fim/completions", cut_after=2),
        Reply("return a - b", path="fim/completions"),
    )
    assert (await client_for(mistral).fim("def f(a, b):")).text == "return a - b"


async def test_a_chat_goes_to_the_fallback(serve, client_for):
    mistral = serve(Reply(**BUSY), Reply("There."))
    client = client_for(mistral, fallback_models=["mistral-medium-latest"])
    assert (await client.chat(USER)).text == "There."
    asked = [exchange.request["model"] for exchange in mistral.exchanges]
    assert asked == [MODEL, "mistral-medium-latest"]


async def test_a_fallback_may_be_elsewhere(serve, client_for):
    mistral, other = serve(Reply(**BUSY, times=None)), serve(Reply("There.", times=None))
    client = client_for(mistral, fallback_base_url=other.base_url)
    assert (await client.chat(USER, model="mistral-large-latest")).text == "There."
    assert other.exchanges[0].request["model"] == "mistral-large-latest"


async def test_a_chat_that_is_late_is_hedged_where_that_is_wanted(serve, client_for):
    mistral = serve(Reply("Late.", wait=20), Reply("There."))
    client = client_for(mistral, hedging=True)
    async with asyncio.timeout(10):
        assert (await client.chat(USER)).text == "There."
    assert len(mistral.exchanges) == 2


async def test_the_tokens_of_all_attempts_count(serve, client_for):
    mistral = serve(Reply(""), Reply("Hello there."))
    usage = (await client_for(mistral).chat(USER)).usage
    single = (await client_for(serve(Reply("Hello there."))).chat(USER)).usage
    assert usage is not None
    assert single is not None
    assert usage.prompt_tokens == 2 * single.prompt_tokens


async def test_thoughts_of_an_empty_reply_are_no_part_of_the_answer(serve, client_for):
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
    thought = {"content": [thinking]}
    mistral = serve(Reply(deltas=[thought]), Reply(deltas=[thought, {"content": "Hi."}]))
    answer = await client_for(mistral).chat(USER)
    assert (answer.thoughts, answer.text) == ("Hm.", "Hi.")


async def test_a_whole_reply_with_functions_begins_anew(serve, client_for):
    mistral = serve(Reply("One two three.", cut_after=2), Reply("One two three."))
    assert (await client_for(mistral).chat(USER, tools=[TOOL])).text == "One two three."
    assert mistral.exchanges[1].request["messages"] == USER


async def test_messages_are_read_once(serve, client_for):
    mistral = serve(Reply(**BUSY), Reply("Hi."))
    messages: Any = iter(USER)
    assert (await client_for(mistral).chat(messages)).text == "Hi."
    assert mistral.exchanges[1].request["messages"] == USER


async def test_a_stream_whose_task_is_cancelled_ends(serve, client_for):
    mistral = serve(Reply("Late.", wait=20))
    events = client_for(mistral).stream_chat(USER)
    reading = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0.2)
    for task in asyncio.all_tasks() - {reading, asyncio.current_task()}:
        if "Turns.stream" in repr(task):
            task.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(MistralError, match="cancelled"):
            await reading


async def test_the_limit_of_a_stream_is_named_whole(serve, client_for):
    mistral = serve(Reply("One two three.", pause=20))
    limits = Limits(first_token=10.0, stall=30.0, turn=60.0, whole=0.5)
    with pytest.raises(MistralError, match=r"did not come in 0\.5 s"):
        _ = [event async for event in client_for(mistral, limits=limits).stream_chat(USER)]


async def test_code_goes_to_no_fallback(serve, client_for):
    mistral = serve(Reply(path="fim/completions", times=None, **BUSY))
    other = serve(Reply("Never.", path="fim/completions", times=None))
    client = client_for(mistral, fallback_base_url=other.base_url)
    with pytest.raises(MistralError):
        await client.fim("def f(")
    assert not other.exchanges


async def test_a_key_that_a_chat_used_was_good_for_vectors_too(serve, client_for):
    refused = {"message": "Unauthorized"}
    mistral = serve(Reply("Hi."), Reply(path="embeddings", status=401, body=refused))
    client = client_for(mistral)
    await client.chat(USER)
    with pytest.raises(MistralError, match="budget of its workspace"):
        await client.embed(["x"])


@pytest.mark.parametrize("models", ["mistral-large-latest", ["mistral-large-latest", ""]])
def test_fallback_models_are_a_list_of_names(models):
    with pytest.raises(ValueError, match=r"fallback_models=.* must list model names"):
        MistralClient(api_key="any", fallback_models=models)
