"""Reads what a live Keras model does not hold itself: how its pictures were prepared, and what its output means.

The model's layers are read by the server, from the file that Keras saves: Keras 3's `.keras`, or the `.h5` of Keras 2.
"""

from __future__ import annotations

import importlib
import io
import pathlib
import sys
import tempfile
import warnings
import zipfile
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Union

import numpy as np
import numpy.typing as npt

from .errors import MissingInformation, UnsupportedError, UnsupportedTransform
from .specs import CAFFE_MEAN, IMAGENET_MEAN, IMAGENET_STD, PRESETS, UNIT, Output, Spec

Preprocess = Union[str, float, Callable[..., Any], None]

FILTERS = {
    "nearest": "nearest",
    "pillow-bilinear": "bilinear",
    "pillow-bicubic": "bicubic",
    "pillow-lanczos": "lanczos",
    "tensorflow-bilinear": "bilinear_no_antialias",
    "opencv-bilinear": "bilinear_no_antialias_rounded",
}
"""What `interpolation` takes, and the filter of a spec."""

# The networks of keras.applications by what their `preprocess_input` computes.
_MODES = {
    "caffe": ("vgg16", "vgg19", "resnet", "resnet50", "imagenet_utils"),
    "tf": (
        "inception_resnet_v2", "inception_v3", "mobilenet", "mobilenet_v2", "nasnet", "resnet_v2", "xception",
    ),
    "torch": ("densenet",),
    "raw": ("convnext", "efficientnet", "efficientnet_v2", "mobilenet_v3"),
}  # fmt: skip
_OF_NETWORK = {network: mode for mode, networks in _MODES.items() for network in networks}

# A loss of Keras, by its function's name, and what a last layer without an activation means for it.
_OF_LOSS: dict[str, str] = {
    "categorical_crossentropy": "softmax",
    "sparse_categorical_crossentropy": "softmax",
    "binary_crossentropy": "sigmoid",
    "mean_squared_error": "linear",
    "mse": "linear",
    "mean_absolute_error": "linear",
    "mae": "linear",
    "huber": "linear",
    "log_cosh": "linear",
    "logcosh": "linear",
}


def is_keras(model: object) -> bool:
    """Whether an object is a model of Keras 3, Keras 2 or tf.keras."""
    for kind in type(model).__mro__:
        package = kind.__module__.partition(".")[0]
        if kind.__name__ == "Model" and (package in ("keras", "tf_keras") or kind.__module__.startswith("tensorflow.python.keras")):
            return True
    return False


@dataclass(frozen=True)
class Prepared:
    """How the pictures of a Keras model are prepared."""

    preprocessing: Spec
    filter: str
    size: tuple[int, int]
    apply: Callable[[npt.NDArray[np.float32]], Any]
    """What is done to the loaded picture, of float32 [height, width, 3] from 0 to 255."""


def prepared(model: Any, preprocess: Preprocess, image_size: tuple[int, int] | None, interpolation: str | None) -> Prepared:
    """Returns how the pictures of a model are prepared.

    Raises `MissingInformation` for what neither the model nor the arguments say, and `UnsupportedTransform` for a function that is not
    known.
    """
    size = _size(model, image_size)
    if isinstance(preprocess, str):
        if preprocess not in PRESETS:
            raise ValueError(f"preprocess {preprocess!r} is not a preset; give one of {', '.join(PRESETS)}, or preprocess_input")
        preset = dict(PRESETS[preprocess])
        if preset["crop"] is not None:
            raise ValueError(f"preprocess {preprocess!r} crops; for Keras give one that stretches, such as keras-caffe")
        values = {key: preset[key] for key in ("channels", "scale", "mean", "std")}
        filter_ = _filter(interpolation) if interpolation is not None else str(preset["filter"])
        apply = _applied(values)
    else:
        values = _values(preprocess)
        filter_ = _filter(interpolation)
        apply = preprocess if callable(preprocess) else _applied(values)
    preprocessing = {"resize": {"stretch": list(size)}, "filter": filter_, "crop": None, **values}
    return Prepared(preprocessing, filter_, size, apply)


def _size(model: Any, given: tuple[int, int] | None) -> tuple[int, int]:
    shape = getattr(model, "input_shape", None)
    own: tuple[Any, ...] = ()
    if isinstance(shape, (list, tuple)) and len(shape) == 4:
        own = tuple(shape[1:3]) if shape[3] in (1, 3, None) else tuple(shape[2:4])
    if given is None and own and None not in own:
        return int(own[0]), int(own[1])
    if given is None:
        raise MissingInformation("the model does not say the size of its pictures; give image_size=(height, width)", subject="image_size")
    height, width = given
    for side, known in zip((height, width), own):
        if known not in (None, side):
            raise UnsupportedError(f"image_size is {height}x{width}, and the model takes {own[0]}x{own[1]}", subject="image_size")
    return int(height), int(width)


