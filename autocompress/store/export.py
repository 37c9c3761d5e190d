"""Finished models for other runtimes: ONNX, and PyTorch's own ``.pt2``.

Both formats hold plain operators only, also of column layers: nothing of this package is needed
to run them. A file is written after what it holds was loaded, run and compared with the model.
"""

import copy
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.data.source import InputSpec
from autocompress.errors import ExportError
from autocompress.store.files import name_failure, replace_file

OPSET = 18  # The lowest that the exporter writes, so that old runtimes can read it.
LIMIT = 1e-4  # Of the relative difference in float32.
INPUT, OUTPUT = "images", "scores"
SPEC_NAME = "input_spec"

_PROBES = (1, 3)  # Batch sizes that a model for any batch is compared at.
# What the runtime folds when it loads: a column layer's indices would outgrow its weights.
_FOLDED_VALUES = 1024

Run = Callable[[Tensor], Tensor]


def export_onnx(
    model: nn.Module, example: Tensor, path: str | Path, *, any_batch: bool = True
) -> float:
    """Write a model as one ONNX file, weights inside, that onnxruntime computes alike.

    Its input is called ``images`` and its output ``scores``. When the model has an
    ``input_spec``, the metadata of that name hold it as JSON.

    Args:
        model: Takes one tensor and returns one; float32. It is not changed, and exported as it
            is in evaluation mode.
        example: Of the input's shape (samples, ...) and dtype; its values are not used.
        path: The file; replaced as a whole, and only by one that was found equal.
        any_batch: Whether the file takes batches of any size, or only of the example's.

    Returns:
        The largest difference of an output in onnxruntime, over the largest output.

    Raises:
        ExportError: A package is missing, the model cannot be exported, or the exported one
            computes something else.
        ArtifactError: The file cannot be written.
    """
    data, gap = make_onnx(model, example, any_batch=any_batch)
    with name_failure(Path(path)):
        replace_file(Path(path), data)
    return gap


def export_torch(
    model: nn.Module, example: Tensor, path: str | Path, *, any_batch: bool = True
) -> float:
    """Write a model by ``torch.export.save``; ``torch.export.load(path).module()`` runs it.

    When the model has an ``input_spec``, the extra file ``input_spec.json`` holds it.

    Args:
        model: As for :func:`export_onnx`.
        example: As for :func:`export_onnx`.
        path: The file, by custom ending in ``.pt2``.
        any_batch: As for :func:`export_onnx`.

    Returns:
        The largest difference of an output of the loaded program, over the largest output.

    Raises:
        ExportError: The model cannot be exported, or the exported one computes something else.
        ArtifactError: The file cannot be written.
    """
    model, inputs, shapes = _prepare(model, example, any_batch=any_batch)
    file = io.BytesIO()
    with _explain(any_batch=any_batch), _silence():
        program = torch.export.export(model, (inputs,), dynamic_shapes=shapes)
        _forget_places(program)
        texts = {f"{name}.json": text for name, text in _describe_input(model).items()}
        torch.export.save(program, file, extra_files=texts)
        file.seek(0)
        loaded = torch.export.load(file).module()
        gap = _check_gap(model, loaded, _draw(inputs, any_batch=any_batch), "PyTorch")
    with name_failure(Path(path)):
        replace_file(Path(path), file.getvalue())
    return gap


def make_onnx(model: nn.Module, example: Tensor, *, any_batch: bool = True) -> tuple[bytes, float]:
    """Return the bytes of an ONNX file and their difference, see :func:`export_onnx`."""
    onnxscript = _load("onnxscript.optimizer")
    for name in ("onnx", "onnxruntime"):
        _load(name)
    model, inputs, shapes = _prepare(model, example, any_batch=any_batch)
    with _explain(any_batch=any_batch), _silence():
        program = torch.onnx.export(
            model,
            (inputs,),
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=shapes,
            opset_version=OPSET,
            external_data=False,
            optimize=False,
            verbose=False,
        )
        assert program is not None  # It is, for dynamo.
        program.model = onnxscript.optimize(program.model, output_size_limit=_FOLDED_VALUES)
        proto = program.model_proto
        _strip_onnx(proto)
        for name, text in _describe_input(model).items():
            proto.metadata_props.add(key=name, value=text)
        data: bytes = proto.SerializeToString()
        run = open_onnx(data)
        gap = _check_gap(model, run, _draw(inputs, any_batch=any_batch), "onnxruntime")
    return data, gap


