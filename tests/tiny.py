"""A study of digits that trains for real, in seconds."""

from autocompress.data.settings import DataSettings
from autocompress.evaluate.settings import (
    EvaluateSettings,
    FastSettings,
    FullSettings,
    PruneSettings,
)
from autocompress.evaluate.task import TaskSettings
from autocompress.masks.purify import PurifySettings
from autocompress.methods.choose import MethodSettings
from autocompress.search.budget import Budget
from autocompress.search.settings import SearchSettings
from autocompress.search.spec import Settings
from autocompress.train.admm import AdmmSettings
from autocompress.train.loop import TrainSettings

SHORT = TrainSettings(epochs=1, batch_size=64)
TINY = Settings(
    name="tiny",
    task=TaskSettings(data=DataSettings(train_limit=256), train=SHORT, device="cpu"),
    budget=Budget(weights=0.3),
    search=SearchSettings(evaluations=4, batch=2, chains=1),
    evaluate=EvaluateSettings(
        method=MethodSettings(admm=AdmmSettings(updates=2)),
        fast=FastSettings(prune=SHORT, retrain=SHORT, norm_batches=2),
        round=PruneSettings(prune=SHORT, retrain=SHORT),
        full=FullSettings(
            prune=SHORT, retrain=SHORT, final=SHORT, purify=PurifySettings(evaluations=4)
        ),
    ),
)
