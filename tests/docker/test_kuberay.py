"""The manifests for Kubernetes: its own kinds by their schemas, those of KubeRay by their fields.

No cluster is needed: what KubeRay's operator makes of them is not tested here.
"""

import shlex
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "docker" / "kuberay"
# The fields that the manifests use, with their types in version 1.5 of ray.io/v1: a map is an
# object, a list of one map an array of objects, `POD` a template of pods.
POD = "pod template"
CLUSTER: dict[str, Any] = {
    "rayVersion": str,
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": {"idleTimeoutSeconds": int, "securityContext": dict},
    "authOptions": {"mode": str},
    "headGroupSpec": {"rayStartParams": dict, "template": POD},
    "workerGroupSpecs": [
        {
            "groupName": str,
            "replicas": int,
            "minReplicas": int,
            "maxReplicas": int,
            "rayStartParams": dict,
            "template": POD,
        }
    ],
}
JOB: dict[str, Any] = {
    "entrypoint": str,
    "backoffLimit": int,
    "shutdownAfterJobFinishes": bool,
    "ttlSecondsAfterFinished": int,
    "rayClusterSpec": CLUSTER,
}
KNOWN = {"RayCluster": CLUSTER, "RayJob": JOB}


def read_all() -> list[dict[str, Any]]:
    """Return the objects of all manifests."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.yaml"))]
    return [one for text in texts for one in yaml.safe_load_all(text)]


OBJECTS = read_all()
RAY = {one["kind"]: one["spec"] for one in OBJECTS if one["apiVersion"] == "ray.io/v1"}
SPECS = {"RayCluster": RAY["RayCluster"], "RayJob": RAY["RayJob"]["rayClusterSpec"]}


def name_of(one: dict[str, Any]) -> str:
    return f"{one['kind']} {one['metadata']['name']}"


def list_groups(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def list_templates() -> list[dict[str, Any]]:
    """Return every template of pods."""
    groups = [group for spec in SPECS.values() for group in list_groups(spec)]
    sets = [one["spec"] for one in OBJECTS if one["kind"] == "StatefulSet"]
    return [one["template"] for one in [*groups, *sets]]


def find_strange(value: Any, known: Any, place: str = "spec") -> Iterator[str]:
    """Yield where ``value`` has a field or a type that is not ``known``."""
    if isinstance(known, dict) and isinstance(value, dict):
        for key, inner in value.items():
            if key in known:
                yield from find_strange(inner, known[key], f"{place}.{key}")
            else:
                yield f"{place}.{key}"
    elif isinstance(known, list) and isinstance(value, list):
        for inner in value:
            yield from find_strange(inner, known[0], place)
    elif known == POD:
        yield from sorted({*value} - {"metadata", "spec"})
    elif known is dict:
        if not all(isinstance(key, str) for key in value):
            yield place
    elif type(value) is not known:
        yield place


@pytest.mark.parametrize("kind", KNOWN)
def test_kuberay_knows_every_field(kind: str) -> None:
    assert [*find_strange(RAY[kind], KNOWN[kind])] == []


@pytest.mark.parametrize("place", ["", "rayClusterSpec", "rayClusterSpec.headGroupSpec"])
def test_a_field_that_is_unknown_is_found(place: str) -> None:
    spec = deepcopy(RAY["RayJob"])
    inner = spec
    for key in filter(None, place.split(".")):
        inner = inner[key]
    inner["numCpus"] = 0

    assert [*find_strange(spec, JOB)] == [".".join(filter(None, ("spec", place, "numCpus")))]


def test_parameters_of_ray_start_are_text() -> None:
    groups = [group for spec in SPECS.values() for group in list_groups(spec)]

    assert all(type(one) is str for group in groups for one in group["rayStartParams"].values())


@pytest.mark.parametrize(
    "one", OBJECTS, ids=lambda one: f"{one['kind']} {one['metadata']['name']}"
)
def test_kubernetes_knows_what_is_its_own(one: dict[str, Any]) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate", reason="wants the extra dev")
    if one["apiVersion"] != "ray.io/v1":
        kubernetes.validate(one, kubernetes.latest_version(), strict=True)
        return
    cluster = SPECS[one["kind"]]
    for group in list_groups(cluster):
        template = group["template"]
        metadata = {"name": "any", **template.get("metadata", {})}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        kubernetes.validate(pod, kubernetes.latest_version(), strict=True)


def test_a_job_has_the_cluster_that_is_offered_alone() -> None:
    assert SPECS["RayJob"] == SPECS["RayCluster"]


def test_the_cluster_asks_for_a_token_and_grows_from_nothing() -> None:
    spec = SPECS["RayCluster"]

    assert spec["authOptions"] == {"mode": "token"}
    assert tuple(map(int, spec["rayVersion"].split("."))) >= (2, 52, 0)  # Tokens came with it.
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in spec["workerGroupSpecs"]:
        assert 0 == group["minReplicas"] <= group["replicas"] < group["maxReplicas"]


def test_a_job_that_ends_early_is_begun_again() -> None:
    assert RAY["RayJob"]["backoffLimit"] > 0
    assert RAY["RayJob"]["shutdownAfterJobFinishes"] is True


def test_the_search_asks_for_as_many_workers_as_there_may_be() -> None:
    words = shlex.split(RAY["RayJob"]["entrypoint"])
    most = sum(group["maxReplicas"] for group in SPECS["RayJob"]["workerGroupSpecs"])

    assert int(words[words.index("--workers") + 1]) == most


def test_what_the_entrypoint_names_is_mounted() -> None:
    container = SPECS["RayJob"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    paths = [one["mountPath"] for one in container["volumeMounts"]]
    named = [
        word.partition("=")[2] or word
        for word in shlex.split(RAY["RayJob"]["entrypoint"])
        if "/" in word
    ]

    assert len(named) == 2
    assert all(any(name.startswith(f"{path}/") for path in paths) for name in named)


def test_no_secret_is_written_here() -> None:
    containers = [one for made in list_templates() for one in made["spec"]["containers"]]
    variables = {one["name"]: one.get("value", "") for c in containers for one in c.get("env", ())}

    assert not [one for one in OBJECTS if one["kind"] == "Secret"]
    for name, value in variables.items():
        if any(word in name for word in ("PASSWORD", "TOKEN", "STORAGE", "SECRET")):
            assert name.endswith("_FILE")
            assert value.startswith("/run/secrets/")


def test_no_pod_has_more_rights_than_it_needs() -> None:
    for template in list_templates():
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & {*pod}
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert {"readinessProbe", "livenessProbe", "resources"} <= {*container}


def test_what_is_mounted_is_a_volume() -> None:
    claims = [
        claim["metadata"]["name"]
        for one in OBJECTS
        if one["kind"] == "StatefulSet"
        for claim in one["spec"]["volumeClaimTemplates"]
    ]
    for template in list_templates():
        volumes = {one["name"] for one in template["spec"].get("volumes", ())} | {*claims}
        for container in template["spec"]["containers"]:
            assert {one["name"] for one in container.get("volumeMounts", ())} <= volumes


def test_only_heads_reach_the_database_and_only_they_have_its_secret() -> None:
    policy = next(one["spec"] for one in OBJECTS if one["kind"] == "NetworkPolicy")
    database = next(one["spec"] for one in OBJECTS if one["kind"] == "StatefulSet")
    allowed = policy["ingress"][0]["from"][0]["podSelector"]["matchLabels"]

    assert policy["podSelector"]["matchLabels"] == database["template"]["metadata"]["labels"]
    for spec in SPECS.values():
        assert spec["headGroupSpec"]["template"]["metadata"]["labels"] == allowed
        for group in spec["workerGroupSpecs"]:
            assert "labels" not in group["template"].get("metadata", {})
            assert "autocompress-database" not in str(group)
