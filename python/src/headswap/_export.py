"""A head in normal form (docs/head-specs.md): what is sent of a model, whatever it was made of."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass, field
from typing import Any, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ._messages import safetensors_bytes
from .results import Backbone, Model, Parameter

Vector = npt.NDArray[np.float32]

CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
"""The numbers of VGG16's convolutions in torchvision's names."""
POOLED = (1, 3, 6, 9, 12)
"""The places, from 0, of the convolutions that a pooling follows."""
LAST = ("classifier.6.weight", "classifier.6.bias")


@dataclass(frozen=True)
class Head:
    """A head's tensors under the names of the normal form, and its spec."""

    tensors: dict[str, Vector] = field(repr=False)
    spec: dict[str, Any]
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Difference:
    """What of a head a server lacks."""

    file: bytes = field(repr=False)
    """A safetensors file of it, with the spec."""
    names: tuple[str, ...]
    """The names of its tensors."""
    same: int
    """How many tensors the backbone has already."""
    backbone: str
    """The backbone; empty leaves the choice to the server."""


def digest(tensor: Vector) -> str:
    """Returns the SHA-256 of a tensor's rank, dimensions and values, by which servers name tensors."""
    tensor = np.ascontiguousarray(tensor, dtype="<f4")
    own = hashlib.sha256(struct.pack(f"<{1 + tensor.ndim}Q", tensor.ndim, *tensor.shape))
    own.update(tensor.data)
    return own.hexdigest()


def difference(head: Head, model: Model, named: str = "") -> Difference:
    """Compares a head with a server's backbones, and keeps what differs from the chosen one: the named one, or the one with which it
    shares most bytes, or the first.

    Raises `ValueError` if its tensors are of another network than the server's.
    """
    digests = {name: digest(tensor) for name, tensor in head.tensors.items()}
    chosen = _named(model.backbones, named) if named else _nearest(head, digests, model.backbones)
    _check_shapes(head, (chosen or model.backbones[0]).parameters, model.parameters)
    known = {} if chosen is None else {parameter.name: parameter.digest for parameter in chosen.parameters}
    kept = {name: tensor for name, tensor in head.tensors.items() if not digests[name] == known.get(name)}
    metadata = {"format": "pt", "headswap.spec": json.dumps(head.spec)}
    if head.assumed:
        metadata["headswap.assumed"] = json.dumps(head.assumed)
    return Difference(
        file=safetensors_bytes(kept, metadata),
        names=tuple(kept),
        same=len(head.tensors) - len(kept),
        backbone=chosen.name if chosen is not None and len(model.backbones) > 1 else "",
    )


def _named(backbones: Sequence[Backbone], name: str) -> Backbone:
    for backbone in backbones:
        if backbone.name == name:
            return backbone
    known = ", ".join(backbone.name for backbone in backbones)
    raise ValueError(f"the server has no backbone {name!r}; it has {known}")


def _nearest(head: Head, digests: Mapping[str, str], backbones: Sequence[Backbone]) -> Backbone | None:
    """By the server's rule: the one with most bytes of equal tensors; none if no tensor is equal."""
    nearest, most = None, 0
    for backbone in backbones:
        known = {parameter.name: parameter.digest for parameter in backbone.parameters}
        shared = sum(tensor.nbytes for name, tensor in head.tensors.items() if known.get(name) == digests[name])
        if shared > most:
            nearest, most = backbone, shared
    return nearest


def _check_shapes(head: Head, *known: Iterable[Parameter]) -> None:
    shapes = {parameter.name: parameter.shape for parameters in known for parameter in parameters}
    for name, tensor in head.tensors.items():
        expected = shapes.get(name)
        if expected is None or name in LAST:
            continue
        if tensor.shape != expected:
            raise ValueError(
                f"{name} has the shape {list(tensor.shape)}, and the server's model takes {list(expected)}; push to a server of that model"
            )


@dataclass
class Layer:
    """A layer of a head, with its parameters in double precision where it has some."""

    name: str
    """As a spec names it, without `batch_norm`."""
    number: float | str | None = None
    weight: Vector | None = None
    bias: Vector | None = None

    @property
    def json(self) -> Any:
        """Its form in a spec."""
        return self.name if self.number is None else {self.name: self.number}


