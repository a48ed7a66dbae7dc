"""Decodes the bytes of a `text/event-stream` to the payloads of its events.

A pure, incremental decoder of the part of the standard that chat completions use
(https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream):
only `data` fields matter; `event`, `id` and `retry` are ignored.

Usage::

    decoder = SSEDecoder()
    for data in socket:
        for payload in decoder.feed(data):
            ...
"""

import re

# "A line ends with CRLF, LF or CR" and nothing else: U+2028 and U+0085 are legal inside JSON,
# which is why `str.splitlines` may not be used here.
_LINE_END = re.compile(rb"\r\n|\n|\r")

# "If the stream starts with a byte order mark, ignore it."
_BOM = b"\xef\xbb\xbf"

MAX_EVENT_BYTES = 4 * 1024 * 1024
"""The maximum of bytes of one event.

A chunk of a chat completion has some hundred bytes, a whole reply in one event some hundred
thousand; the limit only stops a stream without line ends from filling the memory.
"""


class EventTooLong(ValueError):
    """An event exceeds `MAX_EVENT_BYTES`."""


class SSEDecoder:
    """Decodes reads of any size to the payloads of the events that they complete.

    Multi-byte characters, line ends and events may be split anywhere between reads.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._at_start = True
        self._after_cr = False

    def feed(self, data: bytes) -> list[bytes]:
        """Decode the bytes of a read, of any size.

        Returns:
            The payloads of the events completed by this read, in order: the bytes of their `data`
            fields (UTF-8), joined by line feeds where an event has several.

        Raises:
            EventTooLong: If one event has more than `MAX_EVENT_BYTES`.
        """
        if not self._rest and not self._data and not self._at_start and not self._after_cr:
            # The fast path of nearly every read: exactly one event.
            end = len(data) - 2
            if (
                data.startswith(b"data: ")
                and data.endswith(b"\n\n")
                and data.find(b"\n") == end
                and b"\r" not in data
                and end <= MAX_EVENT_BYTES
            ):
                return [data[6:end]]
        if self._after_cr and data:
            # The CR has ended its line already; an LF after it belongs to the same line end.
            data = data.removeprefix(b"\n")
            self._after_cr = False
        self._rest += data
        if self._at_start:
            if len(self._rest) < len(_BOM) and _BOM.startswith(self._rest):
                return []
            data = bytes(self._rest.removeprefix(_BOM))
            self._rest = bytearray(data)
            self._at_start = False

        if b"\n" not in data and b"\r" not in data:
            lines: list[bytes] = []
        else:
            whole = bytes(self._rest)
            *lines, rest = _LINE_END.split(whole) if b"\r" in whole else whole.split(b"\n")
            self._after_cr = data.endswith(b"\r")
            self._rest = bytearray(rest)
        if len(self._rest) + self._size > MAX_EVENT_BYTES:
            raise EventTooLong(f"an event has more than {MAX_EVENT_BYTES} bytes")
        return self._take(lines)

    def finish(self) -> list[bytes]:
        """Decode the end of the stream: the payload of an unfinished event, if there is one.

        The standard drops an event without its closing blank line. A server that forgets that line
        has still sent the whole payload, and the last word would be missing: so the event counts.
        """
        rest, self._rest = bytes(self._rest), bytearray()
        return self._take([rest, b""])

    def _take(self, lines: list[bytes]) -> list[bytes]:
        payloads: list[bytes] = []
        for line in lines:
            if not line:
                if self._data:
                    payloads.append(b"\n".join(self._data))
                    self._data = []
                    self._size = 0
            elif line.startswith(b"data"):
                name, _, value = line.partition(b":")
                if name == b"data":
                    self._data.append(value.removeprefix(b" "))
                    self._size += len(value) + 1  # the line feed between two
            elif line.startswith((b"{", b"[{")):
                # Gateways write a bare error object into the stream; no field begins like that.
                payloads.append(line)
            elif line.startswith(b"error:"):
                # llama.cpp writes errors so.
                payloads.append(line.partition(b":")[2].strip())
        return payloads
