"""Cut a validation part out of a training set."""

import torch
from torch import Tensor

from autocompress.errors import DataError


def split_samples(targets: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return the places of the training and of the validation part, in rising order.

    Class labels (integers of one dimension) are split evenly: each class gives its share to
    the validation part, up to one sample.

    Args:
        targets: Shape (samples, ...).
        share: Share of the validation part, between 0 and 1.
        seed: Which samples are chosen.

    Raises:
        DataError: One of the parts would be empty.
    """
    samples = len(targets)
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
    if targets.ndim == 1 and not targets.is_floating_point():
        order = order[targets.cpu()[order].argsort(stable=True)]
    # Evenly spaced picks: exactly floor(samples * share), spread over the sorted classes.
    steps = (torch.arange(samples + 1, dtype=torch.float64) * share).floor()
    picked = steps[1:] > steps[:-1]
    if not picked.any() or picked.all():
        raise DataError(
            f"data.validation: a share of {share} of {samples} training samples leaves a part "
            "empty; give more samples or another share"
        )
    return order[~picked].sort().values, order[picked].sort().values
