"""A conversation as a state machine: whatever happens in it, its invariants hold.

Hypothesis draws what the model replies, when the caller interrupts, how long functions take. The
pipeline, the aggregators, the HTTP and the strict endpoint are real.
"""

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Coroutine
from typing import Any

from call import Call
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.frames.frames import LLMFullResponseEndFrame

from mistral_service import MistralLLMService
from mistral_service.local import LocalMistral, Reply, Script

TOOLS = [
    FunctionSchema(name=name, description="", properties={}, required=[])
    for name in ("quick", "slow", "unknown")
]
IDS = ["abcdefgh1", "abcdefgh2", "call_0", "null", None]

calls = st.builds(
    lambda name, call_id, arguments: {"name": name, "id": call_id, "arguments": arguments},
    st.sampled_from(["quick", "quick", "slow", "unknown"]),
    st.sampled_from(IDS),
    st.sampled_from(["{}", "{}", '{"a": 1}', "{broken", "[1]"]),
)
replies = st.one_of(
    st.builds(Reply, st.sampled_from(["Certainly.", "One moment, please."])),
    st.builds(
        lambda text, made: Reply(text, tool_calls=made),
        st.sampled_from(["", "", "Let me see. "]),
        st.lists(calls, min_size=1, max_size=3),
    ),
    st.just(Reply("")),
    st.just(Reply("Cut off here.", cut_after=2)),
    st.just(Reply(status=400, body={"message": "Unexpected role", "code": "3230"})),
    st.just(Reply(raw=b'data: {"choices":[{"delta":{"content":[]}}]}\n\n')),
)


class Conversation(RuleBasedStateMachine):
    """One call, from its beginning to its end."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.script = Script()
        self.mistral = LocalMistral(self.script).start()
        self.ran: list[str] = []
        self.results: set[str] = set()
        self.do(self._begin())

    def do(self, what: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self.loop).result(30)

    async def _begin(self) -> None:
        service = MistralLLMService(api_key="k", base_url=self.mistral.base_url)

        async def handler(params) -> None:
            self.ran.append(params.tool_call_id)
            await asyncio.sleep(0.15 if params.function_name == "slow" else 0)
            self.results.add(params.tool_call_id)
            await params.result_callback({"result of": params.tool_call_id})

        for name in ("quick", "slow"):
            service.register_function(name, handler)
        self.call = Call(service, tools=TOOLS)
        await self.call.__aenter__()

    async def _settle(self) -> None:
        """Wait until nothing happens any more."""
        seen = (-1, -1)
        while (now := (len(self.call.frames), len(self.mistral.exchanges))) != seen:
            await self.call.until(lambda: self.call.at_rest)
            seen = now
            await asyncio.sleep(0.25)

    @rule(first=replies, second=replies)
    def the_caller_speaks(self, first: Reply, second: Reply) -> None:
        async def turn() -> None:
            ends = self.call.count(LLMFullResponseEndFrame)
            words, told = len(self.call.words), len(self.call.errors)
            requests, ran = len(self.mistral.exchanges), len(self.ran)
            await self.call.begin("And now?")
            await self.call.until(lambda: self.call.count(LLMFullResponseEndFrame) > ends)
            await self._settle()
            spoken = len(self.call.words) > words
            acted = len(self.ran) > ran or len(self.mistral.exchanges) > requests + 1
            assert spoken or acted or len(self.call.errors) > told, "the turn ended in silence"

        self.script.add(first, second)
        self.script.add(*[Reply("That is all.")] * 3)
        self.do(turn())
        self.script.clear()

    @rule(reply=replies, after=st.sampled_from([0.0, 0.02, 0.1]))
    def the_caller_interrupts(self, reply: Reply, after: float) -> None:
        async def turn() -> None:
            await self.call.begin("Wait.")
            await asyncio.sleep(after)
            await self.call.interrupt()
            await self._settle()

        self.script.add(reply, *[Reply("Yes?")] * 4)
        self.do(turn())
        self.script.clear()

    @invariant()
    def no_call_runs_twice(self) -> None:
        assert [i for i, times in Counter(self.ran).items() if times > 1] == []

    @invariant()
    def every_request_is_accepted_by_the_strict_endpoint(self) -> None:
        for exchange in self.mistral.exchanges:
            # 400 is what the script itself says; the judges' words are others.
            assert exchange.refused is None, exchange.refused

    @invariant()
    def every_result_reaches_the_context(self) -> None:
        messages = self.call.context.get_messages()
        for call_id in self.results:
            found = [m for m in messages if m.get("tool_call_id") == call_id]
            # An interruption may have cancelled the call while its result was on the way.
            assert any(call_id in m["content"] or m["content"] == "CANCELLED" for m in found)

    def teardown(self) -> None:
        self.do(self.call.__aexit__())
        self.mistral.stop()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()


Conversation.TestCase.settings = settings(
    max_examples=int(os.environ.get("CONVERSATION_EXAMPLES", "6")),
    stateful_step_count=6,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestConversation = Conversation.TestCase
