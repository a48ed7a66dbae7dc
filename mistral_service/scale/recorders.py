"""Opens calls for recording: new calls, and takeovers of calls of other machines."""

import re
import secrets

from loguru import logger

from mistral_service.scale.bounds import MAX_MESSAGES_BYTES
from mistral_service.scale.client_report import NO_REPORT, ClientReport
from mistral_service.scale.record import Record, read_record
from mistral_service.scale.recorder import CallRecorder
from mistral_service.scale.sealing import Codec, Unreadable
from mistral_service.scale.store import Claim, Store, StoreUnavailable, fence_without_redis

# Ids have the prefix of their endpoint, unless it is `/call`: an id of one is unknown at the other.
_CALL_ID = re.compile(r"(?:twilio:)?[A-Za-z0-9_-]{8,128}")

# How often a takeover is tried while other machines claim the call too.
_ATTEMPTS = 5


class UnknownCall(LookupError):
    """No call of this id is recorded: it is over, has expired, or never was."""


class CallRecorders:
    """Makes the recorders of calls; one for each process."""

    def __init__(
        self,
        store: Store,
        *,
        keep_seconds: float = 60.0,
        codec: Codec | None = None,
        limit: int = MAX_MESSAGES_BYTES,
    ) -> None:
        """Make it.

        Args:
            store: Where calls are recorded.
            keep_seconds: How long a record lasts after the last write or heartbeat.
            codec: Packs records; by default sealed, see `Codec.from_environment`.
            limit: Bytes that a conversation's messages may have.

        Raises:
            ValueError: If there is no key to seal with.
        """
        self.store = store
        self.keep_seconds = keep_seconds
        self.codec = codec or Codec.from_environment()
        self.limit = limit

    async def open(
        self,
        call_id: str | None = None,
        report: ClientReport = NO_REPORT,
        *,
        create: bool = False,
    ) -> CallRecorder:
        """Begin a call, or take one over: from then on its owner before can write no more.

        A record that cannot be read here is not claimed: its owner keeps the call, and the time of
        the record is not renewed.

        Args:
            call_id: The call; None begins one with an id that cannot be guessed.
            report: The client's report.
            create: Whether an unknown id begins a call, such as the id of a telephone company. A
                call whose record cannot be read begins again then, with `history_lost`.

        Returns:
            The call's recorder. While Redis is down a new call begins, and is recorded later.

        Raises:
            UnknownCall: If no such call is recorded, or the id is malformed.
            StoreUnavailable: If Redis does not answer to a takeover.
            Unreadable: If the record cannot be read here (`TooNew`: a newer version could).
        """
        is_new = call_id is None
        call_id = secrets.token_urlsafe(24) if call_id is None else call_id
        if not _CALL_ID.fullmatch(call_id):
            raise UnknownCall("The call's id is malformed.")
        record, history_lost = Record(), False
        try:
            if is_new:
                claim = await self.store.claim(call_id, self.keep_seconds, create=True)
            else:
                claim, record, history_lost = await self._take_over(call_id, create=create)
        except StoreUnavailable:
            if not (is_new or create):
                raise
            claim = Claim(fence_without_redis())
        if claim is None:
            raise UnknownCall("No such call is recorded: it is over, or has expired.")
        return CallRecorder(
            call_id,
            claim,
            record,
            report,
            store=self.store,
            codec=self.codec,
            keep_seconds=self.keep_seconds,
            limit=self.limit,
            history_lost=history_lost,
        )

    async def _take_over(self, call_id: str, *, create: bool) -> tuple[Claim | None, Record, bool]:
        """Read a call's record, and then claim the call; returns whether its history is lost too.

        The claim is None if the call is not known.
        """
        for _ in range(_ATTEMPTS):
            current = await self.store.read(call_id)
            if current is None and not create:
                return None, Record(), False
            current = current or Claim(0)
            record, history_lost = Record(), False
            try:
                record = await read_record(self.codec, current.fields, self.limit)
            except Unreadable as e:
                if not create:
                    raise
                history_lost = True
                logger.warning(f"A call begins again, because its history is lost: {e}")
            claim = await self.store.claim(
                call_id,
                self.keep_seconds,
                create=create,
                expected_fence=current.fence,
                reset=history_lost,
            )
            if claim is None or not claim.fence:
                continue  # Another machine has claimed it meanwhile, or it has ended.
            if claim.known and claim.fields != current.fields:  # its owner wrote until the claim
                record = await read_record(self.codec, claim.fields, self.limit)
            return claim, record, history_lost
        raise StoreUnavailable("Other machines take the call over at the same time")
