"""A CNN for the bundled digits, small enough to train in seconds on a CPU."""

from torch import Tensor, nn


class DigitsCnn(nn.Module):
    """Three conv-BN-ReLU layers, the last two after a stride or pooling, and a classifier."""

    def __init__(self, channels: int, classes: int, width: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 2 * width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(2 * width)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.fc = nn.Linear(8 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (samples, classes) of images (samples, channels, height, width)."""
        maps = self.relu(self.bn1(self.conv1(images)))
        maps = self.relu(self.bn2(self.conv2(maps)))
        maps = self.relu(self.bn3(self.conv3(maps)))
        return self.fc(self.pool(maps).flatten(1))
