"""Print the table of rank correlations: collect.py RUN.jsonl."""

import json
import sys
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

RESAMPLES = 2000


def correlate(fast: np.ndarray, full: np.ndarray) -> tuple[float, float, float]:
    """Return Spearman's rho and its 95 % interval over resampled candidates (seed 0)."""
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(RESAMPLES):
        chosen = rng.integers(0, len(fast), len(fast))
        if len(np.unique(fast[chosen])) > 1 and len(np.unique(full[chosen])) > 1:
            draws.append(spearmanr(fast[chosen], full[chosen]).statistic)
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(spearmanr(fast, full).statistic), float(low), float(high)


def main(path: Path) -> None:
    """Print one row per rung."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    runs = [key for key in records[0] if key.startswith("full_")]
    full = {
        name: np.array([[one[run][name] for run in runs] for one in records])
        for name in ("val_loss", "val_metric", "test_metric", "seconds")
    }
    losses = full["val_loss"]
    agree = "one full evaluation each"
    if losses.shape[1] > 1:
        rho, low, high = correlate(losses[:, 0], losses[:, 1])
        agree = f"two seeds of the full loss agree with rho {rho:+.2f} [{low:+.2f}, {high:+.2f}]"
    seconds = np.median(full.pop("seconds"))
    full = {name: values.mean(1) for name, values in full.items()}
    accuracy = full["test_metric"]
    print(
        f"{len(records)} candidates; full: test accuracy {accuracy.mean():.4f} "
        f"({accuracy.min():.4f} to {accuracy.max():.4f}), "
        f"{seconds:.1f} s each (median); {agree}"
    )
    print(
        "| fast score | s (median) | loss ~ full loss | loss ~ full accuracy | "
        "accuracy ~ full loss |"
    )
    print("|---|---|---|---|---|")
    for name in [key for key in records[0] if key.startswith("fast_")]:
        loss = np.array([one[name]["val_loss"] for one in records])
        metric = np.array([one[name]["val_metric"] for one in records])
        spent = np.median([one[name]["seconds"] for one in records])
        cells = [
            correlate(loss, full["val_loss"]),
            correlate(loss, -full["val_metric"]),
            correlate(-metric, full["val_loss"]),
        ]
        text = " | ".join(f"{rho:+.2f} [{low:+.2f}, {high:+.2f}]" for rho, low, high in cells)
        epochs = name.removeprefix("fast_")
        label = "one-shot + BN" if epochs == "0" else f"method {epochs} + retrain {epochs} epochs"
        print(f"| {label} | {spent:.2f} | {text} |")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
