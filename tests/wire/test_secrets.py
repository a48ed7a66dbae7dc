"""The API key goes to Mistral and nowhere else: into no log, error or trace, to no other host."""

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from call import Call
from fault_proxy import Chunks, Ending, Place, Road, Trouble, response, untrusted
from loguru import logger
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pipecat.adapters.llm.schemas.tools_schema import AdapterType, ToolsSchema
from pipecat.frames.frames import LLMFullResponseEndFrame
from pipecat.processors.aggregators.llm_context import LLMContext

from mistral_service import MistralError, MistralLLMService, Reason
from mistral_service.local import LocalMistral, Reply, Script

KEY = "sk-very-secret-0123456789"
OTHER_KEY = "sk-of-the-fallback-9876543210"
QUICK = {"connect_timeout": 0.5, "first_token_timeout": 0.6, "stall_timeout": 0.4}


class Overheard:
    """Everything that a process tells: both kinds of logs at their most talkative, and spans."""

    def __init__(self, spans: InMemorySpanExporter) -> None:
        self.lines: list[str] = []
        self.spans = spans

    @property
    def text(self) -> str:
        spans = [span.to_json() for span in self.spans.get_finished_spans()]
        return "\n".join([*self.lines, *spans])


@pytest.fixture
def overheard(spans: InMemorySpanExporter) -> Iterator[Overheard]:
    heard = Overheard(spans)

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.lines.append(self.format(record))

    # As talkative as loguru is by default: `diagnose` shows the values of variables.
    sink = logger.add(
        lambda line: heard.lines.append(str(line)), level="TRACE", backtrace=True, diagnose=True
    )
    handler = Handler(level=1)
    handler.setFormatter(logging.Formatter("%(name)s %(message)s"))
    root = logging.getLogger()
    levels = {name: logging.getLogger(name).level for name in ("", "openai", "httpx", "aiohttp")}
    root.addHandler(handler)
    for name in levels:
        logging.getLogger(name).setLevel(logging.DEBUG)
    yield heard
    logger.remove(sink)
    root.removeHandler(handler)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def holds_part_of(text: str, key: str) -> str | None:
    """A telling part of a key that stands in a text."""
    parts = [key[i : i + 10] for i in range(3, len(key) - 9)]
    return next((part for part in parts if part in text), None)


def told_by(call: Call) -> str:
    """Everything that a call has told its pipeline: errors with their causes, frames, metrics."""
    errors = [
        *(error.error for error in call.errors),
        *("".join(traceback.format_exception(e.exception)) for e in call.errors if e.exception),
        *(repr(vars(error.exception)) for error in call.errors if error.exception),
    ]
    return "\n".join([*errors, *map(repr, call.frames), *map(repr, call.told)])


@contextmanager
def talkative() -> Iterator[LocalMistral]:
    with LocalMistral(Script(Reply("One two three.", times=None))) as mistral:
        yield mistral


def echo(key: str) -> list[Trouble]:
    """Answers of a server that repeats the key, wherever that could do harm."""
    said = {"object": "error", "message": f"Incorrect API key provided: {key}.", "code": key}
    line = f'data: {{"object": "error", "message": "Bearer {key} is worn out"}}\n\n'.encode()
    at = f"https://elsewhere.test/v1?api_key={key}"
    answers = [
        response(401, said),
        response(401, {"detail": [{"type": key, "loc": ["header", key], "msg": f"no {key}"}]}),
        response(403, f"Authorization: Bearer {key}", mistral_correlation_id=key),
        response(500, {"message": "x" * 285 + key, "request_id": key}),
        response(422, {"message": {"detail": key}, "type": key}),
        response(400, {"message": f"Invalid model for {key}", "code": "1500"}),
        response(307, b"", location=at),
    ]
    return [
        *(Trouble(Place.REQUEST, Ending.END, answer) for answer in answers),
        Trouble(Chunks(0), Ending.END, line),
        Trouble(Chunks(3), Ending.END, line),
        Trouble(Chunks(3), Ending.END, f"data: {{broken {key}\n\n".encode()),
        Trouble(Place.REQUEST, Ending.FIN, f"HTTP/1.1 {key} what\r\n\r\n".encode()),
        Trouble(Place.REQUEST, Ending.RST),
    ]


async def turn(call: Call) -> None:
    ends = call.count(LLMFullResponseEndFrame)
    await call.begin("Hello.")
    await call.until(lambda: call.count(LLMFullResponseEndFrame) > ends)


async def test_the_key_is_nowhere_in_a_whole_faulty_session(overheard: Overheard):
    with talkative() as mistral:
        async with Road(mistral.base_url) as road:
            settings = MistralLLMService.Settings(**QUICK, max_attempts=2)
            service = MistralLLMService(api_key=KEY, base_url=road.base_url, settings=settings)
            async with Call(service, enable_tracing=True) as call:
                for trouble in echo(KEY):
                    for always in (False, True):
                        road.ahead(trouble, always=always)
                        await turn(call)
                road.ahead()
                await turn(call)
                shown = [repr(each) for each in (service, service.settings, service._client)]
            assert road.arrivals[0].headers["authorization"] == f"Bearer {KEY}"
    reasons = {error.exception.reason for error in call.errors}
    assert {Reason.KEY, Reason.FORBIDDEN, Reason.UNKNOWN_MODEL, Reason.STREAM} <= reasons
    assert overheard.lines
    assert overheard.spans.get_finished_spans()
    assert "[key]" in told_by(call)
    for text in (overheard.text, told_by(call), *shown):
        assert holds_part_of(text, KEY) is None


