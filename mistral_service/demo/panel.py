"""The page's panel in the pipeline: it breaks a call, changes it, and reports about it.

Pipecat loads this file into every pipeline (`PIPECAT_SETUP_FILES` names it), so that any bot has
the panel without a line of its own. The page asks with RTVI's `client-message`; what happens comes
as `server-message`.
"""

import asyncio
import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from typing import Any, cast

import aiohttp
from loguru import logger
from pipecat.frames.frames import InterruptionFrame, LLMUpdateSettingsFrame
from pipecat.frames.frames import ManuallySwitchServiceFrame as SwitchFrame
from pipecat.pipeline.llm_switcher import LLMSwitcher
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.llm_service import LLMService

from mistral_service import MistralLLMService
from mistral_service.demo.changes import FIELDS, Refused, delta_of, shown
from mistral_service.demo.report import bug_report, versions
from mistral_service.demo.secrets import without_secrets
from mistral_service.demo.story import FAULTS, Story
from mistral_service.demo.watch import OURS, THEIRS, CallWatch, Service, name_of

FAULTS_URL = "MISTRAL_DEMO_FAULTS"
"""The variable with the address at which the local endpoint takes faults; none with Mistral's."""
ENGINE = "MISTRAL_DEMO_ENGINE"
"""The variable with what answers, in one line."""

NO_FAULTS = (
    "Faults are injected by the endpoint of the offline demo: start the demo without "
    "MISTRAL_API_KEY, or with --model."
)
DOWN = "The endpoint is down just now: try again in a few seconds."
_SWITCHES_WITHIN_S = 5.0
SETTLES_WITHIN_S = 90.0
"""Seconds that a running reply may take until changed settings are taken over."""


