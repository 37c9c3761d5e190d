"""Print the tables of RESULTS.md: collect.py RESULTS.jsonl.

Of several lines of one arm, seed and number of kept weights the last one counts. The best seed is
the one of highest validation accuracy: it is chosen before its test accuracy is looked at.
"""

import json
import sys
from pathlib import Path

import pandas as pd

from autocompress.quantize.entropy import position_bits

DENSE = 430_500
DENSE_WITH_BIASES = 431_080
SIZES = {"conv1": 500, "conv2": 25_000, "fc1": 400_000, "fc2": 5_000}


def read_lines(path: Path) -> pd.DataFrame:
    """Return one row per finished model."""
    frame = pd.DataFrame([json.loads(line) for line in path.read_text().splitlines()])
    return frame.drop_duplicates(["arm", "seed", "epochs"], keep="last")


def print_accuracies(frame: pd.DataFrame) -> None:
    """Print accuracies by arm and budget, over seeds."""
    head = "arm | kept | times fewer | with biases | epochs | seeds | validation % | test % (sd)"
    print(f"| {head} | lowest to highest | chosen by validation |\n|{'---|' * 10}")
    for (arm, epochs), rows in frame.groupby(["arm", "epochs"], sort=False):
        test = 100 * rows["test"]
        best = rows.loc[rows["val"].idxmax()]
        print(
            f"| {arm} | {rows['kept'].mean():,.0f} | {DENSE / rows['kept'].mean():.0f} | "
            f"{DENSE_WITH_BIASES / rows['with_biases'].mean():.0f} | {epochs:g} | {len(rows)} | "
            f"{100 * rows['val'].mean():.2f} | {test.mean():.3f} ({test.std():.3f}) | "
            f"{test.min():.2f} to {test.max():.2f} | {100 * best['test']:.2f} |"
        )


def print_layers(frame: pd.DataFrame) -> None:
    """Print the kept weights of each layer, means over seeds."""
    names = list(frame.iloc[0]["layers"])
    print(f"\n| arm | epochs | {' | '.join(names)} | dead |\n|---|---|{'---|' * (len(names) + 1)}")
    for (arm, epochs), rows in frame.groupby(["arm", "epochs"], sort=False):
        kept = [sum(row[name]["kept"] for row in rows["layers"]) / len(rows) for name in names]
        counts = " | ".join(f"{count:,.0f}" for count in kept)
        print(f"| {arm} | {epochs:g} | {counts} | {rows['dead'].sum()} |")


def print_bytes(frame: pd.DataFrame) -> None:
    """Print what entropy coding makes of values and positions, means over seeds."""
    head = "arm | kept | values, bytes | bits a value | with tables | positions: dense, own shape"
    print(f"\n| {head} | in all | against float32 |\n|{'---|' * 8}")
    for (arm, _), rows in frame.groupby(["arm", "epochs"], sort=False):
        mean = rows[["kept", "value_bytes", "table_bytes", "position_bytes"]].mean()
        values, tables = mean["value_bytes"], mean["value_bytes"] + mean["table_bytes"]
        dense = sum(count_places(row) for row in rows["layers"]) / len(rows)
        total = tables + mean["position_bytes"]
        print(
            f"| {arm} | {mean['kept']:,.0f} | {values:,.0f} | {8 * values / mean['kept']:.2f} | "
            f"{tables:,.0f} | {dense:,.0f}, {mean['position_bytes']:,.0f} | {total:,.0f} | "
            f"{4 * DENSE / total:,.0f} |"
        )


def count_places(layers: dict[str, dict[str, int]]) -> float:
    """Return the bytes that say which weights of the dense layers are kept."""
    return sum(position_bits(SIZES[name], layer["kept"]) for name, layer in layers.items()) / 8


def main(path: Path) -> None:
    """Print all tables."""
    frame = read_lines(path)
    print_accuracies(frame)
    print_layers(frame)
    print_bytes(frame)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
