"""Rules of the code that no tool checks."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "autocompress"
TESTS = ROOT / "tests"
MAX_LINES = 400
TEXT = {
    "",
    ".cfg",
    ".html",
    ".ini",
    ".json",
    ".md",
    ".py",
    ".sh",
    ".toml",
    ".txt",
    ".yaml",
    ".yml",
}
PLACES = (".ci", "autocompress", "docker", "docs", "experiments", "search_spaces", "tests")
# Tests of the whole: they mirror no single module.
ACROSS = {
    "test_layout",
    "test_docs",
    "test_import",
    "test_install",
    "test_kills",
    "test_descent",
    "test_goal",
    "test_remote",
    "test_reuse",
    "test_scaling",
    "test_end_to_end",
    "test_admm_state",
    "test_single",  # Single weights in masks, costs and compaction.
    "test_fine",  # Weights and bits as dimensions.
    "test_fine_search",
    "test_latency_counts",  # Latency as a resource.
    "test_hostile",  # Files that were tampered with.
}

# The patterns are in pieces, so that they do not find themselves here.
FORBIDDEN = {
    "a home folder": re.compile("/" + r"(home|Users)/\w|/" + r"root/"),
    "a temporary folder of ours": re.compile("/" + r"tmp/ac\b"),
    "a path of the workplace": re.compile(r"(?<![\w.])/" + r"work/|\.\./" + "shared"),
    "a Windows drive": re.compile(r"\b[A-Z]:" + r"\\\w"),
    "a package index": re.compile("(extra-)?index" + "-url|--find" + "-links"),
    "an address of a machine": re.compile(
        r"https?://(\d{1,3}\.){3}\d|https?://(?!localhost)[\w.-]+:\d+"
    ),
}


def list_files() -> Iterator[Path]:
    """Return our text files; without git, because an unpacked archive has none."""
    yield from (path for path in ROOT.iterdir() if path.is_file() and path.suffix in TEXT)
    for place in PLACES:
        for path in sorted((ROOT / place).rglob("*")):
            hidden = any(part in {"__pycache__", "runs"} for part in path.parts)
            if path.is_file() and path.suffix in TEXT and not hidden:
                yield path


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


FILES = sorted(list_files())
MODULES = sorted(PACKAGE.rglob("*.py"))
PYTHON = [*MODULES, *sorted(TESTS.rglob("*.py"))]


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_a_file_has_at_most_400_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", sorted(TESTS.rglob("test_*.py")), ids=name_of)
def test_a_test_file_mirrors_a_module(path: Path) -> None:
    place = path.relative_to(TESTS)
    if place.parts[0] in {"contracts", "docker", "faults"} or place.stem in ACROSS:
        return

    module = PACKAGE / place.parent / place.name.removeprefix("test_")

    assert module.exists() or module.with_suffix("").is_dir()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_names_no_place_of_one_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")

    found = {what: match[0] for what, rule in FORBIDDEN.items() if (match := rule.search(text))}

    assert not found


def test_the_rules_find_what_they_forbid() -> None:
    samples = {
        "a home folder": "/" + "home/ada/x",
        "a temporary folder of ours": "/" + "tmp/ac/venv",
        "a path of the workplace": "cd /" + "work/main",
        "a Windows drive": "C:" + "\\data",
        "a package index": "pip install --index" + "-url=x",
        "an address of a machine": "http://" + "10.0.0.1/simple",
    }

    assert all(FORBIDDEN[what].search(text) for what, text in samples.items())
    assert samples.keys() == FORBIDDEN.keys()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_are_unconditional_and_plain(path: Path) -> None:
    text = path.read_text(encoding="utf-8")

    assert "TYPE_CHECKING" not in text
    assert "from __future__" not in text
    assert not re.search(r"^\s*from \.", text, re.MULTILINE)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_has_a_name_that_says_nothing(path: Path) -> None:
    assert not re.search(r"utils?|helpers?|common|misc|manager|base_", path.stem)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_code_says_density_and_keep(path: Path) -> None:
    text = path.read_text(encoding="utf-8")

    # In names only: prose may quote other people's words.
    assert not re.search(r"\b(\w+_)?(ratios?|sparsity)(_\w+)?\s*[:=(]", text)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_command_line_prints(path: Path) -> None:
    if "cli" not in path.relative_to(PACKAGE).parts:
        assert not re.search(r"^\s*print\(", path.read_text(encoding="utf-8"), re.MULTILINE)


def test_ray_is_imported_where_it_is_asked_for_and_nowhere_else() -> None:
    found = [
        name_of(path)
        for path in MODULES
        if re.search(r"^\s*(import|from) ray\b", path.read_text(encoding="utf-8"), re.MULTILINE)
        and not path.stem.startswith(("ray_", "tune"))
    ]

    assert not found


def test_the_environment_sets_no_option() -> None:
    found = [
        name_of(path)
        for path in MODULES
        # What Ray and CUDA read nowhere else; where databases and copies lie: no result changes.
        if path.stem not in {"ray_cluster", "ray_worker", "place", "places"}
        and re.search(r"os\.environ\b|os\.getenv\(", path.read_text(encoding="utf-8"))
    ]

    assert not found
