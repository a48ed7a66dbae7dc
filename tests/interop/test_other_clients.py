"""Other clients of Mistral's API against the strict endpoint, each in a process of its own."""

import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from real_servers import CLIENTS

from mistral_service.local import LocalMistral, Reply, Script

SCRIPTS = Path(__file__).parents[1] / "environments" / "clients"
PLACE = {"city": "Oslo", "days": 3}
HELLO, WORDS, AFTERWARDS = "Bonjour.", ["Bonjour ", "à ", "vous."], "Rain, I am afraid."
CALL = {"name": "weather", "arguments": {"city": "Oslo"}}
TURNS = [
    Reply(HELLO),
    Reply("".join(WORDS)),
    Reply(tool_calls=[CALL]),
    Reply(AFTERWARDS),
    Reply(json.dumps(PLACE)),
]


@dataclass(frozen=True)
class Client:
    """A client, and what it is asked beside what all are.

    Parameters:
        name: The script `asked_by_NAME.py`.
        replies: What the endpoint answers at the end.
        heard: What the script then tells.
    """

    name: str
    replies: list[Reply] = field(default_factory=list)
    heard: dict[str, Any] = field(default_factory=dict)


CLIENTS_ASKED = [
    Client(
        "mistralai",
        [Reply("1 + 1"), Reply("2 + 2")],
        {"fim": "1 + 1", "fim stream": "2 + 2", "vectors": [1024, 1024], "models": True},
    ),
    Client("litellm"),
    Client("langchain"),
    Client("pydantic_ai"),
]


@pytest.mark.parametrize("client", CLIENTS_ASKED, ids=lambda client: client.name)
def test_a_client_chats_streams_calls_and_parses(client: Client, tmp_path: Path):
    python = CLIENTS / "bin" / "python"
    assert python.exists(), "the clients are not installed: run the tests with `make test`"
    with LocalMistral(Script(*TURNS, *client.replies)) as mistral:
        ran = subprocess.run(
            [str(python), str(SCRIPTS / f"asked_by_{client.name}.py"), mistral.base_url],
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert [exchange.refused for exchange in mistral.exchanges if exchange.refused] == []
    assert ran.returncode == 0, ran.stderr
    heard = json.loads(ran.stdout.splitlines()[-1])
    heard = {k: "".join(v) if "stream" in k else v for k, v in heard.items()}
    print(client.name, heard.pop("version"))
    assert heard == {
        "chat": HELLO,
        "stream": "".join(WORDS),
        "tool": ["weather", {"city": "Oslo"}],
        "after tool": AFTERWARDS,
        "parsed": PLACE,
        **client.heard,
    }
    lasts = [e.request["messages"][-1] for e in mistral.exchanges if "messages" in e.request]
    [result] = [message for message in lasts if message["role"] == "tool"]
    assert "rain" in result["content"]
