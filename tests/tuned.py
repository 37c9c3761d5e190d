"""Searches of the small graph whose evaluations are trials of Ray Tune."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from autocompress.jobs import hash_json
from autocompress.search.controller import Extension, MakeExecutor, Wiring, hold_controller
from autocompress.search.ledger import Checkpoint, ignore_checkpoint
from autocompress.search.loop import Controller
from autocompress.search.progress import Watch
from autocompress.search.spec import Settings
from autocompress.settings import settings_to_json
from tests.fakes import FakeEvaluator
from tests.formula import FormulaRunner
from tests.tuned_runner import TunedMaker, TunedRunner


@dataclass
class PortableEvaluator(FakeEvaluator):
    """A stand-in that can be sent to trials.

    Attributes:
        runner: What runs there.
    """

    runner: TunedRunner = field(kw_only=True)

    def pack(self) -> Callable[[str], TunedRunner]:
        """Return what makes the runner."""
        return TunedMaker(self.runner)


@dataclass(frozen=True, kw_only=True)
class Opener:
    """Opens studies of the small graph for a ``StudySearcher``; survives pickle.

    Attributes:
        delay_s: Longest time of an evaluation.
        doomed: Stages whose jobs end their process.
        hangs: Whether they hang instead.
        checkpoint: Called between any two writes.
    """

    delay_s: float = 0.0
    doomed: tuple[str, ...] = ()
    hangs: bool = False
    checkpoint: Checkpoint = ignore_checkpoint

    @contextmanager
    def __call__(
        self,
        settings: Settings,
        *,
        source: str,
        extension: Extension,
        progress: Watch,
        make_executor: MakeExecutor,
    ) -> Iterator[Controller]:
        """Give a controller."""
        assert not source
        wiring = Wiring(
            make_evaluator=lambda: PortableEvaluator(runner=self.make_runner(settings)),
            make_executor=make_executor,
            watch=progress,
            checkpoint=self.checkpoint,
        )
        with hold_controller(settings, wiring, extension=extension) as controller:
            yield controller

    def make_runner(self, settings: Settings) -> TunedRunner:
        """Return what runs in trials."""
        how = settings_to_json(settings.evaluate)
        formula = FormulaRunner(
            root=settings.run_dir,
            evaluation_hash=hash_json({"dense": FakeEvaluator.dense_key, "evaluate": how}),
            delay_s=self.delay_s,
        )
        return TunedRunner(formula, doomed=self.doomed, hangs=self.hangs)
