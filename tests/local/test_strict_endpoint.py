"""The strict endpoint: it refuses what Mistral refuses, and answers as Mistral answers."""

import base64
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from mistralai.client import Mistral
from mistralai.client.errors import SDKError

from mistral_service.local import Checks, LocalMistral, Reply, Script

CALL = {"id": "abcdefgh1", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}

USER = {"role": "user", "content": "Hello."}
SYSTEM = {"role": "system", "content": "Be brief."}
SAID = {"role": "assistant", "content": "Hi."}
CALLED = {"role": "assistant", "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "abcdefgh1", "content": "1"}


def ask(mistral: LocalMistral, *messages: dict, key: str = "any", **fields) -> httpx.Response:
    body = {"model": "mistral-small-latest", "messages": list(messages), **fields}
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.post(f"{mistral.base_url}/chat/completions", json=body, headers=headers)


def image(width: int, height: int) -> dict:
    from PIL import Image

    data = io.BytesIO()
    Image.new("L", (width, height)).save(data, "PNG")
    url = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": url}}


# --- the wire -----------------------------------------------------------------------------------


def test_a_stream_has_mistrals_shape(serve):
    mistral = serve(Reply("Hello there."))
    response = ask(mistral, USER, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [e.removeprefix("data: ") for e in response.text.split("\n\n") if e]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [c["choices"][0]["delta"]["content"] for c in chunks[1:-1]] == ["Hello ", "there."]
    last = chunks[-1]
    assert last["choices"][0] == {"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}
    assert last["usage"]["total_tokens"] > 0
    assert all("usage" not in chunk for chunk in chunks[:-1])
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_calls_come_whole_in_one_delta_with_the_finish_reason(serve):
    mistral = serve(Reply(tool_calls=[{"name": "f"}, {"name": "g", "arguments": {"a": 1}}]))
    events = ask(mistral, USER, stream=True).text.split("\n\n")
    choice = json.loads(events[1].removeprefix("data: "))["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert [call["function"] for call in choice["delta"]["tool_calls"]] == [
        {"name": "f", "arguments": "{}"},
        {"name": "g", "arguments": '{"a": 1}'},
    ]


def test_a_whole_reply_has_mistrals_shape(serve):
    reply = ask(serve(Reply("Hello.", tool_calls=[{"name": "f"}])), USER).json()
    [choice] = reply["choices"]
    assert choice["message"]["content"] == "Hello."
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "f"
    assert (reply["object"], choice["finish_reason"]) == ("chat.completion", "tool_calls")


def test_models_are_listed_with_their_capabilities(serve):
    mistral = serve()
    headers = {"Authorization": "Bearer any"}
    listed = httpx.get(f"{mistral.base_url}/models", headers=headers).json()["data"]
    small = next(model for model in listed if model["id"] == "mistral-small-latest")
    assert small["capabilities"]["vision"]
    assert small["max_context_length"] > 0
    one = httpx.get(f"{mistral.base_url}/models/mistral-small-latest", headers=headers)
    assert one.json()["id"] == "mistral-small-latest"
    none = httpx.get(f"{mistral.base_url}/models/nonesuch", headers=headers)
    assert none.status_code == 404


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "status"), [("", 401), ("right", 200), ("wrong", 401)])
def test_a_key_is_needed_and_may_be_a_certain_one(serve, key: str, status: int):
    mistral = serve(Reply("Hi."), api_key="right")
    response = ask(mistral, USER, key=key)
    assert response.status_code == status
    if status == 401:
        assert response.json() == {"detail": "Unauthorized"}


REFUSED = {
    "R1 system after assistant": ([USER, SAID, SYSTEM, USER], 400, "role 'system' after"),
    "R2 user after tool": ([USER, CALLED, RESULT, USER], 400, "role 'user' after role 'tool'"),
    "R3 tool after user": ([USER, RESULT], 400, "role 'tool' after role 'user'"),
    "R4 call without result": ([USER, CALLED, SAID, USER], 400, "Not the same number"),
    "R4 result twice": ([USER, CALLED, RESULT, RESULT], 400, ""),
    "R5 assistant last": ([USER, SAID], 400, "Expected last role User or Tool"),
    "R6 foreign id": (
        [
            USER,
            {"role": "assistant", "tool_calls": [{**CALL, "id": "call_1"}]},
            {**RESULT, "tool_call_id": "call_1"},
        ],
        400,
        "length of 9",
    ),
    "R7 empty assistant": ([USER, {"role": "assistant", "content": ""}, USER], 400, ""),
    "R8 words and calls": ([USER, {**SAID, **CALLED}, RESULT], 400, "not both"),
    "R9 name on a message": ([{**USER, "name": "x"}], 422, "Extra inputs"),
    "R10 nine images": ([{"role": "user", "content": [image(1, 1)] * 9}], 400, "At most 8"),
    "R10 a side too long": ([{"role": "user", "content": [image(10_001, 1)]}], 400, "10001"),
    "R12 two users": ([USER, USER], 400, "must alternate"),
    "R12 assistant first": ([SAID, USER], 400, "must alternate"),
    "R14 developer": ([{"role": "developer", "content": "x"}], 422, "developer"),
    "R15 image in a system message": (
        [{"role": "system", "content": [image(1, 1)]}, USER],
        422,
        "image_url",
    ),
}


@pytest.mark.parametrize(("messages", "status", "said"), REFUSED.values(), ids=REFUSED)
def test_a_history_that_breaks_a_rule_is_refused(serve, messages, status, said):
    response = ask(serve(Reply("Hi.")), *messages)
    assert response.status_code == status
    assert said in response.text
    if status == 400:
        error = response.json()
        assert (error["object"], error["raw_status_code"]) == ("error", 400)


def test_an_order_error_has_mistrals_type_and_code(serve):
    error = ask(serve(), USER, CALLED, RESULT, USER).json()
    assert (error["type"], error["code"]) == ("invalid_request_message_order", "3230")


def test_an_unknown_field_is_refused_as_pydantic_words_it(serve):
    response = ask(serve(), USER, stream_options={"include_usage": True})
    assert response.status_code == 422
    [issue] = response.json()["detail"]
    assert (issue["type"], issue["loc"]) == ("extra_forbidden", ["body", "stream_options"])
    assert issue["input"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"temperature": 1.6}, 422),
        ({"presence_penalty": 2.5}, 422),
        ({"tools": [TOOL] * 129}, 422),
        ({"tools": [{**TOOL, "function": {"name": "a b", "parameters": {}}}]}, 400),
        ({"max_tokens": 10_000_000}, 422),
        ({"reasoning_effort": "low"}, 400),
        ({"reasoning_effort": "max"}, 400),
        ({"reasoning_effort": "very"}, 422),
        ({"top_k": 40, "min_tokens": 2, "repetition_penalty": 1.1}, 200),
        ({"logprobs": True, "top_logprobs": 2, "prompt_logprobs": True}, 200),
        ({"logprobs": 2}, 422),
        ({"top_k": 0}, 422),
        ({"min_tokens": -1}, 422),
        ({"repetition_penalty": 0}, 422),
        ({"top_prompt_logprobs": -1}, 422),
        ({"guardrails": [{"block_on_error": True, "moderation_llm_v2": {"action": "block"}}]}, 200),
        ({"guardrails": [{"moderation_llm_v2": {"action": "warn"}}]}, 422),
        ({"reasoning_effort": "high"}, 200),
        ({"model": "mistral-nonesuch"}, 400),
        ({"tool_choice": "any", "tools": [TOOL]}, 200),
        ({"response_format": {"type": "json_object"}, "safe_prompt": True}, 200),
    ],
)
def test_parameters_are_held_against_their_bounds(serve, fields: dict, status: int):
    assert ask(serve(Reply("Hi.")), USER, **fields).status_code == status


