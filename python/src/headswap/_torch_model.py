"""Reads a live PyTorch model as a head.

The order of its layers is that of its forward(), followed by torch.fx with the model's own modules; the layers themselves are those of
`torch.nn`, known by their classes. What results is computed once more from the exported numbers and compared with the model, so that
nothing which the graph does not show, such as a hook, is served wrongly.
"""

from __future__ import annotations

import contextlib
import traceback
from dataclasses import dataclass, field
from typing import Any, Callable, Iterator, Sequence

import numpy as np
import torch
import torch.fx
from torch import nn
from torch.nn import functional as F

from ._export import CONVOLUTIONS, POOLED, Head, Layer, ScaleShift, Vector, fold, fold_after, named
from .errors import UnsupportedLayer

Module = nn.Module
Shape = tuple[int, ...]

_WHAT_TO_DO = "build the model of layers that heads have (docs/head-specs.md), load the weights and push that"
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)

# The largest difference of the exported numbers' answers from the model's, as a share of the largest answer. TF32 and half precision
# stay below it, another layer does not.
_SHARE_MAX = 0.02


@dataclass(frozen=True)
class Op:
    """One operation on the way from the picture to the answer."""

    name: str
    where: str
    """The path and the class of the module, or the function and the module that calls it."""
    module: Module | None = None
    number: float | str | None = None
    size: Shape = ()
    """The kernel of a pooling, or the size of an adaptive one's result; dimensions of a permutation."""
    taken: Shape = ()
    """The shape that it takes, with a batch of 2."""
    made: Shape = ()
    """The shape that it returns."""

    def refuse(self, reason: str) -> UnsupportedLayer:
        path, _, kind = self.where.partition(" ")
        return UnsupportedLayer(f"{self.where} {reason}", subject=path, kind=kind.strip("()"))


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
    raise UnsupportedLayer(f"{_kind(model)} has no parameters; push a fine-tuned VGG16", kind=_kind(model))


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
        ops = _ops(model, pictures.to(device, dtype))
        expected = model(pictures.to(device, dtype))
        # After a pass, so that hooks such as those of pruning have set the weights.
        network = _network(ops, size)
        layers = fold(network.layers)
        head = _head(network, layers)
        _verify(head, network, layers, pictures, expected.to("cpu", torch.float32))
    return head, network.output


# The graph.


class _Tracer(torch.fx.Tracer):
    """Follows forward() into every class but PyTorch's own layers, and timm's that cannot be followed."""

    def is_leaf_module(self, module: Module, path: str) -> bool:
        kind = type(module)
        if kind is nn.Sequential:
            return False
        return kind.__module__.startswith("torch.nn.") or _is_timm_mlp(module)


def _is_timm_mlp(module: Module) -> bool:
    return type(module).__name__ == "ConvMlp" and type(module).__module__ == "timm.models.vgg"


class _Recorder(torch.fx.Interpreter):
    """Runs a graph and keeps what each node returned: of a tensor its shape."""

    def __init__(self, graph: torch.fx.GraphModule) -> None:
        super().__init__(graph)
        self.shapes: dict[torch.fx.Node, Shape] = {}

    def run_node(self, node: torch.fx.Node) -> Any:
        result = super().run_node(node)
        if isinstance(result, torch.Tensor):
            self.shapes[node] = tuple(result.shape)
        return result


def _ops(model: Module, pictures: torch.Tensor) -> list[Op]:
    """The operations of a model, from the picture to the answer."""
    for path, module in model.named_modules():
        if "forward" in vars(module):
            raise UnsupportedLayer(
                f"{path or 'the model'} ({_kind(module)}) has a forward() that was set on the object; give its class that forward()",
                subject=path,
                kind=_kind(module),
            )
    tracer = _Tracer()
    try:
        graph = tracer.trace(model)
    except Exception as error:
        raise _untraceable(model, error) from error
    recorder = _Recorder(torch.fx.GraphModule(model, graph))
    try:
        recorder.run(pictures)
    except Exception as error:
        height, width = pictures.shape[2:]
        raise UnsupportedLayer(
            f"the model ({_kind(model)}) fails on two pictures of {height}x{width}, the size that the transform gives: {_first_line(error)}",
            kind=_kind(model),
        ) from error
    return _Reader(model, recorder.shapes).follow(graph)


