"""The bot that sees: images on their way through a call, to a strict endpoint."""

import copy
import gc
import json
import threading

import psutil
import pytest
from call import Call
from images import (
    BLUE,
    RED,
    file_of,
    frame,
    halves,
    opened,
    photo,
    shown,
    url_of,
    urls_in,
)
from PIL import Image
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.frames.frames import (
    LLMFullResponseEndFrame,
    LLMUpdateSettingsFrame,
    UserImageRawFrame,
    UserImageRequestFrame,
)
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameDirection
from pipecat.utils.errors import ErrorCategory

from mistral_service import MistralLLMAdapter, MistralLLMService
from mistral_service.conversation import image_cache
from mistral_service.conversation.conversion import Conversion, ImageBudget
from mistral_service.conversation.encoding import Form
from mistral_service.conversation.parts import (
    EARLIER_IMAGE,
    UNREADABLE_IMAGE,
    UNSEEN_IMAGE,
)
from mistral_service.conversation.rules import apply_rules
from mistral_service.local import Reply

Settings = MistralLLMService.Settings
ANY = Reply("I see.", times=None)


async def show(call: Call, image: UserImageRawFrame, turns: int = 1) -> None:
    """Show a frame and wait for the answer."""
    ends = call.count(LLMFullResponseEndFrame) + turns
    await call.worker.queue_frame(image)
    await call.until(lambda: call.count(LLMFullResponseEndFrame) >= ends)


def last(mistral) -> dict:
    return mistral.exchanges[-1].request


@pytest.mark.parametrize("name", ["RGB", "BGR", "RGBA", "BGRA"])
async def test_a_frame_reaches_mistral_as_a_jpeg_that_it_sees(serve, service_for, name: str):
    mistral = serve(ANY)
    image = halves(1920, 1080)
    order = [0, 1, 2] if name.startswith("R") else [2, 1, 0]
    bands = image.split()
    mode = "RGB" if len(name) == 3 else "RGBA"
    swapped = Image.merge("RGB", [bands[i] for i in order]).convert(mode)
    async with Call(service_for(mistral)) as call:
        await show(call, frame(swapped, format=name, size=image.size))
    [url] = urls_in(last(mistral))
    sent = opened(url)
    assert (sent.format, sent.size) == ("JPEG", (1540, 866))
    for place, colour in (((300, 400), RED), ((1300, 400), BLUE)):
        assert all(abs(a - b) < 24 for a, b in zip(sent.getpixel(place), colour, strict=True))
    assert last(mistral)["messages"][-1]["content"][0]["text"] == "What is this?"
    assert not call.errors
    # The context has it in the same small form, and not once more in full size.
    assert json.dumps(call.context.get_messages()).count("data:image/jpeg") == 1
    assert len(json.dumps(call.context.get_messages())) < 1.1 * len(url) + 500


async def test_a_frame_keeps_who_and_when_and_the_frame_itself_is_left_alone(serve, service_for):
    given = frame(halves(), run_llm=False)
    given.pts, given.transport_source = 7, "camera"
    before = copy.copy(given)
    async with Call(service_for(serve(ANY))) as call:
        await call.worker.queue_frame(given)
        await call.until(lambda: call.of(UserImageRawFrame))
    [passed] = call.of(UserImageRawFrame)
    assert (passed.id, passed.pts, passed.transport_source) == (before.id, 7, "camera")
    assert (passed.format, passed.user_id) == ("image/jpeg", "caller")
    assert given == before


async def test_a_frame_that_is_not_for_the_context_passes_as_it_is(serve, service_for):
    given = frame(halves(), append_to_context=None)
    async with Call(service_for(serve(ANY))) as call:
        await call.worker.queue_frame(given)
        await call.until(lambda: call.of(UserImageRawFrame))
    assert call.of(UserImageRawFrame)[0] is given


async def test_frames_stay_in_order(serve, service_for):
    sizes = [(2000, 1500), (8, 8), (1200, 900), (9, 9)]
    async with Call(service_for(serve(ANY))) as call:
        for size in sizes:
            await call.worker.queue_frame(frame(photo(*size), run_llm=False))
        await call.until(lambda: call.count(UserImageRawFrame) == 4)
    passed = call.of(UserImageRawFrame)
    assert [f.size for f in passed] == [(1540, 1155), (8, 8), (1200, 900), (9, 9)]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (frame(halves(), data=b"too few"), "7 bytes do not make 64×32 pixels of RGB"),
        (frame(halves(), format="MP3"), "no pixel format 'MP3'"),
        (frame(halves(), format="image/png", data=b"\x89PNG"), "of a type that cannot be read"),
        (frame(halves(), size=(10**6, 10**6)), "pixels are too many"),
    ],
    ids=lambda value: "" if isinstance(value, str) else value.format,
)
async def test_a_broken_frame_is_told_and_the_conversation_goes_on(
    serve, service_for, given: UserImageRawFrame, said: str
):
    mistral = serve(ANY)
    service = service_for(mistral)
    async with Call(service) as call:
        await show(call, copy.copy(given))
        assert await call.say("Never mind.") == "I see."
    [error] = call.errors
    assert said in error.error
    assert error.category is ErrorCategory.APPLICATION
    assert service.is_usable
    first = mistral.exchanges[0].request["messages"][-1]["content"]
    assert first == f"What is this?\n{UNREADABLE_IMAGE}"


