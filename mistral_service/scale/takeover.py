"""A call is read before it is taken: what cannot be read here stays its owner's."""

from dataclasses import dataclass, field

from loguru import logger

from mistral_service.scale.record import Record, read
from mistral_service.scale.sealing import Form, Unreadable
from mistral_service.scale.store import Store, StoreGone, Taken

# How often a call is looked at again that another machine takes at the same time.
_LOOKS = 5


@dataclass
class Found:
    """A call that was taken.

    Parameters:
        taken: What the store says of it.
        record: What was kept.
        anew: Whether it begins anew, since what was kept could not be read.
    """

    taken: Taken
    record: Record = field(default_factory=Record)
    anew: bool = False


async def take(
    store: Store, form: Form, call_id: str, keep_seconds: float, limit: int, *, create: bool
) -> Found | None:
    """Take a call over.

    Args:
        store: Where it is kept.
        form: How it is written.
        call_id: The call.
        keep_seconds: How long it is kept from now on.
        limit: Bytes that a conversation's messages may have.
        create: Whether one that is not known begins, and one that cannot be read begins anew.

    Returns:
        The call; None if it is not known.

    Raises:
        Unreadable: If what was kept cannot be read here. Nothing has changed then: the owner keeps
            the call, and it expires when it would have.
        StoreGone: If Redis does not answer, or others take the call again and again.
    """
    for _ in range(_LOOKS):
        held = await store.look(call_id)
        if held is None and not create:
            return None
        held = held or Taken(0)
        found = Found(held)
        try:
            found.record = await read(form, held.fields, limit)
        except Unreadable as e:
            if not create:
                raise
            found.anew = True
            logger.warning(f"A call begins anew, since what was said before is lost: {e}")
        taken = await store.take(
            call_id, keep_seconds, create=create, seen=held.fence, anew=found.anew
        )
        if taken is None or not taken.fence:
            continue  # In this moment another machine has taken it, or it has ended.
        found.taken = taken
        if taken.known and taken.fields != held.fields:  # its owner wrote on until it was taken
            found.record = await read(form, taken.fields, limit)
        return found
    raise StoreGone("Other machines take the call at the same time")
