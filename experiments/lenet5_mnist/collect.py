"""Print the tables of RESULTS.md: collect.py RUN_DIR [NAME ...].

Reads the finished model of every study in RUN_DIR and every line of its ablation*.jsonl.
"""

import json
import sys
from pathlib import Path

import pandas as pd

from autocompress.report.frames import find_finished, trials_frame
from autocompress.search.study import open_study

DENSE_WEIGHTS = 430_500
DENSE_MACS = 2_293_000
COLUMNS = "| {} | {:,.0f} | {:.1f} | {:,.0f} | {:.1f} | {:.2f} | {:.2f} |"
HEAD = (
    "| {} | weights kept | times fewer | MACs | times fewer | validation % | test % |\n"
    "|---|---|---|---|---|---|---|"
)


def format_row(name: str, row: "pd.Series[float]") -> str:
    """Return one row of a table."""
    weights, macs = float(row["weights"]), float(row["macs"])
    return COLUMNS.format(
        name,
        weights,
        DENSE_WEIGHTS / weights,
        macs,
        DENSE_MACS / macs,
        100 * float(row["val_metric"]),
        100 * float(row["test_metric"]),
    )


def read_studies(run_dir: Path) -> pd.DataFrame:
    """Return the finished model of each study, by name."""
    rows = {}
    for path in sorted(run_dir.glob("*.db")):
        frame = trials_frame(open_study(path.stem, f"sqlite:///{path}"))
        finished = find_finished(frame, "maximize")
        if len(finished):
            rows[path.stem] = finished.iloc[0]
    return pd.DataFrame(rows).T


def read_ablations(run_dir: Path) -> pd.DataFrame:
    """Return one row per variant of each study."""
    lines = [
        json.loads(line)
        for path in sorted(run_dir.glob("ablation*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    return pd.DataFrame(lines)


def main(run_dir: Path) -> None:
    """Print both tables with means over seeds."""
    studies = read_studies(run_dir)
    print(HEAD.format("study"))
    for name, row in studies.iterrows():
        print(format_row(str(name), row))
    ablations = read_ablations(run_dir)
    if ablations.empty:
        return
    print("\n" + HEAD.format("variant, study"))
    for variant, rows in ablations.groupby("variant", sort=False):
        for _, row in rows.iterrows():
            print(format_row(f"{variant}, {row['study']}", row))
        mean = rows[["weights", "macs", "val_metric", "test_metric"]].mean()
        spread = 100 * rows["test_metric"].std(ddof=1)
        print(format_row(f"**{variant}, mean of {len(rows)}** (test: sd {spread:.2f})", mean))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
