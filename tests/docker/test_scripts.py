"""The image's file and the scripts beside it, by what lints them and by running them."""

import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

DOCKER = Path(__file__).parents[2] / "docker"
SCRIPTS = sorted(DOCKER.glob("*.sh"))


class Answer(BaseHTTPRequestHandler):
    """Answers with the status that the path names."""

    def do_GET(self) -> None:
        self.send_response(int(self.path.strip("/")))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://localhost:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def ask(*words: str) -> int:
    command = [sys.executable, str(DOCKER / "healthy.py"), *words]
    return subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode


def test_healthy_is_what_answers(url: str) -> None:
    assert ask(f"{url}/200") == 0
    assert ask(f"{url}/200", f"{url}/204") == 0


@pytest.mark.parametrize("status", [401, 404, 503])
def test_an_error_is_not_healthy(url: str, status: int) -> None:
    assert ask(f"{url}/200", f"{url}/{status}") == 1


def test_what_does_not_answer_is_not_healthy(url: str) -> None:
    port = int(url.rpartition(":")[2])
    with HTTPServer(("127.0.0.1", 0), Answer) as closed:
        free = closed.server_port

    assert free != port
    assert ask("--wait", "0.1", f"http://localhost:{free}/200") == 1


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path: Path) -> None:
    checker = shutil.which("shellcheck", path=find_programs())
    if checker is None:
        pytest.skip("shellcheck is not installed: the extra dev")

    done = subprocess.run([checker, str(path)], check=False, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout


def test_hadolint_finds_nothing() -> None:
    linter = shutil.which("hadolint", path=find_programs())
    if linter is None:
        pytest.skip("hadolint is not installed: the extra dev")

    done = subprocess.run(
        [linter, str(DOCKER / "Dockerfile")], check=False, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stdout


def find_programs() -> str:
    """Return where programs lie: those of this environment first, whether active or not."""
    return f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin"


@pytest.mark.parametrize("path", [*SCRIPTS, DOCKER / "healthy.py"], ids=lambda path: path.name)
def test_a_script_can_be_called(path: Path) -> None:
    assert path.stat().st_mode & stat.S_IXUSR
    assert path.read_text(encoding="utf-8").startswith("#!")


def make_secrets(folder: Path, *address: str) -> dict[str, str]:
    subprocess.run(["sh", DOCKER / "make_secrets.sh", str(folder), *address], check=True)
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


def test_secrets_are_long_and_their_folder_is_closed(tmp_path: Path) -> None:
    made = make_secrets(tmp_path / "secrets")

    assert {*made} == {"postgres_password", "ray_token", "storage"}
    assert len({*made.values()}) == 3
    assert all(len(text) >= 64 and text == text.strip() for text in made.values())
    assert f":{made['postgres_password']}@postgres:5432/" in made["storage"]
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700


def test_secrets_of_two_places_differ(tmp_path: Path) -> None:
    one, other = make_secrets(tmp_path / "a"), make_secrets(tmp_path / "b", "127.0.0.1:5433")

    assert not {*one.values()} & {*other.values()}
    assert "@127.0.0.1:5433/" in other["storage"]


def test_secrets_that_exist_are_kept(tmp_path: Path) -> None:
    made = make_secrets(tmp_path)

    assert make_secrets(tmp_path) == made


def test_the_image_runs_as_a_user_with_a_number() -> None:
    lines = (DOCKER / "Dockerfile").read_text(encoding="utf-8").splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    stages = [line.split()[-1] for line in lines if line.startswith("FROM ")]

    assert users == ["1000:1000"]
    assert stages[-2:] == ["cpu", "cuda"]
    assert any(line.startswith("HEALTHCHECK ") for line in lines)