def test_a_prefix_with_tools_is_refused(serve):
    prefix = {**SAID, "prefix": True}
    mistral = serve(Reply("Hi."))
    assert ask(mistral, USER, prefix, tools=[TOOL]).status_code == 400
    assert ask(mistral, USER, prefix).status_code == 200


def test_what_is_no_json_is_refused(serve):
    response = httpx.post(
        f"{serve().base_url}/chat/completions",
        content=b"{",
        headers={"Authorization": "Bearer any"},
    )
    assert response.status_code == 422
    assert response.json()["detail"][0]["type"] == "json_invalid"


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "mistral-small-latest", "messages": [], "temperature": NaN}',
        b'{"model": "mistral-small-latest", "messages": [{"role": "user"}], "temperature": 1e999}',
        b'{"model": "\\ud800", "messages": [{"role": "user", "content": "x"}]}',
        b"[" * 100_000,
        b"7",
        b"null",
    ],
)
def test_no_body_makes_it_fail(serve, body: bytes):
    response = httpx.post(
        f"{serve().base_url}/chat/completions",
        content=body,
        headers={"Authorization": "Bearer any"},
    )
    assert response.status_code in (400, 422)


def test_strictness_can_be_that_of_one_deployment(serve):
    modern = Checks(versions=["v13"], hosted=False, templates=False)
    mistral = serve(Reply("Hi."), checks=modern)
    assert ask(mistral, USER, {**SAID, **CALLED}, RESULT, USER).status_code == 200


def test_a_tokenizer_version_that_does_not_exist_is_reported():
    with pytest.raises(ValueError, match=r"'v4'.*v3, v7, v11, v13, v15"):
        Checks(versions=["v4"])


# --- the script ---------------------------------------------------------------------------------


