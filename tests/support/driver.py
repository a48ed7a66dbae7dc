"""What is done to the cluster from outside, as an operator would: a process for each command."""

import ast
import shlex
import subprocess
import sys
import time

import ray
from cluster import ROOT
from ray import serve


def nodes(count: int | str) -> None:
    """Wait until so many nodes are there, no more and no less."""
    until = time.monotonic() + 180
    while sum(node["Alive"] for node in ray.nodes()) != int(count):
        assert time.monotonic() < until, f"{count} nodes were not there in 180 s: {ray.nodes()}"
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


def drain(command: str) -> None:
    """Run `ray drain-node`, of the second node."""
    node = next(
        node["NodeID"]
        for node in ray.nodes()
        if node["Alive"] and "node:__internal_head__" not in node["Resources"]
    )
    here = ["--address", ray.get_runtime_context().gcs_address, "--node-id", node]
    subprocess.run([*shlex.split(command), *here], check=True)


def running(count: str) -> None:
    """Wait until so many replicas take calls."""
    until = time.monotonic() + 180
    while True:
        states = serve.status().applications["calls"].deployments["calls"].replica_states
        if states.get("RUNNING") == int(count):
            return
        assert time.monotonic() < until, f"no {count} replicas in 180 s: {states}"
        time.sleep(0.5)


def delete() -> None:
    """End the calls, and all replicas."""
    serve.delete("calls")


def status() -> None:
    """Print what Serve tells of itself, for whoever looks for secrets in it."""
    client = serve.context._get_global_client()
    print(client.get_serve_details())


if __name__ == "__main__":
    address, command, *arguments = sys.argv[1:]
    ray.init(address=address, logging_level="warning", log_to_driver=False)
    globals()[command](*arguments)
