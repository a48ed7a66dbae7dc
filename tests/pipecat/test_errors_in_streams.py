"""Errors that come after a 200, in a pipeline: what is asked again, and which error is shown."""

import json

import pytest
from call import Call
from fault_proxy import Ending, Place, Road, Trouble, response
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.utils.errors import ErrorCategory

from mistral_service import MistralError, MistralLLMService, Reason
from mistral_service.local import Reply

UNUSABLE = (Reason.KEY, Reason.FORBIDDEN, Reason.UNKNOWN_MODEL)


def event(data: object) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def told(code: object, message: str = "It will not do.", **more: object) -> bytes:
    return event({"error": {"code": code, "message": message, **more}})


def chunk(text: str, finish_reason: str | None = None, **more: object) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}
    return event({"id": "gen-1", "choices": [choice], **more})


@pytest.mark.parametrize(
    ("code", "reason", "category"),
    [
        (401, Reason.KEY, ErrorCategory.AUTHENTICATION),
        ("401", Reason.KEY, ErrorCategory.AUTHENTICATION),
        (402, Reason.QUOTA, ErrorCategory.QUOTA),
        (400, Reason.REQUEST, ErrorCategory.APPLICATION),
        ("422", Reason.REQUEST, ErrorCategory.APPLICATION),
        (403, Reason.FORBIDDEN, ErrorCategory.AUTHORIZATION),
        (404, Reason.UNKNOWN_MODEL, ErrorCategory.INVALID_REQUEST),
        (413, Reason.TOO_LARGE, ErrorCategory.APPLICATION),
    ],
)
async def test_what_will_not_pass_is_asked_once(serve, service_for, code, reason, category):
    mistral = serve(Reply(raw=told(code)), Reply("Here I am."))
    async with Call(service_for(mistral, warm_up=False)) as call:
        await call.say("Hello.")
        [error] = call.errors
        assert (error.exception.reason, error.category) == (reason, category)
        assert error.exception.status_code == int(code)
        assert "It will not do." in error.error
        assert len(mistral.exchanges) == 1
        assert call.service.is_usable is (reason not in UNUSABLE)
        assert await call.say("Are you there?") == "Here I am."


@pytest.mark.parametrize("code", [408, 429, "429", 500, 502, "503", 504, 529])
async def test_what_may_pass_is_asked_again(serve, service_for, code):
    mistral = serve(Reply(raw=told(code)), Reply("Here I am."))
    async with Call(service_for(mistral, warm_up=False)) as call:
        assert await call.say("Hello.") == "Here I am."
    assert not call.errors


@pytest.mark.parametrize("finish_reason", ["error", "stop", None])
async def test_words_beside_an_error_are_said_and_the_sentence_goes_on(
    serve, service_for, finish_reason
):
    broken = chunk("One ") + chunk("moment", finish_reason, error={"code": 502, "message": "gone"})
    mistral = serve(Reply(raw=broken), Reply("One moment, please."))
    async with Call(service_for(mistral)) as call:
        assert await call.say("Hello.") == "One moment, please."
    assert not call.errors


@pytest.mark.parametrize(
    "end",
    [
        chunk("", "error", error={"code": "server_error", "message": "the provider is gone"}),
        chunk("", "error") + told(502, "the provider is gone"),
        chunk("", "stop", error={"code": 502, "message": "the provider is gone"}),
        event({"choices": [{"delta": {}, "error": {"message": "the provider is gone"}}]}),
        b'error: {"code":500,"message":"the provider is gone","type":"server_error"}\n\n',
        b"event: error\n" + told(500, "the provider is gone"),
    ],
)
async def test_the_server_s_words_are_told_where_nothing_is_asked_again(serve, service_for, end):
    mistral = serve(Reply(raw=chunk("One moment") + end), Reply("Here I am."))
    async with Call(service_for(mistral, max_attempts=1)) as call:
        assert await call.say("Hello.") == "One moment"
        [error] = call.errors
        assert error.category is ErrorCategory.SERVER
        assert "the provider is gone" in error.error
        assert await call.say("Are you there?") == "Here I am."


async def test_an_error_after_a_good_end_is_too_late(serve, service_for):
    mistral = serve(Reply(raw=chunk("Done.", "stop") + told(500)))
    async with Call(service_for(mistral)) as call:
        assert await call.say("Hello.") == "Done."
    assert not call.errors
    assert len(mistral.exchanges) == 1


