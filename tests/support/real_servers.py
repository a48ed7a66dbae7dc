"""Servers that are not ours, started for tests, and the histories that they are asked to take."""

import contextlib
import gc
import json
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mistral_common
from histories import Message, histories
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st
from mistral_common.integrations.chat_templates.chat_templates import (
    convert_tokenizer_to_chat_template,
)
from ports import free_port
from processes import listening

from mistral_service.local.engine import _quiet

CLIENTS = Path(__file__).parents[2] / ".venvs" / "clients"
"""The environment of `tests/environments/clients`."""

MODEL = "mistral-small-latest"
_TOKENIZER = Path(mistral_common.__file__).parent / "data" / "tekken_240911.json"
_PICTURE = re.compile(r'"image_url"')


@dataclass(frozen=True)
class Server:
    """A server that runs.

    Parameters:
        base_url: Where, as a client's `base_url` wants it.
        api_key: The one key that is right.
    """

    base_url: str
    api_key: str


@contextlib.contextmanager
def llama_cpp(model: Path) -> Iterator[Server]:
    """Run llama.cpp's own server, in this process, as `llama-server --jinja` is run.

    Its template is that of Mistral's tokenizer; it judges the messages.

    Args:
        model: The model's file.
    """
    import xllamacpp

    key = f"sk-{secrets.token_hex(16)}"
    params: Any = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.model_alias = {MODEL}
    params.n_ctx, params.n_parallel = 65_536, 2
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.use_jinja = True
    params.chat_template = convert_tokenizer_to_chat_template(_TOKENIZER)
    params.endpoint_slots = True
    params.api_keys = [key]
    params.ui = params.warmup = False
    params.cache_ram_mib = 0
    params.verbosity = -1
    with _quiet():
        server: Any = xllamacpp.Server(params)
    try:
        yield Server(f"{server.listening_address}/v1", key)
    finally:
        with _quiet():
            del server
            gc.collect()


@contextlib.contextmanager
def litellm_proxy(folder: Path, models: Mapping[str, Mapping[str, Any]]) -> Iterator[Server]:
    """Run LiteLLM's proxy, from its environment; it takes some ten seconds to start.

    Args:
        folder: Where its configuration and its log are written.
        models: For each name under which it is asked, its `litellm_params`.
    """
    program = CLIENTS / "bin" / "litellm"
    assert program.exists(), "LiteLLM is not installed: run the tests with `make test`"
    key = f"sk-{secrets.token_hex(16)}"
    listed = [{"model_name": name, "litellm_params": dict(of)} for name, of in models.items()]
    config, log, port = folder / "config.yaml", folder / "litellm.log", free_port()
    config.write_text(json.dumps({"model_list": listed, "general_settings": {"master_key": key}}))
    command = [str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    # Prices come with the package; nothing is fetched.
    with listening(command, port, log, 150, LITELLM_LOCAL_MODEL_COST_MAP="True"):
        yield Server(f"http://127.0.0.1:{port}/v1", key)


def some_histories(
    count: int, number: int, *, images: bool = False
) -> list[tuple[list[Message], bool]]:
    """Random histories, each with whether functions are offered; the same for the same numbers.

    Args:
        count: How many.
        number: The seed.
        images: Whether there are images.
    """
    drawn: list[tuple[list[Message], bool]] = []

    @seed(number)
    @settings(max_examples=5 * count, database=None, phases=[Phase.generate])
    @given(histories, st.booleans())
    def draw(history: list[Message], tools: bool) -> None:
        if images or not _PICTURE.search(json.dumps(history)):
            drawn.append((history, tools))

    draw()
    assert len(drawn) >= count
    return drawn[:count]
