"""Small images that cost much: refused by their header, or decoded within bounds, apart."""

import asyncio
import base64
import contextlib
import json
import os
import resource
import subprocess
import sys
import threading
import time

import psutil
import pytest
from call import Call
from costly_images import COSTLY, TOO_LARGE, png, png_of_chunks, webp
from hypothesis import example, given
from hypothesis import strategies as st
from images import file_of, frame, halves, opened, photo, shown, url_of, urls_in
from PIL import Image
from pipecat.processors.aggregators.llm_context import LLMContext

from mistral_service import MistralLLMAdapter, MistralLLMService
from mistral_service.conversation import data_urls, fair, isolation
from mistral_service.conversation import image_cache as module
from mistral_service.conversation.data_urls import MAX_URL_LENGTH, read_data_url, url_key
from mistral_service.conversation.encoding import Encoded, Form
from mistral_service.conversation.fair import FairThreads
from mistral_service.conversation.image_cache import ImageCache
from mistral_service.conversation.parts import UNREADABLE_IMAGE, ImageError
from mistral_service.local import Reply
from mistral_service.settings import BadSetting

FORM = Form()
Settings = MistralLLMService.Settings


def run(script: str, *, timeout: float = 100) -> list:
    """Run a script in a process that may have 1 GB, and read what it prints, a JSON a line."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
    done = subprocess.run(
        [sys.executable, "-c", limit + script],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def decoders() -> list[psutil.Process]:
    """The processes that decode for this one."""
    children = psutil.Process().children()
    return [c for c in children if any("conversation.decoder" in arg for arg in c.cmdline())]


# --- what is too large is not decoded -----------------------------------------------------------


@pytest.fixture(scope="module")
def judged() -> dict[str, list]:
    """What became of each file, and by how much the process had grown after it (bytes)."""
    lines = run(
        """
