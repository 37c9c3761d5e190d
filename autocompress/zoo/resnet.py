"""ResNets for small images (arXiv:1512.03385, section 4.2)."""

from collections.abc import Sequence

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut.

    A change of shape goes through a 1x1 convolution (the paper's option B; its CIFAR nets pad
    with zero channels, which no layer can learn to do without).
    """

    def __init__(self, inputs: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, filters, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.relu = nn.ReLU()
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != filters:
            self.shortcut.append(nn.Conv2d(inputs, filters, 1, stride=stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(filters))

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (samples, filters, height / stride, width / stride)."""
        inner = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(maps)))))
        return self.relu(inner + self.shortcut(maps))


class ResNet(nn.Module):
    """A 3x3 stem, stages of basic blocks, each after the first at half the size, a classifier.

    Args:
        channels: Channels of an image.
        classes: Outputs.
        blocks: Blocks of each stage.
        width: Filters of the first stage, doubled from stage to stage.
    """

    def __init__(self, channels: int, classes: int, blocks: Sequence[int], width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.stages = nn.Sequential()
        inputs = width
        for stage, count in enumerate(blocks):
            filters = width * 2**stage
            layers = nn.Sequential()
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(BasicBlock(inputs, filters, stride))
                inputs = filters
            self.stages.append(layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (samples, classes) of images (samples, channels, height, width)."""
        maps = self.relu(self.bn1(self.conv1(images)))
        return self.fc(self.pool(self.stages(maps)).flatten(1))