def looking():
    """A function that asks the transport for an image; the test is the transport."""
    schema = FunctionSchema("look", "Looks through the camera.", {}, [])

    async def look(params) -> None:
        request = UserImageRequestFrame(
            user_id="caller",
            text="This is the camera.",
            append_to_context=True,
            function_name=params.function_name,
            tool_call_id=params.tool_call_id,
            result_callback=params.result_callback,
        )
        await params.llm.push_frame(request, FrameDirection.UPSTREAM)

    return schema, look


def requests_of(call: Call) -> list[UserImageRequestFrame]:
    return [f for f in call.told if isinstance(f, UserImageRequestFrame)]


def answer_to(request: UserImageRequestFrame, **options) -> UserImageRawFrame:
    return frame(halves(), text=request.text, request=request, **options)


CALLS = Reply(tool_calls=[{"name": "look", "arguments": {}}])


async def test_a_image_that_a_function_asked_for_is_seen_in_the_same_turn(serve, service_for):
    mistral = serve(CALLS, Reply("Red and blue."))
    schema, look = looking()
    service = service_for(mistral)
    service.register_function("look", look)
    async with Call(service, tools=[schema]) as call:
        await call.begin("What do you see?")
        await call.until(lambda: requests_of(call))
        await show(call, answer_to(requests_of(call)[0]))
        await call.until(lambda: "Red and blue." in call.words)
    assert [exchange.refused for exchange in mistral.exchanges] == [None, None]
    [url] = urls_in(last(mistral))
    assert opened(url).size == (64, 32)
    assert not call.errors


async def test_a_function_that_gets_a_broken_image_ends_and_the_model_is_told(serve, service_for):
    mistral = serve(CALLS, Reply("Something is wrong with the camera."))
    schema, look = looking()
    service = service_for(mistral)
    service.register_function("look", look)
    async with Call(service, tools=[schema]) as call:
        await call.begin("What do you see?")
        await call.until(lambda: requests_of(call))
        await show(call, answer_to(requests_of(call)[0], data=b"broken"))
        await call.until(lambda: "Something is wrong" in call.words)
    result = next(m for m in last(mistral)["messages"] if m["role"] == "tool")
    assert "The image cannot be read" in result["content"]
    assert len(call.errors) == 1


async def test_an_interruption_does_not_wait_for_a_image(serve, service_for, monkeypatch):
    go, encode = threading.Event(), image_cache.encode
    monkeypatch.setattr(image_cache, "encode", lambda *given: go.wait(60) and encode(*given))
    mistral = serve(Reply("A long story. " * 50, pause=0.05, times=None))
    given = frame(halves(), run_llm=False)
    async with Call(service_for(mistral)) as call:
        await call.begin("Tell me.")
        await call.until(lambda: call.words)
        await call.worker.queue_frame(given)
        await call.interrupt()
        await call.until(lambda: mistral.exchanges[0].left)
        assert not call.of(UserImageRawFrame)
        go.set()
        await call.until(lambda: call.of(UserImageRawFrame))
    assert not call.errors


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
async def test_a_image_in_the_context_is_sent_whatever_its_type(serve, service_for, kind: str):
    mistral = serve(ANY)
    given = url_of(file_of(halves(), kind), f"image/{kind.lower()}")
    async with Call(service_for(mistral), shown("This.", given)) as call:
        await call.say("What is it?")
    [url] = urls_in(last(mistral))
    assert (url == given) == (kind in ("JPEG", "PNG", "WEBP", "GIF"))
    assert call.context.get_messages()[0] == shown("This.", given)


async def test_pipecats_own_image_messages_are_scaled_down(serve, service_for):
    image = photo(1920, 1080)
    message = await LLMContext.create_image_message(
        format="RGB", size=image.size, image=image.tobytes(), text="This."
    )
    mistral = serve(ANY)
    async with Call(service_for(mistral, image_side=700), message) as call:
        await call.say("What is it?")
    [url] = urls_in(last(mistral))
    assert opened(url).size == (700, 394)


