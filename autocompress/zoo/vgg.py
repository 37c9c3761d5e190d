"""VGG-16 for small images."""

from torch import Tensor, nn

# Filters of each convolution; None is a 2x2 max-pooling (arXiv:1409.1556, table 1, D).
_PLAN = (1, 1, None, 2, 2, None, 4, 4, 4, None, 8, 8, 8, None, 8, 8, 8, None)


class Vgg16(nn.Module):
    """Thirteen conv-BN-ReLU layers and one linear layer, as usual for CIFAR.

    Args:
        channels: Channels of an image, whose sides are 32 or more.
        classes: Outputs.
        width: Filters of the first layer; the last ones have eight times as many.
    """

    def __init__(self, channels: int, classes: int, width: int = 64) -> None:
        super().__init__()
        self.features = nn.Sequential()
        inputs = channels
        for factor in _PLAN:
            if factor is None:
                self.features.append(nn.MaxPool2d(2))
                continue
            filters = factor * width
            self.features.append(nn.Conv2d(inputs, filters, 3, padding=1, bias=False))
            self.features.append(nn.BatchNorm2d(filters))
            self.features.append(nn.ReLU())
            inputs = filters
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (samples, classes) of images (samples, channels, height, width)."""
        return self.classifier(self.pool(self.features(images)).flatten(1))
