"""What a controller was told that its writes had done, noted outside the study."""

import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from autocompress.search.entries import ORIGINAL
from autocompress.search.ledger import read_records
from autocompress.search.records import Record

NOTES = "acknowledged.txt"
COUNTED = ("created", "written", "told")


@dataclass(frozen=True, kw_only=True)
class Note:
    """One line.

    Attributes:
        what: The checkpoint that was passed, or ``decided``.
        pid: The process.
        at_s: When, by the machine's monotonic clock.
        seq: Of the decision; -1 for a checkpoint.
        number: Of its trial.
        key: Of its result.
        energy: None for an evaluation that was given up.
    """

    what: str
    pid: int
    at_s: float
    seq: int = -1
    number: int = -1
    key: str = ""
    energy: float | None = None


def acknowledge(root: Path, what: str) -> None:
    """Note that the writes before a checkpoint have returned; survives SIGKILL."""
    if what in COUNTED:
        _append(root, {"what": what})


def acknowledge_decision(root: Path, record: Record) -> None:
    """Note that a decision was written and told."""
    energy = None if math.isnan(record.energy) else record.energy
    said = {"seq": record.seq, "number": record.number, "key": record.key, "energy": energy}
    _append(root, {"what": "decided", **said})


def read_notes(root: Path, what: str = "decided") -> list[Note]:
    """Return the notes of one kind, or of all, in order."""
    path = root / NOTES
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    notes = [Note(**json.loads(line)) for line in lines]
    return [note for note in notes if what in ("", note.what)]


def find_lost(study: optuna.Study, root: Path) -> Iterator[str]:
    """Give what was acknowledged and is not in the study, one sentence each.

    Every decision has to be there as it was told; of the other writes, as many as returned.
    """
    stored = {record.seq: record for record in read_records(study)}
    for note in read_notes(root):
        record = stored.get(note.seq)
        if record is None:
            yield f"decision {note.seq} was acknowledged and is lost"
            continue
        energy = None if math.isnan(record.energy) else record.energy
        there = (record.number, record.key, energy)
        if there != (note.number, note.key, note.energy):
            yield f"decision {note.seq} was acknowledged as {note}, but is {there}"
    trials = study.get_trials(deepcopy=False)
    there_now = {
        "created": sum(one.user_attrs["origin"] == ORIGINAL for one in trials),
        "written": sum("verdict" in one.user_attrs for one in trials),
        "told": sum("verdict" in one.user_attrs and one.state.is_finished() for one in trials),
    }
    for what in COUNTED:
        told = len(read_notes(root, what))
        if told > there_now[what]:
            yield f"{told} writes {what!r} were acknowledged, {there_now[what]} are there"


def count_acknowledged(root: Path) -> int:
    """Return how many decisions were acknowledged."""
    return len(read_notes(root))


def find_writers(notes: Sequence[Note]) -> Counter[int]:
    """Return how often the process that notes came from changed; one writer: no pid returns."""
    turns: Counter[int] = Counter()
    last = -1
    for note in notes:
        turns[note.pid] += note.pid != last
        last = note.pid
    return turns


def _append(root: Path, fields: dict[str, Any]) -> None:
    line = json.dumps({"pid": os.getpid(), "at_s": time.monotonic(), **fields})
    root.mkdir(parents=True, exist_ok=True)
    handle = os.open(root / NOTES, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(handle, f"{line}\n".encode())
    finally:
        os.close(handle)
