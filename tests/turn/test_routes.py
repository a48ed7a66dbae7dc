"""Fallback models: which route a request takes, decided without a clock, and over real HTTP."""

from collections.abc import Sequence

import pytest
from call import Call, established
from hypothesis import given
from hypothesis import strategies as st
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.frames.frames import LLMUpdateSettingsFrame
from pipecat.processors.aggregators.llm_context import LLMContext

from mistral_service import MistralLLMService, MistralTurnMetrics
from mistral_service.local import Checks, LocalMistral, Reply, Script
from mistral_service.local.models import Model
from mistral_service.turn.routes import Route, Routes
from mistral_service.wire.errors import MistralError, Reason

OWN, NEXT, ELSEWHERE = Route("own"), Route("next"), Route("other", 1)
ALL = [OWN, NEXT, ELSEWHERE]
TOOL = FunctionSchema(name="one", description="For tests.", properties={}, required=[])
FULL = {"status": 503, "body": {"message": "Service tier capacity exceeded for this model"}}

# --- the decision ---------------------------------------------------------------------------------


def chosen(routes: Routes, now: float, among: Sequence[Route] = ALL) -> Route:
    return routes.choose(among, now)


@pytest.mark.parametrize("reason", [Reason.CAPACITY, Reason.RATE_LIMIT, Reason.UNKNOWN_MODEL])
def test_a_model_that_is_full_or_gone_rests_at_once_and_finds_its_way_back(reason: Reason):
    routes = Routes()
    assert chosen(routes, 0) is OWN
    routes.failed(OWN, MistralError(reason), 0)
    assert chosen(routes, 1) is NEXT
    assert chosen(routes, 301) is OWN


def test_a_fault_that_may_pass_must_come_twice():
    routes = Routes()
    routes.failed(OWN, MistralError(Reason.SERVER), 0)
    assert chosen(routes, 0) is OWN
    routes.failed(OWN, MistralError(Reason.TIMEOUT), 1)
    assert chosen(routes, 1) is NEXT


def test_an_answer_makes_a_route_as_good_as_new():
    routes = Routes()
    routes.failed(OWN, MistralError(Reason.SERVER), 0)
    routes.answered(OWN)
    routes.failed(OWN, MistralError(Reason.SERVER), 1)
    assert chosen(routes, 1) is OWN


def test_the_one_trial_after_a_rest_decides():
    routes = Routes()
    routes.failed(OWN, MistralError(Reason.CAPACITY), 0)
    assert chosen(routes, 31) is OWN
    routes.failed(OWN, MistralError(Reason.SERVER), 31)
    assert chosen(routes, 32) is NEXT
    # The second rest is twice as long.
    assert chosen(routes, 31 + 59) is NEXT
    assert chosen(routes, 31 + 61) is OWN


def test_a_rest_is_as_long_as_the_server_asks():
    routes = Routes()
    routes.failed(OWN, MistralError(Reason.RATE_LIMIT, retry_after=100), 0)
    assert chosen(routes, 99) is NEXT
    assert chosen(routes, 101) is OWN


@pytest.mark.parametrize("reason", [Reason.KEY, Reason.FORBIDDEN, Reason.QUOTA])
def test_what_is_wrong_with_an_account_is_wrong_for_all_its_models(reason: Reason):
    routes = Routes()
    routes.failed(OWN, MistralError(reason), 0)
    assert chosen(routes, 1) is ELSEWHERE
    assert chosen(routes, 1, [OWN, NEXT]) is OWN


@pytest.mark.parametrize("reason", [Reason.HISTORY, Reason.REQUEST, Reason.BLOCKED])
def test_what_is_wrong_with_a_request_is_no_fault_of_the_model(reason: Reason):
    routes = Routes()
    for _ in range(5):
        routes.failed(OWN, MistralError(reason), 0)
    assert chosen(routes, 0) is OWN


@given(
    st.lists(
        st.tuples(st.sampled_from(ALL), st.sampled_from([*Reason, None]), st.floats(0, 400)),
        max_size=30,
    )
)
def test_there_is_always_a_route_and_the_own_one_comes_back(events):
    routes, now = Routes(), 0.0
    for route, reason, seconds in events:
        now += seconds
        if reason is None:
            routes.answered(route)
        else:
            routes.failed(route, MistralError(reason), now)
        assert chosen(routes, now) in ALL
    assert chosen(routes, now + 301) is OWN


