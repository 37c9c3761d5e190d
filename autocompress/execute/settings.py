"""How many jobs run at the same time, and where."""

from dataclasses import dataclass
from typing import Literal

from autocompress.errors import SettingError

ExecutorName = Literal["auto", "in_process", "subprocess", "ray"]


@dataclass(frozen=True, kw_only=True)
class ExecuteSettings:
    """Where evaluations run. Nothing here changes what an evaluation finds.

    Attributes:
        workers: Evaluations at the same time.
        executor: ``in_process`` evaluates in the controller's own process, one at a time;
            ``subprocess`` gives each worker a process; ``auto`` takes the first for one worker
            and the second for more; ``ray`` gives each worker an actor of a Ray cluster.
        address: The Ray cluster: ``auto`` is the one that this process runs in or that the
            environment names, ``local`` starts one for this search on the loopback interface,
            ``HOST:PORT`` is another one.
        cpus: Cores that Ray reserves for the evaluation of a candidate.
        gpus: The same for GPUs; 0.25 lets four share one. Workers see no others, and with 0
            none: ``task.device`` of ``auto`` is then their CPU.
        model_cpus: Cores for pruning to a candidate and for finishing a model; 0 for ``cpus``.
        model_gpus: The same for GPUs; 0 for ``gpus``.
        ahead: Jobs that Ray is given beyond its workers, so that none waits for a decision.
        threads: Threads of each worker; 0 shares the cores out among the subprocesses, takes
            those that Ray reserves, and leaves PyTorch's own number in the controller's process.
        timeout_s: Seconds after which the evaluation of a candidate has failed; 0 for never.
            Holds in subprocesses and Ray's actors only.
        model_timeout_s: The same for pruning to a candidate and for finishing a model.
        stop_after_s: Seconds after which a search begins no further evaluation; 0 for never.
            It can be gone on with; cooling follows evaluations, not time.
        storage_patience_s: Seconds for which a search waits for a database that went away.
    """

    workers: int = 1
    executor: ExecutorName = "auto"
    address: str = "auto"
    cpus: float = 1.0
    gpus: float = 0.0
    model_cpus: float = 0.0
    model_gpus: float = 0.0
    ahead: int = 0
    threads: int = 0
    timeout_s: float = 0.0
    model_timeout_s: float = 0.0
    stop_after_s: float = 0.0
    storage_patience_s: float = 600.0

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise SettingError(f"execute.workers: want 1 or more, got {self.workers}")
        if self.executor == "in_process" and self.workers > 1:
            raise SettingError(
                f"execute.workers: one process evaluates one at a time, got {self.workers}; "
                'want executor = "subprocess"'
            )
        for key, value in vars(self).items():
            if isinstance(value, (int, float)) and not value >= 0:
                raise SettingError(f"execute.{key}: want 0 or more, got {value}")

    @property
    def in_process(self) -> bool:
        """Return whether evaluations run in the controller's own process."""
        return self.executor == "in_process" or (self.executor == "auto" and self.workers == 1)
