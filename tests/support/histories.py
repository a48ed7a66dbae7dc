"""Histories as they occur in a context, and worse: what Hypothesis draws the rules' input from."""

import base64
import io
import json
from typing import Any

from hypothesis import strategies as st
from PIL import Image

Message = dict[str, Any]


def _image() -> str:
    data = io.BytesIO()
    Image.new("L", (2, 2)).save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


PICTURE = _image()

# A word that stands in no other message shows where a message went.
_count = st.integers(0, 10**9).map(lambda n: f"w{n}w")
words = st.lists(_count, min_size=1, max_size=3).map(" ".join)
blank = st.sampled_from(["", " ", "\n"])
maybe_words = st.one_of(words, words, words, blank)

text_part = words.map(lambda text: {"type": "text", "text": text})
image_part = st.sampled_from(
    [
        {"type": "image_url", "image_url": {"url": PICTURE}},
        {"type": "image_url", "image_url": {"url": PICTURE, "detail": "auto"}},
        {"type": "image_url", "image_url": PICTURE},
    ]
)
file_part = st.sampled_from(
    [
        {
            "type": "file",
            "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="},
        },
        {"type": "document_url", "document_url": "https://example.com/a.pdf"},
    ]
)
resource_part = st.one_of(
    text_part.map(lambda part: {"type": "resource", "uri": "file://a", "content": part}),
    image_part.map(lambda part: {"type": "resource", "uri": "file://b", "content": part}),
    words.map(lambda text: {"type": "resource", "resource": {"uri": "file://c", "text": text}}),
    st.just({"type": "resource_link", "uri": "file://d", "name": "d"}),
)
parts = st.lists(st.one_of(text_part, text_part, image_part, file_part, resource_part), max_size=3)
contents = st.one_of(maybe_words, maybe_words, parts)

call_ids = st.sampled_from(
    [
        "abcdefgh1",
        "abcdefgh2",
        "call_0",
        "call_1",
        "call_9aF3kQ",
        "toolu_01A",
        "chatcmpl-tool-7",
        "null",
        "",
        None,
    ]
)
names = st.sampled_from(["weather", "time", "server.tool", "a b", "x" * 70])
arguments = st.sampled_from(["{}", '{"city": "Rome"}', "", "{broken", "[1, 2]", "null", {"a": 1}])
calls = st.builds(
    lambda call_id, name, args, extra: {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": args},
        **extra,
    },
    call_ids,
    names,
    arguments,
    st.sampled_from([{}, {}, {"index": 0}]),
)
result_texts = st.one_of(
    words,
    words,
    st.sampled_from(["IN_PROGRESS", "CANCELLED", "COMPLETED", "", "0", "null"]),
    words.map(lambda text: json.dumps({"result": text})),
)

extras = st.sampled_from([{}, {}, {}, {"name": "anna"}, {"metadata": {"a": 1}}])

systems = st.builds(
    lambda role, content, extra: {"role": role, "content": content, **extra},
    st.sampled_from(["system", "developer"]),
    st.one_of(maybe_words, st.lists(text_part, max_size=2)),
    extras,
)
users = st.builds(
    lambda content, extra: {"role": "user", "content": content, **extra}, contents, extras
)
assistants = st.builds(
    lambda content, extra: {"role": "assistant", "content": content, **extra},
    st.one_of(maybe_words, st.lists(text_part, max_size=2), st.none()),
    st.sampled_from(
        [{}, {}, {}, {"reasoning_content": "x"}, {"prefix": True}, {"refusal": None, "audio": None}]
    ),
)
callers = st.builds(
    lambda made, content: {"role": "assistant", "tool_calls": made, **content},
    st.lists(calls, min_size=1, max_size=3),
    st.one_of(st.just({}), st.just({"content": None}), words.map(lambda text: {"content": text})),
)
results = st.builds(
    lambda call_id, content: {"role": "tool", "tool_call_id": call_id, "content": content},
    call_ids,
    st.one_of(result_texts, st.lists(text_part, max_size=2), parts),
)


@st.composite
def answered_calls(draw: st.DrawFn) -> list[Message]:
    """Calls in Pipecat's shape: a message for each call, its result right behind it, or late."""
    messages: list[Message] = []
    late: list[Message] = []
    for call in draw(st.lists(calls, min_size=1, max_size=3)):
        messages.append({"role": "assistant", "tool_calls": [call]})
        result = {"role": "tool", "tool_call_id": call["id"], "content": draw(result_texts)}
        match draw(st.sampled_from(["now", "now", "now", "late", "never", "twice"])):
            case "now":
                messages.append(result)
            case "late":
                late.append(result)
            case "twice":
                messages += [result, dict(result)]
            case _:
                pass
    between = draw(st.lists(st.one_of(users, assistants), max_size=1))
    return [*messages, *between, *late]


def _listed(strategy: st.SearchStrategy[Message]) -> st.SearchStrategy[list[Message]]:
    return strategy.map(lambda message: [message])


