"""What is executed computes what is stored, and the fastest way is taken."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from autocompress.deploy.forms import PLAIN
from autocompress.deploy.measure import Timing
from autocompress.deploy.optimize import OptimizedModel, optimize
from autocompress.errors import GraphError
from autocompress.graph.trace import trace_graph
from autocompress.jobs import Candidate
from autocompress.masks.project import measure_energies, project_masks
from autocompress.shrink.compact import compact_model


class Net(nn.Module):
    """Two convolutions with norms, the second around a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.second = nn.Conv2d(12, 12, 3, padding=1, bias=False)
        self.other = nn.BatchNorm2d(12)
        self.classifier = nn.Linear(12, 5)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.norm(self.first(images)).relu()
        maps = (maps + self.other(self.second(maps))).relu()
        return self.classifier(maps.mean((2, 3)))


def make_compact(seed: int = 0) -> nn.Module:
    """Return a net that lost filters and columns, and whose norms are not trivial."""
    torch.manual_seed(seed)
    net = Net().eval()
    for norm in (net.norm, net.other):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.uniform_(norm.bias, -1, 1)
    graph = trace_graph(net, torch.zeros(2, 3, 8, 8))
    name = next(group.name for group in graph.groups if group.prunable)
    candidate = Candidate(filters={name: 7}, columns={"second": 30})
    masks = project_masks(graph, measure_energies(graph, net), candidate)
    return compact_model(net, graph, masks).eval()


def favour(*wanted: str) -> Callable[..., dict[str, Timing]]:
    """Return a measurement in which names with all these words take a tenth of the time."""

    def measure(calls: Mapping[str, Callable[[], object]], **_: object) -> dict[str, Timing]:
        for call in calls.values():
            call()
        return {
            name: Timing(seconds=(0.1 if all(word in name for word in wanted) else 1.0,))
            for name in calls
        }

    return measure


WAYS = [
    ("as stored", "contiguous"),
    ("as stored", "channels_last"),
    ("dense", "contiguous"),
    ("dense", "channels_last"),
    ("padded to 8", "contiguous"),
    ("padded to 16", "channels_last"),
]


@pytest.mark.parametrize("words", WAYS, ids=", ".join)
def test_every_way_computes_the_same_also_for_other_batches(words: tuple[str, str]) -> None:
    model = make_compact()
    fast = optimize(model, torch.randn(4, 3, 8, 8), measure=favour(*words))

    assert all(word in fast.plan.name for word in words)
    assert fast.plan.gap < 1e-5
    for batch in (1, 4, 7):
        images = torch.randn(batch, 3, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(fast(images), model(images), rtol=1e-4, atol=1e-5)


def test_the_model_itself_is_not_changed() -> None:
    model = make_compact().train()
    before = {name: one.clone() for name, one in model.state_dict().items()}

    fast = optimize(model, torch.randn(2, 3, 8, 8), measure=favour("dense"))

    assert model.training
    assert not fast.training
    assert all(torch.equal(before[name], one) for name, one in model.state_dict().items())


def test_norms_are_gone() -> None:
    fast = optimize(make_compact(), torch.randn(2, 3, 8, 8), measure=favour("as stored"))

    assert not any(isinstance(one, nn.BatchNorm2d) for one in fast.modules())


def test_forms_are_told_and_taken() -> None:
    model = make_compact()
    images = torch.randn(2, 3, 8, 8)

    plain = optimize(model, images, measure=favour(PLAIN))
    formed = optimize(model, images, measure=favour("as stored, contiguous"))

    assert not plain.plan.forms
    assert set(formed.plan.forms) <= {"first", "second", "classifier"}


def test_padding_counts_in_the_plan() -> None:
    padded = optimize(make_compact(), torch.randn(2, 3, 8, 8), measure=favour("padded to 16"))

    assert padded.plan.multiple == 16
    assert len(padded.model.get_parameter("first.weight")) == 16


def test_a_model_that_changes_its_mind_is_refused() -> None:
    class Drift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)
            self.calls = 0

        def forward(self, rows: Tensor) -> Tensor:
            self.calls += 1
            return self.inner(rows) + self.calls

    with pytest.raises(GraphError, match="no way to execute"):
        optimize(Drift(), torch.randn(2, 4), measure=favour("as stored"))


def test_a_model_of_several_outputs_is_refused() -> None:
    class Pair(nn.Module):
        def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
            return rows, rows

    with pytest.raises(ValueError, match="returns a tensor, got tuple"):
        optimize(Pair(), torch.zeros(2, 3))


def test_rows_have_one_layout() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    rows = torch.randn(3, 6)

    fast = optimize(model, rows, measure=favour("as stored"))

    assert isinstance(fast, OptimizedModel)
    assert not any("channels_last" in name for name in fast.plan.timings)
    torch.testing.assert_close(fast(rows), model(rows))


def test_bfloat16_within_its_roundings() -> None:
    model = make_compact().to(torch.bfloat16)
    images = torch.randn(2, 3, 8, 8, dtype=torch.bfloat16)

    fast = optimize(model, images, measure=favour("dense, channels_last"))

    assert fast(images).dtype == torch.bfloat16
    assert fast.plan.gap < 0.05
