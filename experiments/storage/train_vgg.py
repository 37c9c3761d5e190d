"""Train, prune and quantise the VGG-19 of the storage experiment on MNIST padded to 32 x 32.

    python experiments/storage/train_vgg.py FOLDER --data ROOT

Writes dense.safetensors, pruned.safetensors and shared.safetensors and a line of accuracies for
each into FOLDER; stages that are there already are not trained again.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from vgg import vgg19

from autocompress.data.read import Part, read_mnist
from autocompress.data.settings import DataSettings
from autocompress.data.source import InputSpec
from autocompress.data.tensors import TensorSource
from autocompress.quantize.sharing import Means, share_values
from autocompress.train.loop import (
    Hooks,
    TrainSettings,
    reestimate_norms_,
    score_model,
    train_model_,
)
from autocompress.train.objective import accuracy, make_task_loss
from autocompress.train.shared import Group, bake_weights_, share_weights_

SPEC = InputSpec(shape=(1, 32, 32), mean=(0.1307,), std=(0.3081,))
_DENSE = TrainSettings(
    epochs=4,
    batch_size=64,
    optimizer="sgd",
    learning_rate=0.02,
    weight_decay=5e-4,
    autocast=True,
    channels_last=True,
)
STAGES = {
    "dense": _DENSE,
    "pruned": replace(_DENSE, epochs=2, learning_rate=0.01),
    "shared": replace(
        _DENSE, epochs=0.5, optimizer="adam", learning_rate=2e-4, schedule="cosine", weight_decay=0
    ),
}
LAST = 0.9  # Share removed of the last layer, which has one weight in a thousand.


def open_mnist(root: str, part: Part, places: slice, size: int = 32) -> TensorSource:
    """Return some images of a part, padded with black to ``size`` pixels a side."""
    arrays = read_mnist(DataSettings(name="mnist", root=root), part)
    images = torch.from_numpy(arrays.images[places]).permute(0, 3, 1, 2)
    border = (size - images.shape[-1]) // 2
    targets = torch.from_numpy(arrays.targets[places])
    spec = InputSpec(shape=(1, size, size), mean=SPEC.mean, std=SPEC.std)
    return TensorSource(
        images=pad(images, (border,) * 4), targets=targets, spec=spec, device=torch.device("cpu")
    )


def list_layers(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return the weights of all convolutions and linear layers."""
    kinds = (nn.Conv2d, nn.Linear)
    return [(f"{n}.weight", m.weight) for n, m in model.named_modules() if isinstance(m, kinds)]


def prune(weight: Tensor, share: float) -> Tensor:
    """Return the mask of the largest weights of one layer; ``share`` of them are removed."""
    flat = weight.detach().abs().reshape(-1)
    mask = torch.zeros(len(flat), dtype=torch.bool)
    mask[flat.topk(round(len(flat) * (1 - share))).indices] = True
    return mask.reshape(weight.shape)


def hold_masks(weights: Sequence[nn.Parameter], masks: Sequence[Tensor]) -> Hooks:
    """Return hooks that keep removed weights at zero."""

    @torch.no_grad()
    def on_step(_step: int) -> None:
        for weight, mask in zip(weights, masks, strict=True):
            weight.mul_(mask)

    return Hooks(on_step=on_step)


def share_(model: nn.Module, levels: int) -> None:
    """Give each layer a codebook of its own, of its k-means, to be trained."""
    groups = []
    for name, weight in list_layers(model):
        shared = share_values([weight], Means(levels=levels), kept=[weight != 0])
        groups.append(Group(shared.codebook, {name.removesuffix(".weight"): shared.codes[0]}))
    share_weights_(model, groups)


def score(model: nn.Module, source: TensorSource) -> float:
    """Return the accuracy in float32."""
    return score_model(model, source, loss=cross_entropy, metric=accuracy, batch_size=250).metric


def start_(model: nn.Module, stage: str, flags: argparse.Namespace) -> Hooks:
    """Prune the model or share its weights, in place, and return what holds it so."""
    if stage == "shared":
        share_(model, flags.levels)
    if stage != "pruned":
        return Hooks()
    weights = [weight for _, weight in list_layers(model)]
    shares = [flags.conv if weight.ndim == 4 else flags.fc for weight in weights]
    shares[-1] = LAST
    masks = [prune(weight, one) for weight, one in zip(weights, shares, strict=True)]
    hooks = hold_masks(weights, masks)
    hooks.on_step(0)
    return hooks


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--levels", type=int, default=31, help="besides zero")
    parser.add_argument("--conv", type=float, default=0.85, help="share removed of convolutions")
    parser.add_argument("--fc", type=float, default=0.99, help="share removed of linear layers")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    flags.folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(flags.seed)
    model = vgg19((1, 32, 32), 10)
    train = open_mnist(flags.data, "train", slice(flags.images))
    held_out = open_mnist(flags.data, "train", slice(58_000, 60_000))
    for stage, settings in STAGES.items():
        path, started = flags.folder / f"{stage}.safetensors", time.time()
        if path.exists():
            model.load_state_dict(load_file(path))
            continue
        hooks = start_(model, stage, flags)
        before = score(model, held_out)
        loss = make_task_loss(cross_entropy)
        train_model_(model, train, settings, loss=loss, seed=flags.seed, hooks=hooks)
        bake_weights_(model)
        model.to(memory_format=torch.contiguous_format)
        reestimate_norms_(model, train, batches=8, batch_size=128, seed=flags.seed)
        save_file(model.state_dict(), path)
        seconds = round(time.time() - started)
        line = {"stage": stage, "before": before, "val": score(model, held_out)}
        print(json.dumps(line | {"seconds": seconds}), flush=True)
        with (flags.folder / "vgg.jsonl").open("a") as file:
            file.write(json.dumps(line | {"seconds": seconds}) + "\n")


if __name__ == "__main__":
    main()
