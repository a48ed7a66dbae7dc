"""Converts exceptions of the HTTP client to `MistralError`, without secrets."""

import ssl

from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError, AsyncOpenAI

from mistral_service.wire.errors import MistralError, Reason
from mistral_service.wire.secrets import Redactor, secrets_in, secrets_of


def error_of(exception: Exception, asked: AsyncOpenAI | str = "") -> MistralError | None:
    """Convert an exception of `wire/client.py`; None if it is none of Mistral or the network.

    Args:
        exception: Any exception.
        asked: The client that sent the request, or its key alone: some servers repeat the request
            in their answer. Secrets in it are redacted (`wire/secrets.py`).
    """
    error = _converted(exception)
    if error is None:
        return None
    secrets = secrets_in(asked) if isinstance(asked, str) else secrets_of(asked)
    return error.redacted(Redactor(secrets))


def place_of(client: AsyncOpenAI) -> str:
    """The address of a client's endpoint, without the password or key that it may contain."""
    return str(client.base_url.copy_with(userinfo=b"", query=None))


def _converted(exception: Exception) -> MistralError | None:
    if isinstance(exception, MistralError):
        return exception
    if isinstance(exception, APIStatusError):
        if exception.status_code < 400:
            # The client follows no redirects: another host must not get the conversation.
            to = exception.response.headers.get("location", "")
            return MistralError(
                Reason.REQUEST,
                f"it has moved to {to}, so set base_url to its new address",
                status_code=exception.status_code,
            )
        return MistralError.from_response(
            exception.status_code,
            # Not `exception.body`: the client has unwrapped it, and dropped the other fields.
            exception.response.content,
            exception.response.headers,
        )
    if isinstance(exception, APITimeoutError):
        connecting = type(exception.__cause__).__name__ == "ConnectTimeout"
        return MistralError(Reason.TIMEOUT, "no connection was established" if connecting else "")
    if isinstance(exception, APIConnectionError):
        if "DecodingError" in _names(exception.__cause__):  # a whole reply: the server was reached
            return MistralError(Reason.STREAM, str(exception.__cause__))
        return MistralError(Reason.UNREACHABLE, _cause(exception))
    if isinstance(exception, APIError):
        return MistralError.from_stream(exception.body or exception.message)
    if isinstance(exception, RuntimeError) and "has been closed" in str(exception):
        return MistralError(Reason.UNREACHABLE, "the HTTP client was closed by its owner")
    names = _names(exception)
    if "TimeoutException" in names or isinstance(exception, TimeoutError):
        return MistralError(Reason.TIMEOUT)
    if names & {"DecodingError", "TransportError"}:  # not wrapped: the answer had begun
        return MistralError(Reason.STREAM, str(exception))
    if isinstance(exception, ConnectionError | ssl.SSLError):
        return MistralError(Reason.UNREACHABLE, str(exception))
    return None


def _names(exception: object) -> set[str]:
    """The names of its types: httpx and httpx2 have the same ones, and `openai` uses either."""
    return {base.__name__ for base in type(exception).__mro__}


def _cause(exception: BaseException) -> str:
    """The network's own message: that of the innermost cause that has one."""
    message = ""
    cause: BaseException | None = exception.__cause__ or exception.__context__
    while cause is not None:
        message = str(cause) or message
        cause = cause.__cause__ or cause.__context__
    return message