def _filter(interpolation: str | None) -> str:
    options = (
        '"nearest" for load_img and flow_from_directory, whose default it is; "tensorflow-bilinear" for image_dataset_from_directory and '
        'tf.image.resize, whose default it is; "pillow-bilinear", "pillow-bicubic" or "pillow-lanczos" for load_img(interpolation=…); '
        '"opencv-bilinear" for cv2.resize'
    )
    if interpolation is None:
        raise MissingInformation(f"nothing says how pictures were resized; give interpolation={options}", subject="interpolation")
    if interpolation not in FILTERS:
        raise MissingInformation(f"interpolation {interpolation!r} does not say whose; give {options}", subject="interpolation")
    return FILTERS[interpolation]


def _values(preprocess: Any) -> Spec:
    """The keys of a preprocessing's values."""
    if preprocess is None:
        return _scaled("rgb", 1.0)
    if isinstance(preprocess, (int, float)) and not isinstance(preprocess, bool):
        return _scaled("rgb", float(preprocess))
    mode = _mode(preprocess)
    if mode == "caffe":
        return _scaled("bgr", 1.0, CAFFE_MEAN)
    if mode == "tf":
        return _scaled("rgb", 1 / 127.5, [1.0] * 3)
    if mode == "torch":
        return _scaled("rgb", UNIT, IMAGENET_MEAN, IMAGENET_STD)
    if mode == "raw":
        return _scaled("rgb", 1.0)
    name = getattr(preprocess, "__qualname__", type(preprocess).__qualname__)
    module = getattr(preprocess, "__module__", "")
    raise UnsupportedTransform(
        f"preprocess ({module}.{name}) is a function, of which cannot be known what it computes; give preprocess_input of "
        "keras.applications, a factor such as 1/255, None for values of 0 to 255, or the name of a preset",
        subject="preprocess",
        kind=f"{module}.{name}",
    )


def _mode(function: Any) -> str | None:
    """What `preprocess_input` of keras.applications computes; `None` for any other function. Known by identity."""
    module = getattr(function, "__module__", "") or ""
    package, _, network = module.rpartition(".applications.")
    is_known = package.partition(".")[0] in ("keras", "tf_keras", "tensorflow") and network in _OF_NETWORK
    if not is_known or getattr(sys.modules.get(module), "preprocess_input", None) is not function:
        return None
    return _OF_NETWORK[network]


def _scaled(channels: str, scale: float, mean: list[float] | None = None, std: list[float] | None = None) -> Spec:
    return {"channels": channels, "scale": scale, "mean": mean or [0.0] * 3, "std": std or [1.0] * 3}


def _applied(values: Mapping[str, Any]) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]:
    def apply(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if values["channels"] == "bgr":
            pixels = pixels[..., ::-1]
        scaled = pixels * np.float32(values["scale"]) - np.array(values["mean"], np.float32)
        return np.asarray(scaled / np.array(values["std"], np.float32), np.float32)

    return apply


def own_output(model: Any) -> str | None:
    """Returns the output that the model's last layer computes itself: `softmax` or `sigmoid`; `None` for none of them."""
    last = _last_layer(model)
    kind = type(last).__name__
    if kind in ("Softmax", "Sigmoid"):
        return kind.lower()
    name = getattr(getattr(last, "activation", None), "__name__", "")
    return name if name in ("softmax", "sigmoid") else None


def _last_layer(model: Any) -> Any:
    last = model
    while getattr(last, "layers", None):
        history = getattr((getattr(last, "outputs", None) or [None])[0], "_keras_history", None)
        layer = getattr(history, "operation", None) or getattr(history, "layer", None)
        last = layer if layer is not None and layer is not last else last.layers[-1]
    return last


def output_of_loss(model: Any) -> str | None:
    """Returns what the loss with which the model was compiled says of a last layer without an activation."""
    loss = getattr(model, "loss", None)
    if loss is None or isinstance(loss, (list, tuple, dict)):
        return None
    config = loss.get_config() if hasattr(loss, "get_config") else {}
    name = loss if isinstance(loss, str) else config.get("name") or getattr(loss, "name", None) or getattr(loss, "__name__", "")
    name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in str(name)).lstrip("_")
    output = _OF_LOSS.get(name)
    # A crossentropy of probabilities says nothing of a layer that has none.
    if output in ("softmax", "sigmoid") and not config.get("from_logits", False):
        return None
    return output


