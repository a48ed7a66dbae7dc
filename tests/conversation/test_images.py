"""What becomes of an image before it is sent."""

import asyncio
import base64
import io
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from images import BLUE, MIME, RED, file_of, halves, opened, photo, url_of
from PIL import Image

from mistral_service.conversation import image_cache as module
from mistral_service.conversation.data_urls import url_key
from mistral_service.conversation.encoding import Encoded, Form, encode, model_image_side
from mistral_service.conversation.image_cache import ImageCache
from mistral_service.conversation.parts import ImageError

FORM = Form()


def image_of(made: Encoded | ImageError) -> Image.Image:
    assert isinstance(made, Encoded), made
    image = Image.open(io.BytesIO(made.data))
    image.load()
    assert image.size == made.size
    assert Image.MIME[image.format] == made.mime_type
    return image


def near(pixel: tuple[int, ...], colour: tuple[int, ...], by: int = 24) -> bool:
    return all(abs(a - b) <= by for a, b in zip(pixel, colour, strict=True))


def assert_halves(image: Image.Image) -> None:
    image = image.convert("RGB")
    across = image.height // 2
    assert near(image.getpixel((image.width // 8, across)), RED)
    assert near(image.getpixel((image.width * 7 // 8, across)), BLUE)


def yuv(image: Image.Image) -> list[np.ndarray]:
    """Luma and two planes of chroma as video has them: from 16 to 235 and 240."""
    y, u, v = (np.asarray(band, float) for band in image.convert("YCbCr").split())
    return [
        np.rint(plane).astype(np.uint8)
        for plane in (
            y * 219 / 255 + 16,
            (u - 128) * 224 / 255 + 128,
            (v - 128) * 224 / 255 + 128,
        )
    ]


def raw(name: str) -> bytes:
    """Red and blue in a pixel format."""
    image = halves()
    rgb = np.asarray(image)
    full = np.full((*rgb.shape[:2], 1), 255, np.uint8)
    y, u, v = yuv(image)
    fine = [plane[::2, ::2] for plane in (u, v)]
    packed = {
        "RGB": rgb,
        "BGR": rgb[..., ::-1],
        "RGBA": np.concatenate([rgb, full], 2),
        "BGRA": np.concatenate([rgb[..., ::-1], full], 2),
        "ARGB": np.concatenate([full, rgb], 2),
        "ABGR": np.concatenate([full, rgb[..., ::-1]], 2),
        "YUY2": np.stack([y[:, ::2], u[:, ::2], y[:, 1::2], v[:, ::2]], 2),
        "UYVY": np.stack([u[:, ::2], y[:, ::2], v[:, ::2], y[:, 1::2]], 2),
        "YCbCr": np.asarray(image.convert("YCbCr")),
    }
    if name in packed:
        return np.ascontiguousarray(packed[name]).tobytes()
    chroma = {
        "I420": [*fine],
        "YV12": fine[::-1],
        "NV12": [np.stack(fine, 2)],
        "NV21": [np.stack(fine[::-1], 2)],
        "I422": [u[:, ::2], v[:, ::2]],
        "I444": [u, v],
    }[name]
    return b"".join(np.ascontiguousarray(plane).tobytes() for plane in (y, *chroma))


@pytest.mark.parametrize(
    ("spelled", "like"),
    [(name, name) for name in ("RGB", "BGR", "RGBA", "BGRA", "ARGB", "ABGR", "YCbCr")]
    + [("rgb24", "RGB"), ("bgr24", "BGR"), ("BGRX", "BGRA"), ("RGB_888", "RGB"), (None, "RGB")]
    + [(name, name) for name in ("I420", "YV12", "NV12", "NV21", "I422", "I444", "YUY2", "UYVY")]
    + [("yuv420p", "I420"), ("YUYV422", "YUY2"), (None, "RGBA")],
)
def test_raw_pixels_of_every_format_keep_their_colours(spelled: str | None, like: str):
    made = encode(raw(like), (64, 32), spelled, FORM)
    assert isinstance(made, Encoded)
    assert made.mime_type == "image/jpeg"
    assert_halves(image_of(made))


@pytest.mark.parametrize(("name", "depth"), [("L", 1), ("gray", 1), ("GRAY16LE", 2), ("LA", 2)])
def test_grey_pixels_stay_grey(name: str, depth: int):
    data = (b"\x28" if depth == 1 else b"\xff\x28" if name != "LA" else b"\x28\xff") * 64 * 32
    image = image_of(encode(data, (64, 32), name, FORM)).convert("RGB")
    assert near(image.getpixel((5, 5)), (40, 40, 40), by=2)


def test_a_video_frame_of_odd_size_is_read():
    luma, chroma = bytes([235]) * 5 * 3, bytes([128]) * 3 * 2
    image = image_of(encode(luma + 2 * chroma, (5, 3), "I420", FORM)).convert("RGB")
    assert near(image.getpixel((4, 2)), (255, 255, 255), by=2)


@pytest.mark.parametrize("kind", MIME)
def test_an_encoded_image_of_a_type_that_mistral_takes_stays_as_it_is(kind: str):
    data = file_of(halves(), kind)
    made = encode(data, (0, 0), "image/whatever", FORM)
    assert isinstance(made, Encoded)
    assert made.data is data
    assert made.mime_type == MIME[kind]


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "AVIF", "PPM", "ICO"])
def test_other_types_become_jpeg(kind: str):
    made = encode(file_of(halves(), kind), (0, 0), f"image/{kind.lower()}", FORM)
    assert isinstance(made, Encoded)
    assert made.mime_type == "image/jpeg"
    assert_halves(image_of(made))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_what_moves_the_first_frame_is_sent(kind: str):
    frames = [halves(), Image.new("RGB", (64, 32), "black")]
    data = file_of(frames[0], kind, save_all=True, append_images=frames[1:])
    made = image_of(encode(data, (0, 0), MIME[kind], FORM))
    assert made.format == "JPEG"
    assert_halves(made)


def test_what_is_transparent_stands_on_white():
    image = Image.new("RGBA", (3000, 20), (0, 0, 0, 0))
    made = image_of(encode(file_of(image), (0, 0), "image/png", FORM))
    assert near(made.getpixel((700, 5)), (255, 255, 255), by=2)


def test_sixteen_bits_are_scaled_to_eight():
    image = Image.fromarray(np.full((10, 3000), 30000, np.uint16))
    made = image_of(encode(file_of(image), (0, 0), "image/png", FORM)).convert("L")
    assert abs(made.getpixel((700, 3)) - 117) <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_image_is_turned_as_its_exif_says_and_freed_of_it(orientation: int):
    upright = halves()
    turned = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(turned[orientation]) if orientation in turned else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8825)[1] = "N"  # where it was taken
    for kind in ("JPEG", "WEBP", "PNG"):
        data = file_of(stored, kind, exif=exif)
        made = encode(data, (0, 0), MIME[kind], FORM)
        assert_halves(image_of(made))
        assert isinstance(made, Encoded)
        assert b"Maker" not in made.data
        assert b"Exif" not in made.data


def test_a_comment_and_what_hides_behind_the_end_of_a_file_are_dropped():
    with_comment = file_of(halves(), "JPEG", comment=b"a secret")
    with_tail = file_of(halves(), "JPEG") + b"a secret"
    for data in (with_comment, with_tail):
        made = encode(data, (0, 0), "image/jpeg", FORM)
        assert isinstance(made, Encoded)
        assert b"a secret" not in made.data


@pytest.mark.parametrize(
    ("size", "adapt_body"),
    [
        ((1540, 1000), (1540, 1000)),
        ((1920, 1080), (1540, 866)),
        ((1080, 1920), (866, 1540)),
        ((10_000, 3), (1540, 1)),
        ((1, 1), (1, 1)),
    ],
)
def test_what_is_larger_than_the_model_sees_is_scaled_down_and_nothing_up(size, adapt_body):
    for data, name in ((file_of(photo(*size)), "image/png"), (photo(*size).tobytes(), "RGB")):
        assert image_of(encode(data, size, name, FORM)).size == adapt_body


def test_pixtral_sees_less():
    assert model_image_side("pixtral-large-latest") == 1024
    assert model_image_side("mistral-small-latest") == 1540


def test_a_large_png_is_sent_as_the_smaller_jpeg():
    data = file_of(photo(1000, 700))
    made = encode(data, (0, 0), "image/png", FORM)
    assert isinstance(made, Encoded)
    assert made.mime_type == "image/jpeg"
    assert len(made.data) < len(data) / 4


@pytest.mark.parametrize(
    ("data", "size", "name", "said"),
    [
        (b"", (0, 0), "image/png", "empty"),
        (b"hello", (0, 0), "image/jpeg", "of a type that cannot be read"),
        (
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            (0, 0),
            "image/svg+xml",
            "of a type that cannot",
        ),
        (bytes(3), (10, 10), "RGB", "3 bytes do not make 10×10 pixels of RGB"),
        (bytes(301), (10, 10), "BGR", "it needs 300"),
        (bytes(30), (10, 10), "I420", "it needs 150"),
        (bytes(30), (0, 10), "RGB", "0×10 pixels is empty"),
        (bytes(30), (-3, 10), "RGB", "pixels is empty"),
        (bytes(30), (10**6, 10**6), "RGB", "pixels are too many"),
        (bytes(300), (10, 10), "MP3", "there is no pixel format 'MP3'"),
        (bytes(30), (5, 3), "YUY2", "even width"),
    ],
)
def test_a_image_that_is_none_says_why(data: bytes, size, name: str, said: str):
    made = encode(data, size, name, FORM)
    assert isinstance(made, ImageError)
    assert said in str(made)
    assert made.__traceback__ is None  # it would keep the bytes alive


def test_a_bomb_does_not_go_off():
    bomb = file_of(Image.new("1", (9_000, 9_000)))
    assert len(bomb) < 200_000
    began = time.thread_time()
    made = encode(bomb, (0, 0), "image/png", FORM)
    assert isinstance(made, ImageError)
    assert time.thread_time() - began < 0.5  # of the processor; to unpack it takes longer


sides = st.one_of(st.integers(1, 80), st.sampled_from([1539, 1540, 1541, 10_000]))


@settings(max_examples=60, deadline=None)
@given(sides, st.integers(1, 9), st.booleans(), st.sampled_from([*MIME, "BMP", "TIFF"]))
def test_whatever_the_size_a_image_is_sent_as_the_model_sees_it(long, short, upright, kind):
    size = (short, long) if upright else (long, short)
    image = Image.new("RGB", size, RED)
    made = image_of(encode(file_of(image, kind), (0, 0), "image/x", FORM))
    assert max(made.size) == min(max(size), 1540)
    assert min(made.size) >= 1
    assert made.format in MIME
    assert near(made.convert("RGB").getpixel((0, 0)), RED)


WHOLE = {kind: file_of(photo(70, 50), kind) for kind in [*MIME, "BMP", "TIFF"]}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=150, deadline=None)
@given(st.sampled_from(list(WHOLE)), st.floats(0, 1), st.binary(max_size=6))
def test_broken_files_are_told_or_sent_whole(kind: str, share: float, noise: bytes):
    whole = WHOLE[kind]
    place = int(share * len(whole))
    for data in (whole[:place], whole[:place] + noise + whole[place + len(noise) :]):
        made = encode(data, (0, 0), "image/x", FORM)
        if isinstance(made, Encoded):
            assert max(image_of(made).size) <= 1540
        else:
            assert str(made)


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=200),
    st.tuples(st.integers(-2, 12), st.integers(-2, 12)),
    st.sampled_from(["RGB", "BGR", "L", "I420", "NV12", "YUY2", "P", "1", "F", "HSV", "?", None]),
)
def test_raw_pixels_are_told_or_sent(data: bytes, size: tuple[int, int], name: str | None):
    made = encode(data, size, name, FORM)
    assert str(made) if isinstance(made, ImageError) else image_of(made).size == size


