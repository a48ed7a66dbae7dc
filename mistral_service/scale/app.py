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

SPARE = 16
"""Requests beyond the calls: those that ask for the page or the state, and callers who are told in
words that all lines are taken."""
FREE_PART = 0.6
"""The part of its calls that a replica is meant to have: the rest can take a dead node's."""

_deployment, _ingress = cast(Any, serve).deployment, cast(Any, serve).ingress  # half typed


def door() -> FastAPI:
    """The door of this process; Ray asks for it once the deployment's constructor has run."""
    if Replica.here is None or Replica.here.app is None:
        raise RuntimeError("The door was asked for before the replica was ready.")
    return Replica.here.app


@_deployment(name="calls")
@_ingress(door)
class Deployment:
    """What Ray Serve runs in each replica."""

    async def __init__(self, args: Args) -> None:
        """Take calls once all is ready: Ray waits for this.

        Args:
            args: What the deployment was told.
        """
        metrics.use_ray()
        self._replica = Replica(args)
        await self._replica.ready()

    async def check_health(self) -> None:
        """Ray's question, answered on the event loop that calls run on: a stuck one is late."""
        await self._replica.healthy()

    async def __del__(self) -> None:
        """Ray's word that all requests have ended; it awaits this."""
        await self._replica.close()


def app(args: dict[str, Any]) -> serve.Application:
    """The application, for `import_path: mistral_service.scale.app:app`.

    Args:
        args: See `Args`.

    Raises:
        ValueError: If something of them is wrong.
    """
    import ray

    told = read_args(args)
    refuse_visible_secrets(ray.get_runtime_context().runtime_env if ray.is_initialized() else {})
    deployment = Deployment.options(
        max_ongoing_requests=told.calls_per_replica + SPARE,
        # Whom no replica has room for hears so at once, and not silence in a queue.
        max_queued_requests=SPARE,
        backpressure_config=BackpressureConfig(retry_after_s=2),
        autoscaling_config=AutoscalingConfig(
            min_replicas=told.min_replicas,
            max_replicas=told.max_replicas,
            target_ongoing_requests=max(1.0, told.calls_per_replica * FREE_PART),
            upscale_delay_s=5,  # a replica is ready after some ten seconds more
            downscale_delay_s=600,  # calls are long; what goes must drain
            metrics_interval_s=2,
            look_back_period_s=10,
        ),
        graceful_shutdown_timeout_s=told.drain_seconds,
        graceful_shutdown_wait_loop_s=2,
        health_check_period_s=2,
        health_check_timeout_s=4,
        ray_actor_options={
            "num_cpus": told.cpus,
            # Before loguru loads: no sink of Pipecat's or the bot's prints the values of variables.
            "runtime_env": {"env_vars": {"LOGURU_DIAGNOSE": "NO"}},
        },
    )
    return deployment.bind(told)
