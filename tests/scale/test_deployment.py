"""What is deployed on Ray Serve: its files, its arguments, its secrets, and what is measured."""

import asyncio
import contextlib
import copy
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from kubernetes_schemas import API_VERSIONS, check_model, check_ray_service
from pipecat.frames.frames import MetricsFrame
from pipecat.metrics.metrics import TTFBMetricsData
from ports import free_port
from ray.serve.schema import ServeDeploySchema
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from scale_redis import RedisServer, redis, slow_redis_is_up
from waiting import until

import mistral_service.scale
from mistral_service.scale import metrics, turn_metrics
from mistral_service.scale.app import app
from mistral_service.scale.args import (
    Args,
    load_bot,
    read_args,
    read_secrets,
    refuse_visible_secrets,
)
from mistral_service.scale.budget import SharedBudget
from mistral_service.scale.replica import Replica
from mistral_service.scale.store import Store
from mistral_service.turn.shared_services import Rank, RequestEstimate

__all__ = ["redis", "slow_redis_is_up"]

DEPLOY = Path(mistral_service.scale.__file__).parent / "deploy"
BOT = str(Path(__file__).parents[2] / "examples" / "many_calls_bot.py")


def kubernetes() -> dict[str, Any]:
    return {d["kind"]: d for d in yaml.safe_load_all((DEPLOY / "kuberay.yaml").read_text())}


def test_the_files_that_ship_are_what_ray_and_the_application_understand():
    service = kubernetes()["RayService"]["spec"]
    for text in ((DEPLOY / "serve.yaml").read_text(), service["serveConfigV2"]):
        schema = ServeDeploySchema.model_validate(yaml.safe_load(text))
        [application] = schema.applications
        assert application.import_path == f"{app.__module__}:{app.__name__}"
        assert read_args(application.args).min_replicas >= 2


MANIFEST = [*yaml.safe_load_all((DEPLOY / "kuberay.yaml").read_text())]


@pytest.mark.parametrize("manifest", MANIFEST, ids=lambda m: f"{m['kind']}/{m['metadata']['name']}")
def test_each_object_is_what_its_schema_allows(manifest: dict[str, Any]):
    if manifest["kind"] == "RayService":
        assert manifest["apiVersion"] == "ray.io/v1"
        check_model("V1ObjectMeta", manifest["metadata"])
        check_ray_service(manifest["spec"])
    else:
        assert manifest["apiVersion"] in API_VERSIONS[manifest["kind"]]
        check_model(f"V1{manifest['kind']}", manifest)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "rayClusterConfig", "authOption"), {}),
        (("spec", "rayClusterConfig", "authOptions", "mode"), "tokens"),
        (("spec", "rayClusterConfig", "headGroupSpec", "template", "spec", "securtyContext"), {}),
        (("spec", "rayClusterConfig", "headGroupSpec", "template", "spec", "containers"), {}),
    ],
)
def test_the_schemas_refuse_what_is_not_allowed(path: tuple[str, ...], value: object):
    service = copy.deepcopy(kubernetes()["RayService"])
    place = service
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises((AssertionError, jsonschema.ValidationError)):
        check_ray_service(service["spec"])


def pods() -> dict[str, dict[str, Any]]:
    """The template of each kind of pod."""
    found = {
        m["metadata"]["name"]: m["spec"]["template"]
        for m in MANIFEST
        if m["kind"] in ("Deployment", "StatefulSet")
    }
    cluster = kubernetes()["RayService"]["spec"]["rayClusterConfig"]
    [workers] = cluster["workerGroupSpecs"]
    return found | {"head": cluster["headGroupSpec"]["template"], "workers": workers["template"]}