class Panel:
    """The panel of one call, on the endpoint that the environment names."""

    def __init__(self, worker: PipelineWorker) -> None:
        self._worker = worker
        self._faults_url = os.environ.get(FAULTS_URL)
        self._call = uuid.uuid4().hex
        self._following: asyncio.Task[None] | None = None
        self.watch = CallWatch(self._send, self._stop_following)
        self._switcher = next(_of(LLMSwitcher, worker.pipeline), None)
        self._services: list[Service] = list(_of(LLMService, worker.pipeline))
        for service in self._services:
            if isinstance(service, MistralLLMService):
                cast(Any, service).add_event_handler(
                    "on_fault_handled", self.watch.on_fault_handled
                )

    @property
    def service(self) -> Service:
        """The service that answers now.

        Raises:
            Refused: If the bot has none.
        """
        if self._switcher is not None:
            return cast(Service, self._switcher.strategy.active_service)
        if not self._services:
            raise Refused("This bot has no language model of Pipecat's kind.")
        return self._services[0]

    async def name_the_call(self, *_: Any) -> None:
        """Have each request name its call, so that a fault meets this one alone."""
        if self._faults_url is None:
            return
        name = {"call": self._call}
        for service in self._services:
            ours = isinstance(service, MistralLLMService)
            fields: dict[str, Any] = {"metadata": name} if ours else {"extra": {"metadata": name}}
            delta = type(service.settings)(**fields)
            frame = LLMUpdateSettingsFrame(delta=cast(Any, delta), service=service)
            await self._worker.queue_frame(frame)

    async def answer(self, kind: str, data: Any) -> dict[str, Any]:
        """Do what the page asks for.

        Raises:
            Refused: If it cannot be done.
        """
        given = cast("dict[str, Any]", data) if isinstance(data, dict) else {}
        match kind:
            case "panel":
                return self._state()
            case "break":
                return await self._break(given.get("kind"))
            case "settings":
                return await self._change(given)
            case "service":
                return await self._switch(pipecat=given.get("pipecat") is True)
            case "report":
                return {"text": self._report()}
            case _:
                raise Refused(f"The panel knows no {kind[:40]!r}.")

    async def close(self, *_: Any) -> None:
        """End with the call: a fault that still waits is dropped."""
        self._stop_following()
        if self._following is not None:
            await asyncio.gather(self._following, return_exceptions=True)

    def _state(self) -> dict[str, Any]:
        settings = self.service.settings
        known = {name: shown(getattr(settings, name, None)) for name in FIELDS}
        return {
            "faults": self._faults_url is not None,
            "why": "" if self._faults_url else NO_FAULTS,
            "switch": {name_of(s) for s in self._services} == {OURS, THEIRS},
            "service": name_of(self.service),
            "settings": known,
        }

    async def _break(self, kind: Any) -> dict[str, Any]:
        if self._faults_url is None:
            raise Refused(NO_FAULTS)
        if not isinstance(kind, str) or kind not in FAULTS:
            raise Refused(f"There is no such fault: it is one of {', '.join(FAULTS)}.")
        if self.watch.story and not self.watch.story.is_over:
            raise Refused("The last fault is still under way: speak, and it goes on.")
        # It begins now: a reply may meet the fault before the endpoint's answer is here.
        number = len(self.watch.stories) + 1
        story = Story(number, kind, name_of(self.service), before=self.watch.said)
        self.watch.stories.append(story)
        session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {os.environ.get('MISTRAL_API_KEY', '')}"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=2),
        )
        try:
            asked = {"kind": kind, "call": self._call}
            response = await session.post(self._faults_url, json=asked)
            if response.status != 200:
                raise Refused((await response.json())["detail"])
        except BaseException as e:
            self.watch.stories.remove(story)
            await session.close()
            if isinstance(e, aiohttp.ClientError):
                raise Refused(DOWN) from e
            raise
        self._following = asyncio.create_task(self._follow(story, session, response))
        if kind == "down":
            await asyncio.wait({self._following}, timeout=2)  # its report ends as the port closes
        return {"number": story.number}

    async def _follow(
        self, story: Story, session: aiohttp.ClientSession, response: aiohttp.ClientResponse
    ) -> None:
        """Take down what the endpoint reports of a fault, until it is over."""
        async with session:
            with contextlib.suppress(aiohttp.ClientError):
                async for line in response.content:
                    event = json.loads(line)
                    if event["event"] == "struck":
                        story.struck(event["at"], event["words"])
                    elif event["event"] == "request":
                        story.request(event["at"], str(event["model"]))
                    await self.watch.send_story()
        story.dropped("dropped, for nothing was asked in two minutes")
        await self.watch.send_story()

    async def _change(self, sent: dict[str, Any]) -> dict[str, Any]:
        service = self.service
        delta = delta_of(sent, cast(Any, service.settings))
        wanted = delta.given_fields()
        self.watch.refusal, self.watch.awaits_settings = None, True
        await self._worker.queue_frame(LLMUpdateSettingsFrame(delta=delta, service=service))
        try:
            async with asyncio.timeout(SETTLES_WITHIN_S):
                while any(getattr(service.settings, n) != v for n, v in wanted.items()):
                    if self.watch.refusal is not None:
                        raise Refused(self.watch.refusal)
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise Refused("The settings wait for the running reply to end.") from None
        finally:
            self.watch.awaits_settings = False
        return {"changed": sorted(wanted), **self._state()}

    async def _switch(self, *, pipecat: bool) -> dict[str, Any]:
        wanted = THEIRS if pipecat else OURS
        service = next((s for s in self._services if name_of(s) == wanted), None)
        if service is None or self._switcher is None:
            raise Refused("This bot has one service: there is nothing to switch to.")
        # One that is switched away from hears no interruption any more.
        await self._worker.queue_frame(InterruptionFrame())
        if not service.is_usable:
            await service.set_usable(True)
        await self._worker.queue_frame(SwitchFrame(service=service))
        try:
            async with asyncio.timeout(_SWITCHES_WITHIN_S):
                while self.service is not service:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)  # nothing reports that this frame has been handled
        except TimeoutError:
            raise Refused("The call could not be given to the other service: try again.") from None
        return self._state()

    def _report(self) -> str:
        settings = {name_of(s): repr(s.settings) for s in self._services}
        report = bug_report(
            engine=os.environ.get(ENGINE, ""),
            installed=versions(),
            settings=settings,
            faults=[f"{story.service}: {story.headline}" for story in self.watch.stories],
            turns=self.watch.turns,
        )
        return without_secrets(report)

    async def _send(self, message: dict[str, Any]) -> None:
        await self._worker.rtvi.send_server_message(message)

    def _stop_following(self) -> None:
        if self._following is not None:
            self._following.cancel()


def _of(kind: type[Any], processor: FrameProcessor) -> Iterator[Any]:
    """The processors of a kind in a pipeline."""
    if isinstance(processor, kind):
        yield processor
    for inner in processor.processors:
        yield from _of(kind, inner)


async def setup_pipeline_worker(worker: PipelineWorker) -> None:
    """Pipecat's hook: attach a panel to the call."""
    panel = Panel(worker)
    worker.add_observer(panel.watch)
    events = cast(Any, worker)
    events.add_event_handler("on_pipeline_started", panel.name_the_call)
    events.add_event_handler("on_pipeline_finished", panel.close)

    @worker.rtvi.event_handler("on_client_message")
    async def on_client_message(rtvi: Any, message: Any) -> None:
        try:
            answer = await panel.answer(message.type, message.data)
        except Refused as e:
            await rtvi.send_error_response(message, str(e))
        except Exception as e:
            logger.error(f"The panel failed ({type(e).__name__}: {e})")
            await rtvi.send_error_response(message, f"The panel failed ({type(e).__name__}).")
        else:
            await rtvi.send_server_response(message, answer)
