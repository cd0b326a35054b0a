"""Reads a live PyTorch model as a head.

The order of its layers is that of its forward(), followed by torch.fx with the model's own modules; the layers themselves are those of
`torch.nn`, known by their classes. What results is computed once more from the exported numbers and compared with the model, so that
nothing which the graph does not show, such as a hook, is served wrongly.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any, Iterator, Sequence

import numpy as np
import torch
from torch import nn

from ._export import CONVOLUTIONS, POOLED, Head, Layer, ScaleShift, Vector, fold, fold_after, named
from ._torch_graph import WHAT_TO_DO, Module, Op, Shape, kind_of, operations, pair, pools_all
from ._torch_verify import verify
from .errors import UnsupportedLayer


@dataclass
class Network:
    """A network cut into its parts."""

    convolutions: list[tuple[Vector, Vector]] = field(default_factory=list)
    input: str = ""
    layers: list[Layer | ScaleShift] = field(default_factory=list)
    output: str | None = None
    """What the model's own last module says."""


@contextlib.contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """Has a model in eval mode without gradients; afterwards each module is in the mode in which it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def unwrapped(model: Module) -> Module:
    """Returns the model within DataParallel and torch.compile."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif type(model).__name__ == "OptimizedModule" and type(model).__module__.startswith("torch._dynamo"):
            inner: Any = model._orig_mod
            model = inner
        else:
            return model


def place_of(model: Module) -> tuple[torch.device, torch.dtype]:
    """The device and the type of a model's first parameter."""
    for parameter in model.parameters():
        return parameter.device, parameter.dtype
    raise UnsupportedLayer(f"{kind_of(model)} has no parameters; push a fine-tuned VGG16", kind=kind_of(model))


def export(model: Module, size: tuple[int, int]) -> tuple[Head, str | None]:
    """Reads a model for pictures of `size`, height and width.

    Returns the head, whose spec has `input` and `layers`, and the output that the model's own last module says.

    Raises `UnsupportedLayer` for what heads do not have, with the module's path and class.
    """
    model = unwrapped(model)
    device, dtype = place_of(model)
    with evaluating(model):
        numbers = torch.Generator().manual_seed(0)
        pictures = torch.randn(2, 3, *size, generator=numbers)
        ops = operations(model, pictures.to(device, dtype))
        expected = model(pictures.to(device, dtype))
        # After a pass, so that hooks such as those of pruning have set the weights.
        network = _network(ops, size)
        layers = fold(network.layers)
        head = _head(network, layers)
        verify(head, layers, network.output, pictures, expected.to("cpu", torch.float32))
    return head, network.output


def _numbers(tensor: Any) -> Vector:
    array: Vector = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
    return array


def _weights(op: Op) -> tuple[Vector, Vector]:
    """The weight and the bias of a layer; zeros if it has none."""
    assert op.module is not None
    weight = _numbers(op.module.weight)
    bias = getattr(op.module, "bias", None)
    return weight, np.zeros(len(weight), np.float32) if bias is None else _numbers(bias)


def _norm(op: Op) -> ScaleShift:
    module: Any = op.module
    weight, bias = (None if tensor is None else _numbers(tensor) for tensor in (module.weight, module.bias))
    return ScaleShift.of_batch_norm(_numbers(module.running_mean), _numbers(module.running_var), weight, bias, float(module.eps))


def _network(ops: Sequence[Op], size: tuple[int, int]) -> Network:
    network = Network()
    rest = _take_convolutions(network, ops)
    rest = _take_input(network, rest)
    _take_layers(network, rest)
    return network


def _take_convolutions(network: Network, ops: Sequence[Op]) -> Sequence[Op]:
    """Takes VGG16's convolutions and poolings from the front."""
    place = 0
    for number in range(len(CONVOLUTIONS)):
        op = _expected(ops, place, "convolution", number)
        _check_convolution(op, number)
        weight, bias = _weights(op)
        place += 1
        while place < len(ops) and ops[place].name == "batch_norm":
            weight, bias = fold_after(weight, bias, _norm(ops[place]))
            place += 1
        network.convolutions.append((weight, bias))
        _expected(ops, place, "relu", number)
        place += 1
        if number in POOLED:
            pool = _expected(ops, place, "max_pool", number)
            if pool.size != (2, 2):
                raise pool.refuse(f"is where VGG16 has a MaxPool2d(2); {WHAT_TO_DO}")
            place += 1
    return ops[place:]


_EXPECTED = {"convolution": "a Conv2d", "relu": "a ReLU", "max_pool": "a MaxPool2d(2)"}