async def test_an_image_message_may_have_any_format(serve, service_for):
    message = await MistralLLMAdapter.create_image_message(
        format="BGR", size=(64, 32), image=halves().tobytes(), text="This."
    )
    mistral = serve(ANY)
    async with Call(service_for(mistral), message) as call:
        await call.say("What is it?")
    [url] = urls_in(last(mistral))
    assert opened(url).getpixel((5, 5))[2] > 200  # red and blue change places
    with pytest.raises(ValueError, match="no pixel format"):
        await MistralLLMAdapter.create_image_message(format="?", size=(1, 1), image=b"")


async def test_files_that_are_images_are_treated_as_images(serve, service_for):
    message = await LLMContext.create_file_message(
        type="bytes", format="image/bmp", file=url_of(file_of(halves(), "BMP"), "image/bmp")
    )
    mistral = serve(ANY)
    async with Call(service_for(mistral), message) as call:
        await call.say("What is it?")
    [url] = urls_in(last(mistral))
    assert opened(url).format == "JPEG"


async def test_a_broken_image_in_the_context_is_told_once(serve, service_for):
    mistral = serve(ANY)
    broken = url_of(b"broken")
    service = service_for(mistral)
    async with Call(service, shown("This.", broken)) as call:
        assert await call.say("What is it?") == "I see."
        assert await call.say("And now?") == "I see."
    [error] = call.errors
    assert error.error.startswith(
        "An image was left out: it is broken, or of a type that cannot be read"
    )
    assert error.category is ErrorCategory.APPLICATION
    assert service.is_usable
    assert last(mistral)["messages"][0]["content"].startswith(f"This.\n{UNREADABLE_IMAGE}")
    assert call.context.get_messages()[0] == shown("This.", broken)


async def test_the_settings_change_in_mid_call(serve, service_for):
    mistral = serve(ANY)
    given = url_of(file_of(photo(1600, 900), "JPEG", quality=95), "image/jpeg")
    async with Call(service_for(mistral), shown("This.", given)) as call:
        await call.say("What is it?")
        delta = Settings(image_side=320, image_quality=30)
        await call.worker.queue_frame(LLMUpdateSettingsFrame(delta=delta))
        await call.say("And now?")
        delta = Settings(max_images=0)
        await call.worker.queue_frame(LLMUpdateSettingsFrame(delta=delta))
        await call.say("And now?")
    first, second, third = (urls_in(exchange.request) for exchange in mistral.exchanges)
    assert opened(first[0]).size == (1540, 866)
    assert opened(second[0]).size == (320, 180)
    assert len(second[0]) < len(first[0]) / 10
    assert not third


