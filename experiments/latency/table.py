"""Say how well the latency table foretells models it has not seen: table.py --help.

Weights and images are random; the table is built on this machine, then further random shapes are
measured, a third each with fewer filters, fewer columns and fewer of both.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from autocompress.deploy.calibrate import calibrate_table
from autocompress.deploy.survey import SurveySettings, survey_models
from autocompress.graph.trace import trace_graph
from autocompress.masks.latency import Floats
from autocompress.zoo.make import ModelSettings, make_model

KINDS = ("filters", "columns", "both")


def main() -> None:
    """Print one row per model and batch, and write one line per measured model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["resnet20"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shapes", type=int, default=21, help="held out, a multiple of 3")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSONL file to append to")
    chosen = parser.parse_args()
    print(
        "| model | batch | dense ms | survey s | rank corr. | median error | 90 % error |", end=""
    )
    print("".join(f" {kind}: median, rank corr. |" for kind in KINDS))
    print("|---" * 10 + "|")
    for name in chosen.models:
        for batch in chosen.batches:
            settings = SurveySettings(
                batch=batch, threads=chosen.threads, hold_out=chosen.shapes, seed=chosen.seed
            )
            rows = check_table(name, torch.device(chosen.device), settings)
            if chosen.out:
                with chosen.out.open("a", encoding="utf-8") as file:
                    file.writelines(f"{json.dumps(row)}\n" for row in rows)


def check_table(
    name: str, device: torch.device, settings: SurveySettings
) -> list[dict[str, object]]:
    """Return predicted and measured times of the shapes that were held out."""
    torch.manual_seed(settings.seed)
    model = make_model(ModelSettings(name=name), (3, 32, 32), 10).eval().to(device)
    example = torch.zeros(1, 3, 32, 32, device=device)
    graph = trace_graph(model, example)
    start = time.perf_counter()
    plain, models = survey_models(model, graph, example, settings)
    seconds = time.perf_counter() - start
    names = [layer.name for layer in graph.layers]
    table = calibrate_table(plain, names, models, 1 + settings.calibrate)
    rest = models[1 + settings.calibrate :]
    measured = np.array([one.micros for one in rest])
    predicted = np.array(
        [float(table.predict(names, one.channels, one.rows, one.taken)) for one in rest]
    )
    print(f"| {name} | {settings.batch} | {table.dense_us / 1000:.2f} | {seconds:.0f} |", end="")
    errors = np.abs(predicted / measured - 1)
    print(f" {correlate(predicted, measured):.3f} | {table.error.median:.1%} |", end="")
    print(f" {table.error.high:.1%} |", end="")
    for place in range(len(KINDS)):
        some = slice(place, None, len(KINDS))
        rank = correlate(predicted[some], measured[some])
        print(f" {np.median(errors[some]):.1%}, {rank:.2f} |", end="")
    print(flush=True)
    return [
        {
            "model": name,
            "machine": table.to_json()["machine"],
            "kind": KINDS[place % len(KINDS)],
            "columns": one.taken.tolist(),
            "filters": one.rows.tolist(),
            "measured_us": one.micros,
            "predicted_us": float(guess),
            "dense_us": table.dense_us,
        }
        for place, (one, guess) in enumerate(zip(rest, predicted, strict=True))
    ]


def correlate(one: Floats, other: Floats) -> float:
    """Return Spearman's rank correlation."""
    ranks = [np.argsort(np.argsort(values)) for values in (one, other)]
    return float(np.corrcoef(ranks)[0, 1])


if __name__ == "__main__":
    main()
