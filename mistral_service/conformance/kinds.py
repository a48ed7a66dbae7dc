"""What server it is: what its list of models says, and what its answers look like."""

from mistral_service.conformance.answer import Answer
from mistral_service.conformance.endpoint import cards_of
from mistral_service.wire.servers import by_address, by_headers, by_models

_UNKNOWN = "unknown"
_MISTRALS = ("mistral", "azure", "vertex")


def said_by(listed: Answer, base_url: str) -> str:
    """What a server says that it is.

    Args:
        listed: The answer to `GET /v1/models`.
        base_url: The endpoint's address.

    Returns:
        A name of `wire/servers.py`; `unknown` where nothing says anything.
    """
    cards = cards_of(listed) if listed.accepted else []
    owners = [str(card.get("owned_by")) for card in cards]
    can = any(isinstance(card.get("capabilities"), dict) for card in cards)
    server = by_models(owners, has_capabilities=can)
    return server.name if server is not None else by_address(base_url).name


def seen_in(plain: Answer, wrong_type: Answer | None) -> str:
    """What a server is by what it answers.

    Args:
        plain: The answer to a plain request.
        wrong_type: The answer to a request whose messages are no list, which all refuse.

    Returns:
        A name of `wire/servers.py`; `unknown` where nothing shows it.
    """
    if (server := by_headers(plain.headers)) is not None:
        return server.name
    refused = wrong_type.refused if wrong_type is not None else None
    if refused is None:
        return _UNKNOWN
    if refused.status == 422 and refused.form == "detail":
        return "mistral"
    if refused.form == "error" and refused.type in ("Bad Request", "BadRequestError"):
        return "vllm"
    if refused.form == "error" and refused.type == "invalid_request_error":
        return "llama.cpp"
    return _UNKNOWN


def contradiction(says: str, seen: str, differing: int) -> str:
    """What is to be said of an endpoint that is not what it says; empty where it is.

    Args:
        says: What it says that it is.
        seen: What it is by what it answers.
        differing: How many probes differ.
    """
    if _UNKNOWN in (says, seen) or (says in _MISTRALS) == (seen in _MISTRALS):
        return ""
    return (
        f"The endpoint says that it is {says}, but answers as {seen} does ({differing} probes "
        "differ): something else stands behind it, or before it."
    )
