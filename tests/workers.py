"""Runners that do what a job's ``base`` says; they import little, so that processes start fast."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from autocompress.errors import DataError, EvaluationError, SettingError
from autocompress.execute.base import Executor
from autocompress.jobs import Candidate, Job, Outcome
from autocompress.store.run_folder import RunFolder

CALM = "calm"


def make_job(base: str = CALM, seed: int = 0) -> Job:
    """Return a job whose runner does what ``base`` names."""
    kept = Candidate(filters={"a": 3}, columns={})
    return Job(stage="fast", candidate=kept, round=0, base=base, seed=seed)


@dataclass(frozen=True)
class Performer:
    """Notes each run, by its process, in a file of ``root``, then does what the job says."""

    root: Path

    def run(self, job: Job) -> Outcome:
        """Return the outcome of :func:`calm_outcome` unless the job says otherwise."""
        with (self.root / "runs.txt").open("a") as file:
            file.write(f"{os.getpid()} {job.base}\n")
        act = ACTS.get(job.base.partition(":")[0])
        return calm_outcome(job) if act is None else act(self.root, job)


@dataclass(frozen=True)
class PerformerFactory:
    """Makes a performer; does what the ``act`` says first."""

    root: str
    act: str = CALM

    def __call__(self) -> Performer:
        """Return a new performer."""
        act = ACTS.get(self.act)
        if act is not None:
            act(Path(self.root), make_job(self.act))
        return Performer(Path(self.root))


@dataclass
class Storer:
    """Stores its base twice over as a model of its own.

    Attributes:
        root: A run folder.
        runs: So many jobs were run.
    """

    root: Path
    runs: int = 0

    def run(self, job: Job) -> Outcome:
        """Return an outcome that says how many models lie here."""
        self.runs += 1
        folder, key = RunFolder(self.root), f"model{self.runs}"
        weights = (folder.path(job.base) / "weights").read_bytes()

        def fill(path: Path) -> None:
            (path / "deep").mkdir()
            (path / "deep" / "copy").write_bytes(weights * 2)

        folder.write(key, fill)
        objects = len(list(self.root.glob("objects/*/*")))
        return Outcome(energy=0.0, metrics={"objects": objects}, artifact=key)


def make_storer(root: str) -> Storer:
    """Return a runner that keeps its models in ``root``."""
    return Storer(Path(root))


def calm_outcome(job: Job) -> Outcome:
    """Return what a job without trouble comes to: its seed and process are in it."""
    metrics = {"val_loss": job.seed + 0.1, "seconds": 0.5, "pid": float(os.getpid())}
    return Outcome(energy=job.seed + 0.1, metrics=metrics)


def read_runs(root: Path) -> list[str]:
    """Return the ``base`` of every job that began, in order."""
    path = root / "runs.txt"
    return [line.split()[1] for line in path.read_text().splitlines()] if path.exists() else []


def _fail(_: Path, __: Job) -> Outcome:
    raise EvaluationError("training\ndiverged")


def _refuse_settings(_: Path, __: Job) -> Outcome:
    raise SettingError("loss: no such loss")


def _refuse_data(_: Path, __: Job) -> Outcome:
    raise DataError("a label is wrong")


def _refuse_if_sick(root: Path, job: Job) -> Outcome:
    if os.environ.get("SICK"):
        return _refuse_data(root, job)
    return calm_outcome(job)


def _use_up_memory(_: Path, __: Job) -> Outcome:
    raise MemoryError


def _break_cuda(_: Path, __: Job) -> Outcome:
    raise RuntimeError("CUDA error: device-side assert triggered")


def _diverge(_: Path, __: Job) -> Outcome:
    return Outcome(energy=float("nan"))


def _grow(_: Path, job: Job) -> Outcome:
    """Keep 40 MB for ever."""
    vars(sys.modules[__name__]).setdefault("kept", []).append(bytearray(b"x") * 40_000_000)
    return calm_outcome(job)


def _exit(_: Path, __: Job) -> Outcome:
    os._exit(3)


def _kill(_: Path, __: Job) -> Outcome:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def _abort(_: Path, __: Job) -> Outcome:
    os.abort()


def _hang(root: Path, _: Job) -> Outcome:
    (root / "hangs").touch()
    while True:
        time.sleep(60)


def _hang_stubbornly(root: Path, job: Job) -> Outcome:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return _hang(root, job)


def _hang_once(root: Path, job: Job) -> Outcome:
    if (root / "hangs").exists():
        return calm_outcome(job)
    return _hang(root, job)


def _die_once(root: Path, job: Job) -> Outcome:
    if (root / "died").exists():
        return calm_outcome(job)
    (root / "died").touch()
    return _kill(root, job)


def _store_and_die(root: Path, job: Job) -> Outcome:
    RunFolder(root).write_json(job.base.partition(":")[2], calm_outcome(job).to_json())
    return _kill(root, job)


def _spoil_and_die(root: Path, job: Job) -> Outcome:
    (root / "results" / f"{job.base.partition(':')[2]}.json").mkdir(parents=True)
    return _kill(root, job)


def _meet(root: Path, job: Job) -> Outcome:
    """Wait until the job of the other seed below 2 has begun too."""
    (root / f"met{job.seed}").touch()
    wait_until((root / f"met{1 - job.seed}").exists)
    return calm_outcome(job)


def _report_threads(_: Path, __: Job) -> Outcome:
    """Report the variable that OpenMP reads and what PyTorch's stand-in was told."""
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_char_p
    told = vars(sys.modules["torch"]).get("told", 0)
    vars(sys.modules["torch"])["told"] = 0
    return Outcome(energy=float(told), metrics={"openmp": float(getenv(b"OMP_NUM_THREADS"))})