# --- once, and in a thread ----------------------------------------------------------------------


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each image had that was encoded, in order."""
    sizes: list[int] = []

    def counting(data: bytes, *rest):
        sizes.append(len(data))
        return encode(data, *rest)

    monkeypatch.setattr(module, "encode", counting)
    return sizes


async def test_an_identical_frame_is_not_encoded_twice(encoded: list[int]):
    images, image = ImageCache(), photo(320, 240)
    first = await images.encode_frame(image.tobytes(), image.size, "RGB", FORM)
    again = await images.encode_frame(bytes(bytearray(image.tobytes())), image.size, "RGB", FORM)
    assert first is again
    assert len(encoded) == 1
    await images.encode_frame(image.tobytes(), image.size, "BGR", FORM)
    await images.encode_frame(image.tobytes(), image.size, "RGB", Form(quality=50))
    assert len(encoded) == 3


async def test_a_frame_is_not_looked_at_again_when_it_stands_in_the_context(encoded: list[int]):
    images, image = ImageCache(), photo(320, 240)
    made = await images.encode_frame(image.tobytes(), image.size, "RGB", FORM)
    assert isinstance(made, Encoded)
    url = url_of(made.data, "image/jpeg")
    assert (await images.prepare([url], 8, FORM))[url] is url
    assert len(encoded) == 1


async def test_a_url_that_is_right_is_sent_as_it_is_and_others_are_made_once(encoded: list[int]):
    images = ImageCache()
    right, wide = url_of(file_of(halves())), url_of(file_of(photo(2000, 40)))
    for _ in range(3):
        sent = await images.prepare([right, wide, "https://example.com/a.png"], 8, FORM)
        assert sent[right] is right
        assert opened(sent[wide]).size == (1540, 31)
        assert sent["https://example.com/a.png"] == "https://example.com/a.png"
    assert len(encoded) == 2


async def test_only_as_many_are_made_as_are_sent_and_broken_ones_do_not_count(encoded: list[int]):
    urls = [url_of(file_of(Image.new("RGB", (9, 9), (n, 0, 0)))) for n in range(30)]
    broken = [url_of(b"broken %d" % n) for n in range(20)]
    sent = await ImageCache().prepare([urls[0], *broken, *urls[1:]], 8, FORM)
    assert [url for url in sent if url in urls] == urls[:8]
    assert all(isinstance(sent[url], ImageError) for url in broken)
    assert len(encoded) == 28


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("file:///etc/passwd", "neither a data URL nor an http(s) URL"),
        ("data:image/png;base64,====", "empty"),
        ("data:image/png;base64,AB", "broken"),
        ("data:application/pdf;base64,AAAA", "of a type that cannot"),
        ("data:", "empty"),
    ],
)
async def test_a_url_that_is_no_image_says_why(url: str, said: str):
    fault = (await ImageCache().prepare([url], 8, FORM))[url]
    assert isinstance(fault, ImageError)
    assert said in str(fault)


async def test_a_url_that_is_not_in_base64_is_read_too():
    data = file_of(halves())
    url = "data:image/png," + "".join(f"%{byte:02x}" for byte in data)
    sent = await ImageCache().prepare([url], 8, FORM)
    assert sent[url] == url_of(data)


async def test_after_an_interruption_the_work_is_found_done(encoded: list[int]):
    images, url = ImageCache(), url_of(file_of(photo(2000, 500)))
    turn = asyncio.create_task(images.prepare([url], 8, FORM))
    await asyncio.sleep(0)
    turn.cancel()
    await asyncio.gather(turn, return_exceptions=True)
    sent = await images.prepare([url], 8, FORM)
    assert opened(sent[url_key(url)]).size == (1540, 385)
    assert len(encoded) == 1


async def test_encoding_leaves_the_loop_free(monkeypatch):
    """It does not go on until the loop has made many rounds beside it."""
    image = photo(3840, 2160)
    url, data = url_of(file_of(image, "JPEG", quality=95), "image/jpeg"), image.tobytes()
    free = threading.Event()

    def waits(*given):
        assert free.wait(60), "the loop is blocked"
        return encode(*given)

    async def watch() -> None:
        for _ in range(100):
            await asyncio.sleep(0)
        free.set()

    monkeypatch.setattr(module, "encode", waits)
    watching = asyncio.create_task(watch())
    images = ImageCache()
    await asyncio.gather(
        images.prepare([url], 8, FORM), images.encode_frame(data, image.size, "RGB", FORM)
    )
    await watching


async def test_a_image_of_earlier_turns_costs_nothing_however_large():
    images = ImageCache()
    small = [url_of(file_of(photo(8, 8, n))) for n in range(8)]
    large = [url_of(file_of(photo(600, 500, n))) for n in range(8)]
    times: tuple[list[float], list[float]] = [], []
    # In turn: a machine that gets busy is as busy for both.
    for _ in range(200):
        for urls, taken in zip((small, large), times, strict=True):
            began = time.perf_counter()
            await images.prepare(urls, 8, FORM)
            taken.append(time.perf_counter() - began)
    assert len(large[0]) > 100 * len(small[0])
    costs = [sorted(taken)[20] for taken in times]
    assert costs[1] < 3 * costs[0]


async def test_a_image_remembered_is_in_memory_once():
    images = ImageCache()
    image = photo(64, 64)
    made = await images.encode_frame(image.tobytes(), image.size, "RGB", FORM)
    assert isinstance(made, Encoded)
    url = "data:image/jpeg;base64," + base64.b64encode(made.data).decode()
    await images.prepare([url], 8, FORM)
    [(kept, _)] = images._prepared._entries
    assert kept is url
