"""Much in one reply: the work grows with it, and no faster. Lines of code are counted, not time."""

import tracemalloc

import pytest
from line_count import lines_of

from mistral_service.conversation.conversion import Conversion
from mistral_service.conversation.foreign import in_mistrals_form
from mistral_service.reply.continuation import Overlap
from mistral_service.reply.reader import ReplyReader
from mistral_service.wire.chunks import Chunk, ToolCallDelta

CALLS = {
    "with indices and ids": lambda n: ToolCallDelta(n, f"id{n}", "f", "{}"),
    "without indices": lambda n: ToolCallDelta(None, f"id{n}", "f", "{}"),
    "without both": lambda n: ToolCallDelta(None, None, "f", "{}"),
    "with one id": lambda n: ToolCallDelta(n, "same", "f", "{}"),
    "with few ids": lambda n: ToolCallDelta(n, f"id{n % 50}", "f", '{"a":'),
    "without names": lambda n: ToolCallDelta(n % 60, f"id{n % 60}", "" if n >= 60 else "f", " "),
}


@pytest.mark.parametrize("most", [64, 1000])
@pytest.mark.parametrize("kind", CALLS)
def test_the_work_for_many_calls_in_one_chunk_is_linear(kind, most):
    def work(count: int) -> int:
        chunk = Chunk(tool_calls=tuple(map(CALLS[kind], range(count))))
        reader = ReplyReader(most_calls=most)
        done = lines_of(lambda: (reader.feed(chunk), reader.finish()))
        return done

    few, many = work(5_000), work(20_000)
    assert many < 5 * few
    assert many < 20_000 * 60


SAID = {
    "words that differ": lambda n: [f"word{i} " for i in range(n)],
    "one word": lambda n: ["a "] * n,
    "no blanks": lambda n: ["a"] * n,
    "a pattern": lambda n: ["a ", "a ", "b "] * (n // 3),
}


@pytest.mark.parametrize("kind", SAID)
@pytest.mark.parametrize("end", ["", "b"])
def test_the_work_for_a_continuation_is_linear_in_time_and_memory(kind, end):
    def work(count: int) -> tuple[int, int]:
        words = SAID[kind](count)

        def join() -> None:
            overlap = Overlap("".join(words) + end)
            for word in words:
                overlap.feed(word)
            overlap.finish()

        done = lines_of(join)
        tracemalloc.start()
        join()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return done, peak

    (few, little), (many, much) = work(5_000), work(20_000)
    assert many < 6 * few
    assert much < 6 * little + 100_000
    assert much < 8_000_000


def test_a_long_text_that_begins_again_is_taken_out_whole():
    words = SAID["words that differ"](20_000)
    overlap = Overlap("".join(words))
    joined = "".join([*map(overlap.feed, words), overlap.feed("and on"), overlap.finish()])
    assert joined == "and on"


def _of_anthropic(n: int) -> dict:
    return {
        "role": "user",
        "content": [
            {"type": "tool_use", "id": f"t{n}", "name": "f", "input": {}},
            {"type": "tool_result", "tool_use_id": f"t{n}", "content": [{"type": "text"}]},
        ],
    }


FOREIGN = {
    "messages": lambda n: [_of_anthropic(i) for i in range(n)],
    "parts of one message": lambda n: [
        {"role": "user", "content": [p for i in range(n) for p in _of_anthropic(i)["content"]]}
    ],
    "calls without ids": lambda n: [
        {"role": "model", "parts": [{"functionCall": {"name": "f"}}] * n},
        {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {}}}] * n},
    ],
    "calls without ids and results": lambda n: [
        {"role": role, "parts": [part]}
        for _ in range(n)
        for role, part in (("model", {"functionCall": {"name": "f"}}), ("user", {"text": "So?"}))
    ],
    "parts of one result": lambda n: [
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "content": [{"type": "input_text", "text": "a"}] * n}
            ],
        }
    ],
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_the_work_for_a_history_of_another_api_is_linear(kind):
    def work(count: int) -> int:
        history = FOREIGN[kind](count)
        return lines_of(lambda: in_mistrals_form(history, Conversion()))

    few, many = work(500), work(2_000)
    assert many < 5 * few
    assert many < 2_000 * 300