def saved(model: Any) -> bytes:
    """Returns the file of a model, without the state of its optimizer."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # Keras 2 advises against `.h5`.
        warnings.simplefilter("ignore")
        if _is_keras_3(model):
            path = pathlib.Path(folder) / "model.keras"
            model.save(path)
            return _without_optimizer(path)
        path = pathlib.Path(folder) / "model.h5"
        model.save(str(path), include_optimizer=False, save_format="h5")
        return path.read_bytes()


_WEIGHTS = "model.weights.h5"


def _without_optimizer(path: pathlib.Path) -> bytes:
    """Returns a `.keras` file without its optimizer's state, which may be twice the weights. Keras has no option for it."""
    import h5py

    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    if _WEIGHTS not in members:
        return path.read_bytes()
    kept = io.BytesIO()
    with h5py.File(io.BytesIO(members[_WEIGHTS]), "r") as weights, h5py.File(kept, "w") as target:
        if "optimizer" not in weights:
            return path.read_bytes()
        target.attrs.update(weights.attrs)
        for name in weights:
            if name != "optimizer":
                weights.copy(name, target)
    members[_WEIGHTS] = kept.getvalue()
    rewritten = io.BytesIO()
    with zipfile.ZipFile(rewritten, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return rewritten.getvalue()


def _is_keras_3(model: object) -> bool:
    for kind in type(model).__mro__:
        package = kind.__module__.partition(".")[0]
        if kind.__name__ == "Model" and package == "keras":
            return int(str(importlib.import_module("keras").__version__).partition(".")[0]) >= 3
    return False


def answer(model: Any, ready: Any) -> npt.NDArray[Any]:
    """Returns the model's answer to one prepared picture of [height, width, 3], without training."""
    result = model(np.asarray(ready, np.float32)[None], training=False)
    if hasattr(result, "detach"):
        result = result.detach().cpu()
    return np.asarray(result)


def load(image: Any, how: Prepared) -> npt.NDArray[np.float32]:
    """Resizes a Pillow image as the model's pictures were loaded: float32 [height, width, 3] from 0 to 255."""
    height, width = how.size
    if how.filter in ("nearest", "bilinear", "bicubic", "lanczos"):
        import PIL.Image

        resample = getattr(PIL.Image.Resampling, how.filter.upper())
        if image.size != (width, height):
            image = image.resize((width, height), resample)
        return np.asarray(image, np.float32)
    pixels = np.asarray(image)
    if how.filter == "bilinear_no_antialias_rounded":
        try:
            cv2 = importlib.import_module("cv2")
        except ImportError as error:
            raise ImportError("check of opencv-bilinear needs OpenCV, or prepare= with a function of your own") from error
        return np.asarray(cv2.resize(pixels, (width, height)), np.float32)
    if "tensorflow" in sys.modules:
        resized = sys.modules["tensorflow"].image.resize(pixels, (height, width))
        return np.asarray(resized, np.float32)
    return _bilinear(pixels.astype(np.float32), height, width)


def _bilinear(pixels: npt.NDArray[np.float32], height: int, width: int) -> npt.NDArray[np.float32]:
    """TensorFlow's bilinear resizing: half-pixel centres, without antialiasing."""
    for axis, length in ((0, height), (1, width)):
        count = pixels.shape[axis]
        places = np.clip((np.arange(length) + 0.5) * (count / length) - 0.5, 0, count - 1)
        low = np.floor(places).astype(np.int64)
        high = np.minimum(low + 1, count - 1)
        share = (places - low).astype(np.float32).reshape([-1 if at == axis else 1 for at in range(3)])
        pixels = pixels.take(low, axis) * (1 - share) + pixels.take(high, axis) * share
    return pixels


def output_of(model: Any, given: Output | None) -> tuple[Output, str | None]:
    """Returns what a model's output means, and what its last layer computes itself.

    Raises `MissingInformation` if neither the model nor `given` says it, and `UnsupportedError` if they contradict each other.
    """
    own = own_output(model)
    if own is not None:
        if given is not None and given != own:
            raise UnsupportedError(f"output is {given!r}, and the model ends with a {own}", subject="output")
        return own, own
    output = given if given is not None else output_of_loss(model)
    if output is None:
        raise MissingInformation(
            "the model's last layer has no activation, and no loss from logits says what its numbers mean; give output=\"softmax\", "
            '"sigmoid", "linear" or {"groups": n}',
            subject="output",
        )
    return output, None
