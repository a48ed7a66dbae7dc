"""What the client raised, understood: as a `MistralError` without anything secret in it."""

import ssl

from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError, AsyncOpenAI

from mistral_service.wire.errors import MistralError, Reason
from mistral_service.wire.secrets import Strike, secrets_in, secrets_of


def error_of(exception: Exception, asked: AsyncOpenAI | str = "") -> MistralError | None:
    """Understand what the client raised.

    Args:
        exception: Any exception from the functions above.
        asked: The client that asked, or its key alone: some servers repeat in their answer what
            they were sent. What of it may be secret is struck out (`wire/secrets.py`).

    Returns:
        The same as a `MistralError`; None if it has nothing to do with Mistral or the network.
    """
    error = _understood(exception)
    if error is None:
        return None
    return error.but_for(Strike(secrets_in(asked) if isinstance(asked, str) else secrets_of(asked)))


def place_of(client: AsyncOpenAI) -> str:
    """Where a client asks, without the password or key that may stand in its address."""
    return str(client.base_url.copy_with(userinfo=b"", query=None))


def _understood(exception: Exception) -> MistralError | None:
    if isinstance(exception, MistralError):
        return exception
    if isinstance(exception, APIStatusError):
        if exception.status_code < 400:
            # The client follows no redirect: another host is not the one that was asked.
            to = exception.response.headers.get("location", "")
            return MistralError(
                Reason.REQUEST,
                f"it has moved to {to}, so set base_url to where it is now",
                status_code=exception.status_code,
            )
        return MistralError.from_response(
            exception.status_code,
            # Not `exception.body`: the client has unwrapped that, and lost what stood beside it.
            exception.response.content,
            exception.response.headers,
        )
    if isinstance(exception, APITimeoutError):
        connecting = type(exception.__cause__).__name__ == "ConnectTimeout"
        return MistralError(Reason.TIMEOUT, "no connection came about" if connecting else "")
    if isinstance(exception, APIConnectionError):
        return _understood_cause(exception) or MistralError(Reason.UNREACHABLE, _cause(exception))
    if isinstance(exception, APIError):
        return MistralError.from_stream(exception.body or exception.message)
    if isinstance(exception, RuntimeError) and "has been closed" in str(exception):
        return MistralError(Reason.UNREACHABLE, "the HTTP client was closed by its owner")
    # httpx and its successor httpx2 name their errors alike; `openai` brings one or the other.
    names = {base.__name__ for base in type(exception).__mro__}
    if "TimeoutException" in names or isinstance(exception, TimeoutError):
        return MistralError(Reason.TIMEOUT)
    if "DecodingError" in names:
        return MistralError(Reason.STREAM, str(exception))
    if "TransportError" in names or isinstance(exception, ConnectionError | ssl.SSLError):
        return MistralError(Reason.UNREACHABLE, str(exception))
    return None


def _understood_cause(exception: BaseException) -> MistralError | None:
    """What the body of a whole reply was that could not be unpacked: the server was reached."""
    cause = exception.__cause__
    names = {base.__name__ for base in type(cause).__mro__}
    return MistralError(Reason.STREAM, str(cause)) if "DecodingError" in names else None


def _cause(exception: BaseException) -> str:
    """The network's own words: the deepest cause that has some."""
    said = ""
    cause: BaseException | None = exception.__cause__ or exception.__context__
    while cause is not None:
        said = str(cause) or said
        cause = cause.__cause__ or cause.__context__
    return said
