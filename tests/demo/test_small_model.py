"""What the offline demo does for a model that can neither call functions nor see."""

import base64
import io
import json
from typing import Any

import pytest
from PIL import Image

from mistral_service.demo.small_model import (
    HOME,
    SCRIPTED,
    SmallModel,
    call_for,
    described,
    said_of,
    seconds_in,
)
from mistral_service.local.pieces import Delta, End, Json
from mistral_service.wire.servers import CONTINUE_TEXT

NAMES = ("set_timer", "take_note", "weather", "look")
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in NAMES
]


class Model:
    """Takes note of what it is asked, and says one word."""

    def __init__(self) -> None:
        self.asked: list[Json] = []

    async def answer(self, request: Json):
        self.asked.append(request)
        yield Delta({"content": "Hm."})
        yield End()

    async def close(self) -> None: ...


async def reply(messages: list[Any], *, calls: bool = True, **fields: Any):
    """The text of the reply, its calls, and what the model was asked."""
    model = Model()
    request = {"messages": messages, "tools": TOOLS, **fields}
    pieces = [piece async for piece in SmallModel(model, calls=calls).answer(request)]
    text = "".join(p.delta.get("content") or "" for p in pieces if isinstance(p, Delta))
    end = pieces[-1]
    assert isinstance(end, End)
    return text, end.delta.get("tool_calls", []), model.asked


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


@pytest.mark.parametrize(
    ("question", "name", "arguments"),
    [
        ("Set a timer for ten seconds.", "set_timer", {"seconds": 10}),
        ("A timer for 2 minutes and thirty", "set_timer", {"seconds": 120}),
        ("Please take a note: buy milk", "take_note", {"text": "buy milk"}),
        ("Remember that I like tea", "take_note", {"text": "that I like tea"}),
        ("What is the weather in Port Amber?", "weather", {"town": "Port Amber"}),
        ("Do I need an umbrella?", "weather", {"town": HOME}),
        ("What do you see?", "look", {"question": "What do you see?"}),
    ],
)
def test_a_question_asks_for_a_function_by_its_words(question: str, name: str, arguments: Json):
    assert call_for(question) == {"name": name, "arguments": arguments}


@pytest.mark.parametrize("question", ["Why is the sky blue?", "Tell me about the sea.", ""])
def test_other_questions_ask_for_none(question: str):
    assert call_for(question) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("one minute and 30 seconds", 90), ("an hour", 3600), ("five minutes", 300), ("soon", 10)],
)
def test_durations(text: str, seconds: int):
    assert seconds_in(text) == seconds


async def test_the_call_is_made_in_the_models_place():
    text, [call], asked = await reply([user("How is the weather in Old Mill?")])
    assert text == ""
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"]) == {"town": "Old Mill"}
    assert not asked


@pytest.mark.parametrize("fields", [{"tools": []}, {"tool_choice": "none"}])
async def test_no_function_is_called_that_is_not_offered(fields: dict[str, Any]):
    text, calls, _ = await reply([user("How is the weather?")], **fields)
    assert (text, calls) == ("Hm.", [])


async def test_what_the_function_returned_is_put_into_a_sentence():
    result = {"town": "Port Amber", "sky": "raining", "celsius": 9}
    call = {"id": "abcdefgh1", "function": {"name": "weather", "arguments": "{}"}}
    messages = [
        user("How is the weather?"),
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abcdefgh1", "content": json.dumps(result)},
    ]
    text, _, asked = await reply(messages)
    assert text == "In Port Amber it is raining, at 9 degrees."
    assert not asked


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("look", '{"error": "no camera"}', "That did not work: no camera"),
        ("another", '{"a": 1}', "That is done."),
        ("weather", "not JSON", "That is done."),
    ],
)
def test_results_that_are_unusual(name: str, content: str, said: str):
    assert said_of(name, content) == said


def image_url(shade: int) -> str:
    data = io.BytesIO()
    Image.new("RGB", (320, 180), (shade, shade, shade)).save(data, "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


@pytest.mark.parametrize("calls", [True, False])
async def test_an_image_is_answered_by_a_script_that_says_so(calls: bool):
    parts = [
        {"type": "text", "text": "What do you see?"},
        {"type": "image_url", "image_url": {"url": image_url(20)}},
    ]
    text, _, asked = await reply([user(parts)], calls=calls)
    assert text == f"{SCRIPTED} The image that arrived has 320 by 180 pixels, and is dark."
    assert not asked


async def test_what_the_user_says_after_an_image_or_an_unanswered_question_counts():
    image = {"type": "image_url", "image_url": {"url": image_url(20)}}
    asked = {"type": "text", "text": "What do you see?"}
    after = {"type": "text", "text": "Set a timer for ten seconds."}
    for content in ([asked, image, after], f"{asked['text']}\n\n{after['text']}"):
        _, [call], _ = await reply([user(content)])
        assert call["function"]["name"] == "set_timer"


@pytest.mark.parametrize("url", ["", "data:image/jpeg;base64,AAAA", "data:image/jpeg;base64,é"])
def test_an_image_that_cannot_be_read(url: str):
    assert described(url) == "The image that arrived cannot be read."


async def test_other_questions_go_to_the_model_without_functions():
    _, _, [asked] = await reply([user("Why is the sky blue?")])
    assert "tools" not in asked


async def test_a_model_that_calls_by_itself_gets_them():
    _, calls, [asked] = await reply([user("How is the weather?")], calls=False)
    assert calls == []
    assert asked["tools"] == TOOLS


async def test_a_reply_that_was_cut_is_finished_by_the_model():
    cut = [user("What is the moon?"), {"role": "assistant", "content": "The moon is"}]
    _, _, [asked] = await reply([*cut, user(CONTINUE_TEXT)])
    assert asked["messages"] == cut