import json, resource
from costly_images import TOO_LARGE
from mistral_service.conversation.encoding import Form, encode
files = {name: make() for name, make in TOO_LARGE.items()}
encode(b"GIF89a", (0, 0), "image/gif", Form())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name, data in files.items():
    made = encode(data, (0, 0), "image/png", Form())
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps([name, str(made) if isinstance(made, Exception) else "sent", grown * 1024]))
"""
    )
    return {name: [said, grown] for name, said, grown in lines}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_says_that_it_is_too_large_is_refused_before_it_is_decoded(name: str, judged):
    said, grown = judged[name]
    assert "pixels are too many" in said or "pixels) exceeds limit" in said
    assert grown < 50_000_000


async def test_ten_webps_of_34_bytes_are_told_and_the_turn_goes_on(serve, service_for):
    mistral = serve(Reply("I see.", times=None))
    bombs = [url_of(webp(8000, 8000 - n), "image/webp") for n in range(10)]
    assert len(webp(8000, 8000)) == 34
    good = url_of(file_of(halves()))
    async with Call(service_for(mistral), shown("Look.", good, *bombs)) as call:
        assert await call.say("What is it?") == "I see."
        assert await call.say("And now?") == "I see."
    assert urls_in(mistral.exchanges[0].request) == [good]
    assert len(call.errors) == 10  # each told once, not once a turn
    assert all("pixels are too many: the maximum is 16,777,216" in e.error for e in call.errors)
    said = json.dumps(mistral.exchanges[0].request["messages"])
    assert said.count(UNREADABLE_IMAGE) == 10


async def test_how_many_pixels_a_image_may_have_is_a_setting(serve, service_for):
    mistral = serve(Reply("I see.", times=None))
    url = url_of(file_of(halves(64, 32)))
    settings = Settings(max_image_pixels=2047)
    async with Call(service_for(mistral, settings=settings), shown("Look.", url)) as call:
        assert await call.say("What is it?") == "I see."
    [error] = call.errors
    assert "64×32 pixels are too many: the maximum is 2,047" in error.error
    with pytest.raises(BadSetting, match=r"max_image_pixels must be .* 1,024 to 67,108,864, not 0"):
        service_for(mistral, settings=Settings(max_image_pixels=0))


def test_raw_pixels_have_the_same_limit():
    made = isolation.encode(bytes(64 * 32 * 3), (64, 32), "RGB", Form(pixels=2047))
    assert "too many: the maximum is 2,047" in str(made)


@pytest.mark.parametrize("kind", ["WEBP", "PNG"])
def test_a_image_of_the_most_pixels_is_sent(kind: str):
    """With all that makes its decoder ask for more memory: alpha, and frames that move."""
    image = Image.new("RGBA", (4096, 4096), (200, 0, 0, 128))
    dot = image.copy()
    dot.putpixel((0, 0), (0, 0, 255, 255))
    data = file_of(image, kind, save_all=True, append_images=[dot], **_fast(kind))
    made = isolation.encode(data, (0, 0), "image/x", FORM)
    assert isinstance(made, Encoded), made
    assert made.size == (1540, 1540)


def _fast(kind: str) -> dict:
    return (
        {"lossless": True, "quality": 0, "method": 0} if kind == "WEBP" else {"compress_level": 1}
    )


@pytest.mark.parametrize("options", [{}, {"progressive": True, "subsampling": 0}], ids=str)
def test_a_jpeg_of_fifty_megapixels_is_decoded_at_a_reduced_size(options: dict):
    data = file_of(Image.new("RGB", (8192, 6144), (200, 0, 0)), "JPEG", quality=30, **options)
    made = isolation.encode(data, (0, 0), "image/jpeg", FORM)
    assert isinstance(made, Encoded), made
    assert made.size == (1540, 1155)
    # A side so long that nothing can be left out when it is decoded: no more than others.
    made = isolation.encode(data, (0, 0), "image/jpeg", Form(side=10_000))
    assert "8,192×6,144 pixels are too many: the maximum is 16,777,216" in str(made)


# --- what is decoded, is decoded within bounds ---------------------------------------------------


@pytest.mark.parametrize("name", COSTLY)
def test_a_file_of_few_pixels_costs_no_more_than_a_image_may(name: str):
    data = COSTLY[name]()
    isolation._end_all()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    made = isolation.encode(data, (0, 0), "image/x", FORM)
    assert isinstance(made, Encoded) or str(made)
    isolation._end_all()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent < 6  # of the processor, however busy the machine is
    good = isolation.encode(file_of(halves()), (0, 0), "image/png", FORM)
    assert isinstance(good, Encoded)


def test_the_process_that_decodes_knows_no_key(monkeypatch):
    monkeypatch.setenv("MISTRAL_API_KEY", "the-key")
    isolation._end_all()
    isolation.encode(file_of(halves()), (0, 0), "image/png", FORM)
    [process] = decoders()
    assert "the-key" not in str(process.environ())


@pytest.mark.skipif(not hasattr(psutil, "RLIMIT_AS"), reason="the kernel has no such limits")
def test_the_kernel_limits_the_memory_and_time_that_a_image_takes():
    isolation._end_all()
    bomb, made = COSTLY["jpeg of scans"](), []
    thread = threading.Thread(
        target=lambda: made.append(isolation.encode(bomb, (0, 0), "image/x", FORM))
    )
    thread.start()
    limits = set()
    while thread.is_alive():
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                limits.add(
                    (process.rlimit(psutil.RLIMIT_AS)[0], process.rlimit(psutil.RLIMIT_CPU)[0])
                )
        time.sleep(0.01)
    memory = 32 * FORM.pixels + 192 * 1024 * 1024
    assert (memory, 4) in limits
    assert "more than 3 seconds of CPU time" in str(made[0])


def test_a_process_that_was_killed_is_replaced():
    data = file_of(halves())
    for _ in range(3):
        assert isinstance(isolation.encode(data, (0, 0), "image/png", FORM), Encoded)
        for process in decoders():
            process.kill()
            process.wait()


def test_where_no_process_can_be_started_the_image_is_not_to_blame(monkeypatch):
    isolation._end_all()
    data = file_of(halves())
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/no/such/python")
        made = isolation.encode(data, (0, 0), "image/png", FORM)
        assert "the process that decodes it cannot be started" in str(made)
    assert isinstance(isolation.encode(data, (0, 0), "image/png", FORM), Encoded)


@pytest.mark.parametrize(
    "head",
    [
        {"type": "text/html", "size": [1, 1]},
        {"type": "image/png", "size": [1]},
        {"type": "image/png", "size": [1, 1], "unchanged": True},
        {"unchanged": True},
        {"signal": "?"},
    ],
)
def test_what_the_process_answers_is_not_taken_on_trust(head: dict):
    with pytest.raises((KeyError, ValueError)):
        isolation._response(head, b"given", b"made")


# --- one caller's images do not wait behind another's ------------------------------------------


async def test_one_good_image_does_not_wait_for_ten_hostile_ones_of_another_call():
    order: list[str] = []
    attacker, caller = ImageCache(), ImageCache()

    async def done(images: ImageCache, url: str, name: str) -> None:
        await images.prepare([url], 8, FORM)
        order.append(name)

    bombs = [url_of(png_of_chunks(200_000 + n)) for n in range(1, 11)]
    hostile = [asyncio.create_task(done(attacker, bomb, "hostile")) for bomb in bombs]
    await asyncio.sleep(0)
    await done(caller, url_of(file_of(halves())), "good")
    assert order.count("hostile") <= 1  # what ran already
    attacker.close()  # the call ends: what waits is left out
    await asyncio.gather(*hostile, return_exceptions=True)
    assert order.count("hostile") <= 3


async def test_broken_images_are_tried_once_and_not_without_number(monkeypatch):
    tried: list[bytes] = []

    def counting(data: bytes, *rest):
        tried.append(data)
        return ImageError("broken")

    monkeypatch.setattr(module, "encode", counting)
    urls = [url_of(b"%d" % n) for n in range(1000)]
    images = ImageCache()
    first = await images.prepare(urls, 8, FORM)
    assert len(first) == 1000
    assert all(isinstance(fault, ImageError) for fault in first.values())
    assert len({id(fault) for fault in first.values()}) == 25  # those tried, and one for the rest
    assert len(tried) == 24
    again = await images.prepare(urls, 8, FORM)
    assert len(tried) == 24
    assert all(again[url] is first[url] for url in urls)


async def test_frames_that_come_faster_than_they_are_made_ready_do_not_fill_the_memory(
    serve, service_for, monkeypatch
):
    mistral = serve(Reply("I see.", times=None))
    go = threading.Event()

    def waiting(*given):
        go.wait(60)
        return isolation.encode(*given)

    monkeypatch.setattr(module, "encode", waiting)
    service = service_for(mistral)
    async with Call(service) as call:
        for n in range(100):
            data = photo(8, 8, n).tobytes()
            await call.worker.queue_frame(frame(halves(8, 8), data=data, run_llm=False))
        await call.until(lambda: len(service._vision.on_their_way) == 100)
        go.set()
        await call.until(lambda: not service._vision.on_their_way)
        assert await call.say("What did you see?") == "I see."
    shown_last = json.dumps(mistral.exchanges[-1].request)
    assert shown_last.count(UNREADABLE_IMAGE) == 68
    [error] = call.errors
    assert "this call has more images waiting than 32" in error.error


async def test_the_images_in_a_context_have_a_limit(serve, service_for):
    mistral = serve(Reply("I see.", times=None))
    size = len(file_of(photo(200, 200), "JPEG"))
    settings = Settings(max_context_images_bytes=4 * size)
    service = service_for(mistral, settings=settings)
    async with Call(service) as call:
        for n in range(10):
            await call.worker.queue_frame(frame(photo(200, 200, n), run_llm=False))
        await call.until(
            lambda: json.dumps(call.context.get_messages()).count("What is this") == 10
        )
        assert await call.say("What did you see?") == "I see."
        kept = json.dumps(call.context.get_messages())
        assert 1 <= kept.count("data:image/jpeg") <= 4
        assert kept.count(UNREADABLE_IMAGE) == 10 - kept.count("data:image/jpeg")
        # Taken out, they leave room for others.
        call.context.set_messages([{"role": "user", "content": "Hello."}])
        assert await call.say("Anything?") == "I see."
        await call.worker.queue_frame(frame(photo(200, 200, 77), run_llm=False))
        await call.until(lambda: "data:image/jpeg" in json.dumps(call.context.get_messages()))
    [error] = call.errors
    assert "max_context_images_bytes" in error.error


# --- after a fork -------------------------------------------------------------------------------


def test_after_a_fork_the_child_s_images_are_made_ready():
    [answer] = run(
        """