@dataclass(frozen=True)
class ScaleShift:
    """A batch norm or an affine: y = scale * x + shift for each number, in double precision."""

    scale: npt.NDArray[np.float64]
    shift: npt.NDArray[np.float64]

    @classmethod
    def of_batch_norm(
        cls, mean: Vector, variance: Vector, weight: Vector | None, bias: Vector | None, eps: float
    ) -> ScaleShift:
        """y = (x - mean) / sqrt(variance + eps) * weight + bias."""
        ones = np.ones(len(mean)) if weight is None else weight.astype(np.float64)
        scale = ones / np.sqrt(variance.astype(np.float64) + eps)
        zeros = np.zeros(len(mean)) if bias is None else bias.astype(np.float64)
        return cls(scale, zeros - mean.astype(np.float64) * scale)

    def then(self, following: ScaleShift) -> ScaleShift:
        """This one, followed by another."""
        return ScaleShift(following.scale * self.scale, following.scale * self.shift + following.shift)

    def repeated(self, times: int) -> ScaleShift:
        """For a map of so many places for each channel, flattened by channel."""
        return ScaleShift(np.repeat(self.scale, times), np.repeat(self.shift, times))

    def tiled(self, times: int) -> ScaleShift:
        """The same, flattened by place."""
        return ScaleShift(np.tile(self.scale, times), np.tile(self.shift, times))


def fold_after(weight: Vector, bias: Vector, norm: ScaleShift) -> tuple[Vector, Vector]:
    """Folds a batch norm into the layer before it: in double precision, rounded once, as a server does."""
    scale = norm.scale.reshape(-1, *[1] * (weight.ndim - 1))
    folded = (weight.astype(np.float64) * scale).astype(np.float32)
    return folded, (bias.astype(np.float64) * norm.scale + norm.shift).astype(np.float32)


def fold_before(weight: Vector, bias: Vector, norm: ScaleShift) -> tuple[Vector, Vector]:
    """Folds a batch norm into the Linear after it."""
    wide = weight.astype(np.float64)
    return (wide * norm.scale).astype(np.float32), (bias.astype(np.float64) + wide @ norm.shift).astype(np.float32)


def fold(layers: Sequence[Layer | ScaleShift]) -> list[Layer]:
    """Returns the layers without batch norms. Each is folded into the Linear directly before it, else into the one directly after it,
    else it becomes an affine."""
    folded: list[Layer] = []
    waiting: ScaleShift | None = None
    for layer in layers:
        if isinstance(layer, ScaleShift):
            last = folded[-1] if folded else None
            if waiting is not None:
                waiting = waiting.then(layer)
            elif last is not None and last.weight is not None and last.bias is not None:
                last.weight, last.bias = fold_after(last.weight, last.bias, layer)
            else:
                waiting = layer
            continue
        if waiting is not None and layer.name == "linear" and layer.weight is not None and layer.bias is not None:
            layer.weight, layer.bias = fold_before(layer.weight, layer.bias, waiting)
        elif waiting is not None:
            folded.append(_affine(waiting))
        waiting = None
        folded.append(layer)
    if waiting is not None:
        folded.append(_affine(waiting))
    return folded


def _affine(norm: ScaleShift) -> Layer:
    return Layer("affine", weight=norm.scale.astype(np.float32), bias=norm.shift.astype(np.float32))


def named(input_: str, layers: Sequence[Layer]) -> dict[str, Vector]:
    """Returns the tensors of a head's own layers under their names in the normal form."""
    tensors: dict[str, Vector] = {}
    is_last = input_ == "features" and [layer.name for layer in layers] == ["linear"]
    for place, layer in enumerate(layers):
        if layer.weight is None or layer.bias is None:
            continue
        weight, bias = LAST if is_last else (f"head.{place}.weight", f"head.{place}.bias")
        tensors[weight], tensors[bias] = layer.weight, layer.bias
    return tensors
