"""What README and docs/ show works: every command and block runs, or says why it does not.

Blocks of one document are pasted in their order into one folder, see ``tests/pasting.py``.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import pytest
import typer

from autocompress.cli.main import make_app
from autocompress.search.storage import make_storage
from tests.blocks import Block, read_blocks, write_script
from tests.pasting import make_commands, paste
from tests.synthetic import make_study

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "docker" / "README.md",
]
BLOCKS = {str(path.relative_to(ROOT)): read_blocks(path) for path in DOCUMENTS}
ALL = [block for blocks in BLOCKS.values() for block in blocks]
BASH = "\n".join(block.text for block in ALL if block.language == "bash")
COMMAND = r"^(?:timeout \S+ \d+ )?(?:python -m )?autocompress (\w+.*?)(?:\s+(?:#|\|\|).*)?$"
COMMANDS = [*dict.fromkeys(re.findall(COMMAND, BASH, re.MULTILINE))]
NEEDS = ("needs Docker", "needs Kubernetes", "needs PostgreSQL", "needs a cluster")
# What no test of documents can do, and nothing else.
REASONS = ("installs", "make ", "serves ", "starts Ray", *NEEDS)
SMALL = {
    "epochs = 20": "epochs = 8",
    "evaluations = 24": "evaluations = 3",
    "weights = 0.1": "weights = 0.5",
    "macs = 0.25": "macs = 0.6",
    "evaluations = 40": "evaluations = 3",
    "epochs = 40": "epochs = 2",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give an empty working folder whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = {*sys.modules}
    path = [*sys.path]
    yield tmp_path
    sys.path[:] = path
    for name in {*sys.modules} - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def list_options() -> dict[str, set[str]]:
    """Return the options of each command."""
    group = typer.main.get_group(make_app())
    return {
        name: {option for each in command.params for option in each.opts}
        for name, command in group.commands.items()
    }


@pytest.mark.parametrize("block", ALL, ids=lambda block: block.name)
def test_a_block_is_run_or_says_why_not(block: Block) -> None:
    assert not block.reason or block.reason.startswith(REASONS)
    # A block that neither runs nor is saved shows something, and is no code.
    assert block.is_run or block.reason or block.language == "text"


def test_no_fence_is_overlooked() -> None:
    fences = sum(path.read_text(encoding="utf-8").count("\n```") for path in DOCUMENTS)

    assert fences == 2 * len(ALL)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_has_the_options_shown(line: str) -> None:
    name, *words = line.split()

    known = list_options()[name]

    assert {word for word in words if word.startswith("--")} <= known


def test_every_command_is_shown() -> None:
    assert {line.split()[0] for line in COMMANDS} == set(list_options())


@pytest.mark.parametrize("target", re.findall(r"^make (\S+)", BASH, re.MULTILINE))
def test_a_target_is_in_the_makefile(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    assert re.search(rf"^{target}:", makefile, re.MULTILINE)


@pytest.mark.parametrize("path", DOCUMENTS, ids=[*BLOCKS])
def test_a_link_leads_to_a_file(path: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8"))

    assert links
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_table_of_results_is_what_the_experiments_say() -> None:
    script = ROOT / "experiments" / "results_table.py"

    ran = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False
    )

    assert ran.returncode == 0, ran.stderr


def test_the_script_does_what_a_reader_does() -> None:
    blocks = read_blocks(ROOT / "docs" / "guide.md")
    script = write_script(blocks)

    assert all(block.text in script for block in blocks if block.is_run)


@pytest.mark.slow  # A whole, very small quickstart, and a Ray of its own: a minute.
@pytest.mark.ray
@pytest.mark.timeout(1800)  # Machines that run other things take ten times as long.
def test_the_readme_runs(project: Path) -> None:
    settings = "experiments/quickstart/settings.toml"
    text = (ROOT / settings).read_text(encoding="utf-8")
    for long, short in SMALL.items():
        assert long in text
        text = text.replace(long, short)
    (project / settings).parent.mkdir(parents=True)
    (project / settings).write_text(text, encoding="utf-8")
    commands = make_commands(project / "bin")

    for block in BLOCKS["README.md"]:
        if block.is_run:
            paste(block, commands)

    assert (project / "runs" / "quickstart" / "report.html").exists()


@pytest.mark.slow  # Searches on two workers, stopped and resumed: minutes on a busy machine.
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("default")  # PyTorch's exporter warns of its own modules.
def test_the_guide_runs(project: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    commands = make_commands(project / "bin")

    for block in BLOCKS["docs/guide.md"]:
        if block.is_run:
            paste(block, commands)

    assert (project / "my-net.onnx").exists()
    assert not list((project / "runs" / "my-net" / "tmp").iterdir())


def test_the_notebook_runs(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{project}/runs/quickstart/study.db"
    (project / "runs" / "quickstart").mkdir(parents=True)
    make_study(40, storage=make_storage(url), name="quickstart")
    notebook = json.loads((ROOT / "docs" / "study.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    namespace: dict[str, object] = {}
    (project / "docs").mkdir()
    monkeypatch.chdir(project / "docs")  # Where Jupyter starts.

    with mpl.rc_context({"backend": "agg"}):
        for number, cell in enumerate(cells):
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), namespace)

    assert len(cells) >= 5
    assert all(cell["outputs"] for cell in cells[1:])  # It is committed as it ran.
