"""A training in progress as one file: killed and started again, it ends as if it had not been."""

import hashlib
import io
import logging
import math
import os
import pickle
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from autocompress.errors import ArtifactError
from autocompress.jobs import hash_json

MAGIC = b"autocompress-training 1\n"  # Then the SHA-256 of what follows, in 64 digits.

SECONDS = 60.0  # Between two writes.

_DIGITS = 64
# What torch.load reads without trusting a file; subclasses it does not.
_PLAIN = frozenset({bool, int, float, str, type(None)})
_READING_FAILS = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
_log = logging.getLogger(__name__)


class Part(Protocol):
    """A part of a training that changes with its steps."""

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values in dicts, lists and tuples; memory may be shared."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Set the part to what :meth:`state_dict` returned; the tensors are on the CPU."""
        ...


class Keeper:
    """Keeps a training in one file, written now and then while it runs, and when it is over.

    The file belongs to the training that it was begun with: to the settings, the seed, the
    steps, the samples, the model as it was at the start, PyTorch's version and ``key``. A file
    of another training is ignored, and replaced at the first write. A file that was written in
    part is never read: it gets its name when it is whole and on the disk.

    Attributes:
        path: The file; of one process at a time. Beside it a draft with the suffix ``.draft``.
        key: What else the training follows from and the file must agree with: data, loss,
            what the hooks do.
        seconds: Time between two writes, and before the first, 0 or more.
        lenient: Whether a damaged file is ignored, where nobody is there to delete it.
    """

    def __init__(
        self,
        path: Path,
        *,
        key: str = "",
        seconds: float = SECONDS,
        lenient: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not seconds >= 0:
            raise ValueError(f"seconds between checkpoints: want 0 or more, got {seconds}")
        self.path = path
        self.key = key
        self.seconds = seconds
        self.lenient = lenient
        self._clock = clock
        self._due = math.inf
        self._start: dict[str, Any] = {}
        self._parts: dict[str, Part] = {}

    def open(self, start: Mapping[str, Any], parts: Mapping[str, Part]) -> bool:
        """Begin to keep ``parts``; return whether they were set to what the file holds.

        Args:
            start: What the training follows from, as plain values.
            parts: By name; set in this order.

        Raises:
            ArtifactError: The file is damaged, or of another version, or cannot be read.
            TypeError: A part has a state of other values than tensors and plain ones.
        """
        self._start, self._parts = {"key": self.key, **start}, dict(parts)
        self._due = self._clock() + self.seconds
        _check_plain(self._start, "checkpoint")
        self._gather()  # Refuses at once what the first write would refuse.
        try:
            record = self._read()
        except ArtifactError as error:
            if not self.lenient:
                raise
            _log.warning("%s; it begins again", error)
            return False
        if record is None:
            return False
        stored = record["start"]
        differing = sorted(key for key in self._start if stored.get(key) != self._start[key])
        if differing:
            _log.info("%s: ignored, of another training (%s)", self.path, ", ".join(differing))
            return False
        if record["parts"].keys() != self._parts.keys():
            raise self._refuse("want the parts of this training")
        for name, part in self._parts.items():
            part.load_state_dict(record["parts"][name])
        return True

    def write_when_due(self) -> None:
        """Write the file when ``seconds`` went by since the last time; else take no time."""
        if self._clock() >= self._due:
            self.write()

    def write(self) -> None:
        """Write the file now, unless it was cleared.

        A disk that refuses is told to the log: it must not end the training that it should save.
        """
        if not self._parts:
            return
        payload = io.BytesIO()
        torch.save({"start": self._start, "parts": self._gather()}, payload)
        draft = self._draft()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("wb") as file:
                file.write(MAGIC + _hash(payload.getbuffer()))
                file.write(payload.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.path)
        except OSError as error:
            _log.warning("%s: the training goes on, but cannot be kept: %s", self.path, error)
        self._due = self._clock() + self.seconds

    def clear(self) -> None:
        """Remove the file: what comes out of the training is stored elsewhere."""
        self._due, self._parts = math.inf, {}
        self._draft().unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def _draft(self) -> Path:
        return self.path.with_name(f"{self.path.name}.draft")

    def _gather(self) -> dict[str, dict[str, Any]]:
        states = {name: part.state_dict() for name, part in self._parts.items()}
        _check_plain(states, "checkpoint")
        return states

    def _read(self) -> dict[str, Any] | None:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._refuse(str(error)) from error
        if not data.startswith(MAGIC):
            raise self._refuse("want a checkpoint of this version")
        digest, payload = data[len(MAGIC) :][:_DIGITS], data[len(MAGIC) + _DIGITS :]
        if _hash(payload) != digest:
            raise self._refuse("it is damaged")
        try:
            record = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
            return {"start": dict(record["start"]), "parts": dict(record["parts"])}
        except _READING_FAILS as error:
            raise self._refuse(str(error)) from error

    def _refuse(self, cause: str) -> ArtifactError:
        return ArtifactError(
            f"{self.path}: cannot go on from this checkpoint: {cause}; delete it to begin this "
            "training again"
        )


@dataclass(frozen=True)
class Keepers:
    """Keepers of the trainings of one job, one file each.

    A job that was killed runs its trainings again. Those that were over are kept as they ended,
    so that the next one is known again by the model it starts with, whatever the device: a GPU
    would not come to the same bits twice.

    Attributes:
        folder: Where the files lie; None keeps nothing.
        key: Of what the job makes.
        seconds: Time between two writes of a training.
    """

    folder: Path | None = None
    key: str = ""
    seconds: float = SECONDS

    def open(self, name: str) -> Keeper | None:
        """Return what keeps the training called ``name`` of the job."""
        if self.folder is None:
            return None
        path = self.folder / f"{self.key}-{name}.training"
        return Keeper(path, key=self.key, seconds=self.seconds, lenient=True)

    def clear(self) -> None:
        """Remove all files of the job: what came of it is stored."""
        if self.folder is not None:
            for path in self.folder.glob(f"{self.key}-*.training*"):
                path.unlink(missing_ok=True)


NOT_KEPT = Keepers()


class Tensors:
    """The parameters and all buffers of a model, as a :class:`Part`."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def state_dict(self) -> dict[str, Any]:
        """Return them by name, in shared memory."""
        return name_tensors(self._model)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Set them in place, so that whoever holds them goes on to.

        Raises:
            ArtifactError: The names or shapes are of another model.
        """
        tensors = name_tensors(self._model)
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        if shapes != {name: tensor.shape for name, tensor in state.items()}:
            raise ArtifactError("checkpoint: want the tensors of this model, got others")
        for name, tensor in tensors.items():
            tensor.copy_(state[name])


class GlobalDraws:
    """The states of torch's global generators, as a :class:`Part`; dropout draws from them."""

    def state_dict(self) -> dict[str, Any]:
        """Return the states; of GPUs when they are in use."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        return {"cpu": torch.get_rng_state(), "cuda": cuda}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Set the states; GPUs that are not there are left out."""
        torch.set_rng_state(state["cpu"])
        devices = torch.cuda.device_count() if torch.cuda.is_initialized() else 0
        for device, value in enumerate(state["cuda"][:devices]):
            torch.cuda.set_rng_state(value, device)


def describe_start(model: nn.Module, settings: Mapping[str, Any], **others: int) -> dict[str, Any]:
    """Return what a training follows from, as plain values.

    Args:
        model: As it is before the first step: its tensors are part of the answer.
        settings: Of the training, as plain values.
        others: Seed, steps, samples.
    """
    tensors = name_tensors(model)
    outline = {
        name: [list(value.shape), str(value.dtype), value.requires_grad]
        for name, value in {**tensors, **dict(model.named_parameters())}.items()
    }
    content = hashlib.sha256()
    for tensor in tensors.values():
        content.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return {
        "settings": dict(settings),
        "tensors": hash_json(outline),
        "values": content.hexdigest(),
        "torch": str(torch.__version__),
        **others,
    }


def name_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, those that state dicts leave out too; shared."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor.detach() for name, tensor in named.items()}


def _hash(data: bytes | memoryview) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def _check_plain(value: Any, place: str) -> None:
    """Refuse what could be written but not be read again without trusting the file."""
    if type(value) in {dict, OrderedDict}:
        for key, item in value.items():
            _check_plain(item, f"{place}.{key}")
    elif type(value) in {list, tuple}:
        for index, item in enumerate(value):
            _check_plain(item, f"{place}.{index}")
    elif not isinstance(value, Tensor) and type(value) not in _PLAIN:
        raise TypeError(f"{place}: want tensors and plain values, got {type(value).__name__}")