async def test_pixtral_is_shown_what_it_sees(serve, service_for):
    mistral = serve(ANY)
    async with Call(service_for(mistral, model="pixtral-large-latest")) as call:
        await show(call, frame(photo(1600, 900)))
    assert opened(urls_in(last(mistral))[0]).size == (1024, 576)


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("max_images", 9, "max_images must be a whole number from 0 to 8, not 9."),
        ("max_images_bytes", 0, "max_images_bytes must be a whole number of bytes from 1"),
        (
            "image_side",
            20_000,
            "image_side must be a whole number of pixels from 32 to 10,000, not 20000.",
        ),
        ("image_quality", 100, "image_quality must be a whole number from 1 to 95, not 100."),
        ("images_of_last_turn_only", "yes", "True or False"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(setting: str, value: object, said: str):
    with pytest.raises(ValueError, match=said.replace(".", r"\.")):
        MistralLLMService(api_key="any", settings=Settings(**{setting: value}))


# --- the budget ---------------------------------------------------------------------------------

SAID = {"role": "assistant", "content": "I see."}
TINY = [url_of(file_of(Image.new("L", (2, 2), n))) for n in range(12)]
CALL = {
    "role": "assistant",
    "tool_calls": [
        {"id": "abcdefgh1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    ],
}
RESULT = {"role": "tool", "tool_call_id": "abcdefgh1", "content": "COMPLETED"}


def sent_with(messages: list[dict], **budget) -> list[str]:
    conversion = Conversion(has_tools=True, budget=ImageBudget(**budget))
    return urls_in({"messages": apply_rules(messages, conversion)})


def test_the_newest_eight_stay_and_the_words_of_all():
    history = [m for n, url in enumerate(TINY) for m in (shown(f"Number {n}.", url), SAID)]
    before = copy.deepcopy(history)
    sent = apply_rules([*history, shown("Well?")])
    assert urls_in({"messages": sent}) == TINY[4:]
    assert all(f"Number {n}." in json.dumps(sent) for n in range(12))
    assert json.dumps(sent).count(EARLIER_IMAGE) == 4
    assert history == before


def test_a_setting_can_keep_fewer():
    assert sent_with([shown("These.", *TINY)], images=2) == TINY[-2:]
    assert sent_with([shown("These.", *TINY)], images=0) == []


def test_the_bytes_of_all_images_have_a_limit_and_the_newest_is_sent_all_the_same():
    size = len(TINY[0])
    assert sent_with([shown("These.", *TINY)], total_bytes=3 * size) == TINY[-3:]
    assert sent_with([shown("These.", *TINY)], total_bytes=1) == TINY[-1:]
    web = "https://example.com/a.png"
    assert sent_with([shown("These.", web, TINY[0])], total_bytes=1) == [web, TINY[0]]


@pytest.mark.parametrize(
    ("history", "kept"),
    [
        ([shown("See.", TINY[0]), SAID, shown("And this?", TINY[1])], [1]),
        ([shown("See.", TINY[0]), SAID, shown("And now?")], []),
        ([shown(TINY[0]), shown(TINY[1]), shown("And now?")], [0, 1]),
        ([shown("Look."), CALL, RESULT, shown(TINY[0])], [0]),
        ([shown("Look.", TINY[0]), SAID, CALL, RESULT, shown(TINY[1])], [0, 1]),
        ([shown("Look.", TINY[0]), SAID], [0]),
        ([shown(TINY[0]), SAID, {"role": "developer", "content": "Be kind."}], []),
    ],
)
def test_the_images_of_all_turns_but_the_last_can_be_left_out(history, kept: list[int]):
    assert sent_with(history, last_turn_only=True) == [TINY[n] for n in kept]


# --- a model without vision ---------------------------------------------------------------------


async def test_a_model_without_vision_gets_the_words_and_it_is_told_once(serve, service_for):
    mistral = serve(ANY)
    service = service_for(mistral, model="open-mistral-nemo")
    async with Call(service, shown("This.", TINY[0])) as call:
        await call.until(
            lambda: service.router.card(service.router.route)
        )  # GET /v1/models has told of it
        await call.say("What is it?")
        await call.say("And now?")
    assert last(mistral)["messages"][0]["content"].startswith(f"This.\n{UNSEEN_IMAGE}")
    [error] = call.errors
    assert "open-mistral-nemo does not see images" in error.error
    assert error.category is ErrorCategory.APPLICATION
    assert service.is_usable


# --- a long conversation ------------------------------------------------------------------------


async def test_memory_is_flat_over_a_thousand_turns_with_images():
    """What the context holds is the caller's; the service adds a bounded remembrance."""
    adapter, process = MistralLLMAdapter(), psutil.Process()
    context = LLMContext()
    seen: list[int] = []
    for turn in range(1000):
        image = photo(64, 48, turn)
        await adapter.images.encode_frame(image.tobytes(), image.size, "RGB", Form())
        await context.add_image_frame_message(
            format="RGB", size=image.size, image=image.tobytes(), text=f"Turn {turn}."
        )
        context.add_message({"role": "assistant", "content": "I see."})
        params = await adapter.get_llm_invocation_params(context)
        if turn < 20 or turn % 200 == 0:
            assert len(urls_in(dict(params))) == min(8, turn + 1)
        if len(context.get_messages()) > 60:
            context.set_messages(context.get_messages()[-40:])
        if turn % 250 == 249:
            gc.collect()
            seen.append(process.memory_info().rss)
    assert len(adapter.images._prepared._entries) <= 16
    assert len(adapter.images._frames._entries) <= 4
    assert seen[-1] - seen[0] < 4_000_000


async def test_a_image_stays_what_it_was_made_over_a_thousand_turns(monkeypatch):
    from mistral_service.conversation import image_cache as module

    made = []
    encode = module.encode
    monkeypatch.setattr(module, "encode", lambda *args: made.append(1) or encode(*args))
    adapter = MistralLLMAdapter()
    wide = [url_of(file_of(photo(1700, 20, n))) for n in range(8)]
    context = LLMContext([shown("These.", *wide)])
    first = await adapter.get_llm_invocation_params(context)
    for turn in range(1000):
        context.set_messages([*context.get_messages()[:1], {"role": "user", "content": f"{turn}"}])
        again = await adapter.get_llm_invocation_params(context)
    assert len(made) == 8
    for one, other in zip(urls_in(dict(first)), urls_in(dict(again)), strict=True):
        assert one is other
