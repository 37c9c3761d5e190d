"""Print the table of RESULTS.md from the lines that run.py printed.

python experiments/search_quality/collect.py digits.jsonl lenet5.jsonl
"""

import argparse
import json
import math
import statistics
from collections import defaultdict
from pathlib import Path

ORDER = ("guided", "prior", "unguided", "tempering", "random", "tpe", "nsga2", "uniform")
COLUMNS = (
    ("test_metric", 100, 2, "test %"),
    ("test_loss", 1, 4, "test loss"),
    ("val_loss", 1, 4, "validation loss"),
    ("best_fast", 1, 3, "best fast energy"),
)


def show(values: list[float], factor: float, digits: int) -> str:
    """Return mean and standard error."""
    mean = factor * statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.{digits}f}"
    error = factor * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.{digits}f} ± {error:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    for path in parser.parse_args().files:
        rows = defaultdict(list)
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            rows[row["variant"]].append(row)
        print(f"\n{path.stem}\n")
        print("| searcher | seeds |", " | ".join(column[3] for column in COLUMNS), "|")
        print("|---" * (len(COLUMNS) + 2) + "|")
        for variant in ORDER:
            if rows[variant]:
                cells = [
                    show([row[name] for row in rows[variant]], factor, digits)
                    for name, factor, digits, _ in COLUMNS
                ]
                print(f"| {variant} | {len(rows[variant])} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
