"""Histories of other APIs: their calls, results and images reach Mistral as what they are."""

import asyncio
import base64
import copy
import importlib
import json
import re
import sys
from collections import Counter
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from call import Call
from chat_templates import render, templates
from histories import PICTURE, foreign_turns, mixed_histories
from hypothesis import given, settings
from hypothesis import strategies as st
from pipecat.adapters.llm.services.bedrock_adapter import AWSBedrockLLMAdapter
from pipecat.adapters.llm.services.open_ai_responses_adapter import OpenAIResponsesLLMAdapter
from pipecat.processors.aggregators.llm_context import LLMContext, LLMSpecificMessage
from pydantic import BaseModel
from strict import EXAMPLES, refusal
from typer.testing import CliRunner

from mistral_service import MistralClient, MistralLLMAdapter
from mistral_service.cli.app import app
from mistral_service.conversation.foreign import in_mistrals_form
from mistral_service.conversation.rules import BRIDGE, CONTINUE_TEXT, Conversion, apply_rules
from mistral_service.conversation.tools import choice_now
from mistral_service.local import Reply

many = settings(max_examples=EXAMPLES // 2)
DATA = PICTURE.partition(",")[2]
PNG = base64.b64decode(DATA)
SHOWN = {"type": "image_url", "image_url": {"url": PICTURE}}
WEB = "https://example.com/a.png"
SHOWN_WEB = {"type": "image_url", "image_url": {"url": WEB}}
PDF = "data:application/pdf;base64,AAAA"
USER = {"role": "user", "content": "Rome?"}
SUNNY = {"role": "assistant", "content": "Sunny."}
ANTHROPIC_IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png"}}
ANTHROPIC_IMAGE["source"]["data"] = DATA


def user(*parts: Any) -> dict:
    return {"role": "user", "content": list(parts)}


def assistant(*parts: Any) -> dict:
    return {"role": "assistant", "content": list(parts)}


def text(words: str) -> dict:
    return {"type": "text", "text": words}


def called(call_id: str = "abcdefgh1", arguments: str = '{"city": "Rome"}', name="weather") -> dict:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def calls(*made: dict) -> dict:
    return {"role": "assistant", "tool_calls": list(made) or [called()]}


def result(content: str = "sunny", call_id: str = "abcdefgh1") -> dict:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def tool_use(call_id: Any = "abcdefgh1", given: Any = None) -> dict:
    return {
        "type": "tool_use",
        "id": call_id,
        "name": "weather",
        "input": {"city": "Rome"} if given is None else given,
    }


def tool_result(content: Any = "sunny", call_id: Any = "abcdefgh1", **more: Any) -> dict:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **more}


def function_call(call_id: str = "abcdefgh1") -> dict:
    given = {"name": "weather", "arguments": '{"city": "Rome"}'}
    return {
        "type": "function_call",
        "id": "fc_1",
        "call_id": call_id,
        "status": "completed",
    } | given


def output(said: Any = "sunny", call_id: str = "abcdefgh1") -> dict:
    return {"type": "function_call_output", "call_id": call_id, "output": said}


def responses(name: str) -> dict:
    return {"name": name, "response": {"output": "sunny"}}


# --- each framework, as it is and as it is sent ---------------------------------------------------