def _load_torch(_: Path, job: Job) -> Outcome:
    """Load a stand-in for PyTorch, which would take seconds."""
    module = ModuleType("torch")
    sys.modules["torch"] = module

    def set_num_threads(threads: int) -> None:
        vars(module)["told"] = threads

    vars(module)["set_num_threads"] = set_num_threads
    return calm_outcome(job)


def _show_environment(root: Path, job: Job) -> Outcome:
    shown = "\n".join(f"{name}={value}" for name, value in os.environ.items())
    (root / "environment.txt").write_text(shown)
    return calm_outcome(job)


ACTS: dict[str, Callable[[Path, Job], Outcome]] = {
    "fail": _fail,
    "refuse_settings": _refuse_settings,
    "refuse_data": _refuse_data,
    "refuse_if_sick": _refuse_if_sick,
    "use_up_memory": _use_up_memory,
    "break_cuda": _break_cuda,
    "diverge": _diverge,
    "grow": _grow,
    "exit": _exit,
    "kill": _kill,
    "abort": _abort,
    "hang": _hang,
    "hang_stubbornly": _hang_stubbornly,
    "hang_once": _hang_once,
    "die_once": _die_once,
    "store_and_die": _store_and_die,
    "spoil_and_die": _spoil_and_die,
    "meet": _meet,
    "report_threads": _report_threads,
    "load_torch": _load_torch,
    "show_environment": _show_environment,
}


def wait_until(fact: Callable[[], bool], limit_s: float = 20.0) -> None:
    """Wait until ``fact`` holds.

    Raises:
        TimeoutError: It does not within ``limit_s``.
    """
    end = time.monotonic() + limit_s
    while not fact():
        if time.monotonic() > end:
            raise TimeoutError(f"not so within {limit_s} s")
        time.sleep(0.01)


def take_outcome(executor: Executor) -> tuple[str, Outcome]:
    """Return the next outcome, however often the number of slots grows before."""
    answer = None
    while answer is None:
        answer = executor.wait()
    return answer
