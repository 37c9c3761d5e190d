"""What a search left behind: its report, its finished models, its front; loads torch."""

import json
import shlex
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
from torch import nn

from autocompress.cli.check import list_weights
from autocompress.cli.find import Found
from autocompress.cli.screen import open_console, print_pairs
from autocompress.cli.tables import find_front_rows, print_trials
from autocompress.data.source import InputSpec
from autocompress.errors import ArtifactError, AutoCompressError
from autocompress.evaluate.task import TaskSettings, key_dense
from autocompress.graph.trace import measure_macs
from autocompress.report.frames import find_finished, read_direction, trials_frame
from autocompress.report.page import Content, write_page
from autocompress.search.spec import find_outputs
from autocompress.store.artifacts import METRICS_FILE, load
from autocompress.store.run_folder import RunFolder
from autocompress.zoo.make import is_known, make_model

REPORT_FILE = "report.html"
BEST = "best"


def write_report(
    found: Found, output: Path | None = None, others: Mapping[str, Found] | None = None
) -> Path:
    """Write the HTML report of a study, compared with ``others``, and return its path.

    Where the run folder is in a store, the page lies in ``runs/NAME`` and is sent there as well.
    """
    frame, direction = trials_frame(found.study), read_direction(found.study)
    path = find_outputs(found.settings) / REPORT_FILE if output is None else output
    path.parent.mkdir(parents=True, exist_ok=True)
    content = Content(
        name=found.settings.name,
        frame=frame,
        direction=direction,
        metric=found.settings.task.metric,
        dense=measure_dense(found.settings.task, found.folder),
        folders=list_models(found),
        data_options=list_options(found.settings.task),
        others={name: trials_frame(one.study) for name, one in (others or {}).items()},
    )
    write_page(path, content)
    if output is None:
        share_report(found, path)
    return path


def share_report(found: Found, path: Path) -> None:
    """Send a report to the store of its run folder; who may only read there keeps it here."""
    try:
        found.folder.share(path, REPORT_FILE)
    except ArtifactError as error:
        open_console(stderr=True).print(f"the report stays here: {error}", markup=False)


def list_options(task: TaskSettings) -> str:
    """Return the options by which ``autocompress evaluate`` finds data and model of ``task``."""
    data, model = task.data, task.model.name
    places = f" --data {shlex.quote(data.root)} --name {data.name}" if data.root else ""
    return places if is_known(model) else f"{places} --factory {shlex.quote(model)}"


def list_models(found: Found) -> dict[int, str]:
    """Return where the finished models lie by trial number, the best first.

    Each is a link ``models/trial-N`` in the run folder, which is easier to type than its key;
    ``models/best`` leads to the first.
    """
    rows = find_finished(trials_frame(found.study), read_direction(found.study))
    keys = {
        int(number): key
        for number, key in zip(rows["number"], rows["artifact"], strict=True)
        if found.folder.has(key)
    }
    for key in [*keys.values()][:1]:
        with suppress(OSError):
            (found.folder.root / "models" / BEST).unlink()
        link_model(found.folder, BEST, key)
    return {
        number: str(link_model(found.folder, f"trial-{number}", key))
        for number, key in keys.items()
    }


def link_model(folder: RunFolder, name: str, key: str) -> Path:
    """Return a link to the model called ``key``; its own folder where links cannot be made."""
    target = folder.path(key)
    link = folder.root / "models" / name
    try:
        link.parent.mkdir(exist_ok=True)
        if not link.exists():
            link.unlink(missing_ok=True)  # It may point to a model that is gone.
            link.symlink_to(Path("..") / target.relative_to(folder.root))
    except OSError:
        return target
    return link if link.resolve() == target.resolve() else target


def measure_dense(task: TaskSettings, folder: RunFolder) -> Mapping[str, float]:
    """Return the figures of the dense model by column name; none when it is not there."""
    try:
        path = folder.path(key_dense(task))
        metrics = json.loads((path / METRICS_FILE).read_text(encoding="utf-8"))
        model = load(path, factory=partial(_make_dense, task))
    except (AutoCompressError, OSError, ValueError):
        return {}
    assert isinstance(model.input_spec, InputSpec)
    example = torch.zeros(1, *model.input_spec.shape)
    tensors = [*model.parameters(), *model.buffers()]
    size = float(sum(t.numel() * t.element_size() for t in tensors if t.ndim))
    return {
        **{name: float(value) for name, value in metrics.items() if value is not None},
        "weights": float(sum(weight.numel() for weight in list_weights(model))),
        "macs": float(measure_macs(model, example)),
        "bytes": size,
        "coded_bytes": size,
    }


def _make_dense(
    task: TaskSettings, shape: tuple[int, ...], classes: int, **_: object
) -> nn.Module:
    # The options in the file are those of the settings, or the key would be another one.
    return make_model(task.model, shape, classes)


def print_results(found: Found) -> None:
    """Print the front, and where the report and the finished models lie."""
    path = write_report(found)
    _, rows, _ = find_front_rows(found.study)
    print_trials(f"Pareto front of {found.settings.name}, models: val_metric and weights", rows)
    models = list_models(found)
    pairs = {"report": str(path)}
    pairs |= {f"model of trial {number}": folder for number, folder in models.items()}
    open_console().print()
    print_pairs(pairs)
