"""OpenTelemetry: a span and the metrics of each turn, on the console.

With a key::

    export MISTRAL_API_KEY=...
    python examples/observability.py

Offline, with a script instead of Mistral that is overloaded once and breaks off once::

    python examples/observability.py --offline

In production, give `setup_tracing` the exporter of your collector (OTLP, Langfuse, …), and the
meter provider a reader that sends to it.
"""

import argparse
import asyncio
import contextlib
import json
import os

from loguru import logger
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import ConsoleSpanExporter
from pipecat.frames.frames import (
    EndFrame,
    Frame,
    LLMFullResponseEndFrame,
    LLMMessagesAppendFrame,
    MetricsFrame,
)
from pipecat.metrics.metrics import LLMUsageMetricsData, TTFBMetricsData
from pipecat.observers.base_observer import BaseObserver, FramePushed
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.utils.tracing.setup import setup_tracing
from pipecat.workers.runner import WorkerRunner

from mistral_service import MistralLLMService, MistralTurnMetrics
from mistral_service.turn.prices import PRICES

TURNS = ["Good morning.", "Count to five.", "Be brief from now on.", "How are you?"]


class Meters(BaseObserver):
    """The metrics of a service, under the names of OpenTelemetry's GenAI conventions."""

    def __init__(self, service: MistralLLMService) -> None:
        super().__init__()
        self._service = service
        meter = metrics.get_meter("pipecat")
        self._tokens = meter.create_histogram("gen_ai.client.token.usage", "{token}")
        self._first = meter.create_histogram("gen_ai.server.time_to_first_token", "s")
        self._attempts = meter.create_histogram("mistral.attempts", "{request}")
        self._faults = meter.create_counter("mistral.faults", "{fault}")
        self._cost = meter.create_counter("mistral.cost", "{USD}")

    async def on_push_frame(self, data: FramePushed) -> None:
        """Record metrics once, at the service: each later processor pushes the frame again."""
        if data.source is not self._service or not isinstance(data.frame, MetricsFrame):
            return
        for measured in data.frame.data:
            if not measured.model:
                continue  # Pipecat sends a first metric of zero for every service
            model = {"gen_ai.request.model": measured.model}
            match measured:
                case TTFBMetricsData():
                    self._first.record(measured.value, model)
                case LLMUsageMetricsData():
                    used = measured.value
                    for kind, count in (
                        ("input", used.prompt_tokens),
                        ("output", used.completion_tokens),
                    ):
                        self._tokens.record(count, {**model, "gen_ai.token.type": kind})
                case MistralTurnMetrics():
                    self._attempts.record(measured.attempts, model)
                    self._faults.add(measured.faults, model)
                    self._cost.add(measured.cost or 0, model)


class Ended(FrameProcessor):
    """Sets an event when a reply ends."""

    def __init__(self) -> None:
        super().__init__()
        self.event = asyncio.Event()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Pass every frame on."""
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMFullResponseEndFrame):
            self.event.set()
        await self.push_frame(frame, direction)


async def converse(*, offline: bool) -> None:
    """Run the conversation, with tracing and metrics."""
    # A script has one reply to each request: a hedge would take the next one.
    settings = MistralLLMService.Settings(hedging=not offline)
    llm = MistralLLMService(prices=PRICES, settings=settings)
    user, assistant = LLMContextAggregatorPair(LLMContext())
    ended = Ended()
    worker = PipelineWorker(
        Pipeline([user, llm, ended, assistant]),
        params=PipelineParams(enable_metrics=True, enable_usage_metrics=True),
        enable_tracing=True,
        enable_turn_tracking=True,
        enable_rtvi=False,
        conversation_id="example",
        observers=[Meters(llm)],
    )
    runner = WorkerRunner()
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    for question in TURNS:
        # A developer message may come at any place; the message rules convert it for Mistral.
        role = "developer" if "from now on" in question else "user"
        ended.event.clear()
        message = {"role": role, "content": question}
        await worker.queue_frame(LLMMessagesAppendFrame([message], run_llm=True))
        await ended.event.wait()
    await worker.queue_frame(EndFrame())
    await running


def one_line(span: ReadableSpan) -> str:
    """A span on one line, and its faults on others."""
    attributes = dict(span.attributes or {})
    seconds = ((span.end_time or 0) - (span.start_time or 0)) / 1e9
    ours = ("mistral.", "gen_ai.usage.", "metrics.", "output")
    shown = {
        name: value for name, value in attributes.items() if name.startswith(ours) and value != 0
    }
    faults = [f"    ! {dict(event.attributes or {})}\n" for event in span.events]
    return f"{span.name} {seconds:.2f} s {json.dumps(shown)}\n{''.join(faults)}"


def lines(data: MetricsData) -> str:
    """All metrics, one a line."""
    return "".join(
        f"{metric.name} {dict(point.attributes or {})}: "
        f"{round(getattr(point, 'sum', getattr(point, 'value', 0)), 6)}\n"
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--offline", action="store_true", help="needs no key and no network")
    offline = parser.parse_args().offline
    logger.remove()
    setup_tracing("mistral-bot", exporter=ConsoleSpanExporter(formatter=one_line))
    reader = PeriodicExportingMetricReader(ConsoleMetricExporter(formatter=lines))
    meters = MeterProvider([reader])
    metrics.set_meter_provider(meters)
    with contextlib.ExitStack() as stack:
        if offline:
            from mistral_service.local import LocalMistral, Reply, Script

            full = {"message": "Service tier capacity exceeded for this model"}
            script = Script(
                Reply(status=503, body=full, headers={"mistral-correlation-id": "0123abcd"}),
                Reply("Good morning to you."),
                Reply("One, two, three, four, five.", cut_after=3),
                Reply("One, two, three, four, five."),
                Reply("As you wish."),
                Reply("Well."),
            )
            mistral = stack.enter_context(LocalMistral(script))
            os.environ["MISTRAL_BASE_URL"] = mistral.base_url
            os.environ["MISTRAL_API_KEY"] = "any"
        asyncio.run(converse(offline=offline))
        meters.shutdown()


if __name__ == "__main__":
    main()
