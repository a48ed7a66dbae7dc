"""Identifies the server, by what its list of models claims and by how it answers."""

from mistral_service.conformance.answer import Answer
from mistral_service.wire.models import Catalogue
from mistral_service.wire.servers import by_address, by_headers, by_models

_UNKNOWN = "unknown"
_MISTRALS = ("mistral", "azure", "vertex")


def claimed_server(listed: Catalogue, base_url: str) -> str:
    """The server that an endpoint claims to be by its list of models: a name, or `unknown`."""
    owners = [card.owned_by or "" for card in listed.cards]
    server = by_models(owners, has_capabilities=listed.is_mistrals)
    return server.name if server is not None else by_address(base_url).name


def observed_server(plain: Answer, wrong_type: Answer | None) -> str:
    """The server that an endpoint is by its answers: a name, or `unknown`.

    It shows in the headers, and in how messages of a wrong type are refused, which all refuse.
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
    """A sentence about an endpoint that is not what it claims to be; empty where it is."""
    if _UNKNOWN in (says, seen) or (says in _MISTRALS) == (seen in _MISTRALS):
        return ""
    return (
        f"The endpoint claims to be {says}, but answers as {seen} does ({differing} probes "
        "differ): it is another server, or there is a proxy in between."
    )