def _expected(ops: Sequence[Op], place: int, name: str, number: int) -> Op:
    what = f"{_EXPECTED[name]} of VGG16, of which convolution {number + 1} of {len(CONVOLUTIONS)} is due" if name == "convolution" else (
        f"{_EXPECTED[name]} of VGG16, after convolution {number + 1}"
    )
    if place >= len(ops):
        raise UnsupportedLayer(f"the model ends where {what} is expected; fine-tune vgg16 or vgg16_bn")
    op = ops[place]
    # A map smaller than 4x4 can be pooled as a whole by the same layer.
    is_whole = name == "max_pool" and op.name == "pool_all" and op.number == "max" and op.size == (2, 2)
    if op.name != name and not is_whole:
        raise op.refuse(f"is where {what} is expected; fine-tune vgg16 or vgg16_bn, without further layers between its convolutions")
    return op


def _check_convolution(op: Op, number: int) -> None:
    module: Any = op.module
    padding = module.padding if isinstance(module.padding, str) else pair(module.padding)
    is_plain = (
        pair(module.kernel_size) == (3, 3)
        and pair(module.stride) == (1, 1)
        and padding in ("same", (1, 1))
        and pair(module.dilation) == (1, 1)
        and module.groups == 1
        and module.padding_mode == "zeros"
    )
    if not is_plain:
        raise op.refuse(f"is not VGG16's convolution {number + 1}, which is 3x3 with stride 1 and zeros as padding; fine-tune vgg16")


def _take_input(network: Network, ops: Sequence[Op]) -> Sequence[Op]:
    """Takes what makes a vector of the last pooling's map. Batch norms of the map become the head's first layers."""
    norms: list[ScaleShift] = []
    averaged = pooled = ""
    is_last = False
    taken: Shape = ()
    for place, op in enumerate(ops):
        taken = taken or op.taken
        whole = "max_average" if op.number == "max_average" else pools_all(op)
        if op.name == "linear" or op.name == "convolution" and _covers(op):
            # A Linear on channels last, or a convolution as large as the map.
            if op.name == "linear" and len(op.taken) != 2:
                raise op.refuse(f"is applied to a map, not to a vector; flatten it first, or {WHAT_TO_DO}")
            return _finish_input(network, ops[place:], taken, averaged, pooled, is_last, norms)
        if op.name == "flatten":
            if len(op.made) != 2:
                raise op.refuse(f"makes {list(op.made[1:])} of a map {list(op.taken[1:])}; flatten it to one dimension")
            return _finish_input(network, ops[place + 1 :], taken, averaged, pooled, is_last, norms)
        if whole and len(op.taken) == 4 and (op.taken[2:] != (1, 1) or not pooled):
            if averaged or pooled or is_last or norms and whole != "average":
                raise op.refuse(f"is a second pooling, or one after a layer that changes its result; {WHAT_TO_DO}")
            pooled = whole
            if len(op.made) == 2:
                return _finish_input(network, ops[place + 1 :], taken, averaged, pooled, is_last, norms)
        elif op.name in ("adaptive_average", "adaptive_max") and op.size == op.taken[2:]:
            averaged = averaged if op.name == "adaptive_max" or op.size != (7, 7) else "adaptive_7x7"
        elif op.name == "adaptive_average" and op.size == (7, 7) or op.name == "average_pool" and op.made[2:] == (7, 7):
            if averaged or pooled or is_last:
                raise op.refuse(f"is a second pooling; {WHAT_TO_DO}")
            averaged = "adaptive_7x7"
        elif op.name == "relu" and not norms:
            # The map is not negative.
            continue
        elif op.name == "batch_norm":
            norms.append(_norm(op))
        elif op.name == "permute" and op.size == (0, 2, 3, 1) and not pooled:
            is_last = True
        elif op.name in ("adaptive_average", "adaptive_max", "average_pool", "max_pool", "other_pool"):
            raise op.refuse(
                f"pools the last map {list(op.taken[1:])} to {list(op.made[1:])}, and a head takes it whole, averaged to 7x7, or pooled to "
                "one number for each channel"
            )
        else:
            raise op.refuse(f"comes between VGG16's convolutions and the first Linear, where heads have no such layer; {WHAT_TO_DO}")
    raise UnsupportedLayer("the model has no Linear after its convolutions, so that it has no classes; push a fine-tuned VGG16")