def open_onnx(data: bytes, *, threads: int = 1) -> Run:
    """Return what runs the bytes of an exported ONNX file in onnxruntime, on the CPU.

    Args:
        data: Made by :func:`make_onnx`.
        threads: That one call may use, 1 or more; they rest between calls.

    Raises:
        ExportError: onnxruntime is missing.
    """
    runtime = _load("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # Errors, which are raised as well.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(session.run([OUTPUT], {INPUT: inputs.numpy()})[0])


def _load(name: str) -> Any:
    """Return an optional module.

    Raises:
        ExportError: It is missing.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ExportError(
            f"{error.name} is not installed; install it with: "
            "python -m pip install 'autocompress[export]'"
        ) from error


def _prepare(
    model: nn.Module, example: Tensor, *, any_batch: bool
) -> tuple[nn.Module, Tensor, tuple[Mapping[int, object]] | None]:
    """Return a copy to be exported, inputs to trace it with, and which sizes may change."""
    if example.dim() < 2 or len(example) < 1:
        raise ExportError(f"want an example of shape (samples, ...), got {tuple(example.shape)}")
    model = copy.deepcopy(model).cpu().eval().requires_grad_(requires_grad=False)
    # One sample is taken for a constant: a size that may change is traced with two.
    samples = 2 if any_batch else len(example)
    inputs = torch.zeros(samples, *example.shape[1:], dtype=example.dtype)
    return model, inputs, ({0: torch.export.Dim("batch")},) if any_batch else None


def _draw(inputs: Tensor, *, any_batch: bool) -> list[Tensor]:
    """Return random inputs of the sizes to be compared at."""
    generator = torch.Generator().manual_seed(0)
    sizes = _PROBES if any_batch else (len(inputs), len(inputs))
    shapes = [(size, *inputs.shape[1:]) for size in sizes]
    return [torch.randn(shape, generator=generator).to(inputs.dtype) for shape in shapes]


@torch.no_grad()
def _check_gap(model: nn.Module, other: Run, batches: Sequence[Tensor], runtime: str) -> float:
    """Return the largest relative difference of two models.

    Raises:
        ExportError: It is too large, or no number.
    """
    gaps = []
    for inputs in batches:
        wanted = model(inputs)
        given = other(inputs)
        if given.shape != wanted.shape:
            shapes = f"{tuple(given.shape)} and {tuple(wanted.shape)}"
            raise ExportError(f"{runtime} and the model give shapes {shapes}; nothing was written")
        largest = float(wanted.abs().max().clamp_min(torch.finfo(torch.float32).tiny))
        gaps.append(float((given - wanted).abs().max()) / largest)
    for gap in gaps:
        if not gap <= LIMIT:  # So that NaN is refused too.
            raise ExportError(
                f"the exported model differs from the model by {gap:.1e} of the largest output "
                f"in {runtime}, want at most {LIMIT:.0e}; nothing was written"
            )
    return max(gaps)


@contextmanager
def _explain(*, any_batch: bool) -> Iterator[None]:
    """Turn whatever fails inside into one sentence."""
    try:
        yield
    except ExportError:
        raise
    except Exception as error:  # A model of anyone fails in its own way, inside three packages.
        root: BaseException = error
        while root.__cause__ is not None:
            root = root.__cause__
        first = next((line.strip() for line in str(root).splitlines() if line.strip()), "")
        cause = f"{type(root).__name__}: {first.rstrip('.')}"
        advice = "; a fixed size may do: any_batch=False, or --batch 1" if any_batch else ""
        raise ExportError(f"the model cannot be exported: {cause}{advice}") from error


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what exporters say about their own modules from the user."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()) as heap:
            warnings.simplefilter("ignore")
            with redirect_stderr(heap):  # A graph that cannot be traced is printed there.
                yield
    finally:
        logging.disable(before)


def _describe_input(model: nn.Module) -> dict[str, str]:
    """Return how an image becomes an input, as JSON; nothing when that is not known."""
    spec = getattr(model, SPEC_NAME, None)
    return {SPEC_NAME: json.dumps(asdict(spec))} if isinstance(spec, InputSpec) else {}


def _strip_onnx(proto: Any) -> None:
    """Remove notes for debugging, which name files of this machine."""
    graph = proto.graph
    for part in (graph.node, graph.initializer, graph.input, graph.output, graph.value_info):
        for one in part:
            one.ClearField("metadata_props")
            one.ClearField("doc_string")
    graph.ClearField("metadata_props")


def _forget_places(program: torch.export.ExportedProgram) -> None:
    """Remove the lines of code that were traced, with their files, and the example."""
    program.example_inputs = None
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