async def test_nor_is_the_key_of_a_fallback(overheard: Overheard):
    with talkative() as mistral:
        async with Road(mistral.base_url) as road, Road(mistral.base_url) as other:
            service = MistralLLMService(
                api_key=KEY,
                base_url=road.base_url,
                fallback_base_url=other.base_url,
                fallback_api_key=OTHER_KEY,
                settings=MistralLLMService.Settings(**QUICK, max_attempts=2),
            )
            full = Trouble(Place.REQUEST, Ending.END, response(503, {"message": f"full, {KEY}"}))
            async with Call(service, enable_tracing=True) as call:
                for trouble in echo(OTHER_KEY):
                    road.ahead(full, always=True)
                    other.ahead(trouble, always=True)
                    await turn(call)
            keys = {arrival.headers.get("authorization") for arrival in other.arrivals}
            assert keys == {f"Bearer {OTHER_KEY}"}
    assert call.errors
    for text in (overheard.text, told_by(call), repr(service)):
        assert holds_part_of(text, KEY) is None
        assert holds_part_of(text, OTHER_KEY) is None


async def test_nor_is_the_key_of_a_gateway(overheard: Overheard):
    with talkative() as mistral:
        async with Road(mistral.base_url) as road:
            service = MistralLLMService(
                api_key=KEY,
                base_url=road.base_url,
                default_headers={"x-gateway-api-key": OTHER_KEY},
                settings=MistralLLMService.Settings(**QUICK, max_attempts=2),
            )
            async with Call(service, enable_tracing=True) as call:
                for trouble in echo(OTHER_KEY):
                    road.ahead(trouble, always=True)
                    await turn(call)
    assert call.errors
    for text in (overheard.text, told_by(call), repr(service)):
        assert holds_part_of(text, OTHER_KEY) is None


async def test_nor_is_what_opens_a_connector(overheard: Overheard):
    opens = {"type": "oauth2-token", "value": OTHER_KEY}
    connector = {"type": "connector", "connector_id": "mail", "authorization": opens}
    tools = ToolsSchema([], custom_tools={AdapterType.OPENAI: [connector]})
    with talkative() as mistral:
        async with Road(mistral.base_url) as road:
            settings = MistralLLMService.Settings(**QUICK, max_attempts=2)
            service = MistralLLMService(api_key=KEY, base_url=road.base_url, settings=settings)
            async with Call(service, tools=tools, enable_tracing=True) as call:
                for trouble in echo(OTHER_KEY)[1:6]:
                    road.ahead(trouble, always=True)
                    await turn(call)
                road.ahead()
                await turn(call)
        assert mistral.exchanges[0].request["tools"] == [connector]
    assert call.errors
    assert '"connector_id' in overheard.text.replace("\\", "")  # the spans show the tool
    for text in (overheard.text, told_by(call), repr(service)):
        assert holds_part_of(text, OTHER_KEY) is None


async def test_it_is_not_told_where_nobody_listens(overheard: Overheard):
    with talkative() as mistral:
        async with Road(mistral.base_url, listening=False) as road:
            service = MistralLLMService(api_key=KEY, base_url=road.base_url)
            async with Call(service, enable_tracing=True) as call:
                await turn(call)
    [error] = call.errors
    assert error.exception.reason is Reason.UNREACHABLE
    assert holds_part_of(overheard.text + told_by(call), KEY) is None


async def test_nor_by_an_inference_outside_of_the_conversation(overheard: Overheard):
    with talkative() as mistral:
        async with Road(mistral.base_url) as road:
            service = MistralLLMService(
                api_key=KEY, base_url=road.base_url, settings=MistralLLMService.Settings(**QUICK)
            )
            context = LLMContext(messages=[{"role": "user", "content": "Sum up."}])
            for trouble in echo(KEY)[:7]:
                road.ahead(trouble, always=True)
                with pytest.raises(MistralError) as raised:
                    await service.run_inference(context)
                shown = "".join(traceback.format_exception(raised.value))
                assert holds_part_of(shown + repr(vars(raised.value)), KEY) is None
            await service.cleanup()
    assert holds_part_of(overheard.text, KEY) is None


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_leads_the_key_to_nobody_else(status: int):
    with talkative() as mistral:
        async with Road(mistral.base_url) as road, Road(mistral.base_url) as elsewhere:
            at = f"{elsewhere.base_url}/chat/completions"
            trouble = Trouble(Place.REQUEST, Ending.END, response(status, b"", location=at))
            service = MistralLLMService(api_key=KEY, base_url=road.base_url)
            async with Call(service) as call:
                road.ahead(trouble, always=True)
                await turn(call)
            assert len(road.arrivals) == 1
            assert elsewhere.arrivals == []
    [error] = call.errors
    assert elsewhere.base_url in error.error


@pytest.mark.parametrize("warm_up", [False, True])
async def test_nothing_is_sent_to_a_server_whose_certificate_nobody_trusts(warm_up: bool):
    with talkative() as mistral:
        async with Road(mistral.base_url, tls=untrusted()) as road:
            service = MistralLLMService(api_key=KEY, base_url=road.base_url, warm_up=warm_up)
            async with Call(service) as call:
                await turn(call)
                await call.until(lambda: road.quiet)
            assert road.arrivals
            assert all(not arrival.line for arrival in road.arrivals)
    [error] = call.errors
    assert error.exception.reason is Reason.UNREACHABLE
    assert "certificate" in error.error
    assert mistral.exchanges == []
