"""What the README shows works: its commands exist, its Python blocks run.

A ``python`` block after the comment ``<!-- run -->`` is executed beside a small study named
``quickstart``; the commands of every ``bash`` block must exist with the options shown.
"""

import re
from pathlib import Path

import pytest
import typer

from autocompress.cli.main import make_app
from autocompress.search.study import make_storage
from tests.synthetic import make_study

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"<!-- run -->\n```python\n(.*?)```", README, re.DOTALL)
BASH = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL))
COMMANDS = re.findall(r"^(?:python -m )?autocompress (.*?)(?:\s+#.*)?$", BASH, re.MULTILINE)
TARGETS = re.findall(r"^make (\S+)", BASH, re.MULTILINE)


def list_options() -> dict[str, set[str]]:
    """Return the options of each command."""
    group = typer.main.get_group(make_app())
    return {
        name: {option for each in command.params for option in each.opts}
        for name, command in group.commands.items()
    }


@pytest.mark.parametrize("block", PYTHON)
def test_a_marked_block_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = re.search(r"sqlite:///([^\"']+)", block)
    assert url
    (tmp_path / url[1]).parent.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    make_study(10, storage=make_storage(url[0]), name="quickstart")

    exec(compile(block, "README.md", "exec"), {})


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_has_the_options_shown(line: str) -> None:
    name, *words = line.split()

    known = list_options()[name]

    assert {word for word in words if word.startswith("--")} <= known


def test_every_command_is_shown() -> None:
    assert {line.split()[0] for line in COMMANDS} == set(list_options())


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_is_in_the_makefile(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    assert re.search(rf"^{target}:", makefile, re.MULTILINE)


@pytest.mark.parametrize(
    "link", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))), ids=lambda link: link
)
def test_a_link_leads_to_a_file(link: str) -> None:
    assert (ROOT / link).exists()
