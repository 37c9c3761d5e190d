"""The study that a search starts from: find it, copy what it evaluated, remember both.

All that a new study takes is copied first, into one record of its run folder: the source may go
on, move or vanish, and the new study still is what its own storage says.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any, get_args

import optuna

from autocompress.errors import ArtifactError, StudyError, StudyLostError
from autocompress.evaluate.settings import LatencySettings
from autocompress.graph.layers import LayerGraph
from autocompress.jobs import Candidate, Job, Stage, hash_json
from autocompress.search.entries import read_job
from autocompress.search.forecast import TABLE, make_course, recall_table
from autocompress.search.ledger import Ledger, read_records
from autocompress.search.records import Record
from autocompress.search.rounds import Course
from autocompress.search.sight import find_offset
from autocompress.search.spec import Settings, find_run_dir, make_spec
from autocompress.search.storage import find_file, normalize_storage, strip_password
from autocompress.search.study import open_study, read_spec
from autocompress.search.warm import Source, Stock, Stored
from autocompress.settings import flatten_settings, parse_settings
from autocompress.store.places import fix_place
from autocompress.store.run_folder import RunFolder

VERSION = 1
EVALUATION = ("task.", "evaluate.")  # What the keys of results follow from.
LATENCY = "evaluate.latency"  # May differ.


def find_source(text: str, settings: Settings) -> Source:
    """Return the study that ``text`` names.

    Args:
        text: ``NAME``, in the storage of ``settings`` or in ``runs/NAME``; or ``URL#NAME``.
        settings: Of the new study, resolved.

    Raises:
        StudyError: There is no such study, or it is the new one itself.
    """
    storage, mark, name = text.rpartition("#")
    places = [storage] if mark else [settings.storage, f"sqlite:///runs/{name}/study.db"]
    for place in places:
        try:
            study = open_study(name, place)
        except StudyLostError:
            raise
        except StudyError:
            if place == places[-1]:
                raise
            continue
        url, file = normalize_storage(place), find_file(place)
        if file is not None:
            url = f"sqlite:///{file.resolve()}"
        if name == settings.name and _is_same_place(url, settings.storage):
            raise StudyError(f"study {name!r}: a search cannot start from itself")
        run_dir = find_run_dir(study.user_attrs.get("run_dir", ""), place)
        return Source(name=name, storage=url, run_dir=fix_place(run_dir))
    raise AssertionError(places)


def find_source_again(text: str, settings: Settings) -> Source | None:
    """Return :func:`find_source`; None when it is gone and the study was begun from it.

    Args:
        text: As for :func:`find_source`.
        settings: Of the study, which may exist, resolved.

    Raises:
        StudyError: As for :func:`find_source`.
    """
    try:
        return find_source(text, settings)
    except StudyError:
        name = text.rpartition("#")[2]
        try:
            begun = open_study(settings.name, settings.storage).user_attrs.get("source", {})
        except StudyError:
            begun = {}
        if begun.get("study", "").rpartition("#")[2] != name:
            raise
        return None  # What the study took from it lies in its own run folder.


def settle_source(
    study: optuna.Study,
    source: Source | None,
    folder: RunFolder,
    settings: Settings,
    dense_key: str,
) -> Stock | None:
    """Return what ``study`` takes from its source; copied now when the study is new.

    Args:
        study: Held.
        source: Where it starts from; None to go on as it was begun.
        folder: Its run folder.
        settings: Its settings.
        dense_key: Key of its dense model.

    Raises:
        StudyError: It was begun in another way, or the source evaluates something else.
        ArtifactError: The copy is gone from the run folder.
    """
    begun = study.user_attrs.get("source")
    if begun is None and source is None:
        return None
    if begun is None:
        assert source is not None
        if study.get_trials(deepcopy=False):
            raise StudyError(
                f"study {study.study_name!r} was begun without {source.name!r}: start a new one "
                "from it, under another name"
            )
        record = take_snapshot(source, settings, dense_key)
        begun = {"study": source.describe(), "record": hash_json(record)}
        folder.write_json(begun["record"], record)
        study.set_user_attr("source", begun)
    stored = folder.read_json(begun["record"])
    if stored is None:
        raise ArtifactError(
            f"what study {study.study_name!r} took from another one is gone: {folder.place} "
            f"has no record {begun['record'][:12]}; search under another name"
        )
    stock = open_snapshot(stored, folder)
    first, asked = stock.source, source or stock.source
    if asked.name != first.name or not _is_same_place(asked.storage, first.storage):
        raise StudyError(
            f"study {study.study_name!r} was begun from {first.describe()}, "
            f"not from {asked.describe()}"
        )
    return stock


def settle_course(
    settings: Settings,
    graph: LayerGraph,
    ledger: Ledger,
    stock: Stock | None,
    has: Callable[[str], bool],
) -> Course:
    """Return the way to the budget, from the model where the study began or begins now.

    Args:
        settings: Resolved settings.
        graph: The dense model.
        ledger: The held study.
        stock: What may be taken from another study.
        has: Says whether a model is in the run folder.
    """
    course = make_course(settings, graph, ledger.study.user_attrs)
    # For those who watch from a machine without the model, or in another time zone.
    way = {"reduction": course.reduction, "enough": course.enough}
    ledger.describe_study({"way": way, "utc_offset_s": find_offset(datetime.now(UTC))})
    if stock is None or "start" in ledger.study.user_attrs:
        return course
    table = recall_table(ledger.study.user_attrs)
    start = stock.choose_start(settings, graph, course, has, table)
    ledger.describe_study({"start": asdict(start)})
    return replace(course, base=start.base, start=start.progress)


def take_snapshot(source: Source, settings: Settings, dense_key: str) -> dict[str, Any]:
    """Return all successful evaluations of ``source`` as plain values.

    The seed of the studies may differ: what was evaluated with another seed is a starting
    point, while it answers no question of the new study. So may how latency is measured: what
    does not follow from that is taken.

    Raises:
        StudyError: Its task or how it evaluates differ from those of the new study.
    """
    study = open_study(source.name, source.storage)
    trials = study.get_trials(deepcopy=False)
    attrs = {one.number: one.user_attrs for one in trials if "key" in one.user_attrs}
    theirs = _hash_stages(_measure_as(settings, study), dense_key)
    jobs = {number: read_job(one) for number, one in attrs.items()}
    if any(
        jobs[number].key(theirs[jobs[number].stage]) != attrs[number]["key"] for number in attrs
    ):
        raise StudyError(_describe_difference(source, study, settings))
    is_alike = theirs["fast"] == settings.evaluate.hash_for("fast", dense_key)
    stored = [
        {
            **asdict(one),
            "candidate": one.candidate.to_json(),
            "metrics": dict(one.metrics),
            "seed": attrs[one.number]["seed"],
        }
        for one in read_records(study)
        if math.isfinite(one.energy) and (is_alike or one.stage != "fast")
    ]
    kept = replace(source, storage=strip_password(source.storage))
    record = {"version": VERSION, "source": asdict(kept), "stored": stored}
    if TABLE in study.user_attrs and theirs["full"] == settings.evaluate.hash_for(
        "full", dense_key
    ):
        record[TABLE] = study.user_attrs[TABLE]
    return record


def open_snapshot(record: Mapping[str, Any], folder: RunFolder) -> Stock:
    """Return :func:`take_snapshot` as a stock for the study in ``folder``."""
    stored = []
    for one in record["stored"]:
        values = {**one, "candidate": Candidate.from_json(one["candidate"])}
        seed = values.pop("seed")
        decided = Record(**values)
        job = Job(
            stage=decided.stage,
            candidate=decided.candidate,
            round=decided.round,
            base=decided.base,
            seed=seed,
        )
        stored.append(Stored(job=job, record=decided))
    return Stock(Source(**record["source"]), tuple(stored), folder, recall_table(record))


def _measure_as(settings: Settings, study: optuna.Study) -> Settings:
    """Return ``settings`` with latency measured as in another study."""
    there = read_spec(study).get("evaluate", {}).get("latency")
    latency = None if there is None else parse_settings(LatencySettings, there)
    return replace(settings, evaluate=replace(settings.evaluate, latency=latency))


def _hash_stages(settings: Settings, dense_key: str) -> dict[Stage, str]:
    return {stage: settings.evaluate.hash_for(stage, dense_key) for stage in get_args(Stage)}


def _describe_difference(source: Source, study: optuna.Study, settings: Settings) -> str:
    """Return why the evaluations of a source are none of the new study's."""
    theirs, ours = flatten_settings(read_spec(study)), flatten_settings(make_spec(settings))
    given = theirs.keys() | ours.keys()
    keys = sorted(key for key in given if key.startswith(EVALUATION) and LATENCY not in key)
    changes = [
        f"{key} is {theirs.get(key, 'absent')!r} there but {ours.get(key, 'absent')!r} here"
        for key in keys
        if theirs.get(key, "absent") != ours.get(key, "absent")
    ]
    text = "; ".join(changes) or "the data, the checkpoint or a function of yours changed since"
    return (
        f"study {source.name!r} evaluates something else, so that nothing of it can be taken "
        f"over: {text}"
    )


def _is_same_place(one: str, other: str) -> bool:
    first, second = find_file(one), find_file(other)
    if first is None or second is None:
        # What is stored of the place has no password.
        return normalize_storage(strip_password(one)) == normalize_storage(strip_password(other))
    return first.resolve() == second.resolve()
