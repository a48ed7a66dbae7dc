"""What Kubernetes and KubeRay allow in a manifest, strictly: an unknown field is an error.

The models of the Kubernetes client are generated from Kubernetes' own OpenAPI description. The
schema of a RayService is KubeRay's, without its words: `kubernetes/rayservice.json`.
"""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
from kubernetes import client

API_VERSIONS = {
    "Service": ["v1"],
    "Deployment": ["apps/v1"],
    "StatefulSet": ["apps/v1"],
    "NetworkPolicy": ["networking.k8s.io/v1"],
    "PodDisruptionBudget": ["policy/v1"],
}

_RAY_SERVICE = json.loads((Path(__file__).parent / "kubernetes" / "rayservice.json").read_text())


def check_model(name: str, value: object, path: str = "") -> None:
    """Hold a value against a type of the Kubernetes client's: `V1Pod`, `List[str]`, `int` …"""
    path = path or name
    if kind := re.fullmatch(r"List\[(.+)\]", name, re.IGNORECASE):
        assert isinstance(value, list), f"{path}: {value!r} is no list"
        for number, each in enumerate(value):
            check_model(kind[1], each, f"{path}[{number}]")
    elif kind := re.fullmatch(r"Dict\[str, (.+)\]", name, re.IGNORECASE):
        assert isinstance(value, dict), f"{path}: {value!r} is no mapping"
        for key, each in value.items():
            assert isinstance(key, str), f"{path}: {key!r}"
            check_model(kind[1], each, f"{path}.{key}")
    elif name == "object":
        return  # an integer or a text: a port, a number of pods
    elif name in ("str", "int", "bool", "float"):
        assert type(value).__name__ == name, f"{path}: {value!r} is no {name}"
    else:
        assert isinstance(value, dict), f"{path}: {value!r} is no {name}"
        model = getattr(client, name)
        names = {field: python for python, field in model.attribute_map.items()}
        for field, each in value.items():
            assert field in names, f"{path}: {name} has no {field}"
            check_model(model.openapi_types[names[field]], each, f"{path}.{field}")
        # The constructor refuses what lacks a required field.
        model(**{names[field]: each for field, each in value.items()})


def check_ray_service(spec: object) -> None:
    """Hold the `spec` of a RayService against its schema, and the pods in it against theirs."""

    def kubernetes(_validator: Any, model: str, instance: object, _schema: object):
        try:
            check_model(model, instance)
        except (AssertionError, ValueError) as e:
            yield jsonschema.ValidationError(str(e))

    validator = jsonschema.validators.extend(
        jsonschema.Draft202012Validator, {"kubernetes": kubernetes}
    )
    validator(_RAY_SERVICE).validate(spec)
