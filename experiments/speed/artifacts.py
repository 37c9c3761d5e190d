"""Measure the LeNet-5 models' speed beside the dense net: artifacts.py (no data needed)."""

from pathlib import Path

import torch

import autocompress
from autocompress.evaluate.speed import measure_speedup
from autocompress.zoo.make import ModelSettings, make_model

FOLDERS = sorted(Path("experiments/lenet5_mnist/artifacts").glob("seed-*"))


def main() -> None:
    """Print one row per model."""
    dense = make_model(ModelSettings(name="lenet5"), (1, 28, 28), 10).eval()
    sizes = (1, 64, 512)
    print(f"{torch.get_num_threads()} threads")
    print("| model | " + " | ".join(f"batch {size}" for size in sizes) + " |")
    print("|---|" + "---|" * len(sizes))
    for folder in FOLDERS:
        model = autocompress.load(folder)
        ratios = [
            measure_speedup(dense, model, torch.randn(size, 1, 28, 28), turns=101)
            for size in sizes
        ]
        print(f"| {folder.name} | " + " | ".join(f"{ratio:.2f}x" for ratio in ratios) + " |")


if __name__ == "__main__":
    main()
