"""Follows the forward() of a PyTorch model: which layers and functions it applies to pictures, in which order.

torch.fx goes into every class but PyTorch's own layers. Layers are known by their classes and functions by their names; what heads
do not have is refused by the module's path and class, or by the function and the module that calls it.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any, Callable, Sequence

import torch
import torch.fx
from torch import nn

from .errors import UnsupportedLayer

Module = nn.Module
Shape = tuple[int, ...]

WHAT_TO_DO = "build the model of layers that heads have (docs/head-specs.md), load the weights and push that"
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)


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


def operations(model: Module, pictures: torch.Tensor) -> list[Op]:
    """The operations of a model, from the picture to the answer."""
    for path, module in model.named_modules():
        if "forward" in vars(module):
            raise UnsupportedLayer(
                f"{path or 'the model'} ({kind_of(module)}) has a forward() that was set on the object; give its class that forward()",
                subject=path,
                kind=kind_of(module),
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
            f"the model ({kind_of(model)}) fails on two pictures of {height}x{width}, the size that the transform gives: {_first_line(error)}",
            kind=kind_of(model),
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
        f"{path or 'the model'} ({kind_of(found)}) has a forward() that torch.fx cannot follow: {_first_line(error)}; {WHAT_TO_DO}",
        subject=path,
        kind=kind_of(found),
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [traceback.format_exception_only(error)[-1]])[0]


def kind_of(module: object) -> str:
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
                    raise UnsupportedLayer(f"forward() takes {node.target} besides the pictures; {WHAT_TO_DO}", subject=str(node.target))
                has_picture = True
                self._ways[node] = ()
            elif node in self._shapes:
                self._take(node)
        raise UnsupportedLayer(f"forward() returns nothing; {WHAT_TO_DO}")

    def _answer(self, node: torch.fx.Node) -> list[Op]:
        answer = node.args[0]
        if not isinstance(answer, torch.fx.Node) or answer not in self._ways:
            raise UnsupportedLayer(f"forward() returns {answer!r}, and a head returns one tensor; {WHAT_TO_DO}", subject=str(answer))
        return list(self._ways[answer])

    def _take(self, node: torch.fx.Node) -> None:
        sources = [source for source in node.all_input_nodes if source in self._shapes]
        if node.op == "get_attr" or any(source not in self._ways for source in sources) or not sources:
            # A parameter outside of a module: refused by what uses it, if it leads to the answer.
            if node.op == "get_attr":
                return
            raise self._refuse(node, f"uses a tensor of its own; {WHAT_TO_DO}")
        if len(sources) == 2:
            self._ways[node] = self._joined(node, sources)
            return
        if len(sources) != 1:
            raise self._refuse(node, f"joins {len(sources)} branches; {WHAT_TO_DO}")
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
            if first == second and (pools_all(maximum), pools_all(mean)) == ("max", "average"):
                both = Op("pool_all", self._where(node), number="max_average", taken=maximum.taken, made=self._shapes[node])
                return (*first, both)
        raise self._refuse(node, f"joins two branches; {WHAT_TO_DO}")

    def _where(self, node: torch.fx.Node) -> str:
        if node.op == "call_module":
            return f"{node.target} ({kind_of(self._modules[str(node.target)])})"
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


def pair(value: Any) -> Shape:
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
    raise Op("", where).refuse(f"is a layer that heads do not have; {WHAT_TO_DO}")


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
        ops.extend(_of_module(layer, f"{path}.{name} ({kind_of(layer)})", shape, following))
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
    kernel = pair(kernel)
    stride = kernel if stride is None or stride == [] else pair(stride)
    is_plain = pair(padding) == (0, 0) and pair(dilation) == (1, 1)
    if is_plain and kernel == taken[2:]:
        return Op("pool_all", where, number=kind, size=kernel, taken=taken, made=made)
    if is_plain and stride == kernel and not ceil_mode:
        return Op(f"{kind}_pool", where, size=kernel, taken=taken, made=made)
    return Op("other_pool", where, size=kernel, taken=taken, made=made)


def pools_all(op: Op) -> str:
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
        raise op("").refuse(f"is a function that heads do not have; {WHAT_TO_DO}")
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
            raise op("").refuse(f"is a function that heads do not have; {WHAT_TO_DO}")
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
    raise op("").refuse(f"is a function that heads do not have; {WHAT_TO_DO}")


_POOL_ARGUMENTS = (("kernel_size", 2), ("stride", None), ("padding", 0), ("dilation", 1), ("ceil_mode", False))
_AVERAGE_ARGUMENTS = (("kernel_size", 2), ("stride", None), ("padding", 0), ("ceil_mode", False))
