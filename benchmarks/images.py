"""What an image costs, and how legible it stays: `python benchmarks/images.py`.

The first table is the basis for the default of `image_quality`. A page of text of several sizes,
black on white, in colour on colour, and over a photograph, is encoded at each quality. `legible` is
the structural similarity (SSIM, windows of 7×7 pixels of luma) of the lines of text before and
after, `edges` the share of the strength of their edges that is neither lost nor added; 1 is
perfect. The photograph without text shows what a camera's frame costs.

The second table compares the cost of a camera's frame with that in Pipecat's context: the time,
the longest pause of the event loop, and the bytes sent.
"""

import argparse
import asyncio
import io
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
from loguru import logger
from PIL import Image, ImageDraw, ImageFont

logger.remove()
warnings.simplefilter("ignore")

from pipecat.processors.aggregators.llm_context import LLMContext  # noqa: E402

from mistral_service import MistralLLMAdapter  # noqa: E402
from mistral_service.conversation.encoding import Encoded, Form, encode  # noqa: E402

QUALITIES = (30, 40, 50, 60, 65, 70, 75, 80, 85, 90, 95)
SIZE = (1540, 866)
LINE = "The quick brown fox jumps over 0123456789 lazy dogs; WxQ £3.50 il1| rn m"
SIZES = (9, 11, 14, 18)


def photograph(width: int, height: int, seed: int = 3) -> Image.Image:
    """Shapes of every size, the finer the fainter, as in nature, and noise."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(width), np.fft.fftfreq(height)))
    frequency[0, 0] = 1
    bands: list[np.ndarray] = []
    for _ in range(3):
        phase = np.exp(2j * np.pi * rng.random((height, width)))
        band = np.real(np.fft.ifft2(phase / frequency**1.2))
        bands.append(128 + 48 * (band - band.mean()) / band.std())
    grey = bands[0][..., None] * 0.7
    image = grey + 0.3 * np.stack(bands, 2) + rng.normal(0, 3, (height, width, 3))
    return Image.fromarray(image.clip(0, 255).astype(np.uint8))


def page() -> tuple[Image.Image, list[tuple[int, int, int, int]]]:
    """A page of text in three colour schemes, and the boxes of its lines."""
    image = Image.new("RGB", SIZE, "white")
    third = SIZE[0] // 3
    image.paste((30, 60, 140), (third, 0, 2 * third, SIZE[1]))
    image.paste(photograph(third, SIZE[1]), (2 * third, 0))
    draw = ImageDraw.Draw(image)
    boxes: list[tuple[int, int, int, int]] = []
    top = 8
    while top < SIZE[1] - 30:
        for size in SIZES:
            font = ImageFont.load_default(size)
            for column, colour in enumerate(("black", (255, 170, 60), "white")):
                left = column * third + 10
                draw.text((left, top), LINE[: third // (size // 2)], colour, font)
                boxes.append((left, top, (column + 1) * third - 4, top + size + 4))
            top += size + 10
            if top >= SIZE[1] - 30:
                break
    return image, boxes


def luma(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L"), float)


def means(values: np.ndarray, side: int = 7) -> np.ndarray:
    """The mean of every window."""
    sums = np.pad(values, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    total = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    return total / side**2


def similarity(one: np.ndarray, two: np.ndarray) -> float:
    """SSIM as Wang et al. 2004 define it, with uniform windows."""
    a, b = means(one), means(two)
    va, vb = means(one * one) - a * a, means(two * two) - b * b
    both = means(one * two) - a * b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    ssim = (2 * a * b + c1) * (2 * both + c2) / ((a * a + b * b + c1) * (va + vb + c2))
    return float(ssim.mean())


def edges_kept(one: np.ndarray, two: np.ndarray) -> float:
    lost = np.hypot(*(x - y for x, y in zip(np.gradient(one), np.gradient(two), strict=True)))
    return float(1 - lost.sum() / np.hypot(*np.gradient(one)).sum())


def legibility() -> None:
    text, boxes = page()
    camera = photograph(*SIZE)
    crops = [luma(text.crop(box)) for box in boxes]
    print(f"An image of {SIZE[0]}×{SIZE[1]}, text of {SIZES[0]} to {SIZES[-1]} px\n")
    print("| quality | page (kB) | camera (kB) | legible | worst line | edges |")
    print("|---|---|---|---|---|---|")
    for quality in QUALITIES:
        form = Form(quality=quality)
        sent = [encode(im.tobytes(), SIZE, "RGB", form) for im in (text, camera)]
        assert all(isinstance(made, Encoded) for made in sent)
        image = Image.open(io.BytesIO(sent[0].data)).convert("RGB")
        seen = [luma(image.crop(box)) for box in boxes]
        alike = [similarity(a, b) for a, b in zip(crops, seen, strict=True)]
        edges = statistics.mean(edges_kept(a, b) for a, b in zip(crops, seen, strict=True))
        kilobytes = [len(made.data) / 1000 for made in sent]
        chosen = " (default)" if quality == Form().quality else ""
        print(
            f"| {quality}{chosen} | {kilobytes[0]:.0f} | {kilobytes[1]:.0f} "
            f"| {statistics.mean(alike):.3f} | {min(alike):.3f} | {edges:.2f} |"
        )


async def longest_pause(work: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds that some work takes, and the longest pause of the event loop meanwhile."""
    worst, done = 0.0, False

    async def watch() -> None:
        nonlocal worst
        while not done:
            began = time.perf_counter()
            await asyncio.sleep(0)
            worst = max(worst, time.perf_counter() - began)

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0.005)
    worst, began = 0.0, time.perf_counter()
    await work()  # pyright: ignore
    took = time.perf_counter() - began
    done = True
    await watching
    return took * 1e3, worst * 1e3


