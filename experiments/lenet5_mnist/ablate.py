"""Finish the best candidate of a study in other ways: ablate.py SETTINGS OUT.jsonl [a.b=c ...].

The same base, candidate and seed as the finished model of the study; only the named part differs,
and every variant trains for the same number of epochs in all. One JSON line per variant; variants
that OUT holds are left out. The models lie beside OUT.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from autocompress.evaluate.evaluator import Evaluator, save_finished
from autocompress.evaluate.full import evaluate_full
from autocompress.evaluate.settings import EvaluateSettings
from autocompress.evaluate.task import open_task
from autocompress.jobs import Candidate
from autocompress.report.frames import find_finished, trials_frame
from autocompress.search.spec import Settings, resolve_settings
from autocompress.search.study import open_study
from autocompress.settings import read_settings
from autocompress.store.run_folder import RunFolder

DIRECT = "in one step from the dense net"  # Without the retraining of the rounds between.


def make_variants(settings: EvaluateSettings) -> dict[str, EvaluateSettings]:
    """Return the ways to finish by name; the epochs of ADMM go to retraining where it is off."""
    full = settings.full
    longer = replace(full.retrain, epochs=full.retrain.epochs + full.prune.epochs)
    one_shot = replace(settings.method, name="magnitude")
    penalty = replace(settings.method, admm=replace(settings.method.admm, dual=False))
    kept = replace(full, purify=replace(full.purify, evaluations=0))
    return {
        "as searched": settings,
        "without purification": replace(settings, full=kept),
        "one-shot instead of ADMM": replace(
            settings, method=one_shot, full=replace(full, retrain=longer)
        ),
        "quadratic penalty instead of ADMM (no dual)": replace(settings, method=penalty),
        f"{DIRECT}, ADMM": settings,
        f"{DIRECT}, one-shot": replace(
            settings, method=one_shot, full=replace(full, retrain=longer)
        ),
    }


def main(settings_path: Path, out: Path, overrides: list[str]) -> None:
    """Run the variants that ``out`` does not hold yet."""
    settings = resolve_settings(read_settings(Settings, settings_path, overrides))
    study = open_study(settings.name, settings.storage)
    best = find_finished(trials_frame(study), settings.task.metric_direction).iloc[0]
    trial = next(t for t in study.get_trials(deepcopy=False) if t.number == best["number"])
    candidate = Candidate.from_json(json.loads(trial.user_attrs["candidate"]))
    task = open_task(settings.task)
    evaluator = Evaluator(task, settings.evaluate, RunFolder(Path(settings.run_dir)))
    base, teacher = evaluator.open_base(trial.user_attrs["base"]), evaluator.open_base("")
    lines = out.read_text().splitlines() if out.exists() else []
    done = {(one["study"], one["variant"]) for one in map(json.loads, lines)}
    for name, variant in make_variants(settings.evaluate).items():
        if (settings.name, name) in done:
            continue
        start = time.perf_counter()
        finished = evaluate_full(
            teacher if name.startswith(DIRECT) else base,
            candidate,
            task,
            variant,
            teacher=teacher,
            seed=settings.seed,
        )
        seconds = time.perf_counter() - start
        slug = name.split(" (")[0].replace(",", "").replace(" ", "-")
        save_finished(out.parent / "variants" / f"{settings.name}-{slug}", finished, task)
        record = {"study": settings.name, "variant": name, **finished.metrics, "seconds": seconds}
        with out.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(name, finished.metrics["weights"], finished.metrics["test_metric"], flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