def _untraceable(model: Module, error: Exception) -> UnsupportedLayer:
    """Names the innermost module whose forward() cannot be followed."""
    paths = {id(module): path for path, module in model.named_modules()}
    found: Module = model
    frame = error.__traceback__
    while frame is not None:
        owner = frame.tb_frame.f_locals.get("self")
        if isinstance(owner, Module) and id(owner) in paths and frame.tb_frame.f_code.co_name == "forward":
            found = owner
        frame = frame.tb_next
    path = paths[id(found)]
    return UnsupportedLayer(
        f"{path or 'the model'} ({_kind(found)}) has a forward() that torch.fx cannot follow: {_first_line(error)}; {_WHAT_TO_DO}",
        subject=path,
        kind=_kind(found),
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [traceback.format_exception_only(error)[-1]])[0]


def _kind(module: object) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


class _Reader:
    """Turns the nodes of a graph into operations: each node has those from the picture to itself."""

    def __init__(self, model: Module, shapes: dict[torch.fx.Node, Shape]) -> None:
        self._modules = dict(model.named_modules())
        self._shapes = shapes
        self._ways: dict[torch.fx.Node, tuple[Op, ...]] = {}

    def follow(self, graph: torch.fx.Graph) -> list[Op]:
        has_picture = False
        for node in graph.nodes:
            if node.op == "output":
                return self._answer(node)
            if node.op == "placeholder":
                if node not in self._shapes:
                    # An argument with a default.
                    continue
                if has_picture:
                    raise UnsupportedLayer(f"forward() takes {node.target} besides the pictures; {_WHAT_TO_DO}", subject=str(node.target))
                has_picture = True
                self._ways[node] = ()
            elif node in self._shapes:
                self._take(node)
        raise UnsupportedLayer(f"forward() returns nothing; {_WHAT_TO_DO}")

    def _answer(self, node: torch.fx.Node) -> list[Op]:
        answer = node.args[0]
        if not isinstance(answer, torch.fx.Node) or answer not in self._ways:
            raise UnsupportedLayer(f"forward() returns {answer!r}, and a head returns one tensor; {_WHAT_TO_DO}", subject=str(answer))
        return list(self._ways[answer])

    def _take(self, node: torch.fx.Node) -> None:
        sources = [source for source in node.all_input_nodes if source in self._shapes]
        if node.op == "get_attr" or any(source not in self._ways for source in sources) or not sources:
            # A parameter outside of a module: refused by what uses it, if it leads to the answer.
            if node.op == "get_attr":
                return
            raise self._refuse(node, f"uses a tensor of its own; {_WHAT_TO_DO}")
        if len(sources) == 2:
            self._ways[node] = self._joined(node, sources)
            return
        if len(sources) != 1:
            raise self._refuse(node, f"joins {len(sources)} branches; {_WHAT_TO_DO}")
        (source,) = sources
        taken, made = self._shapes[source], self._shapes[node]
        where = self._where(node)
        if node.op == "call_module":
            own = _of_module(self._modules[str(node.target)], where, taken, made)
        else:
            own = [_of_function(node, where, taken, made)]
        self._ways[node] = self._ways[source] + tuple(op for op in own if op.name != "nothing")

    def _joined(self, node: torch.fx.Node, sources: Sequence[torch.fx.Node]) -> tuple[Op, ...]:
        """fastai's pooling: the largest values of each channel, then the means."""
        ways = [self._ways[source] for source in sources]
        is_cat = node.target in (torch.cat, torch.concat) and _argument(node, 1, "dim", 0) == 1
        listed = node.args[0] if node.args else None
        if is_cat and isinstance(listed, (list, tuple)) and list(listed) == list(sources) and all(ways):
            (*first, maximum), (*second, mean) = ways
            if first == second and (_pools_all(maximum), _pools_all(mean)) == ("max", "average"):
                both = Op("pool_all", self._where(node), number="max_average", taken=maximum.taken, made=self._shapes[node])
                return (*first, both)
        raise self._refuse(node, f"joins two branches; {_WHAT_TO_DO}")

    def _where(self, node: torch.fx.Node) -> str:
        if node.op == "call_module":
            return f"{node.target} ({_kind(self._modules[str(node.target)])})"
        name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", str(node.target))
        stack = node.meta.get("nn_module_stack") or {}
        owners = list(stack.values())
        owner = owners[-1][0] if owners and isinstance(owners[-1], tuple) else ""
        return f"{name}() (called in {owner or 'the model'})"

    def _refuse(self, node: torch.fx.Node, reason: str) -> UnsupportedLayer:
        where = self._where(node)
        return Op("", where).refuse(reason)


