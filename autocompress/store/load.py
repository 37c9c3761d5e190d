"""Open a finished model wherever it is stored: a folder, or one compact file."""

from pathlib import Path

from torch import nn

from autocompress.store import artifacts
from autocompress.store.pack.model import SUFFIX, load_packed, make_packed_dense
from autocompress.store.record import Factory


def load(path: str | Path, *, factory: Factory | None = None) -> nn.Module:
    """Return a finished model on the CPU, in evaluation mode.

    Its attribute ``input_spec`` says how an image in [0, 1] becomes an input.

    Args:
        path: Folder of a finished model, or a compact ``.acz`` file; from anyone: nothing
            in it is run.
        factory: Makes the dense model, called as ``factory(input_shape, classes, **options)``;
            needed when it is neither of the zoo nor of torchvision.

    Raises:
        ArtifactError: It is missing, damaged or of another version, or a factory is needed.
    """
    path = Path(path)
    if _is_packed(path):
        return load_packed(path, factory=factory)
    return artifacts.load(path, factory=factory)


def measure_dense(path: Path, *, factory: Factory | None = None) -> dict[str, int]:
    """Return how many values each parameter of the dense model has, by name.

    Raises:
        ArtifactError: As for :func:`load`.
    """
    if not _is_packed(path):
        return artifacts.measure_dense(path, factory=factory)
    model = make_packed_dense(path, factory=factory)
    return {name: parameter.numel() for name, parameter in model.named_parameters()}


def count_stored(path: Path) -> int:
    """Return the bytes that the weights of a finished model take: of a file, all of it."""
    if _is_packed(path):
        return path.stat().st_size
    return (path / artifacts.WEIGHTS_FILE).stat().st_size


def _is_packed(path: Path) -> bool:
    return path.suffix == SUFFIX or path.is_file()
