"""What is done to the cluster from outside, as an operator would: a process for each command."""

import ast
import sys
import time

import ray
from cluster import HEAD_PORT, ROOT
from ray import serve


def nodes(count: int) -> None:
    """Wait until so many nodes are there."""
    until = time.monotonic() + 60
    while sum(node["Alive"] for node in ray.nodes()) < count:
        assert time.monotonic() < until, f"{count} nodes were not there in a minute: {ray.nodes()}"
        time.sleep(0.2)


def deploy(port: str, options: str) -> None:
    """Deploy the calls, or another version of them."""
    from mistral_service.scale.app import app

    chosen = ast.literal_eval(options)
    if replicas := chosen.pop("replicas", None):
        chosen |= {"min_replicas": replicas, "max_replicas": replicas}
    nodes(chosen.pop("nodes", 2))
    serve.start(
        http_options={"host": "127.0.0.1", "port": int(port), "location": "EveryNode"},
    )
    chosen = {"bot": str(ROOT / "examples" / "many_calls_bot.py"), **chosen}
    serve.run(app(chosen), name="calls", route_prefix="/")
    print("deployed")


def delete() -> None:
    """End the calls, and all replicas."""
    serve.delete("calls")


def status() -> None:
    """Print what Serve tells of itself, for whoever looks for secrets in it."""
    client = serve.context._get_global_client()
    print(client.get_serve_details())


if __name__ == "__main__":
    ray.init(address=f"127.0.0.1:{HEAD_PORT}", logging_level="warning", log_to_driver=False)
    globals()[sys.argv[1]](*sys.argv[2:])
