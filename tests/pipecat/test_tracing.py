"""What a turn leaves on the span that Pipecat opens for it, in a real pipeline."""

import subprocess
import sys
from collections.abc import Callable

import pytest
from call import Call
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mistral_service import MistralTurnMetrics
from mistral_service.local import Checks, Reply
from mistral_service.turn.prices import PRICES, Price, cost_of, total
from mistral_service.wire.chunks import Usage


@pytest.fixture
def turns(spans: InMemorySpanExporter) -> Callable[[], list[ReadableSpan]]:
    """The spans of the turns that have ended."""
    return lambda: [span for span in spans.get_finished_spans() if span.name == "llm"]


def traced(service, *messages, **options) -> Call:
    return Call(service, *messages, enable_tracing=True, enable_turn_tracking=True, **options)


USAGE = {
    "prompt_tokens": 1000,
    "completion_tokens": 50,
    "total_tokens": 1050,
    "prompt_tokens_details": {"cached_tokens": 640},
}


async def test_a_plain_turn_says_what_it_took(serve, service_for, turns):
    mistral = serve(Reply("Good morning.", usage=USAGE))
    async with traced(service_for(mistral, temperature=0.2)) as call:
        await call.say("Hello.")
    (span,) = turns()
    told = dict(span.attributes or {})
    assert told["gen_ai.provider.name"] == "mistral_ai"
    assert told["gen_ai.request.model"] == "mistral-small-latest"
    assert told["gen_ai.request.temperature"] == 0.2
    assert told["gen_ai.usage.input_tokens"] == 1000
    assert told["gen_ai.usage.output_tokens"] == 50
    assert told["gen_ai.usage.cache_read.input_tokens"] == 640
    assert told["gen_ai.response.model"] == "mistral-small-latest"
    assert told["output"] == "Good morning."
    assert float(told["metrics.ttfb"]) > 0
    assert {name: told[name] for name in told if name.startswith("mistral.")} == {
        "mistral.attempts": 1,
        "mistral.hedges": 0,
        "mistral.hedges_won": 0,
        "mistral.resumes": 0,
        "mistral.fallbacks": 0,
        "mistral.faults": 0,
        "mistral.repaired_messages": 0,
        "mistral.correlation_id": told["mistral.correlation_id"],
    }
    assert len(str(told["mistral.correlation_id"])) == 32
    assert not span.events


async def test_repaired_messages_are_counted_and_their_rules_named(serve, service_for, turns):
    mistral = serve(Reply("Yes."))
    lost = {"role": "tool", "tool_call_id": "call_1", "content": "It rained."}
    late = {"role": "developer", "content": "Be brief."}
    async with traced(service_for(mistral), {"role": "user", "content": "Hi."}, lost, late) as call:
        await call.say("Did it rain?")
    told = dict(turns()[0].attributes or {})
    assert int(told["mistral.repaired_messages"]) >= 2
    assert told["mistral.rules"] == ("R1", "R4", "R12")


async def test_a_fault_on_the_way_is_an_event_of_the_span(serve, service_for, turns):
    refused = {"mistral-correlation-id": "abc-1"}
    mistral = serve(
        Reply(status=503, body={"message": "full"}, headers=refused),
        Reply("One two three four.", cut_after=3),
        Reply("One two three four five."),
    )
    async with traced(service_for(mistral)) as call:
        assert await call.say("Count.") == "One two three four five."
    (span,) = turns()
    told = dict(span.attributes or {})
    assert (told["mistral.attempts"], told["mistral.faults"], told["mistral.resumes"]) == (3, 2, 1)
    assert told["mistral.correlation_id"] != "abc-1"
    first, second = span.events
    assert first.name == second.name == "mistral.fault"
    assert dict(first.attributes or {}) | {"mistral.delay": 0} == {
        "error.type": "capacity",
        "http.response.status_code": 503,
        "mistral.correlation_id": "abc-1",
        "mistral.handled": "retried",
        "mistral.attempt": 2,
        "mistral.delay": 0,
        "mistral.model": "mistral-small-latest",
    }
    assert (second.attributes or {})["mistral.handled"] == "resumed"


async def test_a_second_request_is_counted(serve, service_for, turns):
    mistral = serve(Reply("Too late.", first_wait=5), Reply("Here."))
    async with traced(service_for(mistral, hedge_after=0.1)) as call:
        assert await call.say("Hello.") == "Here."
    told = dict(turns()[0].attributes or {})
    assert (told["mistral.attempts"], told["mistral.hedges"], told["mistral.hedges_won"]) == (
        2,
        1,
        1,
    )


async def test_an_error_that_ends_a_turn_ends_its_span_with_reason_and_correlation_id(
    serve, service_for, turns
):
    mistral = serve(
        Reply(status=401, body={"detail": "No"}, headers={"mistral-correlation-id": "abc-2"})
    )
    async with traced(service_for(mistral, warm_up=False)) as call:
        await call.say("Hello.")
    (span,) = turns()
    told = dict(span.attributes or {})
    assert not span.status.is_ok
    assert told["error.type"] == "key"
    assert told["http.response.status_code"] == 401
    assert told["mistral.correlation_id"] == "abc-2"
    assert told["mistral.attempts"] == 1
    assert "test-key" not in str(span.to_json())


