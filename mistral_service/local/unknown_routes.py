"""Answers to unknown routes, in Mistral's form, with a list of the known ones.

Mistral's gateway answers `{"message": "no Route matched with those values", "request_id": …}` with
404, its application `{"detail": "Method Not Allowed"}` with 405.
"""

import uuid
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

SERVED = (
    "POST /v1/chat/completions",
    "POST /v1/fim/completions",
    "POST /v1/embeddings",
    "POST /v1/moderations",
    "POST /v1/chat/moderations",
    "GET /v1/models",
)
"""The routes of the endpoint."""

NOT_SERVED = (
    *("agents", "audio", "batch", "beta", "chat/classifications", "classifications", "client"),
    *("connectors", "conversations", "files", "fine_tuning", "libraries", "observability", "ocr"),
    *("prompts", "rag", "responses", "skills", "workflows"),
)
"""Routes of Mistral below `/v1/`, by the official SDK 3.7, that this endpoint does not have."""

_LONGEST_SHOWN = 100


def on_unknown_route(
    key_refusal: Callable[[Request], Response | None],
) -> Callable[[Request, Exception], Response]:
    """Make the handler of requests without a route, for Starlette's handlers of 404 and 405.

    Args:
        key_refusal: Returns the response to a request without the right key; None for one that has
            it.

    Returns:
        The handler. It requires the key, as every route does, and answers `OPTIONS` on a known
        route with the methods of that route.
    """

    def answer(request: Request, error: Exception) -> Response:
        if refusal := key_refusal(request):
            return refusal
        headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
        status = error.status_code if isinstance(error, HTTPException) else 404
        if status == 405:
            if request.method == "OPTIONS":
                return Response(status_code=204, headers=headers)
            return JSONResponse({"detail": "Method Not Allowed"}, 405, headers)
        message = not_found_message(request.method, request.url.path)
        return JSONResponse({"message": message, "request_id": uuid.uuid4().hex}, 404)

    return answer


def not_found_message(method: str, path: str) -> str:
    """The message for a path without a route.

    Args:
        method: The request's method: `POST`.
        path: Its path: `/v1/ocr`.
    """
    asked = f"{method} {path}"[:_LONGEST_SHOWN]
    served = f"served are {', '.join(SERVED)}"
    below = path.removeprefix("/v1/")
    known = below != path and any(f"{below}/".startswith(f"{each}/") for each in NOT_SERVED)
    fault = f"this local endpoint does not serve {asked}, as Mistral does" if known else asked
    return f"no Route matched with those values: {fault}; {served}."