def _base(module: Module) -> type[Module]:
    """The class of a module; that before torch.nn.utils.parametrize made one of its own."""
    kind = type(module)
    if kind.__module__ == "torch.nn.utils.parametrize":
        return kind.__mro__[2] if kind.__mro__[1].__module__ == "torch.nn.utils.parametrize" else kind.__mro__[1]
    return kind


def _pair(value: Any) -> Shape:
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)


def _of_module(module: Module, where: str, taken: Shape, made: Shape) -> list[Op]:
    """The operations of a layer."""
    if _is_timm_mlp(module):
        return _of_timm_mlp(module, where, taken, made)
    kind = _base(module)

    def op(name: str, number: float | str | None = None, size: Shape = ()) -> list[Op]:
        return [Op(name, where, module, number, size, taken, made)]

    if kind in _DROPOUTS or kind in (nn.Identity, nn.ModuleList):
        return op("nothing")
    if kind in (nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return op("linear")
    if kind is nn.Conv2d:
        return op("convolution")
    if kind in _NORMS:
        if getattr(module, "running_mean", None) is None:
            raise Op("", where).refuse("has no running statistics, so that its answers depend on the batch; train with track_running_stats=True")
        return op("batch_norm", float(getattr(module, "eps")))
    if kind in _ACTIVATIONS:
        name, number = _ACTIVATIONS[kind]
        return op(name, number(module) if number else None)
    if kind in (nn.Softmax, nn.LogSoftmax):
        return op("softmax", number=_dim(getattr(module, "dim", None), len(made)))
    if kind is nn.Flatten:
        return op("flatten")
    if kind is nn.Unflatten:
        return op("reshape")
    if kind is nn.MaxPool2d:
        return [_pooling("max", module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode, where, taken, made)]
    if kind is nn.AvgPool2d:
        return [_pooling("average", module.kernel_size, module.stride, module.padding, 1, module.ceil_mode, where, taken, made)]
    if kind is nn.AdaptiveAvgPool2d:
        return op("adaptive_average", size=made[2:])
    if kind is nn.AdaptiveMaxPool2d:
        return op("adaptive_max", size=made[2:])
    raise Op("", where).refuse(f"is a layer that heads do not have; {_WHAT_TO_DO}")


def _number(name: str) -> Callable[[Module], float]:
    return lambda module: float(getattr(module, name))


_ACTIVATIONS: dict[type[Module], tuple[str, Callable[[Module], float | str] | None]] = {
    nn.ReLU: ("relu", None),
    nn.LeakyReLU: ("leaky_relu", _number("negative_slope")),
    nn.ELU: ("elu", _number("alpha")),
    nn.GELU: ("gelu", lambda module: "tanh" if getattr(module, "approximate") == "tanh" else "exact"),
    nn.SiLU: ("silu", None),
    nn.Tanh: ("tanh", None),
    nn.Sigmoid: ("sigmoid", None),
}


def _of_timm_mlp(module: Module, where: str, taken: Shape, made: Shape) -> list[Op]:
    """timm's `pre_logits`: VGG16's first two Linears as convolutions, after an average to 7x7 of smaller maps."""
    path = where.partition(" ")[0]
    side = int(getattr(module, "input_kernel_size"))
    size = (max(side, taken[2]), max(side, taken[3]))
    shape: Shape = (*taken[:2], *size)
    ops = [Op("adaptive_average", where, module, None, size, taken, shape)]
    for name in ("fc1", "act1", "drop", "fc2", "act2"):
        layer = getattr(module, name)
        following = made if name != "fc1" else (made[0], layer.out_channels, *made[2:])
        if name == "fc1":
            following = (made[0], int(layer.out_channels), size[0] - side + 1, size[1] - side + 1)
        elif name == "fc2":
            following = (made[0], int(layer.out_channels), *shape[2:])
        else:
            following = shape
        ops.extend(_of_module(layer, f"{path}.{name} ({_kind(layer)})", shape, following))
        shape = following
    return [op for op in ops if op.name != "nothing"]


def _argument(node: torch.fx.Node, place: int, name: str, default: Any) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _dim(dim: Any, rank: int) -> str:
    """`last` for the dimension of classes."""
    return "last" if dim in (-1, rank - 1) or dim is None and rank == 2 else str(dim)


def _pooling(
    kind: str, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: Any, where: str, taken: Shape, made: Shape
) -> Op:
    """A pooling of windows that do not overlap, or of the whole map."""
    kernel = _pair(kernel)
    stride = kernel if stride is None or stride == [] else _pair(stride)
    is_plain = _pair(padding) == (0, 0) and _pair(dilation) == (1, 1)
    if is_plain and kernel == taken[2:]:
        return Op("pool_all", where, number=kind, size=kernel, taken=taken, made=made)
    if is_plain and stride == kernel and not ceil_mode:
        return Op(f"{kind}_pool", where, size=kernel, taken=taken, made=made)
    return Op("other_pool", where, size=kernel, taken=taken, made=made)


def _pools_all(op: Op) -> str:
    """`max` or `average` if an operation pools the whole map."""
    if op.name == "pool_all":
        return str(op.number)
    if op.name in ("adaptive_average", "adaptive_max") and op.size == (1, 1):
        return op.name.removeprefix("adaptive_")
    return ""


def _of_function(node: torch.fx.Node, where: str, taken: Shape, made: Shape) -> Op:
    """The operation of a function or a method."""
    target = node.target
    name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
    known = isinstance(target, str) or getattr(target, "__module__", "") in (
        "torch", "torch.nn.functional", "torch._C._nn", "_operator", "operator", "torch._C", "torch._jit_internal", None,
    )  # fmt: skip

    def op(name: str, number: float | str | None = None, size: Shape = ()) -> Op:
        return Op(name, where, None, number, size, taken, made)

    if not known and not str(getattr(target, "__module__", "")).startswith("torch"):
        raise op("").refuse(f"is a function that heads do not have; {_WHAT_TO_DO}")
    name = name.removeprefix("_").removesuffix("_")
    if name in ("relu", "tanh", "sigmoid", "silu"):
        return op(name)
    if name == "leaky_relu":
        return op(name, float(_argument(node, 1, "negative_slope", 0.01)))
    if name == "elu":
        return op(name, float(_argument(node, 1, "alpha", 1.0)))
    if name == "gelu":
        return op(name, "tanh" if _argument(node, 1, "approximate", "none") == "tanh" else "exact")
    if name in ("softmax", "log_softmax"):
        return op("softmax", _dim(_argument(node, 1, "dim", None), len(made)))
    if name in ("dropout", "dropout2d", "feature_dropout", "alpha_dropout", "contiguous", "to", "float", "clone", "detach"):
        # Without training; the comparison with the model tells if one of them is trained on while serving.
        return op("nothing")
    if name in ("flatten", "view", "reshape", "squeeze", "unsqueeze"):
        return op("nothing" if taken == made else "flatten" if len(made) < len(taken) else "reshape")
    if name == "permute":
        dims = node.args[1] if len(node.args) == 2 and isinstance(node.args[1], (tuple, list)) else node.args[1:]
        return op("permute", size=tuple(int(str(dim)) for dim in dims))
    if name in ("mean", "amax"):
        dim = _argument(node, 1, "dim", None)
        listed = dim if isinstance(dim, (tuple, list)) else [dim]
        reduced = {int(str(one)) % len(taken) for one in listed if one is not None}
        if len(taken) == 4 and reduced == {2, 3}:
            return op("pool_all", "average" if name == "mean" else "max")
    if name in ("adaptive_avg_pool2d", "adaptive_max_pool2d"):
        return op("adaptive_average" if "avg" in name else "adaptive_max", size=made[2:])
    if name in ("max_pool2d", "boolean_dispatch", "fn"):
        if name != "max_pool2d" and "max_pool2d" not in str(target):
            raise op("").refuse(f"is a function that heads do not have; {_WHAT_TO_DO}")
        numbers = [_argument(node, 1 + at, key, default) for at, (key, default) in enumerate(_POOL_ARGUMENTS)]
        kernel, stride, padding, dilation, ceil_mode = numbers
        return _pooling("max", kernel, stride, padding, dilation, ceil_mode, where, taken, made)
    if name == "avg_pool2d":
        kernel, stride, padding, ceil_mode = (
            _argument(node, 1 + at, key, default) for at, (key, default) in enumerate(_AVERAGE_ARGUMENTS)
        )
        return _pooling("average", kernel, stride, padding, 1, ceil_mode, where, taken, made)
    if name == "normalize":
        if _argument(node, 1, "p", 2.0) == 2 and _argument(node, 2, "dim", 1) in (1, -1) and len(taken) == 2:
            return op("l2_normalise")
    raise op("").refuse(f"is a function that heads do not have; {_WHAT_TO_DO}")


_POOL_ARGUMENTS = (("kernel_size", 2), ("stride", None), ("padding", 0), ("dilation", 1), ("ceil_mode", False))
_AVERAGE_ARGUMENTS = (("kernel_size", 2), ("stride", None), ("padding", 0), ("ceil_mode", False))


# The network.


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
                raise pool.refuse(f"is where VGG16 has a MaxPool2d(2); {_WHAT_TO_DO}")
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
    padding = module.padding if isinstance(module.padding, str) else _pair(module.padding)
    is_plain = (
        _pair(module.kernel_size) == (3, 3)
        and _pair(module.stride) == (1, 1)
        and padding in ("same", (1, 1))
        and _pair(module.dilation) == (1, 1)
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
        whole = "max_average" if op.number == "max_average" else _pools_all(op)
        if op.name == "linear" or op.name == "convolution" and _covers(op):
            # A Linear on channels last, or a convolution as large as the map.
            if op.name == "linear" and len(op.taken) != 2:
                raise op.refuse(f"is applied to a map, not to a vector; flatten it first, or {_WHAT_TO_DO}")
            return _finish_input(network, ops[place:], taken, averaged, pooled, is_last, norms)
        if op.name == "flatten":
            if len(op.made) != 2:
                raise op.refuse(f"makes {list(op.made[1:])} of a map {list(op.taken[1:])}; flatten it to one dimension")
            return _finish_input(network, ops[place + 1 :], taken, averaged, pooled, is_last, norms)
        if whole and len(op.taken) == 4 and (op.taken[2:] != (1, 1) or not pooled):
            if averaged or pooled or is_last or norms and whole != "average":
                raise op.refuse(f"is a second pooling, or one after a layer that changes its result; {_WHAT_TO_DO}")
            pooled = whole
            if len(op.made) == 2:
                return _finish_input(network, ops[place + 1 :], taken, averaged, pooled, is_last, norms)
        elif op.name in ("adaptive_average", "adaptive_max") and op.size == op.taken[2:]:
            averaged = averaged if op.name == "adaptive_max" or op.size != (7, 7) else "adaptive_7x7"
        elif op.name == "adaptive_average" and op.size == (7, 7) or op.name == "average_pool" and op.made[2:] == (7, 7):
            if averaged or pooled or is_last:
                raise op.refuse(f"is a second pooling; {_WHAT_TO_DO}")
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
            raise op.refuse(f"comes between VGG16's convolutions and the first Linear, where heads have no such layer; {_WHAT_TO_DO}")
    raise UnsupportedLayer("the model has no Linear after its convolutions, so that it has no classes; push a fine-tuned VGG16")


def _covers(op: Op) -> bool:
    """Whether a convolution is a Linear: as large as its map, without padding."""
    module: Any = op.module
    is_plain = module.groups == 1 and module.padding in (0, (0, 0), "valid") and op.made[2:] == (1, 1)
    return is_plain and _pair(module.kernel_size) == op.taken[2:]


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
            raise UnsupportedLayer(f"the model averages its map to 7x7 and flattens it channels last; {_WHAT_TO_DO}")
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
                raise op.refuse(f"is a convolution of a map {list(op.taken[1:])} in the head, where only one as large as its map is a Linear; {_WHAT_TO_DO}")
            if op.name == "linear" and len(op.taken) != 2:
                raise op.refuse(f"is applied to a tensor {list(op.taken)}, not to vectors; {_WHAT_TO_DO}")
            weight, bias = _weights(op)
            network.layers.append(Layer("linear", None, np.ascontiguousarray(weight.reshape(len(weight), -1)), bias))
        elif op.name == "batch_norm":
            network.layers.append(_norm(op))
        elif op.name == "softmax":
            if not is_end or op.number != "last":
                raise op.refuse(f"is not at the end over all classes, where a softmax is a head's output; {_WHAT_TO_DO}")
            network.output = "softmax"
        elif op.name == "sigmoid" and is_end and place > linears[-1]:
            network.output = "sigmoid"
        elif op.name in ("relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid", "l2_normalise"):
            network.layers.append(Layer(op.name, op.number))
        elif op.name == "flatten" and np.prod(op.taken[1:]) in (np.prod(op.made[1:]), 1):
            continue
        elif _pools_all(op) and op.taken[2:] == (1, 1):
            continue
        elif op.name in ("adaptive_average", "adaptive_max") and op.taken == op.made:
            continue
        else:
            raise op.refuse(f"is in the head, where heads have no such layer; {_WHAT_TO_DO}")


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


# The comparison.


def _verify(
    head: Head, network: Network, layers: Sequence[Layer], pictures: torch.Tensor, expected: torch.Tensor
) -> None:
    """Computes the exported numbers and compares with the model."""
    got = _computed(head, network, layers, pictures)
    if network.output == "softmax":
        # The model's is a softmax or its logarithm.
        got = got.softmax(-1) if float(expected.min()) >= 0 else got.log_softmax(-1)
    elif network.output == "sigmoid":
        got = got.sigmoid()
    expected = expected.reshape(got.shape) if expected.numel() == got.numel() else expected
    largest = max(float(expected.abs().max()), 1e-6)
    if got.shape != expected.shape or not float((got - expected).abs().max()) <= _SHARE_MAX * largest:
        raise UnsupportedLayer(
            "the model computes something else than its layers in the order of forward(), for example by a hook; " + _WHAT_TO_DO
        )


def _computed(head: Head, network: Network, layers: Sequence[Layer], x: torch.Tensor) -> torch.Tensor:
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
    x = inputs[network.input]()
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


