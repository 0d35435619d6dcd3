"""The networks of the paper's experiments, each with a factor for its width.

ResNet-18, 50 and 152 and a perceptron classify images, a transformer predicts words, UNet and SegNet
segment images. All return logits as `torch.nn.functional.cross_entropy` takes them: classes second.
"""

import math
from itertools import pairwise

import torch
from torch import nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: the block of ResNet-18."""

    expansion = 1

    def __init__(self, inputs, channels, stride):
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(inputs, channels, 3, stride, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.shortcut = _shortcut(inputs, channels, stride)

    def forward(self, x):
        return torch.relu(self.convs(x) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut: the block of ResNet-50 and 152."""

    expansion = 4

    def __init__(self, inputs, channels, stride):
        super().__init__()
        outputs = 4 * channels
        self.convs = nn.Sequential(
            nn.Conv2d(inputs, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.Conv2d(channels, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x):
        return torch.relu(self.convs(x) + self.shortcut(x))


def _shortcut(inputs, outputs, stride):
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


# Of each depth: the block, and how many of them at each of four resolutions.
RESNETS = {18: (BasicBlock, (2, 2, 2, 2)), 50: (Bottleneck, (3, 4, 6, 3)), 152: (Bottleneck, (3, 8, 36, 3))}


class ResNet(nn.Module):
    """A residual network of depth 18, 50 or 152, with the stem of CIFAR (3x3) or of ImageNet (7x7)."""

    def __init__(self, depth, classes, width=1.0, stem="cifar"):
        super().__init__()
        block, counts = RESNETS[depth]
        channels = [int(width * c) for c in (64, 128, 256, 512)]
        inputs = channels[0]
        if stem == "cifar":
            layers = [nn.Conv2d(3, inputs, 3, padding=1, bias=False), nn.BatchNorm2d(inputs), nn.ReLU()]
        else:
            layers = [nn.Conv2d(3, inputs, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(inputs), nn.ReLU(),
                      nn.MaxPool2d(3, stride=2, padding=1)]
        self.stem = nn.Sequential(*layers)
        stages = []
        for stage, (outputs, count) in enumerate(zip(channels, counts, strict=True)):
            blocks = []
            for i in range(count):
                blocks.append(block(inputs, outputs, stride=2 if stage > 0 and i == 0 else 1))
                inputs = outputs * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(inputs, classes)
        if stem == "imagenet":
            # The paper's ImageNet models start as torchvision's do, those for CIFAR as PyTorch's layers do.
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        return self.fc(self.stages(self.stem(x)).mean((2, 3)))


def mlp(classes, width=1.0, inputs=3072):
    """A perceptron with three hidden layers of 4096."""
    hidden = int(width * 4096)
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
                         nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, classes))


class Transformer(nn.Module):
    """A causal language model: each position predicts the word that follows it."""

    def __init__(self, words, width=1.0, layers=12, heads=4, positions=512):
        super().__init__()
        size = int(width * 128)
        self.embedding = nn.Embedding(words, size)
        layer = nn.TransformerEncoderLayer(size, heads, dim_feedforward=size, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.decoder = nn.Linear(size, words)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)
        angles = torch.arange(positions)[:, None] * torch.exp(torch.arange(0, size, 2) * (-math.log(1e4) / size))
        self.register_buffer("positions", torch.stack([angles.sin(), angles.cos()], 2).flatten(1), persistent=False)

    def forward(self, words):
        length = words.shape[1]
        x = self.embedding(words) * math.sqrt(self.embedding.embedding_dim) + self.positions[:length]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=words.device)
        return self.decoder(self.layers(x, mask=mask, is_causal=True)).transpose(1, 2)


class UNet(nn.Module):
    """Four halvings of the image and four doublings, which also see what the halvings saw."""

    def __init__(self, classes, width=1.0, inputs=3):
        super().__init__()
        channels = [int(width * c) for c in (32, 64, 128, 256, 512)]
        pairs = list(pairwise(channels))
        self.first = self._convs(inputs, channels[0])
        self.down = nn.ModuleList(nn.Sequential(nn.MaxPool2d(2), self._convs(a, b)) for a, b in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in reversed(pairs))
        self.merge = nn.ModuleList(self._convs(2 * a, a) for a, _ in reversed(pairs))
        self.last = nn.Conv2d(channels[0], classes, 1)

    @staticmethod
    def _convs(inputs, outputs):
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())

    def forward(self, x):
        x = self.first(x)
        seen = []
        for down in self.down:
            seen.append(x)
            x = down(x)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([seen.pop(), up(x)], 1))
        return self.last(x)


class SegNet(nn.Module):
    """Five poolings, and five unpoolings that put values back to where the maxima were."""

    def __init__(self, classes, width=1.0, inputs=3):
        super().__init__()
        channels = [int(width * c) for c in (64, 128, 256, 512, 512)]
        counts = (2, 2, 3, 3, 3)
        stages = list(zip([inputs, *channels[:-1]], channels, counts, strict=True))
        self.encoder = nn.ModuleList(self._convs([a] + count * [b]) for a, b, count in stages)
        # Each decoder stage mirrors its encoder stage; the first one's last convolution gives the classes.
        self.decoder = nn.ModuleList(self._convs(count * [b] + [a]) for a, b, count in reversed(stages[1:]))
        self.last = nn.Sequential(self._convs(2 * channels[:1]), nn.Conv2d(channels[0], classes, 3, padding=1))
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)

    @staticmethod
    def _convs(channels):
        # The paper's code normalizes after the rectifier.
        return nn.Sequential(*(nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(b))
                               for a, b in pairwise(channels)))

    def forward(self, x):
        places = []
        for stage in self.encoder:
            x, where = self.pool(stage(x))
            places.append(where)
        for stage in [*self.decoder, self.last]:
            x = stage(self.unpool(x, places.pop()))
        return x
