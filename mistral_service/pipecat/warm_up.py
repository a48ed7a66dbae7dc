"""Before the first turn: the connection is opened, and key and models are checked."""

from loguru import logger
from pipecat.utils.errors import ErrorCategory

from mistral_service.pipecat.errors import ErrorReporter
from mistral_service.turn.clients import FALLBACK, OWN
from mistral_service.turn.router import Router
from mistral_service.turn.routes import Route
from mistral_service.wire.client import error_of, fetch_models, place_of
from mistral_service.wire.errors import MistralError, Reason
from mistral_service.wire.models import Catalogue

_SECONDS = 10.0
"""Seconds after which the list of models is not waited for any longer: a caller speaks by then."""


async def warm_up(router: Router, errors: ErrorReporter) -> None:
    """Ask each endpoint for its models, which opens the connection and checks the key."""
    await _ask(OWN, router, errors)
    if router.clients.has_fallback:
        await _ask(FALLBACK, router, errors)


async def _ask(endpoint: int, router: Router, errors: ErrorReporter) -> None:
    client = router.clients.of(endpoint)
    try:
        catalogue = await fetch_models(client, _SECONDS)
    except Exception as e:
        error = error_of(e, client)
        if error is None:
            raise
        if error.reason is Reason.KEY and endpoint == OWN:
            # Where the fallbacks have a key of their own, the turns go on with them.
            passes = ErrorCategory.APPLICATION if router.clients.has_fallback else None
            await errors.report("", exception=error, category=passes)
        elif error.status_code in (404, 405, 501):
            logger.debug(f"{errors}: the endpoint has no list of models")
        else:
            # What passes is met by the turns; a fallback's key is not the bot's own.
            where = place_of(client)
            logger.warning(f"{errors}: could not look for models at {where}: {error}")
        return
    router.learn(endpoint, catalogue)
    routes = router.routes()
    for route in routes:
        if route.endpoint == endpoint:
            await _check(route, catalogue, errors, is_own=route == routes[0])


async def _check(
    route: Route, catalogue: Catalogue, errors: ErrorReporter, *, is_own: bool
) -> None:
    card = catalogue.find(route.model)
    if card is None or card.chat is False:
        what = "does not list" if card is None else "does not chat with"
        if not catalogue.is_mistrals:
            return  # servers of one model answer to any name
        error = MistralError(
            Reason.UNKNOWN_MODEL, f"the endpoint {what} {route.model!r} for this key"
        )
        if is_own:
            # Not unusable yet: the list may be shorter than the truth, and the first turn shows.
            await errors.report("", exception=error, category=ErrorCategory.APPLICATION)
        else:
            logger.warning(f"{errors}: fallback model: {error}")
    elif card.deprecation:
        then = f"; {card.replacement} takes its place" if card.replacement else ""
        logger.warning(f"{errors}: {route.model} is to be gone from {card.deprecation}{then}")
