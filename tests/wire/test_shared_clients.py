"""Clients that are shared: by services, and by a process with the child that it forks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from call import Call
from openai import AsyncOpenAI
from pipecat.frames.frames import LLMFullResponseEndFrame

from mistral_service import MistralLLMService
from mistral_service.local import Reply
from mistral_service.wire.http import http_client


@pytest.mark.parametrize("shares", ["client", "http client"])
async def test_a_service_that_ends_leaves_the_client_to_those_that_share_it(serve, shares):
    mistral = serve(Reply("One two three.", times=None, pause=0.02))
    under = http_client()
    made = [AsyncOpenAI(api_key="any", base_url=mistral.base_url, http_client=under)]

    class Sharing(MistralLLMService):
        def create_client(self, *args, **kwargs):
            if shares == "client":
                return made[0]
            return AsyncOpenAI(api_key="any", base_url=mistral.base_url, http_client=under)

    stays, ends = Sharing(api_key="any"), Sharing(api_key="any")
    async with Call(stays) as call:
        await call.begin("Count.")
        async with Call(ends) as other:
            assert await other.say("Hello.") == "One two three."
        await ends.cleanup()  # once more, which counts as nothing
        await call.until(lambda: call.count(LLMFullResponseEndFrame) == 1)
        assert await call.say("And again.") == "One two three."
    assert call.errors == []
    assert under.is_closed
    with pytest.raises(ValueError, match="closed"):
        Sharing(api_key="any")


FORKS = """
import asyncio, os, stat, sys
from mistral_service import MistralClient
from mistral_service.wire import http

client = MistralClient(api_key="some-key-0123", base_url=sys.argv[1])

async def ask():
    return (await client.chat([{"role": "user", "content": "Hello."}])).text

def sockets():
    return [each.fileno() for each in http._sockets if each.fileno() >= 0]

with asyncio.Runner() as runner:
    print("parent", runner.run(ask()), flush=True)
    before = sockets()
    child = os.fork()
    if not child:
        # In a loop of its own, as a worker of a server has.
        asyncio._set_running_loop(None)
        kinds = {stat.S_ISSOCK(os.fstat(each).st_mode) for each in before}
        print("inherited", kinds, flush=True)
        print("child", asyncio.run(ask()), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    print("parent", runner.run(ask()), before == sockets(), flush=True)
    runner.run(client.close())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_opens_its_own_connections(serve):
    mistral = serve(Reply("Hi.", times=None))
    path = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    out = subprocess.run(
        [sys.executable, "-c", FORKS, mistral.base_url],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"PYTHONPATH": path},
    )
    said = ["parent Hi.", "inherited {False}", "child Hi.", "parent Hi. True"]
    assert out.stdout.splitlines() == said, out.stderr