def test_replies_are_given_in_order_or_to_what_matches(serve):
    mistral = serve(Reply("It rains.", when="weather"), Reply("One."), Reply("Two."))
    said = [
        ask(mistral, {"role": "user", "content": text}).json()["choices"][0]["message"]["content"]
        for text in ("Hello.", "The WEATHER?", "Hello again.")
    ]
    assert said == ["One.", "It rains.", "Two."]


def test_a_script_that_has_ended_says_so(serve):
    response = ask(serve(), USER)
    assert response.status_code == 500
    assert "no reply" in response.json()["message"]


def test_a_fault_is_sent_as_it_is_written(serve):
    reply = Reply(status=429, body={"message": "slow"}, headers={"Retry-After": "7"})
    response = ask(serve(reply), USER)
    assert (response.status_code, response.headers["retry-after"]) == (429, "7")
    assert response.json() == {"message": "slow"}


def test_a_cut_breaks_the_connection(serve):
    with pytest.raises(httpx.RemoteProtocolError):
        ask(serve(Reply("One two.", cut_after=1)), USER, stream=True)


def test_an_unknown_field_of_a_reply_is_reported():
    with pytest.raises(ValueError, match=r"'txt'.*text"):
        Reply.from_mapping({"txt": "Hello."})


def test_the_endpoint_tells_what_was_asked_but_not_the_key(serve):
    mistral = serve(Reply("Hi."))
    ask(mistral, USER, key="secret-key-123")
    [exchange] = mistral.exchanges
    assert exchange.request["messages"] == [USER]
    assert exchange.status == 200
    assert "secret-key-123" not in repr(exchange)


# --- other clients, and by itself ----------------------------------------------------------------


def test_the_official_client_chats_with_it(serve):
    mistral = serve(
        Reply("Bonjour."),
        Reply("Bonjour à vous."),
        Reply(tool_calls=[{"name": "f", "arguments": {"a": 1}}]),
    )
    server = mistral.base_url.removesuffix("/v1")
    with Mistral(api_key="any", server_url=server) as client:
        assert "mistral-small-latest" in {model.id for model in client.models.list().data}
        whole = client.chat.complete(model="mistral-small-latest", messages=[USER])
        assert whole.choices[0].message.content == "Bonjour."
        with client.chat.stream(model="mistral-small-latest", messages=[USER]) as stream:
            deltas = [event.data.choices[0].delta.content for event in stream]
        assert "".join(deltas) == "Bonjour à vous."
        called = client.chat.complete(model="mistral-small-latest", messages=[USER], tools=[TOOL])
        assert called.choices[0].message.tool_calls[0].function.name == "f"
        with pytest.raises(SDKError, match="3230"):
            client.chat.complete(
                model="mistral-small-latest", messages=[USER, CALLED, RESULT, USER]
            )


def run(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mistral_service.local", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def address_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("Mistral endpoint: "), line + (process.stderr.read() or "")
    return line.removeprefix("Mistral endpoint: ").strip()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_by_itself_it_answers_from_a_script_and_ends_cleanly(tmp_path: Path, end: signal.Signals):
    script = tmp_path / "script.json"
    script.write_text(json.dumps([{"text": "From the file."}]))
    process = run("--port", "0", "--script", str(script))
    try:
        base_url = address_of(process)
        response = httpx.post(
            f"{base_url}/chat/completions",
            json={"model": "mistral-small-latest", "messages": [USER]},
            headers={"Authorization": "Bearer any"},
        )
        assert response.json()["choices"][0]["message"]["content"] == "From the file."
        process.send_signal(end)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, "", "")
    finally:
        process.kill()


def test_a_small_real_model_answers_in_mistrals_format():
    process = run("--port", "0")
    try:
        client = Mistral(api_key="any", server_url=address_of(process).removesuffix("/v1"))
        began = time.monotonic()
        question = {"role": "user", "content": "What is the capital of France?"}
        with client.chat.stream(
            model="mistral-small-latest", messages=[question], max_tokens=40, random_seed=1
        ) as stream:
            events = [event.data for event in stream]
        said = "".join(event.choices[0].delta.content for event in events)
        assert len(said.split()) > 3  # words; the model is too small to hold it to the truth
        assert events[-1].choices[0].finish_reason in ("stop", "length")
        assert events[-1].usage.completion_tokens > 0
        print(f"\nmistralai's client against the small model, {time.monotonic() - began:.1f} s:")
        print(f"  {said}")
        with pytest.raises(SDKError, match="must alternate"):
            client.chat.complete(model="mistral-small-latest", messages=[question, question])
    finally:
        process.kill()
        process.communicate(timeout=60)


def fails(*arguments: str) -> str:
    process = run(*arguments)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert out == ""
    assert "Traceback" not in err
    return err.strip().splitlines()[-1]


