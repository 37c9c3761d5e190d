"""Caffe's LeNet-5."""

from torch import Tensor, nn


class LeNet5(nn.Module):
    """20-50-500 units: 430,500 weights and 580 biases for 10 classes of 28 x 28 pixels."""

    def __init__(self, channels: int, height: int, width: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 20, 5)
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.pool2 = nn.MaxPool2d(2)
        rows, columns = (((side - 4) // 2 - 4) // 2 for side in (height, width))
        if min(rows, columns) < 1:
            raise ValueError(f"lenet5: want images of at least 16 x 16, got {height} x {width}")
        self.fc1 = nn.Linear(50 * rows * columns, 500)
        self.fc2 = nn.Linear(500, classes)
        self.relu = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (samples, classes) of images (samples, channels, height, width)."""
        # Pooling first is the same function, and ReLU then sees a quarter of the values.
        maps = self.relu(self.pool1(self.conv1(images)))
        maps = self.relu(self.pool2(self.conv2(maps)))
        return self.fc2(self.relu(self.fc1(maps.flatten(1))))
