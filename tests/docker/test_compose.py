"""The compose file opens nothing and tells nothing, whatever the environment says."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
SECRETS = "/run/secrets/"
FOREIGN = ("postgres:17", "other:postgres")
# What a person may set; a value that can be told from every default.
VARIABLES = {
    "DASHBOARD_PORT": "19999",
    "IMAGE": "other:image",
    "POSTGRES_IMAGE": "other:postgres",
    "PROJECT": "/other/project",
    "SEARCH_OPTIONS": "--stop-after 60",
    "SETTINGS": "other.toml",
    "WORKERS": "7",
    "WORKER_CPUS": "4",
    "WORKER_GPUS": "2",
}
# The value of no variable of this kind is written in the file.
SENSITIVE = re.compile(r"PASSWORD|TOKEN|SECRET|STORAGE|CREDENTIAL|KEY")


def read_compose(variables: dict[str, str], name: str = "compose.yaml") -> dict[str, Any]:
    """Return a compose file as it is with these variables of the environment."""
    text = (DOCKER / name).read_text(encoding="utf-8")
    filled = re.sub(
        r"\$\{(\w+):-([^}]*)\}", lambda found: variables.get(found[1]) or found[2], text
    )
    assert "$" not in filled
    whole: dict[str, Any] = yaml.safe_load(filled)
    return whole


@pytest.fixture(params=["defaults", "every variable"])
def compose(request: pytest.FixtureRequest) -> dict[str, Any]:
    return read_compose({} if request.param == "defaults" else VARIABLES)


def test_every_variable_is_tried() -> None:
    texts = [path.read_text(encoding="utf-8") for path in DOCKER.glob("compose*.yaml")]

    assert {*re.findall(r"\$\{(\w+)", "".join(texts))} == {*VARIABLES}


def test_a_port_is_published_on_the_loopback_interface_only(compose: dict[str, Any]) -> None:
    services = compose["services"]
    ports = [port for service in services.values() for port in service.get("ports", ())]

    assert len(ports) == 1
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports)
    assert not any("network_mode" in service for service in services.values())


def test_only_what_is_published_leaves_the_internal_networks(compose: dict[str, Any]) -> None:
    outer = {name for name, network in compose["networks"].items() if not network.get("internal")}

    leaving = {
        name for name, service in compose["services"].items() if outer & {*service["networks"]}
    }

    assert leaving == {name for name, one in compose["services"].items() if "ports" in one}


def test_only_those_who_read_the_study_reach_the_database(compose: dict[str, Any]) -> None:
    services = compose["services"]
    networks = {*services["postgres"]["networks"]}

    near = {name for name, service in services.items() if networks & {*service["networks"]}}
    knowing = {name for name, service in services.items() if "storage" in service["secrets"]}

    assert near == knowing | {"postgres"} == {"postgres", "controller", "dashboard"}


def test_a_secret_is_a_file_that_the_service_was_given(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for name, value in service["environment"].items():
            if SENSITIVE.search(name):
                assert name.endswith(("_FILE", "_PATH"))
                assert value.removeprefix(SECRETS) in service["secrets"]
        assert {*service["secrets"]} <= {*compose["secrets"]}
    assert all({*secret} == {"file"} for secret in compose["secrets"].values())


def test_no_folder_that_is_mounted_holds_the_secrets() -> None:
    compose = read_compose({})
    files = [(DOCKER / secret["file"]).resolve() for secret in compose["secrets"].values()]
    mounts = [
        (DOCKER / volume.split(":")[0]).resolve()
        for service in compose["services"].values()
        for volume in service.get("volumes", ())
        if volume.startswith((".", "/"))
    ]

    assert mounts
    assert not [mount for mount in mounts for file in files if file.is_relative_to(mount)]


def test_secrets_go_neither_to_git_nor_to_the_builder() -> None:
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    sent = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()

    assert "docker/secrets/" in ignored
    assert next(line for line in sent if line and line[0] not in "#!") == "*"
    assert not [line for line in sent if line.startswith("!docker") and "." not in line]


def test_every_service_says_whether_it_is_healthy(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert service["healthcheck"]["test"][0] == "CMD"
        assert service["healthcheck"]["retries"] >= 1
        assert service["restart"] in {"unless-stopped", "on-failure", "on-failure:10"}


def test_no_service_has_more_rights_than_it_needs(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert service["user"] not in {"root", "0", "0:0"}
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not {"privileged", "cap_add", "devices", "pid", "ipc"} & {*service}
        # An image of ours is not looked for at strangers.
        assert service.get("pull_policy") == "never" or service["image"].endswith(FOREIGN)
        assert not any("docker.sock" in volume for volume in service.get("volumes", ()))


def test_ray_asks_for_its_token_and_the_head_takes_no_jobs(compose: dict[str, Any]) -> None:
    services = compose["services"]
    with_ray = {name for name, one in services.items() if "ray-head" in str(one)} | {"ray-head"}

    assert with_ray == {"ray-head", "ray-worker", "controller"}
    for name in with_ray:
        assert services[name]["environment"]["RAY_AUTH_MODE"] == "token"
    assert "--num-cpus=0" in shlex.split(services["ray-head"]["command"])


def test_a_mounted_folder_is_only_read(compose: dict[str, Any]) -> None:
    volumes = [
        one for service in compose["services"].values() for one in service.get("volumes", ())
    ]

    assert all(volume.endswith(":ro") for volume in volumes if volume[0] in "./")


@pytest.mark.parametrize("files", [["compose.yaml"], ["compose.yaml", "compose.cuda.yaml"]])
def test_docker_compose_reads_it(files: list[str], tmp_path: Path) -> None:
    command = find_compose()
    options = [word for name in files for word in ("-f", str(DOCKER / name))]

    done = subprocess.run(
        [*command, *options, "config"],
        check=False,
        capture_output=True,
        text=True,
        env={"HOME": str(tmp_path), "PATH": str(Path(command[0]).parent)},
    )

    assert done.returncode == 0, done.stderr
    config = yaml.safe_load(done.stdout)
    assert {*config["services"]} == {*read_compose({})["services"]}
    # Tools write a published port as text or as its parts.
    assert "127.0.0.1" in str(config["services"]["dashboard"]["ports"])


def find_compose() -> list[str]:
    """Return how docker compose is called on this machine, as a plug-in or by itself."""
    docker, alone = shutil.which("docker"), shutil.which("docker-compose")
    plugin = [docker or "", "compose"]
    if docker:
        asked = subprocess.run([*plugin, "version"], check=False, capture_output=True)
        if asked.returncode == 0:
            return plugin
    if not alone:
        pytest.skip("docker compose is not installed: apt install docker-compose")
    return [alone]