def _covers(op: Op) -> bool:
    """Whether a convolution is a Linear: as large as its map, without padding."""
    module: Any = op.module
    is_plain = module.groups == 1 and module.padding in (0, (0, 0), "valid") and op.made[2:] == (1, 1)
    return is_plain and pair(module.kernel_size) == op.taken[2:]


def _finish_input(
    network: Network,
    rest: Sequence[Op],
    map_shape: Shape,
    averaged: str,
    pooled: str,
    is_last: bool,
    norms: Sequence[ScaleShift],
) -> Sequence[Op]:
    if pooled:
        network.input = f"global_{pooled}"
    elif averaged:
        network.input = averaged
    else:
        network.input = "flatten"
    places = 1 if pooled else 49 if averaged else map_shape[2] * map_shape[3]
    if is_last and not pooled:
        if averaged and map_shape[2:] != (7, 7):
            raise UnsupportedLayer(f"the model averages its map to 7x7 and flattens it channels last; {WHAT_TO_DO}")
        network.input = "flatten_hwc"
    for norm in norms:
        network.layers.append(norm.tiled(places) if is_last else norm.repeated(places))
    return rest


def _take_layers(network: Network, ops: Sequence[Op]) -> None:
    """Takes a head's layers, and its output from the last of them."""
    linears = [place for place, op in enumerate(ops) if op.name in ("linear", "convolution")]
    if not linears:
        raise UnsupportedLayer("the model has no Linear after its convolutions, so that it has no classes; push a fine-tuned VGG16")
    for place, op in enumerate(ops):
        is_end = place == len(ops) - 1
        if op.name in ("linear", "convolution"):
            if op.name == "convolution" and not _covers(op):
                raise op.refuse(f"is a convolution of a map {list(op.taken[1:])} in the head, where only one as large as its map is a Linear; {WHAT_TO_DO}")
            if op.name == "linear" and len(op.taken) != 2:
                raise op.refuse(f"is applied to a tensor {list(op.taken)}, not to vectors; {WHAT_TO_DO}")
            weight, bias = _weights(op)
            network.layers.append(Layer("linear", None, np.ascontiguousarray(weight.reshape(len(weight), -1)), bias))
        elif op.name == "batch_norm":
            network.layers.append(_norm(op))
        elif op.name == "softmax":
            if not is_end or op.number != "last":
                raise op.refuse(f"is not at the end over all classes, where a softmax is a head's output; {WHAT_TO_DO}")
            network.output = "softmax"
        elif op.name == "sigmoid" and is_end and place > linears[-1]:
            network.output = "sigmoid"
        elif op.name in ("relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid", "l2_normalise"):
            network.layers.append(Layer(op.name, op.number))
        elif op.name == "flatten" and np.prod(op.taken[1:]) in (np.prod(op.made[1:]), 1):
            continue
        elif pools_all(op) and op.taken[2:] == (1, 1):
            continue
        elif op.name in ("adaptive_average", "adaptive_max") and op.taken == op.made:
            continue
        else:
            raise op.refuse(f"is in the head, where heads have no such layer; {WHAT_TO_DO}")


def _head(network: Network, layers: list[Layer]) -> Head:
    """Names the tensors. Linears of VGG16's own shapes compute its features, which heads share."""
    tensors: dict[str, Vector] = {}
    for number, (weight, bias) in zip(CONVOLUTIONS, network.convolutions):
        tensors[f"features.{number}.weight"], tensors[f"features.{number}.bias"] = weight, bias
    channels = len(network.convolutions[-1][0])
    # 64 channels in the first convolution, and 4096 features.
    features = 64 * len(network.convolutions[0][0])
    shapes = [layer.weight.shape if layer.weight is not None else None for layer in layers[:4]]
    is_own = (
        network.input in ("adaptive_7x7", "flatten")
        and [layer.name for layer in layers[:4]] == ["linear", "relu", "linear", "relu"]
        and shapes[0] == (features, 49 * channels)
        and shapes[2] == (features, features)
        and any(layer.name == "linear" for layer in layers[4:])
    )
    if is_own:
        for name, layer in (("classifier.0", layers[0]), ("classifier.3", layers[2])):
            assert layer.weight is not None and layer.bias is not None
            tensors[f"{name}.weight"], tensors[f"{name}.bias"] = layer.weight, layer.bias
        network.input = "features"
        del layers[:4]
    tensors.update(named(network.input, layers))
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise UnsupportedLayer(f"{name} has NaN or infinity; push a model whose training did not diverge", subject=name)
    return Head(tensors, {"input": network.input, "layers": [layer.json for layer in layers]})