ONE_ROUND = [USER, calls(), result()]
GOOGLE = {"name": "weather", "args": {"city": "Rome"}}
CASES: dict[str, tuple[list[Any], list[dict]]] = {
    "anthropic: a call and its result": (
        [USER, assistant(tool_use()), user(tool_result())],
        ONE_ROUND,
    ),
    "anthropic: words before the call, words behind the result": (
        [USER, assistant(text("Let me see."), tool_use()), user(tool_result(), text("And Oslo?"))],
        [
            USER,
            {"role": "assistant", "content": "Let me see."},
            {"role": "user", "content": CONTINUE_TEXT},
            calls(),
            result(),
            {"role": "assistant", "content": BRIDGE},
            {"role": "user", "content": "And Oslo?"},
        ],
    ),
    "anthropic: words before the result": (
        [USER, assistant(tool_use()), user(text("Quick."), tool_result())],
        [
            *ONE_ROUND,
            {"role": "assistant", "content": BRIDGE},
            {"role": "user", "content": "Quick."},
        ],
    ),
    "anthropic: two calls, the results in another order": (
        [
            USER,
            assistant(tool_use("abcdefgh1"), tool_use("abcdefgh2")),
            user(tool_result("2", "abcdefgh2"), tool_result("1", "abcdefgh1")),
        ],
        [
            USER,
            calls(called("abcdefgh1"), called("abcdefgh2")),
            result("1", "abcdefgh1"),
            result("2", "abcdefgh2"),
        ],
    ),
    "anthropic: a result in parts": (
        [USER, assistant(tool_use()), user(tool_result([text("sunny,"), text("warm")]))],
        [USER, calls(), result("sunny,\nwarm")],
    ),
    "anthropic: a result with an image": (
        [USER, assistant(tool_use()), user(tool_result([text("The map:"), ANTHROPIC_IMAGE]))],
        [
            USER,
            calls(),
            result("The map:"),
            {"role": "assistant", "content": BRIDGE},
            user(SHOWN),
        ],
    ),
    "anthropic: a result that is an error": (
        [USER, assistant(tool_use()), user(tool_result("no such city", is_error=True))],
        [USER, calls(), result("[Error] no such city")],
    ),
    "anthropic: a result that is an error in parts": (
        [USER, assistant(tool_use()), user(tool_result([text("no such city")], is_error=True))],
        [USER, calls(), result("[Error] no such city")],
    ),
    "anthropic: a result that is nothing": (
        [USER, assistant(tool_use()), user({"type": "tool_result", "tool_use_id": "abcdefgh1"})],
        [USER, calls(), result("")],
    ),
    "anthropic: images": (
        [user(ANTHROPIC_IMAGE, {"type": "image", "source": {"type": "url", "url": WEB}})],
        [user(SHOWN, SHOWN_WEB)],
    ),
    "anthropic: documents": (
        [
            user(
                {
                    "type": "document",
                    "title": "a.pdf",
                    "context": "Of May.",
                    "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"},
                    "citations": {"enabled": True},
                },
                {"type": "document", "source": {"type": "url", "url": "https://example.com/b.pdf"}},
                {
                    "type": "document",
                    "title": "c",
                    "source": {"type": "text", "media_type": "text/plain", "data": "Words."},
                },
                {"type": "document", "source": {"type": "content", "content": [text("More.")]}},
                {"type": "document", "source": {"type": "file", "file_id": "file_7"}},
            )
        ],
        [
            user(
                {"type": "document_url", "document_url": PDF, "document_name": "a.pdf"},
                text("Of May."),
                {"type": "document_url", "document_url": "https://example.com/b.pdf"},
                text("[File c]\nWords."),
                text("More."),
                text("[file file_7, kept by another provider]"),
            )
        ],
    ),
    "anthropic: thoughts go to no one else": (
        [
            USER,
            assistant(
                {"type": "thinking", "thinking": "Hm.", "signature": "s"},
                {"type": "redacted_thinking", "data": "x"},
                text("Sunny."),
            ),
            USER,
        ],
        [USER, SUNNY, USER],
    ),
    "anthropic: nothing but a thought": (
        [USER, assistant({"type": "redacted_thinking", "data": "x"}), USER],
        [{"role": "user", "content": "Rome?\n\nRome?"}],
    ),
    "anthropic: its own search": (
        [
            USER,
            assistant(
                {"type": "server_tool_use", "id": "abcdefgh1", "name": "weather", "input": {}},
                {
                    "type": "web_search_tool_result",
                    "tool_use_id": "abcdefgh1",
                    "content": [
                        {"type": "web_search_result", "title": "R", "encrypted_content": "x"}
                    ],
                },
                text("Sunny."),
            ),
            USER,
        ],
        [
            USER,
            calls(called(arguments="{}")),
            result('{"type": "web_search_result", "title": "R"}'),
            SUNNY,
            USER,
        ],
    ),
    "anthropic: objects of its client": (
        [
            USER,
            assistant(
                SimpleNamespace(type="text", text="Let me see.", citations=None),
                SimpleNamespace(**tool_use(), caller=None),
            ),
            user(tool_result()),
        ],
        [
            USER,
            {"role": "assistant", "content": "Let me see."},
            {"role": "user", "content": CONTINUE_TEXT},
            calls(),
            result(),
        ],
    ),
    "responses: items": (
        [
            {
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": "Rome?"}],
            },
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
            function_call(),
            output(),
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "Sunny.", "annotations": []}],
            },
            {"role": "user", "content": [{"type": "input_text", "text": "Rome?"}]},
        ],
        [*ONE_ROUND, SUNNY, USER],
    ),
    "responses: parallel calls": (
        [
            USER,
            function_call("abcdefgh1"),
            function_call("abcdefgh2"),
            output("1", "abcdefgh1"),
            output("2", "abcdefgh2"),
        ],
        [
            USER,
            calls(called("abcdefgh1"), called("abcdefgh2")),
            result("1", "abcdefgh1"),
            result("2", "abcdefgh2"),
        ],
    ),
    "responses: images and files": (
        [
            user(
                {"type": "input_image", "image_url": PICTURE, "detail": "high"},
                {"type": "input_image", "image_url": WEB},
                {"type": "input_image", "file_id": "file-7"},
                {"type": "input_file", "filename": "a.pdf", "file_data": PDF},
                {"type": "input_file", "filename": "b.pdf", "file_data": "AAAA"},
                {"type": "input_file", "file_url": "https://example.com/c.pdf"},
                {
                    "type": "input_file",
                    "filename": "d.txt",
                    "file_data": "data:text/plain;base64,SGk=",
                },
                {"type": "input_file", "file_id": "file-8"},
            )
        ],
        [
            user(
                {"type": "image_url", "image_url": {"url": PICTURE, "detail": "high"}},
                SHOWN_WEB,
                text("[image file-7, kept by another provider]"),
                {"type": "document_url", "document_url": PDF, "document_name": "a.pdf"},
                {"type": "document_url", "document_url": PDF, "document_name": "b.pdf"},
                {"type": "document_url", "document_url": "https://example.com/c.pdf"},
                text("[File d.txt]\nHi"),
                text("[file file-8, kept by another provider]"),
            )
        ],
    ),
    "responses: an output with an image": (
        [
            USER,
            function_call(),
            output(
                [
                    {"type": "input_text", "text": "The map:"},
                    {"type": "input_image", "image_url": WEB},
                ]
            ),
        ],
        [
            USER,
            calls(),
            result("The map:"),
            {"role": "assistant", "content": BRIDGE},
            user(SHOWN_WEB),
        ],
    ),
    "responses: a refusal": (
        [
            USER,
            {
                "type": "message",
                "role": "assistant",
                "content": [
                    {"type": "output_text", "text": "No:"},
                    {"type": "refusal", "refusal": "I may not."},
                ],
            },
            USER,
        ],
        [USER, {"role": "assistant", "content": "No:\nI may not."}, USER],
    ),
    "responses: its own tools": (
        [
            USER,
            {
                "type": "mcp_call",
                "id": "abcdefgh1",
                "name": "weather",
                "arguments": "{}",
                "output": "7",
            },
            {
                "type": "web_search_call",
                "id": "abcdefgh2",
                "status": "completed",
                "action": {"query": "Rome"},
            },
            {"type": "custom_tool_call", "call_id": "abcdefgh3", "name": "sql", "input": "SELECT"},
            {"type": "custom_tool_call_output", "call_id": "abcdefgh3", "output": "42"},
        ],
        [
            USER,
            calls(called(arguments="{}")),
            result("7"),
            calls(
                called("abcdefgh2", '{"query": "Rome"}', "web_search"),
                called("abcdefgh3", '{"arguments": "SELECT"}', "sql"),
            ),
            result("No result: the call was interrupted.", "abcdefgh2"),
            result("42", "abcdefgh3"),
        ],
    ),
    "responses: an image that was made": (
        [USER, {"type": "image_generation_call", "id": "abcdefgh1", "result": DATA}],
        [
            USER,
            calls(called(arguments="{}", name="image_generation")),
            result(""),
            {"role": "assistant", "content": BRIDGE},
            user(SHOWN),
        ],
    ),
    "google: contents without ids": (
        [
            {"role": "user", "parts": [{"text": "Rome?"}]},
            {"role": "model", "parts": [{"functionCall": GOOGLE}]},
            {"role": "user", "parts": [{"functionResponse": responses("weather")}]},
            {"role": "model", "parts": [{"text": "Hm.", "thought": True}, {"text": "Sunny."}]},
            {"parts": [{"text": "Rome?"}]},
        ],
        [
            USER,
            calls(called("9TpU5xBgL")),
            result('{"output": "sunny"}', "9TpU5xBgL"),
            SUNNY,
            USER,
        ],
    ),
    "google: what it shows": (
        [
            {
                "role": "user",
                "parts": [
                    {"inline_data": {"mime_type": "image/png", "data": PNG}},
                    {"inlineData": {"mimeType": "application/pdf", "data": "AAAA"}},
                    {"inline_data": {"mime_type": "video/mp4", "data": "AAAA"}},
                    {"file_data": {"file_uri": "gs://a/b.pdf", "mime_type": "application/pdf"}},
                    {"fileData": {"fileUri": WEB, "mimeType": "image/png"}},
                    {"executable_code": {"code": "1 + 1"}},
                    {"code_execution_result": {"outcome": "OUTCOME_OK", "output": "2"}},
                ],
            }
        ],
        [
            user(
                SHOWN,
                {"type": "document_url", "document_url": PDF},
                text("[video/mp4 that you cannot see]"),
                text("[file gs://a/b.pdf, kept by another provider]"),
                SHOWN_WEB,
                text("```\n1 + 1\n```"),
                text("```\n2\n```"),
            )
        ],
    ),
    "bedrock: blocks": (
        [
            {"role": "user", "content": [{"text": "Rome?"}]},
            {
                "role": "assistant",
                "content": [
                    {"reasoningContent": {"reasoningText": {"text": "Hm."}}},
                    {
                        "toolUse": {
                            "toolUseId": "abcdefgh1",
                            "name": "weather",
                            "input": {"city": "Rome"},
                        }
                    },
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "toolResult": {
                            "toolUseId": "abcdefgh1",
                            "content": [
                                {"json": {"sky": "clear"}},
                                {"image": {"format": "png", "source": {"bytes": PNG}}},
                            ],
                            "status": "error",
                        }
                    },
                    {"document": {"format": "pdf", "name": "a", "source": {"bytes": b"\0\0\0"}}},
                    {"cachePoint": {"type": "default"}},
                ],
            },
        ],
        [
            USER,
            calls(),
            result('[Error] {"sky": "clear"}'),
            {"role": "assistant", "content": BRIDGE},
            user(SHOWN, {"type": "document_url", "document_url": PDF, "document_name": "a"}),
        ],
    ),
    "cohere: a plan, and documents": (
        [
            USER,
            {"role": "assistant", "tool_plan": "I look.", "tool_calls": [called()]},
            {
                "role": "tool",
                "tool_call_id": "abcdefgh1",
                "content": [{"type": "document", "document": {"data": "sunny"}}],
            },
        ],
        [
            USER,
            {"role": "assistant", "content": "I look."},
            {"role": "user", "content": CONTINUE_TEXT},
            calls(),
            result(),
        ],
    ),
    "openai of old: a function": (
        [
            USER,
            {
                "role": "assistant",
                "content": None,
                "function_call": {"name": "weather", "arguments": '{"city": "Rome"}'},
            },
            {"role": "function", "name": "weather", "content": "sunny"},
        ],
        [USER, calls(called("9TpU5xBgL")), result(call_id="9TpU5xBgL")],
    ),
    "pipecat: files": (
        [
            user(
                {"type": "file_url", "file": {"url": WEB, "mime_type": "image/png"}},
                {
                    "type": "file_base64",
                    "file": {"file_data": PDF, "mime_type": "application/pdf", "filename": "a.pdf"},
                },
            )
        ],
        [user(SHOWN_WEB, {"type": "document_url", "document_url": PDF, "document_name": "a.pdf"})],
    ),
    "an object as content": (
        [USER, calls(), {"role": "tool", "tool_call_id": "abcdefgh1", "content": {"sky": "clear"}}],
        [USER, calls(), result('{"sky": "clear"}')],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_history_of_another_framework_is_sent_as_what_it_is(case: str):
    history, sent = CASES[case]
    conversion = Conversion()
    assert apply_rules(history, conversion) == sent
    assert refusal(sent) is None
    assert all(render(name, sent) is None for name in templates())
    assert "R16" in {change.rule for change in conversion.changes}


@pytest.mark.parametrize(
    "call_id", ["toolu_01A", "call_9aF3kQ0zYxWvUtSrQpOnMlKj", "fc_1", "tooluse_kZJ", 7]
)
def test_ids_are_paired_and_lead_back(call_id):
    conversion = Conversion()
    sent = apply_rules(
        [USER, assistant(tool_use(call_id)), user(tool_result("1", call_id))], conversion
    )
    [made] = sent[1]["tool_calls"]
    assert re.fullmatch(r"[a-zA-Z0-9]{9}", made["id"])
    assert sent[2] == result("1", made["id"])
    assert conversion.call_ids[made["id"]] == str(call_id)


def test_calls_without_ids_are_paired_by_name_and_in_order():
    def made(name: str) -> dict:
        return {"role": "model", "parts": [{"function_call": {"name": name, "args": {}}}]}

    def back(name: str, said: str) -> dict:
        response = {"name": name, "response": {"value": said}}
        return {"role": "user", "parts": [{"function_response": response}]}

    history = [USER, made("a"), made("b"), made("a")]
    history += [back("b", "b1"), back("a", "a1"), back("a", "a2")]
    # A call that was never answered does not take the result of a later one.
    history += [made("c"), USER, made("c"), back("c", "c2")]
    sent = apply_rules(history)
    paired = {
        message["content"]: call["function"]["name"]
        for message in sent
        if message["role"] == "tool"
        for caller in sent
        for call in caller.get("tool_calls", [])
        if call["id"] == message["tool_call_id"]
    }
    assert paired.pop("No result: the call was interrupted.") == "c"
    assert paired == {"a1": "a", "b1": "b", "a2": "a", "c2": "c"}
    assert [m["content"] for m in sent if m["role"] == "tool"][:3] == ["a1", "b1", "a2"]
    assert sent[-1]["content"] == "c2"


# --- properties -----------------------------------------------------------------------------------


def marked(messages: list[dict]) -> list[str]:
    return re.findall(r"w\d+w", json.dumps(messages, default=str))


@many
@given(mixed_histories, st.booleans())
def test_every_history_is_accepted_by_every_judge(history: list[dict], tools: bool):
    sent = apply_rules(history, Conversion(has_tools=tools))
    assert refusal(sent, tools=tools) is None
    for name in templates():
        assert render(name, sent) is None, name


@many
@given(mixed_histories, st.booleans())
def test_nothing_said_is_lost(history: list[dict], tools: bool):
    said, sent = (
        Counter(marked(history)),
        Counter(marked(apply_rules(history, Conversion(has_tools=tools)))),
    )
    assert set(said) == set(sent)
    assert all(sent[word] <= said[word] for word in said)


@many
@given(mixed_histories, st.booleans())
def test_a_second_run_changes_nothing_and_the_first_leaves_the_history_alone(history, tools):
    before = copy.deepcopy(history)
    conversion, again = Conversion(has_tools=tools), Conversion(has_tools=tools)
    sent = apply_rules(history, conversion)
    assert history == before
    assert apply_rules(sent, again) == sent
    assert again.changes == []
    assert bool(conversion.changes) == (sent != history)
    assert all(0 <= change.index < max(len(history), 1) for change in conversion.changes)


@many
@given(mixed_histories, foreign_turns)
def test_a_turn_at_the_end_changes_nothing_before_the_last(history, turn):
    """The prompt cache holds, unless a rule forces the change: images, and results come late."""
    begin = [{"role": "user", "content": "Hello."}]
    added = in_mistrals_form([*begin, *history, *turn], Conversion())
    formed = in_mistrals_form([*begin, *history], Conversion())
    assert added[: len(formed)] == formed
    late = any(m.get("role") in ("tool", "system") for m in added[len(formed) :])
    if late or "image_url" in json.dumps(added):
        return
    before = apply_rules([*begin, *history], Conversion(has_tools=True))
    after = apply_rules([*begin, *history, *turn], Conversion(has_tools=True))
    kept = before[:-1]
    while kept and (kept[-1]["role"] == "tool" or kept[-1].get("tool_calls")):
        kept.pop()
    kept = kept[:-1]
    assert after[: len(kept)] == kept


def test_a_history_in_mistrals_form_is_the_same_list():
    history = [
        {"role": "system", "content": "Be brief."},
        USER,
        calls(),
        result(),
        user(text("Look."), SHOWN),
        {"role": "thought", "content": "Hm."},
        SUNNY,
    ]
    assert in_mistrals_form(history, Conversion()) is history


# --- hostile shapes -------------------------------------------------------------------------------


def _cyclic() -> list[Any]:
    content: list[Any] = [text("w1w")]
    content.append(tool_result(content))
    content.append({"type": "document", "source": {"type": "content", "content": content}})
    return content


def _deep(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = {"type": "document", "source": {"type": "content", "content": [value]}}
    return value


def _deep_list(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


LOOP: dict[str, Any] = {}
LOOP["a"] = LOOP
HOSTILE: dict[str, list[Any]] = {
    "parts that are no mappings": [user(1, None, [], b"x", {}, object(), text("w1w"))],
    "a cycle": [{"role": "user", "content": _cyclic()}],
    "deep documents": [user(_deep(5_000), text("w1w"))],
    "a deep result": [user(tool_result(_deep_list(50_000)), text("w1w"))],
    "arguments in a cycle": [assistant(tool_use(given=LOOP), text("w1w")), USER],
    "deep arguments": [assistant(tool_use(given=_deep_list(50_000)), text("w1w")), USER],
    "arguments with bytes": [assistant(tool_use(given={"a": b"x"}), text("w1w")), USER],
    "arguments as text": [assistant(tool_use(given="w1w"))],
    "fields of any kind": [
        user(
            {"type": "tool_use", "id": {}, "name": None, "input": []},
            {"type": "tool_result", "tool_use_id": [], "content": 7, "is_error": "yes"},
            {"type": "image", "source": 7},
            {"type": "image", "source": {"type": "base64", "data": None}},
            {"type": "image", "source": {"type": "url", "url": 7}},
            {"type": "document"},
            {"type": "input_image", "image_url": {"url": None}},
            {"type": "input_file", "file_data": 7},
            {"type": [], "text": "x"},
            {"type": {}},
            {"functionCall": 7},
            {"functionResponse": []},
            {"inlineData": "x"},
            {"toolResult": {"content": {"a": 1}}},
            {"image": "x"},
            {"type": "_call"},
            text("w1w"),
        )
    ],
    "ids that are alike": [
        assistant(tool_use("a"), tool_use("a")),
        user(tool_result("w1w", "a"), tool_result("w2w", "a"), tool_result("w3w", "a")),
    ],
    "no ids at all": [
        assistant(tool_use(None), tool_use("")),
        user(tool_result("w1w", None), tool_result("w2w", "null")),
    ],
    "results alone": [user(tool_result("w1w", "b")), output("w2w"), {"type": "tool_result"}],
    "content of another kind": [
        {"role": "user", "content": 7},
        {"role": "user", "parts": "w1w"},
        {"role": "user", "content": (text("w2w"),)},
    ],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_whatever_stands_in_a_history_is_sent_in_a_form_that_is_accepted(case: str):
    sent = apply_rules(HOSTILE[case], Conversion())
    assert refusal(sent) is None
    words = {w for w in ("w1w", "w2w", "w3w") if f"'{w}'" in _shallow(HOSTILE[case])}
    assert words <= set(marked(sent))
    assert words


def _shallow(history: list[Any]) -> str:
    """The words near the top; what is deep has no `repr`."""
    found: list[str] = []

    def look(value: Any, depth: int) -> None:
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list | tuple) and depth < 6:
            for each in value:
                look(each, depth + 1)
        elif isinstance(value, str):
            found.append(repr(value))

    look(history, 0)
    return "".join(found)


# --- through the service, the client and the terminal ---------------------------------------------


async def test_a_call_goes_on_from_a_history_of_another_framework(serve, service_for):
    mistral = serve(Reply("As I said, sunny."))
    history = [
        {"role": "user", "content": [{"type": "input_text", "text": "Rome?"}]},
        assistant(text("Let me see."), tool_use("toolu_1")),
        user(tool_result([text("sunny"), ANTHROPIC_IMAGE], "toolu_1")),
        assistant(text("Sunny.")),
    ]
    async with Call(service_for(mistral), *history) as call:
        assert await call.say("Sure?") == "As I said, sunny."
        assert not call.errors
    [exchange] = mistral.exchanges
    assert exchange.refused is None
    messages = exchange.request["messages"]
    assert [m["role"] for m in messages] == [
        *(
            "user",
            "assistant",
            "user",
            "assistant",
            "tool",
            "assistant",
            "user",
            "assistant",
            "user",
        )
    ]
    assert messages[4]["content"] == "sunny"
    assert messages[6]["content"][0]["type"] == "image_url"


@pytest.mark.parametrize(
    ("messages", "choice"),
    [
        ([USER, assistant(tool_use()), user(tool_result())], "auto"),
        ([USER, assistant(tool_use()), user(tool_result(), text("And Oslo?"))], "any"),
        ([USER, function_call(), output()], "auto"),
    ],
)
def test_a_choice_that_forces_a_call_ends_with_another_frameworks_result(messages, choice):
    assert choice_now("any", messages) == choice


def test_a_client_takes_a_history_of_another_framework(serve):
    mistral = serve(Reply("Sunny."))

    class Item(BaseModel):
        type: str = "function_call"
        call_id: str = "abcdefgh1"
        name: str = "weather"
        arguments: str = '{"city": "Rome"}'

    async def ask() -> str:
        async with MistralClient(api_key="any", base_url=mistral.base_url) as client:
            return (await client.chat([USER, Item(), output()])).text  # type: ignore[list-item]

    assert asyncio.run(ask()) == "Sunny."
    assert mistral.exchanges[0].request["messages"] == ONE_ROUND


def test_lint_shows_what_becomes_of_another_frameworks_history(tmp_path):
    history = tmp_path / "history.json"
    history.write_text(json.dumps({"input": [USER, function_call(), output()]}))
    shown = CliRunner().invoke(app, ["lint", "--json", str(history)])
    report = json.loads(shown.output)
    assert report["messages"] == ONE_ROUND
    assert {"rule": "R16", "message": 1, "reason": "converted function_call to Mistral's form"} in (
        report["changes"]
    )


# --- what Pipecat's own adapters make of a context ------------------------------------------------


class _Given(SimpleNamespace):
    """A class of Google's client, as far as it is used: fields that are not set are None."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return None

    def json(self) -> str:
        """A method of pydantic's, and Bedrock's name for a part."""
        raise AssertionError("no field")


@pytest.fixture
def adapters(monkeypatch):
    """Pipecat's adapters whose clients are not installed, over classes of the same fields."""
    google, anthropic = ModuleType("google.genai.types"), ModuleType("anthropic")
    for name in ("Blob", "Content", "FileData", "FunctionCall", "FunctionResponse", "Part"):
        setattr(google, name, type(name, (_Given,), {}))
    anthropic.NOT_GIVEN, anthropic.NotGiven = object(), type("NotGiven", (), {})  # type: ignore[attr-defined]
    modules = {"google.genai": ModuleType("google.genai"), "google.genai.types": google}
    modules |= {"anthropic": anthropic, "anthropic.types": ModuleType("anthropic.types")}
    for name, kind in {
        "cache_control_ephemeral_param": "CacheControlEphemeralParam",
        "message_param": "MessageParam",
        "text_block_param": "TextBlockParam",
        "tool_union_param": "ToolUnionParam",
    }.items():
        made = modules[f"anthropic.types.{name}"] = ModuleType(name)
        setattr(made, kind, dict)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    found = {}
    for name, kind in {"anthropic": "AnthropicLLMAdapter", "gemini": "GeminiLLMAdapter"}.items():
        path = f"pipecat.adapters.llm.services.{name}_adapter"
        monkeypatch.delitem(sys.modules, path, raising=False)
        found[name] = getattr(importlib.import_module(path), kind)()
        monkeypatch.delitem(sys.modules, path)
    return found | {"responses": OpenAIResponsesLLMAdapter(), "aws": AWSBedrockLLMAdapter()}


def pipecats() -> list[dict]:
    return [
        USER,
        calls(called("call_1"), called("call_2")),
        result("sunny", "call_1"),
        result('{"sky": "clear"}', "call_2"),
        SUNNY,
        user(text("And here?"), SHOWN),
    ]


def as_dict(value: Any) -> Any:
    """What a client writes into a file: no objects."""
    if isinstance(value, _Given):
        return {name: as_dict(each) for name, each in vars(value).items()}
    return [as_dict(each) for each in value] if isinstance(value, list) else value


async def converted(adapter: Any, context: LLMContext) -> list[Any]:
    given = {"enable_prompt_caching": True} if "Anthropic" in type(adapter).__name__ else {}
    params = await adapter.get_llm_invocation_params(context, **given)
    return params["input"] if "input" in params else params["messages"]


@pytest.mark.parametrize("name", ["anthropic", "gemini", "responses", "aws"])
@pytest.mark.parametrize("as_their_own", [False, True])
async def test_what_pipecats_adapters_make_is_read_back(adapters, name, as_their_own):
    theirs = await converted(adapters[name], LLMContext(pipecats()))
    if as_their_own:
        # As a service of theirs leaves them in a context that several share.
        theirs = [LLMSpecificMessage(name, message) for message in theirs]
    elif name == "gemini":
        theirs = [as_dict(content) for content in theirs]
    before = copy.deepcopy(theirs)
    adapter = MistralLLMAdapter()
    context = LLMContext(theirs)
    sent = (await adapter.get_llm_invocation_params(context))["messages"]
    assert context.get_messages() == before
    expected = apply_rules(pipecats())
    if name in ("anthropic", "aws"):  # which have the image first
        expected[-1]["content"].reverse()
    assert sent == expected
    shown = adapter.get_messages_for_logging(context)
    assert DATA not in json.dumps(shown)
    assert "call_1" in json.dumps(shown)


async def test_other_providers_own_calls_and_results_reach_mistral(serve, service_for):
    mistral = serve(Reply("Sunny."))
    thought = {"type": "thinking", "thinking": "A secret.", "signature": "s"}
    messages = [
        USER,
        LLMSpecificMessage("anthropic", {"type": "thought", "text": "A secret.", "signature": "s"}),
        LLMSpecificMessage("anthropic", assistant(thought, tool_use())),
        LLMSpecificMessage("anthropic", user(tool_result())),
        LLMSpecificMessage("google", {"type": "thought_signature", "signature": b"s"}),
        LLMSpecificMessage("openai_responses", {"type": "reasoning", "summary": ["A secret."]}),
        LLMSpecificMessage("openai_responses", function_call("abcdefgh2")),
        LLMSpecificMessage("openai_responses", output("cold", "abcdefgh2")),
        LLMSpecificMessage("openai", {"role": "system", "content": "For the other alone."}),
    ]
    async with Call(service_for(mistral), *messages) as call:
        await call.say("Well?")
    assert mistral.exchanges[0].request["messages"] == [
        *ONE_ROUND,
        calls(called("abcdefgh2")),
        result("cold", "abcdefgh2"),
        {"role": "assistant", "content": BRIDGE},
        {"role": "user", "content": "Well?"},
    ]
