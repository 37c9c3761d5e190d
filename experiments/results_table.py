"""Write the table of results in README.md from the files of the experiments.

python experiments/results_table.py [--check]

The table stands between two comments of README.md. With --check nothing is written: the exit
status is 1 when the table there is another one.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
BEGIN = "<!-- written by experiments/results_table.py -->"
END = "<!-- end of what it writes -->"
HEAD = ("model, data", "what", "cost", "test accuracy, %", "dense, %", "seeds")


def main() -> None:
    """Write the table, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    old = README.read_text(encoding="utf-8")
    before, _, rest = old.partition(BEGIN)
    _, _, after = rest.partition(END)
    new = f"{before}{BEGIN}\n\n{make_table()}\n{END}{after}"
    if asked.check:
        sys.exit(0 if new == old else "README.md: run experiments/results_table.py")
    README.write_text(new, encoding="utf-8")


def make_table() -> str:
    """Return the tables as Markdown."""
    dense = json.loads((HERE / "dense.json").read_text(encoding="utf-8"))
    rows = [
        *list_lenet5(dense["lenet5"]),
        *list_autocompress(dense),
        *list_weights(dense),
    ]
    return f"{draw(HEAD, rows)}\n{make_searches(dense['resnet20'])}"


def draw(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(row) + " |\n" for row in lines)


def list_lenet5(dense: dict[str, Any]) -> list[list[str]]:
    """Return the row of LeNet-5's physically smaller models."""
    found = [read_json(path) for path in sorted(HERE.glob("lenet5_mnist/artifacts/*"))]
    tests = [one["test_metric"] for one in found]
    weights, macs = (fmean(one[name] for one in found) for name in ("weights", "macs"))
    cost = (
        f"{weights:,.0f} weights: {dense['weights'] / weights:.1f}x fewer; "
        f"{dense['macs'] / macs:.1f}x fewer MACs"
    )
    what = "[filters and columns, removed](experiments/lenet5_mnist/RESULTS.md)"
    return [["LeNet-5, MNIST", what, cost, show(tests), show(dense["test"]), str(len(tests))]]


def list_autocompress(dense: dict[str, Any]) -> list[list[str]]:
    """Return a row for each of AutoCompress's own experiments that was run."""
    path = HERE / "autocompress_cifar10" / "results.jsonl"
    rows = []
    frame = pd.DataFrame(read_lines(path)).drop_duplicates(["name", "seed"], keep="last")
    for name, runs in frame.groupby("name", sort=False):
        cost = (
            f"{runs['weights'].mean():,.0f} weights: {runs['weights_fewer'].mean():.1f}x fewer; "
            f"{runs['macs_fewer'].mean():.1f}x fewer MACs"
        )
        what = "[filters and columns, removed](experiments/autocompress_cifar10/RESULTS.md)"
        tests, before = list(runs["test"]), list(runs["dense_test"])
        title = dense["titles"][name]
        rows.append([title, what, cost, show(tests), show(before), str(len(runs))])
    return rows


def make_searches(dense: dict[str, Any]) -> str:
    """Return what the searchers and what was compared with them came to, by budget."""
    path = HERE / "resnet20_search" / "compare.csv"
    frame = pd.read_csv(path)
    budgets = list(dict.fromkeys(frame["budget"]))
    heads = [f"{100 * float(one.removeprefix('macs')):g} % of the MACs" for one in budgets]
    tests = frame.groupby(["arm", "budget"], sort=False)["test_metric"].apply(list).to_dict()
    rows = [
        [arm, *(show(tests[arm, one]) if (arm, one) in tests else "-" for one in budgets)]
        for arm in dict.fromkeys(frame["arm"])
    ]
    counts = sorted({len(one) for one in tests.values()})
    title = (
        "ResNet-20 on CIFAR-10, filters only, the same two epochs of fine-tuning: test "
        f"accuracy, %, over {' to '.join(map(str, counts))} seeds (dense {show(dense['test'])}; "
        "[details](experiments/resnet20_search/RESULTS.md))"
    )
    return f"{title}\n\n{draw(['arm', *heads], rows)}"


def list_weights(dense: dict[str, Any]) -> list[list[str]]:
    """Return the rows of single weights and few levels."""
    titles = {"lenet5": "LeNet-5, MNIST", "resnet20": "ResNet-20, CIFAR-10"}
    rows = []
    for model, title in titles.items():
        folder = f"{model}_weights"
        frame = pd.DataFrame(read_lines(HERE / folder / "results.jsonl"))
        frame = frame.drop_duplicates(["arm", "seed", "epochs"], keep="last")
        known = dense[model]
        for (arm, _), runs in frame.groupby(["arm", "epochs"], sort=False):
            if arm not in known["arms"] or len(runs) < 3:
                continue
            kept = runs["kept"].mean()
            cost = f"{kept:,.0f} weights: {known['weights'] / kept:.1f}x fewer"
            what = f"[{known['arms'][arm]}](experiments/{folder}/RESULTS.md)"
            tests = list(runs["test"])
            before = show(known["arms_test"]) if "arms_test" in known else "-"
            rows.append([title, what, cost, show(tests), before, str(len(runs))])
    return rows


def show(values: list[float]) -> str:
    """Return the mean of some accuracies in percent, and their range."""
    percent = [100 * value for value in values]
    mean = f"{fmean(percent):.2f}"
    return mean if len(percent) < 2 else f"{mean} ({min(percent):.2f} to {max(percent):.2f})"


def read_json(folder: Path) -> dict[str, float]:
    """Return the metrics of a stored model."""
    found: dict[str, float] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return found


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
