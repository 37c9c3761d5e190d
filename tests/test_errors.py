"""Errors cross process borders whole, and say what to do."""

import inspect
import pickle

import pytest

from autocompress import errors

SAMPLES = [
    errors.AutoCompressError("something is wrong"),
    errors.SettingError("method.rho: want a value above 0, got -1"),
    errors.DataError("train_images is missing"),
    errors.GraphError("conv1 is not supported"),
    errors.CouplingError("stage1", {"conv1": 12, "conv2": 8}),
    errors.BudgetError("macs", 1e6, 2.5e6),
    errors.StudyError("study is damaged"),
    errors.SpecMismatchError("digits", {"task.seed": ("0", "1")}),
    errors.StudyBusyError("digits"),
    errors.StudyLostError("digits", "connection refused"),
    errors.ArtifactError("model.safetensors is damaged"),
    errors.FormatError("model.acz is damaged"),
    errors.ExportError("onnx is not installed"),
    errors.ClusterError("its head does not answer"),
    errors.EvaluationError("the loss is not finite"),
]


def test_every_error_has_a_sample() -> None:
    classes = {
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, BaseException)
    }

    assert {type(sample) for sample in SAMPLES} == classes


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_survives_pickle_with_its_attributes(error: errors.AutoCompressError) -> None:
    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is type(error)
    assert vars(copy) == vars(error)
    assert copy.args == error.args
    assert str(copy) == str(error)


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_a_message_is_one_line_without_a_full_stop(error: errors.AutoCompressError) -> None:
    message = str(error)

    assert message
    assert "\n" not in message
    assert not message.endswith(".")


def test_wrong_arguments_are_value_errors() -> None:
    assert issubclass(errors.SettingError, ValueError)
    assert issubclass(errors.BudgetError, ValueError)


def test_messages_name_what_was_got_and_what_to_do() -> None:
    coupling = str(errors.CouplingError("stage1", {"conv2": 8, "conv1": 12}))
    budget = str(errors.BudgetError("macs", 1e6, 2.5e6))
    mismatch = str(errors.SpecMismatchError("digits", {"task.seed": ("0", "1")}))

    assert "'stage1'" in coupling
    assert "conv1 keeps 12, conv2 keeps 8" in coupling
    assert "1,000,000" in budget
    assert "2,500,000" in budget
    assert "task.seed is 0 in the study but 1 now" in mismatch
