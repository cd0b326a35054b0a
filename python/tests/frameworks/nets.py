"""VGG16s of PyTorch with their widths divided by 32, as the server's `--arch vgg16-narrow` has them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import nn
from torch.nn.utils import prune
from torchvision.models.vgg import VGG, make_layers

WIDTHS: list[Any] = [2, 2, "M", 4, 4, "M", 8, 8, 8, "M", 16, 16, 16, "M", 16, 16, 16, "M"]
FEATURES, CHANNELS = 128, 16


def seeded(model: nn.Module, seed: int = 0) -> nn.Module:
    """Fills a model with numbers of which each picture has another answer."""
    numbers = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                deviation = (2 / module.weight[0].numel()) ** 0.5
                module.weight.copy_(torch.randn(module.weight.shape, generator=numbers) * deviation)
                if module.bias is not None:
                    module.bias.copy_(torch.randn(module.bias.shape, generator=numbers) * 0.05)
            elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=numbers) * 0.1)
                module.running_var.copy_(torch.exp(torch.randn(module.running_var.shape, generator=numbers) * 0.1))
                module.weight.copy_(1 + torch.randn(module.weight.shape, generator=numbers) * 0.1)
    return model


def vgg(classes: int = 3, bn: bool = False, seed: int = 0, classifier: nn.Module | None = None) -> VGG:
    """torchvision's VGG16."""
    model = VGG(make_layers(WIDTHS, batch_norm=bn), num_classes=1, init_weights=False)
    model.classifier = classifier or nn.Sequential(
        nn.Linear(CHANNELS * 49, FEATURES), nn.ReLU(True), nn.Dropout(),
        nn.Linear(FEATURES, FEATURES), nn.ReLU(True), nn.Dropout(),
        nn.Linear(FEATURES, classes),
    )  # fmt: skip
    seeded(model, seed)
    return model


class Wrapped(nn.Module):
    """A class of a user's own around a network."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.backbone(x)


class Own(nn.Module):
    """A class of a user's own with functions between its layers, which are not defined in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(24, 3)
        self.first = nn.Linear(CHANNELS * 49, 24)
        self.norm = nn.BatchNorm1d(24)
        self.trunk = make_layers(WIDTHS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.trunk(x)
        x = x.view(x.size(0), -1)
        x = nn.functional.leaky_relu(self.norm(self.first(x)), 0.2)
        return self.last(nn.functional.dropout(x, training=self.training))


class Concat(nn.Module):
    """fastai's AdaptiveConcatPool2d."""

    def __init__(self) -> None:
        super().__init__()
        self.ap, self.mp = nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.mp(x), self.ap(x)], 1)


def timm_vgg(classes: int = 3, seed: int = 0) -> nn.Module:
    """timm's VGG16."""
    from timm.layers import ClassifierHead
    from timm.models.vgg import VGG as TimmVGG
    from timm.models.vgg import ConvMlp

    model = TimmVGG(cfg=tuple(WIDTHS), num_classes=classes)
    model.pre_logits = ConvMlp(CHANNELS, FEATURES, 7)
    model.head = ClassifierHead(FEATURES, classes)
    return seeded(model, seed)


def networks() -> dict[str, nn.Module]:
    """Every shape that is accepted."""
    pooled = vgg(classifier=nn.Linear(CHANNELS, 4))
    pooled.avgpool = nn.AdaptiveAvgPool2d(1)
    maximum = vgg(classifier=nn.Sequential(nn.Linear(CHANNELS, 8), nn.GELU(), nn.Linear(8, 2)))
    maximum.avgpool = nn.AdaptiveMaxPool2d((1, 1))
    flat = vgg(classifier=nn.Sequential(nn.Linear(CHANNELS * 49, 20), nn.SiLU(), nn.Linear(20, 2)))
    flat.avgpool = nn.Identity()
    whole = nn.Sequential(
        OrderedDict(
            body=nn.Sequential(make_layers(WIDTHS)),
            head=nn.Sequential(
                Concat(), nn.Flatten(), nn.BatchNorm1d(2 * CHANNELS), nn.Dropout(0.2), nn.Linear(2 * CHANNELS, 16, bias=False),
                nn.ReLU(inplace=True), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 3, bias=False),
            ),
        )
    )  # fmt: skip
    convolved = nn.Sequential(make_layers(WIDTHS), nn.Conv2d(CHANNELS, 12, 7), nn.ELU(), nn.Conv2d(12, 3, 1), nn.Flatten())
    normed = nn.Sequential(make_layers(WIDTHS), nn.BatchNorm2d(CHANNELS), nn.Flatten(), nn.Tanh(), nn.Linear(CHANNELS * 49, 3))
    pruned = vgg(seed=9)
    prune.l1_unstructured(pruned.classifier[6], "weight", 0.5)
    weighted = vgg(seed=10)
    weighted.classifier[0] = nn.utils.parametrizations.weight_norm(weighted.classifier[0])
    return {
        "last layer replaced": vgg(5),
        "vgg16_bn": vgg(3, bn=True, seed=1),
        "classifier of its own": vgg(
            classifier=nn.Sequential(
                nn.Linear(CHANNELS * 49, 32), nn.BatchNorm1d(32, eps=1e-3), nn.ReLU(), nn.Dropout(), nn.Linear(32, 3)
            )
        ),
        "pool replaced": pooled,
        "maximum": maximum,
        "pool removed": flat,
        "wrapper": Wrapped(vgg(4, seed=3)),
        "wrapped twice": nn.DataParallel(Wrapped(vgg(4, seed=3))),
        "nested Sequential": seeded(whole, 4),
        "forward of its own": seeded(Own(), 5),
        "convolutions as Linears": seeded(convolved, 6),
        "batch norm of the map": seeded(normed, 7),
        "timm": timm_vgg(3, 8),
        "softmax inside": nn.Sequential(vgg(3, seed=2), nn.Softmax(1)),
        "log softmax inside": nn.Sequential(vgg(3, seed=2), nn.LogSoftmax(dim=-1)),
        "pruned": pruned,
        "weight norm": weighted,
        "half precision": vgg(3, seed=11).to(torch.bfloat16),
    }