# --- over real HTTP -------------------------------------------------------------------------------


def models_asked(mistral: LocalMistral) -> list[str]:
    return [exchange.request["model"] for exchange in mistral.exchanges]


@pytest.mark.parametrize(
    "fault", [FULL, {"status": 429, "body": {"message": "slow"}}, {"status": 404, "body": {}}]
)
async def test_a_model_that_is_full_or_gone_is_stood_in_for(serve, service_for, fault):
    mistral = serve(Reply(**fault), Reply("Here I am."), Reply("Still here."))
    service = service_for(mistral, fallback_models=["ministral-8b-latest"])
    async with Call(service) as call:
        assert await call.say("Hello.") == "Here I am."
        # The next turn does not pay for it again.
        assert await call.say("Still there?") == "Still here."
        assert not call.errors
        assert service.is_usable
        first, second = call.metrics(MistralTurnMetrics)
    assert models_asked(mistral) == ["mistral-small-latest", *["ministral-8b-latest"] * 2]
    assert (first.attempts, first.fallbacks) == (2, 1)
    assert (second.attempts, second.fallbacks) == (1, 0)


async def test_a_turn_does_not_wait_for_the_same_model_twice(serve, service_for):
    mistral = serve(Reply("Late.", wait=60), Reply("Here I am."))
    service = service_for(
        mistral, fallback_models=["ministral-8b-latest"], first_token_timeout=0.3, hedging=False
    )
    async with Call(service) as call:
        assert await call.say("Hello.") == "Here I am."
    assert models_asked(mistral) == ["mistral-small-latest", "ministral-8b-latest"]


async def test_a_continuation_that_hangs_leaves_time_for_the_other_model(serve, service_for):
    mistral = serve(
        Reply("The quick brown fox.", cut_after=2), Reply("Late.", wait=60), Reply("brown fox.")
    )
    service = service_for(
        mistral, fallback_models=["ministral-8b-latest"], first_token_timeout=0.3, hedging=False
    )
    async with Call(service, tools=[TOOL]) as call:
        assert await call.say("Hello.") == "The quick brown fox."
        assert not call.errors
    assert len(mistral.exchanges) == 3


async def test_a_sentence_goes_on_with_another_model(serve, service_for):
    mistral = serve(
        Reply("One two three.", cut_after=2),
        Reply(**FULL),
        Reply("One two three."),
    )
    service = service_for(mistral, fallback_models=["ministral-8b-latest"])
    async with Call(service) as call:
        assert await call.say("Count.") == "One two three."
    assert models_asked(mistral)[-1] == "ministral-8b-latest"


async def test_a_fallback_may_be_somewhere_else_with_a_key_of_its_own(serve, service_for):
    mistral = serve(Reply(status=401, body={"detail": "Unauthorized"}))
    with LocalMistral(Script(Reply("From elsewhere.")), api_key="their-key-123") as elsewhere:
        service = service_for(
            mistral,
            warm_up=False,
            fallback_base_url=elsewhere.base_url,
            fallback_api_key="their-key-123",
        )
        async with Call(service) as call:
            assert await call.say("Hello.") == "From elsewhere."
            assert not call.errors
            assert service.is_usable
        assert models_asked(elsewhere) == ["mistral-small-latest"]


async def test_where_fallbacks_fail_too_the_own_model_s_error_is_told(serve, service_for):
    mistral = serve(Reply(**FULL), Reply(status=404, body={"message": "no such model"}))
    service = service_for(mistral, fallback_models=["mistral-nonesuch"], warm_up=False)
    async with Call(service) as call:
        await call.say("Hello.")
        [error] = call.errors
        assert isinstance(error.exception, MistralError)
        assert error.exception.reason is Reason.CAPACITY
        assert "mistral-nonesuch" in error.error
        # It is the fallback that is unknown, not the bot's own model.
        assert service.is_usable


async def test_a_fallback_that_fails_for_a_moment_leaves_the_service_usable(serve, service_for):
    own = serve(*[Reply(status=401, body={"message": "wrong"})] * 9)
    other = serve(Reply("Here."), Reply(**FULL), Reply(**FULL), Reply(**FULL))
    service = service_for(own, fallback_base_url=other.base_url, warm_up=False)
    async with Call(service) as call:
        assert await call.say("Hello.") == "Here."
        await call.say("And?")
        [error] = call.errors
        assert error.exception.reason is Reason.CAPACITY
        assert "API key" in error.error  # which is still to be put right
        assert service.is_usable


