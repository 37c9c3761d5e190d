"""What a peer's run took, counted on when the run was killed and is started again."""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path


def _read_clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


@dataclass
class Effort:
    """Counts of one run, in a file.

    Attributes:
        path: The file; made at the first :meth:`write`.
        search_samples: Samples through the network before fine-tuning: forward 1, training 3.
        evaluations: Models scored before fine-tuning.
        prune_s: Wall time until fine-tuning began.
        seconds: Wall time, also of pieces that were killed, up to their last write.
        cpu_s: CPU time, likewise.
    """

    path: Path
    search_samples: int = 0
    evaluations: int = 0
    prune_s: float = 0.0
    seconds: float = 0.0
    cpu_s: float = 0.0
    _last: tuple[float, float] = field(default_factory=_read_clocks, repr=False)

    def __post_init__(self) -> None:
        if self.path.exists():
            for key, value in json.loads(self.path.read_text("utf-8")).items():
                setattr(self, key, value)

    def measure(self) -> float:
        """Return the wall time so far, in seconds."""
        return self.seconds + _read_clocks()[0] - self._last[0]

    def write(self) -> None:
        """Add the time that went by and store everything."""
        now = _read_clocks()
        self.seconds += now[0] - self._last[0]
        self.cpu_s += now[1] - self._last[1]
        self._last = now
        counts = {key: one for key, one in asdict(self).items() if key not in {"path", "_last"}}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".draft")
        draft.write_text(json.dumps(counts), encoding="utf-8")
        draft.replace(self.path)
