"""Every error body of Mistral's, over HTTP, in a pipeline: told in words, and the call goes on."""

import pytest
from call import Call
from error_bodies import FORMS

from mistral_service import MistralError, Reason
from mistral_service.local import Reply

# What the HTTP client tries again by itself is told only when it gives up.
ATTEMPTS = 3
TRIED_AGAIN = {408, 409, 429}


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [form[:3] for form in FORMS if not (form[0] >= 500 or form[0] in TRIED_AGAIN)]
    + [(429, {"message": "Rate limit exceeded", "code": "1300"}, Reason.RATE_LIMIT)]
    + [(503, {"message": "Service tier capacity exceeded"}, Reason.CAPACITY)],
)
async def test_a_refusal_is_told_and_the_next_turn_is_answered(
    serve, service_for, status: int, body, reason: Reason
):
    if isinstance(body, bytes):
        body = body.decode("latin-1")
    times = ATTEMPTS if status >= 500 or status in TRIED_AGAIN else 1
    mistral = serve(Reply(status=status, body=body, times=times), Reply("Here I am."))
    async with Call(service_for(mistral)) as call:
        await call.say("Hello.")
        [error] = call.errors
        assert isinstance(error.exception, MistralError)
        assert error.exception.reason is reason
        assert error.exception.status_code == status
        assert not error.fatal
        permanent = reason in (Reason.KEY, Reason.FORBIDDEN, Reason.UNKNOWN_MODEL)
        assert call.service.is_usable is not permanent
        assert await call.say("Are you there?") == "Here I am."


async def test_an_error_in_mid_stream_is_told_where_nothing_is_tried_again(serve, service_for):
    error = b'data: {"object":"error","message":"capacity exceeded","code":"3505"}\n\n'
    chunk = b'data: {"choices":[{"delta":{"content":"One moment"}}]}\n\n'
    mistral = serve(Reply(raw=chunk + error), Reply("Here I am."))
    async with Call(service_for(mistral, max_attempts=1)) as call:
        assert await call.say("Hello.") == "One moment"
        [told] = call.errors
        assert "capacity exceeded" in told.error
        assert call.service.is_usable
        assert await call.say("Are you there?") == "Here I am."


async def test_a_refused_history_does_not_poison_the_next_turn(serve, service_for):
    """What one request met is forgotten: the next is made from the context anew."""
    refused = {"message": "Unexpected role 'user' after role 'tool'", "code": "3230"}
    mistral = serve(Reply(status=400, body=refused), Reply("Fine."), Reply("Still fine."))
    async with Call(service_for(mistral)) as call:
        await call.say("One.")
        assert await call.say("Two.") == "Fine."
        assert await call.say("Three.") == "Still fine."
    assert len(call.errors) == 1
    said = [m["content"] for m in mistral.exchanges[-1].request["messages"]]
    assert said == ["One.\n\nTwo.", "Fine.", "Three."]