@pytest.mark.parametrize("status", [200, 403])
async def test_one_flagged_utterance_leaves_the_service_usable(serve, service_for, status):
    error = {
        "code": 403,
        "message": "Your input was refused",
        "metadata": {"reasons": ["violence"], "flagged_input": "what was said"},
    }
    refused = (
        Reply(raw=event({"error": error}))
        if status == 200
        else Reply(status=status, body={"error": error})
    )
    mistral = serve(refused, Reply("Let us talk of something else."))
    async with Call(service_for(mistral)) as call:
        await call.say("Hello.")
        [told_] = call.errors
        assert told_.exception.reason is Reason.BLOCKED
        assert told_.category is ErrorCategory.APPLICATION
        assert "what was said" not in told_.error
        assert call.service.is_usable
        assert await call.say("And now?") == "Let us talk of something else."


@pytest.mark.parametrize(
    ("body", "reason", "said"),
    [
        (
            b"<html><head><title>Sign in</title></head>\n<body>\n</body></html>",
            Reason.STREAM,
            "an HTML page, probably from a proxy: Sign in",
        ),
        (
            json.dumps({"error": {"code": 402, "message": "Top up"}}, indent=2).encode(),
            Reason.QUOTA,
            "Top up",
        ),
        (
            json.dumps([{"error": {"code": 429, "message": "Slow down"}}], indent=2).encode(),
            Reason.RATE_LIMIT,
            "Slow down",
        ),
        (b'[{"error":{"code":400,"message":"No."}}]', Reason.REQUEST, "No."),
        (b'{"error":{"code":401,"message":"No."}}', Reason.KEY, "No."),
    ],
)
async def test_what_comes_in_place_of_a_stream_is_understood(
    serve, service_for, body, reason, said
):
    mistral = serve(Reply(raw=body))
    async with Call(service_for(mistral, max_attempts=1, warm_up=False)) as call:
        await call.say("Hello.")
    [error] = call.errors
    assert error.exception.reason is reason
    assert said in error.error


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"code": 402, "message": "Top up"}},
        {"choices": [{"message": {"content": "One"}, "error": {"code": 402, "message": "Top up"}}]},
        {"object": "error", "message": "Top up", "code": "402"},
    ],
)
async def test_a_whole_reply_may_be_an_error_too(serve, body):
    mistral = serve(Reply("A summary."))
    async with Road(mistral.base_url) as road:
        service = MistralLLMService(api_key="any", base_url=road.base_url)
        answer = response(200, body, content_type="application/json")
        road.ahead(Trouble(Place.REQUEST, Ending.END, answer))
        with pytest.raises(MistralError, match="Top up") as raised:
            await service.run_inference(LLMContext([{"role": "user", "content": "Sum up."}]))
        await service.cleanup()
    assert (raised.value.reason, raised.value.status_code) == (Reason.QUOTA, 402)
    assert not mistral.exchanges


# --- a key that was good --------------------------------------------------------------------------

UNAUTHORIZED = Reply(status=401, body={"detail": "Unauthorized"}, times=None)


@pytest.mark.parametrize(
    "refused",
    [UNAUTHORIZED, Reply(raw=told(401, "Unauthorized"), times=None)],
    ids=["in place of a stream", "in a stream"],
)
async def test_a_401_after_a_turn_that_went_well_names_the_other_cause(
    serve, service_for, refused: Reply
):
    mistral = serve(Reply("Hi."), refused)
    async with Call(service_for(mistral, warm_up=False)) as call:
        assert await call.say("Hello.") == "Hi."
        await call.say("And?")
        [error] = call.errors
        assert error.exception.reason is Reason.KEY
        assert error.exception.status_code == 401
        assert "budget" in error.error
        assert error.error.endswith("Unauthorized")
        await call.say("And now?")
        assert call.errors[-1].error.count("budget") == 1


async def test_a_401_before_any_turn_went_well_names_the_key_alone(serve, service_for):
    mistral = serve(UNAUTHORIZED)
    async with Call(service_for(mistral, warm_up=False)) as call:
        await call.say("Hello.")
    [error] = call.errors
    assert "MISTRAL_API_KEY" in error.error
    assert "budget" not in error.error


async def test_the_fallback_s_key_is_another(serve, service_for):
    own = serve(Reply("Hi."), Reply(status=402, body={"detail": "Pay"}, times=None))
    other = serve(UNAUTHORIZED)
    service = service_for(own, fallback_base_url=other.base_url, warm_up=False)
    async with Call(service) as call:
        assert await call.say("Hello.") == "Hi."
        await call.say("And?")
    [error] = call.errors
    assert error.exception.reason is Reason.QUOTA
    assert "Unauthorized" in error.error
    assert "budget of its workspace" not in error.error