def test_a_port_in_use_is_reported():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = fails("--port", str(port))
    assert f"Port {port} is in use" in said
    assert "--port" in said


def test_a_script_that_is_none_is_reported(tmp_path: Path):
    path = tmp_path / "script.json"
    path.write_text("[{]")
    assert f"{path} is not JSON" in fails("--port", "0", "--script", str(path))
    path.write_text('[{"txt": "Hello."}]')
    assert "no field 'txt'" in fails("--port", "0", "--script", str(path))


def test_a_file_that_is_no_model_is_reported(tmp_path: Path):
    path = tmp_path / "bad.gguf"
    path.write_text("this is no model")
    said = fails("--port", "0", "--model", str(path))
    assert "is not a model that llama.cpp can load" in said
    assert str(path) in said


def test_a_model_file_that_is_missing_is_reported():
    assert "no model file /nowhere/model.gguf" in fails(
        "--port", "0", "--model", "/nowhere/model.gguf"
    )


def test_it_listens_on_this_machine_only_by_default():
    with LocalMistral(Script()) as mistral:
        assert mistral.base_url.startswith("http://127.0.0.1:")


# --- what is not served -------------------------------------------------------------------------

NO_ROUTE = "no Route matched with those values: "
SERVED = (
    "; served are POST /v1/chat/completions, POST /v1/fim/completions, POST /v1/embeddings, "
    "POST /v1/moderations, POST /v1/chat/moderations, GET /v1/models."
)


def request(mistral: LocalMistral, method: str, path: str, key: str = "right") -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.request(method, mistral.base_url.removesuffix("/v1") + path, headers=headers)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/conversations"),
        ("GET", "/v1/conversations/conv_1/history"),
        ("POST", "/v1/agents/completions"),
        ("POST", "/v1/ocr"),
        ("POST", "/v1/audio/speech"),
        ("GET", "/v1/files"),
        ("POST", "/v1/responses"),
        ("POST", "/v1/batch/jobs"),
    ],
)
def test_what_mistral_serves_and_this_does_not_is_reported(serve, method: str, path: str):
    response = request(serve(api_key="right"), method, path)
    assert response.status_code == 404
    fault = f"this local endpoint does not serve {method} {path}, as Mistral does"
    assert response.json()["message"] == NO_ROUTE + fault + SERVED
    assert response.json()["request_id"]


@pytest.mark.parametrize("path", ["/v1/nonesuch", "/chat/completions", "/v1/agentsmith", "/"])
def test_an_unknown_route_is_refused_as_mistrals_gateway_does(serve, path: str):
    response = request(serve(api_key="right"), "POST", path)
    assert response.status_code == 404
    assert response.json()["message"] == f"{NO_ROUTE}POST {path}{SERVED}"


def test_methods_are_held_as_mistral_holds_them(serve):
    mistral = serve(api_key="right")
    refused = request(mistral, "GET", "/v1/chat/completions")
    assert (refused.status_code, refused.json()) == (405, {"detail": "Method Not Allowed"})
    assert refused.headers["allow"] == "POST"
    head = request(mistral, "HEAD", "/v1/models")
    assert (head.status_code, head.content) == (200, b"")
    assert request(mistral, "HEAD", "/v1/nonesuch").status_code == 404
    options = request(mistral, "OPTIONS", "/v1/models")
    assert (options.status_code, options.content) == (204, b"")
    assert set(options.headers["allow"].split(", ")) == {"GET", "HEAD"}


@pytest.mark.parametrize("key", ["", "wrong"])
def test_without_the_key_no_route_tells_anything(serve, key: str):
    mistral = serve(api_key="right")
    for method, path in [
        ("GET", "/v1/nonesuch"),
        ("POST", "/v1/ocr"),
        ("GET", "/v1/embeddings"),
        ("OPTIONS", "/v1/models"),
    ]:
        response = request(mistral, method, path, key)
        assert (response.status_code, response.json()) == (401, {"detail": "Unauthorized"})


def test_the_official_client_reads_what_is_not_served(serve):
    client = Mistral(api_key="any", server_url=serve().base_url.removesuffix("/v1"))
    with pytest.raises(SDKError, match="does not serve POST /v1/ocr, as Mistral does"):
        client.ocr.process(
            model="mistral-ocr-latest",
            document={"type": "document_url", "document_url": "https://example.com/a.pdf"},
        )


def test_a_connection_that_is_idle_for_longer_than_clients_wait_stays_open(serve):
    """Else a request that meets its close is lost: httpx keeps connections for five seconds."""
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(serve().base_url).port, timeout=5)
    for pause in (6, 0):
        connection.request("GET", "/v1/models", headers={"Authorization": "Bearer any"})
        answer = connection.getresponse()
        assert json.loads(answer.read())["data"]
        time.sleep(pause)
