"""How many jobs run at the same time, and where."""

from dataclasses import dataclass
from typing import Literal

from autocompress.errors import SettingError

ExecutorName = Literal["auto", "in_process", "subprocess"]


@dataclass(frozen=True, kw_only=True)
class ExecuteSettings:
    """Where evaluations run. Nothing here changes what an evaluation finds.

    Attributes:
        workers: Evaluations at the same time.
        executor: ``in_process`` evaluates in the controller's own process, one at a time;
            ``subprocess`` gives each worker a process; ``auto`` takes the first for one worker
            and the second for more.
        threads: Threads of each worker; 0 shares the cores out among the subprocesses and
            leaves PyTorch's own number in the controller's process.
        timeout_s: Seconds after which the evaluation of a candidate has failed; 0 for never.
            Holds in subprocesses only.
        model_timeout_s: The same for pruning to a candidate and for finishing a model.
        stop_after_s: Seconds after which a search begins no further evaluation; 0 for never.
            It can be gone on with; cooling follows evaluations, not time.
    """

    workers: int = 1
    executor: ExecutorName = "auto"
    threads: int = 0
    timeout_s: float = 0.0
    model_timeout_s: float = 0.0
    stop_after_s: float = 0.0

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise SettingError(f"execute.workers: want 1 or more, got {self.workers}")
        if self.executor == "in_process" and self.workers > 1:
            raise SettingError(
                f"execute.workers: one process evaluates one at a time, got {self.workers}; "
                'want executor = "subprocess"'
            )
        for key in ("threads", "timeout_s", "model_timeout_s", "stop_after_s"):
            if not getattr(self, key) >= 0:
                raise SettingError(f"execute.{key}: want 0 or more, got {getattr(self, key)}")

    @property
    def in_process(self) -> bool:
        """Return whether evaluations run in the controller's own process."""
        return self.executor == "in_process" or (self.executor == "auto" and self.workers == 1)
