"""Head specs as Python has them: dictionaries of their JSON form (docs/head-specs.md)."""

from __future__ import annotations

from typing import Any, Mapping, Sequence, Union

UNIT = 1 / 255
IMAGENET_MEAN = [0.485, 0.456, 0.406]
IMAGENET_STD = [0.229, 0.224, 0.225]
CAFFE_MEAN = [103.939, 116.779, 123.68]
"""Blue, green, red."""

Spec = dict[str, Any]
Preprocessing = Union[str, Mapping[str, Any]]
"""The name of a preset, or its keys."""
Output = Union[str, Mapping[str, int]]
"""`softmax`, `sigmoid`, `linear` or `{"groups": n}`."""


def _stretch(filter_: str, channels: str, scale: float, mean: Sequence[float], std: Sequence[float]) -> Spec:
    return {
        "resize": {"stretch": [224, 224]},
        "filter": filter_,
        "crop": None,
        "channels": channels,
        "scale": scale,
        "mean": list(mean),
        "std": list(std),
    }


_ZEROS, _ONES, _HALVES = [0.0] * 3, [1.0] * 3, [0.5] * 3

PRESETS: dict[str, Spec] = {
    "torchvision": _stretch("bilinear", "rgb", UNIT, IMAGENET_MEAN, IMAGENET_STD)
    | {"resize": {"short_side": 256}, "crop": [224, 224]},
    "torchvision-stretch": _stretch("bilinear", "rgb", UNIT, IMAGENET_MEAN, IMAGENET_STD),
    "unit": _stretch("bilinear", "rgb", UNIT, _ZEROS, _ONES),
    "half": _stretch("bilinear", "rgb", UNIT, _HALVES, _HALVES),
    "keras-unit": _stretch("nearest", "rgb", UNIT, _ZEROS, _ONES),
    "keras-caffe": _stretch("nearest", "bgr", 1.0, CAFFE_MEAN, _ONES),
    "keras-raw": _stretch("nearest", "rgb", 1.0, _ZEROS, _ONES),
    "tensorflow-unit": _stretch("bilinear_no_antialias", "rgb", UNIT, _ZEROS, _ONES),
    "tensorflow-caffe": _stretch("bilinear_no_antialias", "bgr", 1.0, CAFFE_MEAN, _ONES),
    "tensorflow-raw": _stretch("bilinear_no_antialias", "rgb", 1.0, _ZEROS, _ONES),
}
"""The presets, written out. A preset is its numbers: both have the same digest."""


def spec(
    preprocessing: Preprocessing,
    output: Output,
    *,
    input: str | None = None,
    layers: Sequence[Any] | None = None,
    labels: Sequence[str] | None = None,
    classes: int | None = None,
) -> Spec:
    """Returns a head spec, for `Client.replace`.

    Args:
        preprocessing: The name of a preset, or the keys of one's own.
        output: `softmax`, `sigmoid`, `linear` or `{"groups": n}`.
        input: Where the head's layers begin, such as `features`. Default: what the file says.
        layers: Such as `["linear", {"leaky_relu": 0.2}, "linear"]`. Default: what the file says.
        labels: One for each class.
        classes: How many of the last Linear's rows are classes. Default: all.

    The server checks it; a key that is wrong is named by `InvalidArgument.field_violations` and the message.
    """
    written: Spec = {
        "preprocessing": {"preset": preprocessing} if isinstance(preprocessing, str) else dict(preprocessing),
        "output": dict(output) if isinstance(output, Mapping) else output,
    }
    optional = {
        "input": input,
        "layers": None if layers is None else list(layers),
        "labels": None if labels is None else list(labels),
        "classes": classes,
    }
    written.update({key: value for key, value in optional.items() if value is not None})
    return written


def expanded(preprocessing: Preprocessing) -> Spec:
    """Returns a preprocessing with a preset's numbers written out."""
    keys = {"preset": preprocessing} if isinstance(preprocessing, str) else dict(preprocessing)
    name = keys.get("preset")
    if name is None:
        return keys
    if name not in PRESETS:
        raise ValueError(f"preprocessing {name!r} is not a preset; give one of {', '.join(PRESETS)}, or the keys of one")
    return dict(PRESETS[name])


def size_of(preprocessing: Mapping[str, Any]) -> tuple[int, int]:
    """Returns height and width of every prepared picture.

    Raises `ValueError` if they depend on the picture.
    """
    resize = preprocessing.get("resize") or {}
    size = preprocessing.get("crop") or resize.get("stretch")
    if not size:
        raise ValueError("preprocessing: the size of the prepared picture depends on the picture; give crop, or resize to stretch")
    return int(size[0]), int(size[1])
