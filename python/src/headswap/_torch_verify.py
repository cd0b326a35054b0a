"""Computes a head from the numbers that would be sent, and compares it with the model that they were read from."""

from __future__ import annotations

from typing import Callable, Sequence

import torch
from torch.nn import functional as F

from ._export import CONVOLUTIONS, POOLED, Head, Layer
from ._torch_graph import WHAT_TO_DO
from .errors import UnsupportedLayer

# The largest difference of the exported numbers' answers from the model's, as a share of the largest answer. TF32 and half precision
# stay below it, another layer does not.
_SHARE_MAX = 0.02


def verify(
    head: Head, layers: Sequence[Layer], output: str | None, pictures: torch.Tensor, expected: torch.Tensor
) -> None:
    """Compares a head's answers with `expected`, the model's, whose last layer computes `output`.

    Raises `UnsupportedLayer` if they differ, for example because of a hook.
    """
    got = _computed(head, layers, pictures)
    if output == "softmax":
        # The model's is a softmax or its logarithm.
        got = got.softmax(-1) if float(expected.min()) >= 0 else got.log_softmax(-1)
    elif output == "sigmoid":
        got = got.sigmoid()
    expected = expected.reshape(got.shape) if expected.numel() == got.numel() else expected
    largest = max(float(expected.abs().max()), 1e-6)
    if got.shape != expected.shape or not float((got - expected).abs().max()) <= _SHARE_MAX * largest:
        raise UnsupportedLayer(
            "the model computes something else than its layers in the order of forward(), for example by a hook; " + WHAT_TO_DO
        )


def _computed(head: Head, layers: Sequence[Layer], x: torch.Tensor) -> torch.Tensor:
    tensors = {name: torch.from_numpy(tensor) for name, tensor in head.tensors.items()}
    for place, number in enumerate(CONVOLUTIONS):
        x = F.relu(F.conv2d(x, tensors[f"features.{number}.weight"], tensors[f"features.{number}.bias"], padding=1))
        if place in POOLED:
            x = F.max_pool2d(x, 2)
    inputs: dict[str, Callable[[], torch.Tensor]] = {
        "flatten": lambda: x.flatten(1),
        "flatten_hwc": lambda: x.permute(0, 2, 3, 1).flatten(1),
        "adaptive_7x7": lambda: F.adaptive_avg_pool2d(x, 7).flatten(1),
        "global_average": lambda: x.mean((2, 3)),
        "global_max": lambda: x.amax((2, 3)),
        "global_max_average": lambda: torch.cat([x.amax((2, 3)), x.mean((2, 3))], 1),
        "features": lambda: _features(tensors, F.adaptive_avg_pool2d(x, 7).flatten(1)),
    }
    x = inputs[str(head.spec["input"])]()
    for layer in layers:
        x = _layer(layer, x)
    return x


def _features(tensors: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    for name in ("classifier.0", "classifier.3"):
        x = F.relu(F.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"]))
    return x


def _layer(layer: Layer, x: torch.Tensor) -> torch.Tensor:
    if layer.weight is not None and layer.bias is not None:
        weight, bias = torch.from_numpy(layer.weight), torch.from_numpy(layer.bias)
        return F.linear(x, weight, bias) if layer.name == "linear" else x * weight + bias
    if layer.name == "l2_normalise":
        return F.normalize(x)
    if layer.name == "gelu":
        return F.gelu(x, approximate="tanh" if layer.number == "tanh" else "none")
    functions: dict[str, Callable[[], torch.Tensor]] = {
        "relu": lambda: F.relu(x),
        "leaky_relu": lambda: F.leaky_relu(x, float(layer.number or 0)),
        "elu": lambda: F.elu(x, float(layer.number or 0)),
        "silu": lambda: F.silu(x),
        "tanh": x.tanh,
        "sigmoid": x.sigmoid,
    }
    return functions[layer.name]()


