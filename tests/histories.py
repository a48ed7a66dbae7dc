"""Histories as they occur in a context, and worse: what Hypothesis draws the rules' input from."""

import base64
import io
import json
from typing import Any

from hypothesis import strategies as st
from PIL import Image

Message = dict[str, Any]


def _picture() -> str:
    data = io.BytesIO()
    Image.new("L", (2, 2)).save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


PICTURE = _picture()

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
