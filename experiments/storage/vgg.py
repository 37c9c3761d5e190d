"""VGG-19 for 32 x 32 images with three fully connected layers of 4,096 units.

The net whose fully connected layers arXiv:2108.12704 stores: 16 convolutions, then 512-4096-4096.
"""

from torch import Tensor, nn

_STAGES = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))


class Vgg19(nn.Module):
    """Five stages of 3x3 convolutions with batch norm, each ended by pooling, and a classifier."""

    def __init__(self, channels: int, classes: int, units: int = 4096) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = channels
        for count, filters in _STAGES:
            for _ in range(count):
                layers.append(nn.Conv2d(inputs, filters, 3, padding=1, bias=False))
                layers += [nn.BatchNorm2d(filters), nn.ReLU()]
                inputs = filters
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.fc1 = nn.Linear(inputs, units)
        self.fc2 = nn.Linear(units, units)
        self.fc3 = nn.Linear(units, classes)
        self.relu = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (samples, classes) of images (samples, channels, 32, 32)."""
        maps = self.features(images).flatten(1)
        return self.fc3(self.relu(self.fc2(self.relu(self.fc1(maps)))))


def vgg19(input_shape: tuple[int, int, int], classes: int, units: int = 4096) -> nn.Module:
    """Return the net; a factory as ``model.name`` takes it."""
    if input_shape[1:] != (32, 32):
        raise ValueError(f"vgg19: want images of 32 x 32, got {input_shape[1:]}")
    return Vgg19(input_shape[0], classes, units)
