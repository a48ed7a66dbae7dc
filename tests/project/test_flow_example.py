"""The booking with Pipecat Flows: our service goes through it, and Pipecat's own does not."""

import sys
from pathlib import Path

import pytest
from bots import evaluate_example
from call import Call
from pipecat.flows import ContextStrategy, ContextStrategyConfig, FlowManager
from pipecat.services.llm_service import LLMService
from pipecat.services.mistral.llm import MistralLLMService as PipecatsOwn

from mistral_service import MistralLLMService
from mistral_service.local import Checks, LocalMistral, Reply, Script

EXAMPLES = Path(__file__).parents[2] / "examples"

sys.path.append(str(EXAMPLES))
import flow  # noqa: E402

HOSTED = Checks(templates=False)
"""The rules of Mistral's own API, without those that self-hosted models add."""


@pytest.mark.timeout(400)
def test_the_booking_goes_through_every_step(tmp_path: Path):
    mistral = evaluate_example("flow", tmp_path)
    assert [exchange.refused for exchange in mistral.exchanges] == [None] * 10
    *_, summary, _, _, last = [str(e.request["messages"]) for e in mistral.exchanges]
    assert "Summarize the call in one sentence" in summary
    assert "My name is Ada." in summary
    # A step that resets the context knows what the flow has noted, and the role, and no more.
    assert "You answer the phone of the Trattoria Aurora" in last
    assert "2 guests on Friday at 21:00, in the name of Ada, who must not eat nuts" in last
    assert "My name is Ada." not in last


def calls(name: str, /, **arguments: object) -> Reply:
    return Reply(tool_calls=[{"name": name, "arguments": arguments}])


STEPS = [
    (Reply("For which day?"), "For two on Friday.", calls("find_times", day="Friday", guests=2)),
    (Reply("At seven or at nine?"), "At nine.", calls("reserve", time="21:00")),
    (Reply("In whose name?"), "Ada.", calls("note_name", name="Ada")),
    (Reply("Any allergies?"), "Nuts.", calls("book", allergies="nuts")),
]
"""What the bot says, what the caller answers, and what the bot calls."""


def said_last(call: Call) -> str | None:
    """What the bot has said to the end, if it spoke last."""
    messages = call.context.get_messages()
    last = messages[-1] if messages else {"role": ""}
    return last.get("content") if last["role"] == "assistant" else None


async def hold(
    service: type[LLMService],
    strategy: ContextStrategy,
    checks: Checks,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[FlowManager, Call, LocalMistral]:
    """Hold the example's call, with the same context strategy at each transition."""
    with_summary = strategy is ContextStrategy.RESET_WITH_SUMMARY
    for name in ("APPEND", "SUMMARY", "RESET"):
        config = ContextStrategyConfig(strategy, "Summarize." if with_summary else None)
        monkeypatch.setattr(flow, name, config)
    script = Script()
    for says, _, does in STEPS:
        script.add(says, does)
        if with_summary and does is not STEPS[0][2]:  # that one stays in its step
            script.add(Reply("The caller books a table."))
    script.add(Reply("Goodbye!"))
    with LocalMistral(script, checks) as mistral:
        llm = service(api_key="any", base_url=mistral.base_url)
        async with Call(llm) as call:
            manager = FlowManager(worker=call.worker, llm=llm, context_aggregator=call.aggregators)
            await manager.initialize(flow.table_node())
            for says, answer, _ in STEPS:
                await call.until(lambda says=says: said_last(call) == says.text or call.errors, 20)
                if call.errors:
                    break
                await call.begin(answer)
            await call.until(lambda: "Goodbye!" in call.words or call.errors, 20)
    return manager, call, mistral


@pytest.mark.parametrize("strategy", ContextStrategy, ids=lambda each: each.value)
async def test_every_context_strategy_is_taken(strategy, monkeypatch):
    manager, call, mistral = await hold(MistralLLMService, strategy, Checks(), monkeypatch)
    assert call.words.endswith("Goodbye!")
    assert call.errors == []
    assert [exchange.refused for exchange in mistral.exchanges] == [None] * len(mistral.exchanges)
    assert manager.current_node == "goodbye"
    assert manager.state == {
        "day": "Friday",
        "guests": 2,
        "time": "21:00",
        "name": "Ada",
        "allergies": "nuts",
    }


@pytest.mark.parametrize("strategy", ContextStrategy, ids=lambda each: each.value)
async def test_pipecats_own_service_is_refused_with_every_context_strategy(strategy, monkeypatch):
    """After a function that stays in its step, its request ends with a blank assistant prefix."""
    manager, call, mistral = await hold(PipecatsOwn, strategy, HOSTED, monkeypatch)
    [refused] = [exchange.refused for exchange in mistral.exchanges if exchange.refused]
    assert "Cannot set an assistant prefix with function calling" in str(refused)
    assert call.words == "For which day?"  # and then silence
    assert manager.current_node == "table"