async def test_a_reply_that_is_interrupted_is_an_answer_too(serve, service_for):
    speaks = Reply("One and two.", stall_after=1)
    mistral = serve(Reply(status=500), speaks, Reply(status=500), Reply("Back."))
    service = service_for(mistral, fallback_models=["other"], hedging=False, warm_up=False)
    async with Call(service) as call:
        await call.begin("Hello.")
        await call.until(lambda: call.words)
        await call.interrupt()
        await call.until(lambda: not established(mistral.base_url))
        assert await call.say("And?") == "Back."
    assert set(models_asked(mistral)) == {"mistral-small-latest"}


async def test_an_answer_beside_the_conversation_ends_a_row_of_failures(serve, service_for):
    mistral = serve(Reply(status=500), Reply("One."), Reply(status=500), Reply("Two."))
    service = service_for(mistral, fallback_models=["other"], warm_up=False)
    for answer in ("One.", "Two."):
        assert await service.run_inference(LLMContext([{"role": "user", "content": "?"}])) == answer
    await service.cleanup()
    assert set(models_asked(mistral)) == {"mistral-small-latest"}


async def test_a_fallback_that_cannot_call_functions_is_not_asked(service_for):
    models = [Model("mistral-small-latest"), Model("mute", function_calling=False), Model("able")]
    script = Script(Reply(**FULL), Reply("Done."))
    with LocalMistral(script, Checks(models=models)) as mistral:
        service = service_for(mistral, fallback_models=["mute", "not-there", "able"])
        async with Call(service, tools=[TOOL]) as call:
            await call.until(lambda: service._router._catalogues)
            assert await call.say("Do it.") == "Done."
        assert models_asked(mistral) == ["mistral-small-latest", "able"]


async def test_a_fallback_that_does_not_see_is_not_asked_about_a_image(service_for):
    models = [
        Model("mistral-small-latest", vision=True),
        Model("blind"),
        Model("able", vision=True),
    ]
    dot = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
    shown = {"type": "image_url", "image_url": {"url": dot}}
    script = Script(Reply(**FULL), Reply("A dot."))
    with LocalMistral(script, Checks(models=models)) as mistral:
        service = service_for(mistral, fallback_models=["blind", "able"])
        async with Call(service, {"role": "user", "content": [shown]}) as call:
            await call.until(lambda: service._router._catalogues)
            assert await call.say("What is it?") == "A dot."
        assert models_asked(mistral) == ["mistral-small-latest", "able"]


async def test_fallback_models_can_change_in_mid_call(serve, service_for):
    mistral = serve(Reply("One."), Reply(**FULL), Reply("Two."))
    async with Call(service_for(mistral)) as call:
        await call.say("First.")
        delta = MistralLLMService.Settings(fallback_models=["ministral-3b-latest"])
        await call.worker.queue_frame(LLMUpdateSettingsFrame(delta=delta))
        assert await call.say("Second.") == "Two."
    assert models_asked(mistral)[-1] == "ministral-3b-latest"


async def test_a_question_beside_the_conversation_falls_back_too(serve, service_for):
    from pipecat.processors.aggregators.llm_context import LLMContext

    mistral = serve(Reply(**FULL), Reply("A summary."))
    service = service_for(mistral, fallback_models=["ministral-3b-latest"])
    context = LLMContext(messages=[{"role": "user", "content": "Sum up."}])
    assert await service.run_inference(context) == "A summary."
    assert models_asked(mistral) == ["mistral-small-latest", "ministral-3b-latest"]
    await service.cleanup()


@pytest.mark.parametrize("value", ["mistral-large-latest", [""], [3]])
def test_bad_fallback_models_are_told(value):
    with pytest.raises(ValueError, match="fallback_models must be"):
        MistralLLMService(api_key="k", settings=MistralLLMService.Settings(fallback_models=value))


def test_a_bad_fallback_address_is_told():
    with pytest.raises(ValueError, match="fallback_base_url='nowhere'"):
        MistralLLMService(api_key="k", fallback_base_url="nowhere")
