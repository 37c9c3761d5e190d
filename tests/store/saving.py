"""A small stored model for tests of commands."""

from pathlib import Path

import torch

from autocompress.data.source import InputSpec
from autocompress.store.artifacts import save_artifact
from autocompress.zoo.make import ModelSettings, make_model


def save_digits_model(folder: Path) -> Path:
    """Store an untrained ``digits_cnn`` and return ``folder``."""
    settings = ModelSettings(name="digits_cnn")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make_model(settings, (1, 8, 8), 10)
    save_artifact(
        folder,
        model,
        model_settings=settings,
        input_shape=(1, 8, 8),
        classes=10,
        input_spec=InputSpec(shape=(1, 8, 8), mean=(0.3,), std=(0.4,)),
        metrics={},
    )
    return folder