turns = st.one_of(
    _listed(users),
    _listed(users),
    _listed(assistants),
    _listed(systems),
    _listed(callers),
    _listed(results),
    answered_calls(),
    answered_calls(),
)
histories = st.lists(turns, max_size=7).map(lambda groups: [m for group in groups for m in group])
"""Any order of any messages."""


# --- the forms of other APIs ----------------------------------------------------------------------

_DATA = PICTURE.partition(",")[2]
input_text = words.map(lambda text: {"type": "input_text", "text": text})
google_text = words.map(lambda text: {"text": text})
foreign_images = st.sampled_from(
    [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": _DATA}},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
        {"type": "input_image", "image_url": PICTURE, "detail": "auto"},
        {"type": "input_image", "file_id": "file-7"},
        {"inlineData": {"mimeType": "image/png", "data": _DATA}},
        {"image": {"format": "png", "source": {"bytes": base64.b64decode(_DATA)}}},
    ]
)
foreign_said = st.one_of(input_text, google_text, text_part, foreign_images, words)
foreign_unsaid = st.sampled_from(
    [
        {"type": "redacted_thinking", "data": "x"},
        {"text": "a thought", "thought": True},
        {"reasoningContent": {"reasoningText": {"text": "x", "signature": "s"}}},
        {"cachePoint": {"type": "default"}},
        {"type": "text", "text": ""},
        {},
        7,
        None,
        [],
    ]
)
foreign_arguments = st.one_of(words.map(lambda text: {"a": text}), arguments, st.none())
foreign_calls = st.one_of(
    st.builds(
        lambda i, n, a: {"type": "tool_use", "id": i, "name": n, "input": a},
        call_ids,
        names,
        foreign_arguments,
    ),
    st.builds(
        lambda i, n, a: {"functionCall": {"id": i, "name": n, "args": a}},
        call_ids,
        names,
        foreign_arguments,
    ),
    st.builds(
        lambda i, n, a: {"toolUse": {"toolUseId": i, "name": n, "input": a}},
        call_ids,
        names,
        foreign_arguments,
    ),
)
foreign_contents = st.one_of(
    words,
    st.lists(foreign_said, max_size=2),
    st.sampled_from(["", None, "IN_PROGRESS", {"a": 1}, 7, [1, 2]]),
)
foreign_results = st.one_of(
    st.builds(
        lambda i, c, e: {"type": "tool_result", "tool_use_id": i, "content": c, **e},
        call_ids,
        foreign_contents,
        st.sampled_from([{}, {}, {"is_error": True}]),
    ),
    st.builds(
        lambda i, n, c: {"function_response": {"id": i, "name": n, "response": {"value": c}}},
        call_ids,
        names,
        words,
    ),
    st.builds(
        lambda i, c, e: {"toolResult": {"toolUseId": i, "content": c, "status": e}},
        call_ids,
        st.lists(google_text, max_size=2),
        st.sampled_from(["success", "error"]),
    ),
)
foreign_messages = st.one_of(
    st.builds(
        lambda role, name, parts: {"role": role, name: parts},
        st.sampled_from(["user", "assistant", "model", "user", "assistant", "tool", "system"]),
        st.sampled_from(["content", "content", "parts"]),
        st.lists(
            st.one_of(foreign_said, foreign_said, foreign_calls, foreign_results, foreign_unsaid),
            max_size=4,
        ),
    ),
    st.builds(
        lambda i, n, a: {"type": "function_call", "call_id": i, "name": n, "arguments": a},
        call_ids,
        names,
        foreign_arguments,
    ),
    st.builds(
        lambda i, c: {"type": "function_call_output", "call_id": i, "output": c},
        call_ids,
        foreign_contents,
    ),
    st.sampled_from([{"type": "reasoning", "summary": []}, {"type": "item_reference", "id": "m1"}]),
)


@st.composite
def foreign_rounds(draw: st.DrawFn) -> list[Message]:
    """A call and its result as Anthropic and Google write them, with words on both sides."""
    call_id, name = draw(call_ids), draw(names)
    before, after = draw(st.lists(input_text, max_size=1)), draw(st.lists(text_part, max_size=1))
    content = draw(foreign_contents)
    if draw(st.booleans()):
        call = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
        result = {"type": "tool_result", "tool_use_id": call_id, "content": content}
        made = {"role": "assistant", "content": [*before, call]}
        return [made, {"role": "user", "content": [result, *after]}]
    response = {"name": name, "response": {"output": content}}
    made = {"role": "model", "parts": [{"function_call": {"name": name, "args": {}}}]}
    return [made, {"role": "user", "parts": [{"function_response": response}, *after]}]


foreign_turns = st.one_of(_listed(foreign_messages), foreign_rounds(), foreign_rounds())
mixed_histories = st.lists(st.one_of(foreign_turns, foreign_turns, turns), max_size=7).map(
    lambda groups: [m for group in groups for m in group]
)
"""Any order of any messages, in the forms of several APIs."""