async def test_an_interrupted_turn_leaves_its_span_too(serve, service_for, turns):
    mistral = serve(Reply("word " * 100, pause=0.02))
    async with traced(service_for(mistral)) as call:
        await call.begin("Tell me a story.")
        await call.until(lambda: "word" in call.words)
        await call.interrupt()
        await call.until(turns)
    told = dict(turns()[0].attributes or {})
    assert told["mistral.attempts"] == 1
    assert "word" in str(told["output"])


async def test_kept_thoughts_do_not_disturb_the_span(serve, service_for, turns):
    thinking = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]
    mistral = serve(
        Reply(deltas=[{"content": thinking}, {"content": "Hi."}]),
        Reply("Fine."),
        checks=Checks(versions=["v11", "v13", "v15"]),
    )
    service = service_for(mistral, keep_thoughts=True, reasoning_effort="high")
    async with traced(service) as call:
        await call.say("Hello.")
        await call.say("How are you?")
    first, second = [dict(span.attributes or {}) for span in turns()]
    assert first["output"] == "Hi."
    assert "How are you?" in str(second["input"])
    assert "Hm." in str(second["input"])
    assert second["mistral.attempts"] == 1


async def test_nothing_is_traced_where_tracing_is_off(serve, service_for, turns):
    mistral = serve(Reply(status=503, body={}), Reply("Hi."))
    async with Call(service_for(mistral)) as call:
        assert await call.say("Hello.") == "Hi."
    assert not turns()


def test_the_service_itself_loads_no_opentelemetry():
    code = (
        "import sys; sys.modules['opentelemetry'] = None; import mistral_service.service; "
        "import mistral_service.pipecat.tracing; print('loaded')"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "loaded"


# --- costs ---------------------------------------------------------------------------------------


async def test_a_turn_tells_its_cost_where_prices_are_given(serve, service_for, turns):
    mistral = serve(Reply("Hello.", usage=USAGE))
    async with traced(service_for(mistral, prices=PRICES)) as call:
        await call.say("Hi.")
    cost = (360 * 0.15 + 640 * 0.015 + 50 * 0.6) / 1_000_000
    (metrics,) = call.metrics(MistralTurnMetrics)
    assert metrics.cost == pytest.approx(cost)
    assert (turns()[0].attributes or {})["mistral.cost"] == pytest.approx(cost)


async def test_a_fallback_is_paid_at_its_own_price(serve, service_for):
    mistral = serve(
        Reply(status=503, body={"message": "Service tier capacity exceeded for this model"}),
        Reply("Here.", usage=USAGE),
    )
    prices = {"mistral-medium-latest": Price(1, 1), "mistral-small-latest": Price(2, 2, 2)}
    service = service_for(
        mistral,
        model="mistral-medium-latest",
        fallback_models=["mistral-small-latest"],
        prices=prices,
    )
    async with Call(service) as call:
        assert await call.say("Who is there?") == "Here."
    (metrics,) = call.metrics(MistralTurnMetrics)
    assert metrics.fallbacks == 1
    assert metrics.cost == pytest.approx(1050 * 2 / 1_000_000)


@pytest.mark.parametrize("prices", [None, {"another-model": Price(1, 1)}])
async def test_an_unknown_price_is_no_cost(serve, service_for, turns, prices):
    mistral = serve(Reply("Hello.", usage=USAGE))
    async with traced(service_for(mistral, prices=prices)) as call:
        await call.say("Hi.")
    (metrics,) = call.metrics(MistralTurnMetrics)
    assert metrics.cost is None
    assert "mistral.cost" not in (turns()[0].attributes or {})


def _usage(cached: int | None = 640) -> Usage:
    return Usage(prompt_tokens=1000, completion_tokens=50, total_tokens=1050, cached_tokens=cached)


def test_cached_tokens_cost_a_tenth_unless_the_list_says_otherwise():
    assert Price(10, 0).of(_usage()) == pytest.approx((360 * 10 + 640 * 1) / 1e6)
    assert Price(10, 0, 5).of(_usage()) == pytest.approx((360 * 10 + 640 * 5) / 1e6)
    assert Price(10, 0).of(_usage(None)) == pytest.approx(1000 * 10 / 1e6)


def test_the_first_name_on_the_list_counts():
    assert cost_of(_usage(), {"b": Price(1, 0, 1)}, "a", "b") == pytest.approx(0.001)
    assert cost_of(_usage(), {}, "a") is None


def test_a_total_is_known_only_where_every_part_is():
    assert total([]) is None
    assert total([1.0, None]) is None
    assert total([1.0, 2.0]) == 3.0


def test_every_price_of_the_list_is_sane():
    assert PRICES
    for model, price in PRICES.items():
        assert 0 < price.input <= price.output < 100, model
