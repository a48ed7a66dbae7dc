"""The connection to a caller's client: whether the client is there, and a note that it stores."""

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast


class ClientLink(Protocol):
    """The connection to a caller's client."""

    async def store_note(self, note: str, within: float) -> bool:
        """Have the client store a note.

        Args:
            note: The note, which replaces the one before.
            within: Seconds that the client has to confirm it.

        Returns:
            Whether the client has the note, and is still connected here.
        """
        ...


class Pings:
    """The pings of one connection that wait for their pong."""

    def __init__(self, send: Callable[[str], Awaitable[None]]) -> None:
        """Make it.

        Args:
            send: Sends a text to the client.
        """
        self._send = send
        self._waiting: dict[str, asyncio.Future[None]] = {}

    async def ping(self, note: str, within: float) -> bool:
        """Send a ping, and wait for the client's pong.

        Args:
            note: What the client stores before it answers.
            within: Seconds to wait.

        Returns:
            Whether the pong has come.
        """
        ping = secrets.token_hex(8)
        pong = self._waiting[ping] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(within):
                await self._send(json.dumps({"type": "ping", "id": ping, "note": note}))
                await pong
        except (TimeoutError, RuntimeError, OSError):  # no answer, or the connection is closed
            return False
        finally:
            del self._waiting[ping]
        return True

    def receive_pong(self, message: object) -> bool:
        """Receive a pong.

        Args:
            message: A message of the client.

        Returns:
            Whether it is a pong, also one that is late or made up.
        """
        if not isinstance(message, dict):
            return False
        fields = cast("dict[str, Any]", message)
        if fields.get("type") != "pong":
            return False
        waiting = self._waiting.get(str(fields.get("id")))
        if waiting is not None and not waiting.done():
            waiting.set_result(None)
        return True
