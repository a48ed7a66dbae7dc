"""A model that counts, so that every word which is lost, or said twice, is seen.

Run as a process: `python tests/support/counting.py --port 8900`.
"""

import argparse
import re
from collections.abc import AsyncIterator
from typing import Any

from mistral_service.local.app import create_app
from mistral_service.local.limits import RateLimits
from mistral_service.local.pieces import Delta, End, Piece, Wait
from mistral_service.local.server import bind, serve

COUNT = re.compile(r"Caller (\d+), turn (\d+): count to (\d+)")
BOOK = re.compile(r"Caller (\d+), turn (\d+): book a table")
NOT_RUN = " …"
"""What stands behind `unsure` where the function is known not to have run; it is no word."""


def word(caller: int, turn: int, number: int) -> str:
    """One word of a reply, which no other reply has."""
    return f"c{caller}t{turn}w{number}"


class Counting:
    """Counts when it is asked to, goes on where it was cut, and books a table by the function."""

    def __init__(self, pause: float, first: float = 0.05) -> None:
        self._pause = pause
        self._first = first

    async def answer(self, request: dict[str, Any]) -> AsyncIterator[Piece]:
        """Answer the last thing that a caller has asked."""
        asked, after = "", []
        for message in request["messages"]:
            text = str(message.get("content") or "")
            if message["role"] == "user" and "Caller" in text:
                # Where a call went on, what was asked before may stand in the same message.
                asked, after = text, []
            else:
                after.append(message)
        yield Wait(self._first)
        if found := re.findall(COUNT, asked[asked.rfind("Caller") :]):
            caller, turn, last = map(int, found[-1])
            said = " ".join(str(m.get("content") or "") for m in after if m["role"] == "assistant")
            prefix = after and after[-1].get("prefix")
            if prefix:  # repeated, as Mistral repeats it
                yield Delta({"content": after[-1]["content"]})
            spoken = [int(n) for n in re.findall(rf"\bc{caller}t{turn}w(\d+)\b", said)]
            for number in range(max(spoken, default=0) + 1, last + 1):
                yield Delta({"content": word(caller, turn, number) + " "})
                yield Wait(self._pause)
            yield End()
        elif found := re.findall(BOOK, asked[asked.rfind("Caller") :]):
            caller, turn = map(int, found[-1])
            told = [str(m.get("content")) for m in after if m["role"] == "tool"]
            if told:
                booked = "booked" if "true" in told[-1].lower() else "unsure"
                if "did not run" in told[-1]:
                    booked += NOT_RUN
                yield Delta({"content": f"{word(caller, turn, 1)} {booked}"})
                yield End()
                return
            arguments = f'{{"day": "c{caller}t{turn}", "people": 2}}'
            call = {"index": 0, "id": f"{caller:05d}{turn:04d}"}
            call["function"] = {"name": "book_table", "arguments": arguments}
            yield End("tool_calls", None, {"content": "", "tool_calls": [call]})
        else:
            yield Delta({"content": "Hello."})
            yield End()

    async def close(self) -> None:
        """Nothing to release."""


def main() -> None:
    """Serve until a signal stops it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pause", type=float, default=0.4, help="seconds per word")
    parser.add_argument("--first", type=float, default=0.05, help="seconds to the first word")
    options = parser.parse_args()
    engine = Counting(options.pause, options.first)
    app = create_app(engine, limits=RateLimits())  # without limits until `PUT /limits` sets them
    serve(bind("127.0.0.1", options.port), app, engine)


if __name__ == "__main__":
    main()