import asyncio, base64, io, json, os, select, signal, threading
from PIL import Image
from mistral_service.conversation import image_cache as module
from mistral_service.conversation.encoding import Form
from mistral_service.conversation.image_cache import ImageCache

def url(n):
    data = io.BytesIO()
    Image.new("RGB", (2000, 9), (n, 0, 0)).save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()

images, encode, stop = ImageCache(), module.encode, threading.Event()
asyncio.run(images.prepare([url(1)], 8, Form()))  # threads and a process are there

def blocked(*given):
    stop.wait()
    return encode(*given)

async def begin():
    task = asyncio.ensure_future(images.prepare([url(2), url(3)], 8, Form()))
    await asyncio.sleep(0)
    task.cancel()

module.encode = blocked
asyncio.run(begin())  # and one image is in work, another waits
answers, sink = os.pipe()
child = os.fork()
if child == 0:
    module.encode = encode
    made = asyncio.run(images.prepare([url(n) for n in range(1, 6)], 8, Form()))
    os.write(sink, json.dumps([isinstance(each, str) for each in made.values()]).encode())
    os._exit(0)
os.close(sink)
ready, _, _ = select.select([answers], [], [], 60)
print(os.read(answers, 1000).decode() if ready else '"hangs"', flush=True)
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
stop.set()
module.encode = encode
made = asyncio.run(images.prepare([url(7)], 8, Form()))  # the parent's are still there
assert all(isinstance(each, str) for each in made.values())
"""
    )
    assert answer == [True] * 5


# --- what a URL holds ---------------------------------------------------------------------------


class Unread(str):
    """A text that fails its test where all of it is read."""

    def __hash__(self) -> int:
        raise AssertionError("hashed")

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared")


async def test_a_url_that_is_too_long_is_not_even_looked_at():
    url = Unread("data:image/png;base64," + "A" * MAX_URL_LENGTH)
    adapter = MistralLLMAdapter()
    context = LLMContext([{"role": "user", "content": [{"type": "image_url", "image_url": url}]}])
    for _ in range(2):
        params = await adapter.get_llm_invocation_params(context)
        assert params["messages"] == [{"role": "user", "content": UNREADABLE_IMAGE}]
        assert adapter.conversion.image_errors == [adapter.images.oversized]


async def test_a_url_is_read_outside_of_the_loop_s_thread(monkeypatch):
    threads: list[threading.Thread] = []

    def reading(url: str):
        threads.append(threading.current_thread())
        return read_data_url(url)

    monkeypatch.setattr(module, "read_data_url", reading)
    await ImageCache().prepare([url_of(file_of(halves()))], 8, FORM)
    assert threads
    assert threading.current_thread() not in threads


@given(
    st.binary(max_size=60), st.lists(st.tuples(st.integers(0, 90), st.sampled_from(" \n\té☃\0-")))
)
@example(bytes(4), [(7, "\n")] * 2)  # between the two characters of the padding
@example(bytes(4), [(7, "\n")] * 20)
@example(bytes(4), [(8, "A")] * 20)
def test_base64_is_read_in_pieces_as_python_reads_it(data: bytes, junk: list):
    text = base64.b64encode(data).decode()
    for place, character in junk:
        text = text[:place] + character + text[place:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_urls, "_CHUNK", 7)
        kind, read, _ = read_data_url(f"data:image/png;base64,{text}")
    assert (kind, read) == ("image/png", data)


@given(st.binary(max_size=60))
def test_percent_encoding_is_read_in_pieces(data: bytes):
    url = "data:image/png," + "".join(f"%{byte:02x}" for byte in data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_urls, "_CHUNK", 7)
        assert read_data_url(url)[1] == data


async def test_a_url_full_of_spaces_is_a_image_all_the_same():
    data = file_of(halves())
    text = base64.b64encode(data).decode()
    url = "data:image/png;base64," + "".join(c + " \n" * 1000 for c in text)
    sent = await ImageCache().prepare([url], 8, FORM)
    assert opened(str(sent[url_key(url)])).size == halves().size


def test_what_is_hostile_in_a_file_s_text_does_not_reach_a_log():
    data = b"P2\n" + b"\x1b[31mfatal\n" * 3
    made = isolation.encode(data, (0, 0), "image/x", FORM)
    assert isinstance(made, ImageError)
    assert str(made).isprintable()
    assert len(str(made)) <= 200
    assert png(1, 1)  # the builder of this file's bombs makes images, too
    assert isinstance(isolation.encode(png(1, 1), (0, 0), "image/png", FORM), Encoded)


# --- whose turn it is ---------------------------------------------------------------------------


class Session:
    """Whose work it is."""


def test_sessions_take_turns_however_much_one_of_them_sends():
    threads, order, go = FairThreads(1, "test"), [], threading.Event()
    one, two = Session(), Session()
    first = threads.submit(Session(), go.wait)
    work = [threads.submit(one, order.append, f"one {n}") for n in range(5)]
    work += [threads.submit(two, order.append, f"two {n}") for n in range(2)]
    go.set()
    for future in [first, *work]:
        future.result(60)
    assert order == ["one 0", "two 0", "one 1", "two 1", "one 2", "one 3", "one 4"]


def test_a_session_has_one_image_in_work_and_leaves_the_other_thread_to_others():
    threads, go = FairThreads(2, "test"), threading.Event()
    one, two = Session(), Session()
    first, second = threads.submit(one, go.wait), threads.submit(one, go.wait)
    threads.submit(two, int).result(60)
    assert not second.running()
    go.set()
    assert first.result(60)
    assert second.result(60)


def test_sessions_whose_images_are_slow_leave_a_thread_to_the_others(monkeypatch):
    threads, go = FairThreads(2, "test"), threading.Event()
    slow = [Session(), Session(), Session()]
    monkeypatch.setattr(fair, "_SLOW_SECONDS", -1.0)
    for session in slow:
        threads.submit(session, int).result(60)
        while session not in threads._slow:
            time.sleep(0.001)
    waiting = [threads.submit(session, go.wait) for session in slow]
    monkeypatch.setattr(fair, "_SLOW_SECONDS", 60.0)
    threads.submit(Session(), int).result(60)
    assert not any(future.running() for future in waiting[1:])
    go.set()
    assert all(future.result(60) for future in waiting)


def test_what_a_call_has_waiting_is_left_out_when_it_ends():
    threads, go, done = FairThreads(1, "test"), threading.Event(), []
    session = Session()
    first = threads.submit(session, go.wait)
    second = threads.submit(session, done.append, 2)
    threads.drop(session)
    go.set()
    assert first.result(60)
    assert second.cancelled()
    threads.submit(Session(), done.append, 3).result(60)
    assert done == [3]


def test_work_that_fails_does_not_hold_its_thread():
    threads = FairThreads(1, "test")
    with pytest.raises(ValueError, match="invalid literal"):
        threads.submit(Session(), int, "x").result(60)
    assert threads.submit(Session(), int, "7").result(60) == 7
