"""The application for Ray Serve: one replica is one process that holds many calls.

    serve run mistral_service.scale.app:app bot=my_bots:bot

Deployed with a file: `deploy/serve.yaml` beside this module, `deploy/kuberay.yaml` on Kubernetes.
"""

from typing import Any, cast

from fastapi import FastAPI
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig

from mistral_service.scale import metrics
from mistral_service.scale.args import Args, read_args, refuse_visible_secrets
from mistral_service.scale.replica import Replica

SPARE_REQUESTS = 16
"""Requests in addition to the calls: for the page and the status, and of callers who are refused
with a sentence because the replica is full."""
TARGET_LOAD = 0.6
"""The part of its calls that a replica has on average: the rest is for the calls of a dead node."""

_deployment, _ingress = cast(Any, serve).deployment, cast(Any, serve).ingress  # half typed


def ingress() -> FastAPI:
    """The ASGI application of this process; Ray calls this after the deployment's constructor."""
    if Replica.current is None or Replica.current.app is None:
        raise RuntimeError("The application was requested before the replica was ready.")
    return Replica.current.app


@_deployment(name="calls")
@_ingress(ingress)
class Deployment:
    """What Ray Serve runs in each replica."""

    async def __init__(self, args: Args) -> None:
        """Get ready for calls: Ray waits for this."""
        metrics.use_ray()
        self._replica = Replica(args)
        await self._replica.start()

    async def check_health(self) -> None:
        """Ray's health check. It runs on the event loop of the calls: a stuck one is late."""
        await self._replica.check_health()

    async def __del__(self) -> None:
        """Ray calls and awaits this when all requests have ended."""
        await self._replica.close()


def app(args: dict[str, Any]) -> serve.Application:
    """The application, for `import_path: mistral_service.scale.app:app`, with `Args` as a mapping.

    Raises:
        ValueError: If an argument is not valid.
    """
    import ray

    given = read_args(args)
    refuse_visible_secrets(ray.get_runtime_context().runtime_env if ray.is_initialized() else {})
    deployment = Deployment.options(
        max_ongoing_requests=given.calls_per_replica + SPARE_REQUESTS,
        # A caller for whom no replica has capacity is refused at once, not queued in silence.
        max_queued_requests=SPARE_REQUESTS,
        backpressure_config=BackpressureConfig(retry_after_s=2),
        autoscaling_config=AutoscalingConfig(
            min_replicas=given.min_replicas,
            max_replicas=given.max_replicas,
            target_ongoing_requests=max(1.0, given.calls_per_replica * TARGET_LOAD),
            upscale_delay_s=5,  # a replica starts in ten seconds
            downscale_delay_s=600,  # calls are long, and a replica that ends has to drain
            metrics_interval_s=2,
            look_back_period_s=10,
        ),
        graceful_shutdown_timeout_s=given.drain_seconds,
        graceful_shutdown_wait_loop_s=2,
        health_check_period_s=2,
        health_check_timeout_s=4,
        ray_actor_options={
            "num_cpus": given.cpus,
            # Before loguru loads: no log of Pipecat's or the bot's has the values of variables.
            "runtime_env": {"env_vars": {"LOGURU_DIAGNOSE": "NO"}},
        },
    )
    return deployment.bind(given)