async def frames(times: int) -> None:
    print("\n| a frame of a camera | ours (ms) | loop blocked (ms) | sent (kB) | ", end="")
    print("Pipecat's (ms) | loop blocked (ms) | sent (kB) |\n|---|---|---|---|---|---|---|")
    for width, height in ((640, 480), (1280, 720), (1920, 1080), (3840, 2160)):
        data = photograph(width, height).tobytes()
        ours, theirs = [], []
        for _ in range(times):
            images = MistralLLMAdapter().images
            sizes = []

            async def make() -> None:
                made = await images.encode_frame(data, (width, height), "RGB", Form())  # noqa: B023
                assert isinstance(made, Encoded)
                sizes.append(len(made.data) * 4 / 3e3)  # noqa: B023

            async def pipecats() -> None:
                message = await LLMContext.create_image_message(
                    format="RGB",
                    size=(width, height),  # noqa: B023
                    image=data,  # noqa: B023
                )
                sizes.append(len(message["content"][0]["image_url"]["url"]) / 1e3)  # noqa: B023

            ours.append([*await longest_pause(make), sizes[-1]])
            theirs.append([*await longest_pause(pipecats), sizes[-1]])
        figures = [*map(statistics.median, zip(*ours, strict=True))]
        figures += map(statistics.median, zip(*theirs, strict=True))
        shown = " | ".join(f"{figure:,.1f}" for figure in figures)
        print(f"| {width}×{height} | {shown} |")


async def turns() -> None:
    """What eight images cost in their first turn, and in later ones."""
    adapter, context = MistralLLMAdapter(), LLMContext()
    for seed in range(8):
        image = photograph(1280, 720, seed)
        message = await LLMContext.create_image_message(
            format="RGB", size=image.size, image=image.tobytes(), text="See."
        )
        context.add_message(message)
    costs = []
    for _ in range(200):
        began = time.process_time()
        await adapter.get_llm_invocation_params(context)
        costs.append((time.process_time() - began) * 1e6)
    first, later = costs[0] / 1e3, statistics.median(costs[1:])
    print("\nEight images of 1280×720, as Pipecat puts them into the context: ", end="")
    print(f"{first:.0f} ms of CPU in the first turn, {later:.0f} µs in each later one.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=5, help="runs of each (default: 5)")
    times = parser.parse_args().times
    legibility()
    asyncio.run(frames(times))
    asyncio.run(turns())
