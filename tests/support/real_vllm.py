"""A real vLLM on this machine: a tiny model of random weights, which writes noise.

The words mean nothing. The server is real: routes, validation, tokenizer, parser of calls,
grammar, stream and errors. The model takes images, as Pixtral does.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ports import free_port

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venvs" / "vllm" / "bin" / "python"
MODEL = "mistral-small-latest"
KEY = "a-key-that-vllm-asks-for"

PARAMETERS = {
    "dim": 128,
    "n_layers": 2,
    "head_dim": 64,  # 16 is too small for its attention on the CPU
    "hidden_dim": 256,
    "n_heads": 2,
    "n_kv_heads": 1,
    "norm_eps": 1e-5,
    "vocab_size": 131_072,
    "max_seq_len": 4096,
    "max_position_embeddings": 4096,
    "rope_theta": 1e6,
    "dtype": "float32",
    "vision_encoder": {
        "hidden_size": 64,
        "num_channels": 3,
        "image_size": 1024,
        "patch_size": 16,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "rope_theta": 10_000.0,
        "image_token_id": 10,
    },
}
"""A Pixtral of some 34 million parameters, nearly all of them the vocabulary's."""

GRAMMAR = {"backend": "xgrammar", "disable_any_whitespace": True}
"""No blanks within JSON: noise would write them without end."""

STARTS_WITHIN_S = 240.0
_ENDS_WITHIN_S = 20.0


@dataclass(frozen=True)
class Vllm:
    """A vLLM that runs.

    Parameters:
        base_url: The address for a client's `base_url`; the key is `KEY`.
        version: Its version, as it says itself.
        started_in: Seconds that it took to start.
        log: What it has written.
    """

    base_url: str
    version: str
    started_in: float
    log: Path

    def measured(self, name: str, **labels: str) -> float:
        """The sum of a metric's values, of those lines that have the labels."""
        total = 0.0
        for line in _fetch(self.base_url.removesuffix("/v1") + "/metrics").splitlines():
            said = re.fullmatch(rf"{re.escape(name)}(?:\{{(.*)\}})? (\S+)", line)
            if said and all(f'{k}="{v}"' in (said[1] or "") for k, v in labels.items()):
                total += float(said[2])
        return total

    @property
    def running(self) -> int:
        """Requests that it works on."""
        return int(self.measured("vllm:num_requests_running"))

    def refused(self) -> int:
        """Chat requests that it has refused so far."""
        return int(
            self.measured("http_requests_total", handler="/v1/chat/completions", status="4xx")
        )


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Vllm]:
    """Start vLLM, and end it.

    Args:
        folder: Where the model, the log and what vLLM keeps are written.
    """
    assert PYTHON.exists(), "vLLM is not installed: run the tests with `make test-vllm`"
    model, log, port = folder / "tiny", folder / "vllm.log", free_port()
    model.mkdir()
    (model / "params.json").write_text(json.dumps(PARAMETERS))
    vocabulary = files("mistral_common") / "data" / "tekken_240911.json"
    shutil.copyfile(str(vocabulary), model / "tekken.json")
    began = time.monotonic()
    with log.open("w") as out:
        process = subprocess.Popen(
            # Not `vllm serve`: that looks for its version under the name `vllm`, which the
            # wheel for the CPU has not.
            [str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
            + ["--tokenizer-mode", "mistral", "--config-format", "mistral"]
            + ["--load-format", "dummy", "--dtype", "float32", "--max-model-len", "4096"]
            + ["--enforce-eager", "--enable-auto-tool-choice", "--tool-call-parser", "mistral"]
            + ["--structured-outputs-config", json.dumps(GRAMMAR)]
            + ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", MODEL],
            cwd=folder,
            env=_environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        while True:
            assert process.poll() is None, f"vLLM has ended:\n{_last_words(log)}"
            took = time.monotonic() - began
            assert took < STARTS_WITHIN_S, f"vLLM is not up in {took:.0f} s:\n{_last_words(log)}"
            with contextlib.suppress(OSError):
                _fetch(f"{address}/health")
                break
            time.sleep(0.2)
        version = json.loads(_fetch(f"{address}/version"))["version"]
        yield Vllm(f"{address}/v1", version, took, log)
    finally:
        _end(process)


def _environment(folder: Path) -> dict[str, str]:
    """Nothing of ours; nothing is fetched, nothing reported, nothing written at home."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VLLM_", "OMP_"))}
    return kept | {
        "VLLM_API_KEY": KEY,
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "XDG_CACHE_HOME": str(folder / "cache"),
        "XDG_CONFIG_HOME": str(folder / "config"),
    }


def _fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def _last_words(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-30:])


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it and the processes that it has started, which are of its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_ENDS_WITHIN_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
