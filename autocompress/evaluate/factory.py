"""An evaluator as settings: what another process needs to make its own."""

from dataclasses import dataclass

from autocompress.evaluate.evaluator import Evaluator
from autocompress.evaluate.settings import EvaluateSettings
from autocompress.evaluate.task import TaskSettings, open_task
from autocompress.store.run_folder import open_folder


@dataclass(frozen=True, kw_only=True)
class EvaluatorFactory:
    """Makes an evaluator wherever it is called; survives pickle.

    Attributes:
        task: Its data are read, and its dense model trained unless the folder has it.
        evaluate: How candidates are evaluated.
        run_dir: Path or URL of the run folder.
    """

    task: TaskSettings
    evaluate: EvaluateSettings
    run_dir: str

    def __call__(self) -> Evaluator:
        """Return a new evaluator.

        Raises:
            DataError: The data set is missing or malformed.
            SettingError: The task cannot be opened here.
        """
        task = open_task(self.task)
        return Evaluator(task, self.evaluate, open_folder(self.run_dir))
