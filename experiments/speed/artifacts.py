"""Measure the LeNet-5 models' speed beside the dense net: artifacts.py (no data needed)."""

from pathlib import Path

import torch

import autocompress
from autocompress.deploy.measure import compare_times, measure_models
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
        ratios = []
        for size in sizes:
            inputs = torch.randn(size, 1, 28, 28)
            times = measure_models({"dense": dense, "model": model}, inputs, turns=101)
            ratios.append(compare_times(times["dense"], times["model"]).factor)
        print(f"| {folder.name} | " + " | ".join(f"{ratio:.2f}x" for ratio in ratios) + " |")


if __name__ == "__main__":
    main()
