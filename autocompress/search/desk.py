"""What a controller works with."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from autocompress.execute.base import Executor
from autocompress.search.ledger import Ledger
from autocompress.search.progress import Watch
from autocompress.search.requests import Evaluator
from autocompress.search.warm import Stock


@dataclass(frozen=True, kw_only=True)
class Desk:
    """What a controller works with.

    Attributes:
        ledger: The held study.
        evaluator: Knows the models.
        executor: Runs the jobs.
        watch: Told of every step.
        stock: What may be taken from another study.
        clock: Seconds; only their differences count.
    """

    ledger: Ledger
    evaluator: Evaluator
    executor: Executor
    watch: Watch
    stock: Stock | None = None
    clock: Callable[[], float] = time.monotonic
