"""A comparison on digits that trains for real, in a second or two."""

from pathlib import Path

from autocompress.search.compare import Compared, Comparison, plan_comparison
from autocompress.settings import read_settings

DUEL = """
name = "duel"
run_dir = "{folder}"

[task]
data = {{ name = "digits", train_limit = 96, validation = 0.05 }}
train = {{ epochs = 2, batch_size = 32 }}
device = "cpu"

[search]
chains = 1

[rounds]
step = 9.0

[evaluate.method.admm]
updates = 1

[evaluate.fast]
prune = {{ epochs = 1, batch_size = 32 }}
retrain = {{ epochs = 0, batch_size = 32 }}
norm_batches = 1

[evaluate.full]
prune = {{ epochs = 0 }}
retrain = {{ epochs = 1, batch_size = 32 }}
final = {{ epochs = 0 }}
purify = {{ evaluations = 0 }}

[compare]
seeds = [0, 1]
samples = 900
budgets = [{{ macs = 0.5 }}, {{ macs = 0.3 }}]
searchers = ["random"]
methods = ["magnitude", "admm"]
"""


def write_duel(folder: Path, *changes: tuple[str, str]) -> Path:
    """Return the settings file of a comparison that runs in ``folder``.

    Args:
        folder: Of the file and, in ``run``, of its studies.
        changes: Parts of the text, and what stands there instead.
    """
    text = DUEL.format(folder=folder / "run")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "duel.toml"
    path.write_text(text, encoding="utf-8")
    return path


def read_duel(folder: Path, *changes: tuple[str, str]) -> Compared:
    """Return the settings of :func:`write_duel`."""
    return read_settings(Compared, write_duel(folder, *changes))


def plan_duel(folder: Path, *changes: tuple[str, str]) -> Comparison:
    """Return the runs of :func:`write_duel`."""
    return plan_comparison(read_duel(folder, *changes))
