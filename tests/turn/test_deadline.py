"""A deadline that moves: it fires when it should, and only then."""

import asyncio
import threading
import time

import pytest

from mistral_service.turn.deadline import Deadline


def soon(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_what_takes_too_long_is_ended():
    deadline = Deadline(soon(0.02))
    with pytest.raises(TimeoutError), deadline:
        await asyncio.sleep(10)
    assert deadline.expired
    assert not asyncio.current_task().cancelling()


@pytest.mark.parametrize("until", [None, 30.0])
async def test_what_ends_in_time_is_left_alone(until):
    deadline = Deadline(until and soon(until))
    with deadline:
        await asyncio.sleep(0)
    await asyncio.sleep(0.02)
    assert not deadline.expired


async def test_it_can_be_moved_either_way_and_lifted():
    deadline = Deadline(soon(0.03))

    async def move() -> None:
        deadline.until = soon(0.1)
        await asyncio.sleep(0.06)  # past the first
        deadline.until = None
        await asyncio.sleep(0.08)  # past the second
        deadline.until = soon(30)
        deadline.until = soon(0.01)
        await asyncio.sleep(10)

    with pytest.raises(TimeoutError), deadline:
        await move()


async def test_a_cancellation_by_somebody_else_stays_one():
    async def wait() -> None:
        with Deadline(soon(30)):
            await asyncio.sleep(30)

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_another_error_at_the_same_time_is_told():
    async def fail() -> None:
        with Deadline(soon(0.01)):
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                raise KeyError("broken") from None

    with pytest.raises(KeyError):
        await fail()


async def test_it_fits_into_another():
    async def wait() -> None:
        async with asyncio.timeout(0.02):
            with Deadline(soon(30)):
                await asyncio.sleep(10)

    with pytest.raises(TimeoutError):
        await wait()


async def test_in_a_test_it_waits_for_a_loop_that_the_machine_holds_up():
    """Such as the local endpoint's: a thread without a processor has not failed to answer."""
    begun, ended = threading.Event(), []

    async def is_held_up() -> None:
        begun.set()
        time.sleep(0.5)  # noqa: ASYNC251
        ended.append("the other")

    other = threading.Thread(target=lambda: asyncio.run(is_held_up()))
    other.start()
    await asyncio.to_thread(begun.wait)
    with pytest.raises(TimeoutError), Deadline(soon(0.2)):
        await asyncio.sleep(10)
    ended.append("the deadline")
    other.join()
    assert ended == ["the other", "the deadline"]
