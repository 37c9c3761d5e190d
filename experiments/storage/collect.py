"""Turn the lines of run.py into the tables of RESULTS.md: collect.py grid.jsonl."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from math import exp, log
from pathlib import Path
from typing import Any

Row = dict[str, Any]
PAPERS = ("csc", "im", "hac", "shac")
MARGIN = 64


def mean(ratios: Iterable[float]) -> float:
    """Return the geometric mean."""
    logs = [log(one) for one in ratios]
    return exp(sum(logs) / len(logs)) if logs else float("nan")


def gain(row: Row) -> float:
    """Return how many times larger the better of HAC and sHAC is."""
    return min(row["hac"], row["shac"]) / row["ours"]


def bound(row: Row) -> float:
    """Return what codes and book take over the order-0 entropy and a plain codebook."""
    return (row["blob"] + row["book"]) / (row["entropy"] + row["codebook"])


def file_bound(rows: Iterable[Row]) -> float:
    """Return the sum of whole files over the sum of entropies and plain codebooks."""
    rows = list(rows)
    return sum(row["ours"] for row in rows) / sum(r["entropy"] + r["codebook"] for r in rows)


def excess(row: Row) -> int:
    """Return the bytes of our file above the best of the other ways."""
    return row["ours"] - min(row[one] for one in (*PAPERS, "zstd"))


def summarise(rows: list[Row], key: Callable[[Row], object], title: str) -> None:
    """Print a line for each value of ``key``."""
    print(
        f"\n| {title} | rows | HAC or sHAC / ours | least | zstd / ours | safetensors / ours "
        "| files / (entropy + book) | codes + book / same, most | above best reference, most "
        "| codecs |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for value in (*dict.fromkeys(key(row) for row in rows), "all"):
        some = [row for row in rows if value in (key(row), "all")]
        codecs = Counter(row["codec"] for row in some).most_common()
        print(
            f"| {value} | {len(some)} | {mean(map(gain, some)):.3f} | {min(map(gain, some)):.2f} "
            f"| {mean(r['zstd'] / r['ours'] for r in some):.2f} "
            f"| {mean(r['safetensors'] / r['ours'] for r in some):.1f} "
            f"| {file_bound(some):.4f} | {max(map(bound, some)):.4f} "
            f"| {max(map(excess, some)):+,} "
            f"| {', '.join(f'{name} {count}' for name, count in codecs)} |"
        )


def main() -> None:
    """Print all tables."""
    rows = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    grid = [row for row in rows if row["by"] == "cws"]
    summarise(grid, lambda row: row["pruned"], "pruned")
    summarise(grid, lambda row: row["layer"], "layer")
    summarise(grid, lambda row: row["asked"], "k asked")
    print("\nAbove the best reference at all:")
    for row in rows:
        if excess(row) > 0:
            print(row["layer"], row["pruned"], row["by"], row["asked"], row["k"], excess(row))
    print("\nCodes + book above 1.005 of entropy + codebook:")
    for row in rows:
        if bound(row) > 1.005:
            print(row["layer"], row["pruned"], row["by"], row["asked"], f"{bound(row):.4f}")
    columns = ("dense", "safetensors", "zstd", *PAPERS, "entropy", "ours")
    print(f"\n| layer | pruned | by | k | {' | '.join(columns)} | codec | gain | accuracy |")
    print("|---" * (len(columns) + 7) + "|")
    for row in rows:
        sizes = [row[one] + (row["codebook"] if one == "entropy" else 0) for one in columns]
        print(
            f"| {row['layer']} | {row['pruned']} | {row['by']} | {row['k']} "
            f"| {' | '.join(f'{size:,.0f}' for size in sizes)} | {row['codec']} "
            f"| {gain(row):.2f} | {' to '.join(map(str, row.get('accuracy', [])))} |"
        )


if __name__ == "__main__":
    main()
