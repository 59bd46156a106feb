"""Networks of the rivals on pixels in PyTorch, as references, under their names."""

import torch
from torch import nn


class Separable(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inputs, 3, 1, 1, groups=inputs, bias=False)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x):
        return self.pointwise(self.conv1(x))


class Block(nn.Module):
    """Its list has the order of the ports to PyTorch, so that names are theirs."""

    def __init__(self, inputs, widths, stride, relu_first=True):
        super().__init__()
        layers = []
        for width, before in zip(widths, (inputs, *widths)):
            layers += [nn.ReLU(), Separable(before, width), nn.BatchNorm2d(width)]
        if not relu_first:
            del layers[0]
        if stride > 1:
            layers.append(nn.MaxPool2d(3, stride, 1))
        self.rep = nn.Sequential(*layers)
        self.strided = stride > 1
        if self.strided:
            self.skip = nn.Conv2d(inputs, widths[-1], 1, stride, bias=False)
            self.skipbn = nn.BatchNorm2d(widths[-1])

    def forward(self, x):
        return self.rep(x) + (self.skipbn(self.skip(x)) if self.strided else x)


class Xception(nn.Module):
    def __init__(self, channels, inputs=3, stride=2):
        super().__init__()
        a, b, c, d, middle, e, f, g = channels
        self.conv1 = nn.Conv2d(inputs, a, 3, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(a)
        self.conv2 = nn.Conv2d(a, b, 3, bias=False)
        self.bn2 = nn.BatchNorm2d(b)
        self.block1 = Block(b, (c, c), 2, relu_first=False)
        self.block2 = Block(c, (d, d), 2)
        self.block3 = Block(d, (middle, middle), 2)
        for number in range(4, 12):
            setattr(self, f"block{number}", Block(middle, (middle,) * 3, 1))
        self.block12 = Block(middle, (middle, e), 2)
        self.conv3, self.bn3 = Separable(e, f), nn.BatchNorm2d(f)
        self.conv4, self.bn4 = Separable(f, g), nn.BatchNorm2d(g)

    def stem(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(x)))

    def blocks(self, x, first, last):
        for number in range(first, last + 1):
            x = getattr(self, f"block{number}")(x)
        return x

    def ending(self, x):
        x = torch.relu(self.bn3(self.conv3(x)))
        return torch.relu(self.bn4(self.conv4(x))).mean((2, 3))


class Patches(nn.Module):
    """Patchforensics' `xception_block2`: two logits for each patch."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, 2, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, 3, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.block1 = Block(64, (128, 128), 2, relu_first=False)
        self.block2 = Block(128, (256, 256), 2)
        self.convout = nn.Conv2d(256, 2, 1)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        return self.convout(self.block2(self.block1(x)))


class Bottleneck(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = None
        if stride > 1 or inputs != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, 4 * width, 1, stride, bias=False),
                nn.BatchNorm2d(4 * width),
            )

    def forward(self, x):
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        y = self.bn3(self.conv3(y))
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class ResNet(nn.Module):
    """torchvision's, with one output; NPR's with another stem and last name."""

    def __init__(self, stages, stem=7, last="fc"):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, stem, 2, stem // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.count, channels = len(stages), 64
        for stage, blocks in enumerate(stages):
            width, made = 64 * 2**stage, []
            for block in range(blocks):
                made.append(Bottleneck(channels, width, 1 + (stage > 0 == block)))
                channels = 4 * width
            setattr(self, f"layer{stage + 1}", nn.Sequential(*made))
        self.last = last
        setattr(self, last, nn.Linear(channels, 1))

    def forward(self, x):
        x = nn.functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
        for stage in range(self.count):
            x = getattr(self, f"layer{stage + 1}")(x)
        return getattr(self, self.last)(x.mean((2, 3)))


class Neighbours(ResNet):
    """NPR: a ResNet on what up-sampling leaves."""

    def __init__(self):
        super().__init__((3, 4), stem=3, last="fc1")

    def forward(self, x):
        half = nn.functional.interpolate(x, scale_factor=0.5, mode="nearest")
        again = nn.functional.interpolate(half, scale_factor=2, mode="nearest")
        return super().forward((x - again) * 2 / 3)


class Mix(nn.Module):
    """F3Net's MixBlock."""

    def __init__(self, width):
        super().__init__()
        for name in ("fad", "lfs"):
            setattr(self, f"{name}_query", nn.Conv2d(width, width, 1))
            setattr(self, f"{name}_key", nn.Conv2d(width, width, 1))
            setattr(self, f"{name}_conv", nn.Conv2d(width, width, 1, groups=width))
            setattr(self, f"{name}_norm", nn.BatchNorm2d(width))
            setattr(self, f"{name}_gamma", nn.Parameter(torch.randn(1)))

    def forward(self, fad, lfs):
        energy = self.fad_query(fad) @ self.fad_key(fad).transpose(2, 3)
        energy = energy + self.lfs_query(lfs) @ self.lfs_key(lfs).transpose(2, 3)
        weights = torch.softmax(energy, -1)  # [B, C, rows, rows]

        def shown(x, name):
            strength = 2 * torch.sigmoid(getattr(self, f"{name}_gamma")) - 1
            layer, norm = getattr(self, f"{name}_conv"), getattr(self, f"{name}_norm")
            return norm(layer(x * weights * strength))

        return fad + shown(lfs, "lfs"), lfs + shown(fad, "fad")


def shaken(module, seed=0):
    """The module with noise on every parameter and buffer, ready for evaluation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator)
                tensor.add_(0.2 * noise.abs())
    return module.eval()


def arrays(module):
    """Its tensors by name, NumPy."""
    return {name: t.detach().numpy() for name, t in module.state_dict().items()}