@pytest.mark.parametrize(("name", "pod"), pods().items(), ids=pods())
def test_a_pod_may_do_no_more_than_it_must(name: str, pod: dict[str, Any]):
    spec = pod["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    # The head's autoscaler asks Kubernetes for pods; nothing else asks it for anything.
    assert name == "head" or spec["automountServiceAccountToken"] is False
    for container in spec["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} == set(container["resources"]["limits"])
        for variable in container["env"]:
            if re.search("PASSWORD|TOKEN|KEY|URL", variable["name"]):
                assert "secretKeyRef" in variable.get("valueFrom", {}) or (
                    variable["name"].endswith("_FILE")
                )


def test_who_is_not_named_reaches_no_port():
    policies = [m["spec"] for m in MANIFEST if m["kind"] == "NetworkPolicy"]

    def reached_by(labels: dict[str, str]) -> list[tuple[object, object]]:
        """Who reaches which ports of a pod; all reach all where no policy selects it."""
        rules: list[tuple[object, object]] = []
        selecting = [p for p in policies if "Ingress" in p["policyTypes"] and selects(p, labels)]
        assert selecting
        for policy in selecting:
            for rule in policy["ingress"]:
                assert rule["from"]
                rules += [(each, rule.get("ports")) for each in rule["from"]]
        return rules

    def selects(policy: dict[str, Any], labels: dict[str, str]) -> bool:
        selector = policy["podSelector"]
        return all(labels.get(k) == v for k, v in selector.get("matchLabels", {}).items()) and all(
            labels.get(each["key"]) in each["values"]
            for each in selector.get("matchExpressions", [])
        )

    ours = {"podSelector": {"matchLabels": {"app": "mistral-calls"}}}
    for name, pod in pods().items():
        for who, ports in reached_by(pod["metadata"]["labels"]):
            if who == ours:
                continue
            assert "redis" not in name, who
            assert {each["port"] for each in ports or []} <= {8000, 8080, 8265}, who
            if {"port": 8265} in (ports or []):
                selector = who["podSelector"]["matchLabels"]
                assert selector == {"app.kubernetes.io/name": "kuberay-operator"}


@pytest.fixture
def shipped_redis(tmp_path: Path) -> Iterator[str]:
    """The Redis of the manifest, as its command starts it: its address, without user."""
    [pod] = [m for m in MANIFEST if m["kind"] == "Deployment"]
    [container] = pod["spec"]["template"]["spec"]["containers"]
    assert "volumeMounts" not in container
    *shell, command = container["command"]
    port = free_port()
    command = command.replace("--dir /tmp", f"--dir {tmp_path}")
    process = subprocess.Popen(
        [*shell, f"{command} --port {port} --bind 127.0.0.1"],
        env={**os.environ, "REDIS_PASSWORD": "a-password"},
        stdout=subprocess.DEVNULL,
    )
    try:
        yield f"127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(60)
    assert list(tmp_path.iterdir()) == []  # what callers said is on no disk


@pytest.mark.usefixtures("slow_redis_is_up")
async def test_the_redis_of_the_manifest_serves_calls_and_little_else(shipped_redis: str):
    url = f"redis://calls:a-password@{shipped_redis}"
    client, stranger = Redis.from_url(url), Redis.from_url(f"redis://{shipped_redis}")
    budget, store = SharedBudget(url), Store(url, timeout=10)
    for _ in range(200):
        with contextlib.suppress(RedisError):
            if await client.ping():
                break
        await asyncio.sleep(0.05)
    taken = await store.claim("a call", 60.0, create=True)
    assert taken is not None
    await store.write("a call", taken.fence, {"snapshot": b"4111 1111 1111 1111"}, 60.0)
    await store.delete("a call", taken.fence, 60.0)
    await budget.acquire(RequestEstimate("an account", "a model", 10, Rank.TURN))
    assert not budget.stats.local
    for forbidden in ("CONFIG GET save", "SAVE", "BGSAVE", "FLUSHALL", "KEYS *", "MODULE LIST"):
        with pytest.raises(NoPermissionError):
            await client.execute_command(*forbidden.split())
    with pytest.raises(AuthenticationError):
        await stranger.ping()
    await asyncio.gather(budget.close(), store.close(), client.aclose(), stranger.aclose())


def test_a_pod_has_the_time_that_its_calls_have():
    service = kubernetes()["RayService"]["spec"]
    args = yaml.safe_load(service["serveConfigV2"])["applications"][0]["args"]
    [group] = service["rayClusterConfig"]["workerGroupSpecs"]
    pod = group["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > args["drain_seconds"]
    assert service["rayClusterDeletionDelaySeconds"] > args["drain_seconds"]
    [container] = pod["containers"]
    proxy = {each["name"]: each["value"] for each in container["env"]}
    assert int(proxy["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"]) > args["drain_seconds"]
    mounted = [volume["secret"]["secretName"] for volume in pod["volumes"]]
    assert mounted == ["mistral-calls", "mistral-calls-url"]


def test_every_figure_of_the_dashboard_is_measured_and_every_measure_is_shown():
    panels = json.loads((DEPLOY / "grafana.json").read_text())["panels"]
    shown = {
        name.removesuffix("_bucket")
        for panel in panels
        for target in panel["targets"]
        for name in re.findall(r"ray_\w+", target["expr"])
    }
    suffixes = {"counter": "_total"}
    assert shown == {f"ray_{each.name}{suffixes.get(each.kind, '')}" for each in metrics.METRICS}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "args: bot is missing"),
        ({"bot": "a:b", "calls": 3}, "args: there is no calls: allowed are bot, calls_per_replica"),
        ({"bot": "a:b", "calls_per_replica": 0}, "args: calls_per_replica is 0: input should be"),
        ({"bot": "a:b", "min_replicas": 5, "max_replicas": 4}, "max_replicas is 4: allowed is"),
        ({"bot": "a:b", "api_key": "sk-very-secret"}, "args: api_key looks like a secret"),
        ({"bot": "a:b", "redis_url": "redis://:very-secret@x"}, "redis_url looks like a secret"),
    ],
)
def test_what_is_wrong_with_the_arguments_is_said(given: dict[str, Any], sentence: str):
    with pytest.raises(ValueError, match=re.escape(sentence)) as told:
        read_args(given)
    assert "very-secret" not in str(told.value)


