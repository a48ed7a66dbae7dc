"""What a function needs to have its effect once: a key for the bot's own backend, and a mark."""

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from pipecat.services.llm_service import FunctionCallParams as PipecatFunctionCallParams

_MARK = "_mistral_idempotent"

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class FunctionCallParams(PipecatFunctionCallParams):
    """What a handler gets: Pipecat's parameters, and a key for the handler's own backend.

    Parameters:
        idempotency_key: 32 hexadecimal digits. They are the same each time that this call is made,
            on every machine: also where the model calls again because the result was lost with a
            machine. A call that is repeated after its result is a new one, with another key.
    """

    idempotency_key: str = ""


def idempotent(handler: F) -> F:
    """Mark the handler of a function that is safe to run twice, such as one that only reads.

    Where calls are kept in Redis, other functions do not start unless it is sure that no other
    machine starts them too. A function with this mark starts all the same.

    Args:
        handler: The handler, a direct function, or a method.

    Returns:
        The same, marked.

    Example::

        @idempotent
        async def get_weather(params: FunctionCallParams, city: str): ...
    """
    return marked(handler, _MARK)


def is_idempotent(handler: object) -> bool:
    """Whether a handler, or what it wraps, has the mark of `idempotent`."""
    return is_marked(handler, _MARK)


def marked(handler: F, mark: str) -> F:
    """Mark a handler, a direct function or a method; returns the same."""
    setattr(getattr(handler, "__func__", handler), mark, True)  # a method has none of its own
    return handler


def is_marked(handler: object, mark: str) -> bool:
    """Whether a handler, or what it wraps, has a mark."""
    found: Any = handler
    while found is not None:
        if getattr(found, mark, False):
            return True
        if isinstance(found, functools.partial):
            found = cast("functools.partial[Any]", found).func
        else:
            # What Pipecat and ours wrap is their function; functools.wraps names it otherwise.
            found = getattr(found, "function", None) or getattr(found, "__wrapped__", None)
    return False


def idempotency_key(conversation: str, name: str, arguments: str, repetition: int) -> str:
    """The key of a call: 32 hexadecimal digits, which do not reveal the conversation's name.

    The arguments are a text that is the same for like calls; `repetition` counts those.
    """
    digest = hashlib.sha256(json.dumps([conversation, name, repetition]).encode())
    digest.update(arguments.encode(errors="surrogatepass"))
    return digest.hexdigest()[:32]