def test_a_key_where_everybody_could_read_it_is_refused():
    with pytest.raises(ValueError, match=r"env_vars has MISTRAL_API_KEY, which") as told:
        refuse_visible_secrets({"env_vars": {"MISTRAL_API_KEY": "very-secret"}})
    assert "very-secret" not in str(told.value)
    refuse_visible_secrets({"env_vars": {"MISTRAL_API_KEY_FILE": "/secrets/key"}})


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("MISTRAL_SERVICE_KEEP_KEY", "MISTRAL_SERVICE_KEEP_KEY_FILE"),
        ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"),
    ],
)
def test_each_secret_where_everybody_could_read_it_is_refused(name: str, file: str):
    with pytest.raises(ValueError, match=rf"env_vars has {name}, .* in {file}") as told:
        refuse_visible_secrets({"env_vars": {name: "very-secret"}})
    assert "very-secret" not in str(told.value)


def test_secrets_come_from_mounted_files(tmp_path: Path):
    (tmp_path / "key").write_text("from a file\n")
    found = {
        "MISTRAL_API_KEY_FILE": str(tmp_path / "key"),
        "REDIS_URL": "set",
        "REDIS_URL_FILE": "-",
    }
    read_secrets(found)
    assert found["MISTRAL_API_KEY"] == "from a file"
    assert found["REDIS_URL"] == "set"
    with pytest.raises(ValueError, match=r"none cannot be read"):
        read_secrets({"REDIS_URL_FILE": str(tmp_path / "none")})


@pytest.mark.parametrize("name", ["no.such.module:bot", "json:bot", "/no/such/bot.py"])
def test_a_bot_that_is_not_there_is_named(name: str):
    with pytest.raises(ValueError, match=re.escape(f"args: bot is '{name}'")):
        load_bot(name)
    assert load_bot(BOT).bot


async def test_a_loop_that_was_stuck_is_not_healthy():
    replica = Replica(Args(bot="a:b"))
    await replica.check_health()
    replica._lag = 9.0
    with pytest.raises(RuntimeError, match=r"stuck for 9\.0 s"):
        await replica.check_health()


async def test_a_replica_that_took_long_to_be_ready_is_healthy(serve, tmp_path, monkeypatch):
    serve()
    monkeypatch.setenv("PIPECAT_SETUP_FILES", "")
    monkeypatch.setattr("mistral_service.scale.replica.STUCK_S", 0.2)
    monkeypatch.setattr("mistral_service.scale.replica._WATCH_S", 0.05)
    slow = tmp_path / "slow_bot.py"
    slow.write_text(
        "import asyncio\n"
        "async def warm_up(): await asyncio.sleep(1.0)\n"
        "async def bot(runner_args): pass\n"
    )
    replica = Replica(Args(bot=str(slow)))
    await replica.start()
    await replica.check_health()
    await replica.close()


@pytest.mark.usefixtures("slow_redis_is_up")
async def test_a_replica_that_ends_lets_go_of_redis(redis: RedisServer, serve, monkeypatch):
    serve()  # the environment leads there
    monkeypatch.setenv("PIPECAT_SETUP_FILES", "")
    monkeypatch.setenv("REDIS_URL", redis.url)
    replica, other = Replica(Args(bot=BOT)), SharedBudget(redis.url)
    await replica.start()
    assert replica.calls is not None
    ask = RequestEstimate("an account", "a model", 10, Rank.TURN)
    for rate_limiter in (other, replica.calls.rate_limiter):
        assert rate_limiter is not None
        await rate_limiter.acquire(ask)
    await until(lambda: other.stats.processes == 2)
    connections = Redis.from_url(redis.url)
    await replica.close()
    assert await connections.zcard("mistral-budget:alive") == 1
    await other.close()
    assert await connections.zcard("mistral-budget:alive") == 0
    await connections.aclose()


def test_what_is_not_measured_costs_nothing_and_what_is_arrives(monkeypatch: pytest.MonkeyPatch):
    seen: list[float] = []
    frame = MetricsFrame(
        data=[
            TTFBMetricsData(processor="MistralLLMService#0", value=0.0),
            TTFBMetricsData(processor="MistralLLMService#0", value=0.4),
            TTFBMetricsData(processor="MistralTTSService#0", value=0.7),
        ]
    )
    turn_metrics.record(frame)  # nothing measures
    monkeypatch.setattr(metrics.FIRST_WORD, "_record", lambda value, tags: seen.append(value))
    turn_metrics.record(frame)
    assert seen == [0.4]
