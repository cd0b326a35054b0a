"""Reads torchvision's transforms, and timm's, as the preprocessing of a head spec.

Each step changes a small state: what form the picture has by then, how it was resized and cropped, and what became of its values. A step
that the state cannot follow exactly is refused by its place and its class. Neither torch nor torchvision is imported: the classes are
known by their names, and a class of the user's own is refused even if it inherits from one of them.
"""

from __future__ import annotations

import functools
import types
from dataclasses import dataclass, field
from typing import Any, Callable, Literal, Sequence

from .errors import UnsupportedTransform

UNIT = 1 / 255

Form = Literal["Pillow image", "tensor of bytes", "tensor of floats"]

_PILLOW: Form = "Pillow image"
_BYTES: Form = "tensor of bytes"
_FLOATS: Form = "tensor of floats"

_FILTERS = {"nearest": "nearest", "nearest-exact": "nearest", "bilinear": "bilinear", "bicubic": "bicubic", "lanczos": "lanczos"}

# Steps of training that are not called Random…
_TRAINING = {
    "AugMix", "AutoAugment", "ColorJitter", "CutMix", "CutoutPIL", "ElasticTransform", "GaussianBlur", "GaussianNoise", "JPEG", "MixUp",
    "RandAugment", "ScaleJitter", "SimpleCopyPaste", "TrivialAugmentWide",
}  # fmt: skip


def spec_of(transform: object, *, approximate: bool = False, **keys: Any) -> dict[str, Any]:
    """Returns the head spec of a transform: its `preprocessing`, and the given `keys`, such as `output="softmax"`.

    Args:
        transform: torchvision's transforms of either version, a `Compose` of them, nested or not, the `transforms()` of weights, or what
            timm's `create_transform` returns for validation. It is what a Pillow image in RGB is given to.
        approximate: Accept an antialiased `Resize` of a tensor as Pillow's, which it is to within 1 of 255 for most numbers.

    Raises `UnsupportedTransform` for a step that no spec expresses, with its place and class and what to do.
    """
    return {"preprocessing": preprocessing_of(transform, approximate=approximate), **keys}


def preprocessing_of(transform: object, *, approximate: bool = False) -> dict[str, Any]:
    """Returns the `preprocessing` of `spec_of` alone."""
    return read(transform, approximate).preprocessing()


def read(transform: object, approximate: bool = False) -> State:
    """Follows a transform to its end."""
    state = State(approximate=approximate)
    state.follow(transform, "transform")
    state.finish()
    return state


@dataclass
class State:
    """A picture on its way through a transform."""

    approximate: bool = False
    form: Form = _PILLOW
    resize: dict[str, Any] | None = None
    filter: str = "bilinear"
    crop: tuple[int, int] | None = None
    is_grey: bool = False
    scale: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    is_normalised: bool = False
    assumed: list[str] = field(default_factory=list)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of every prepared picture."""
        if self.crop is not None:
            return self.crop
        assert self.resize is not None
        height, width = self.resize["stretch"]
        return height, width

    def preprocessing(self) -> dict[str, Any]:
        """The key `preprocessing` of a spec."""
        return {
            "resize": self.resize,
            "filter": self.filter,
            "crop": None if self.crop is None else list(self.crop),
            "channels": "grey" if self.is_grey else "rgb",
            "scale": self.scale,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def follow(self, step: object, path: str) -> None:
        """Takes one step, or those of a container."""
        kind = type(step)
        name, module = kind.__name__, kind.__module__
        steps = _contained(step, name, module)
        if steps is not None:
            for place, inner in enumerate(steps):
                self.follow(inner, f"{path}[{place}]")
            return
        taker = _TAKERS.get(_known_name(name, module))
        if taker is None:
            raise _unknown(step, path)
        taker(self, step, Where(path, f"{module}.{kind.__qualname__}"))

    def finish(self) -> None:
        """Refuses a transform whose end is not what a network takes."""
        where = Where("transform", "")
        if self.form == _PILLOW:
            raise where.refuse("ends with a Pillow image, which no network takes; end it with ToTensor() and Normalize(…)")
        if self.form == _BYTES:
            raise where.refuse(
                "ends with a tensor of bytes, so that its values are normalised elsewhere; end it with ToDtype(torch.float32, scale=True) "
                "and Normalize(…), and with timm pass use_prefetcher=False to create_transform"
            )
        if self.crop is None and (self.resize is None or "short_side" in self.resize):
            raise where.refuse("ends with pictures whose size depends on the picture; add CenterCrop(size) or use Resize((height, width))")

    # Steps.

    def take_resize(self, step: Any, where: Where) -> None:
        size, max_size = step.size, getattr(step, "max_size", None)
        if max_size is not None:
            raise where.refuse(f"has max_size {max_size}, which a spec has not; leave max_size out")
        if size is None:
            raise where.refuse("has no size; give one")
        sides = [int(size)] if isinstance(size, int) else [int(side) for side in size]
        resize = {"short_side": sides[0]} if len(sides) == 1 else {"stretch": sides}
        if self.resize is not None:
            raise where.refuse("is a second Resize; resize once")
        if self.crop is not None:
            raise where.refuse("comes after a crop, and a spec resizes first; put Resize before CenterCrop")
        if self.is_normalised:
            raise where.refuse("comes after Normalize, and a spec resizes first; put Resize first")
        self.filter = self._filter(step, where)
        self.resize = resize

    def _filter(self, step: Any, where: Where) -> str:
        mode = _interpolation(step.interpolation)
        if self.form == _PILLOW:
            # `antialias` does not count for Pillow images: Pillow always antialiases, except for nearest.
            if mode not in _FILTERS:
                raise where.refuse(f"interpolates by {mode}; use nearest, bilinear, bicubic or lanczos")
            return _FILTERS[mode]
        antialias = getattr(step, "antialias", True)
        if mode == "bilinear" and not antialias and self.form == _FLOATS:
            return "bilinear_no_antialias"
        if mode in ("bilinear", "bicubic") and antialias is True:
            if self.approximate:
                self.assumed.append(
                    f"{where.path} ({where.name}): resizes a {self.form}; taken as Pillow's {mode}, from which it differs by rounding"
                )
                return mode
            raise where.refuse(
                f"resizes a {self.form}, and a server resizes as Pillow does, which differs by rounding; put Resize before ToTensor or "
                "ToImage, or pass approximate=True and have check=pictures measure the difference"
            )
        raise where.refuse(
            f"resizes a {self.form} by {mode}{'' if antialias else ' without antialiasing'}, which differs from Pillow's; put Resize before "
            "ToTensor or ToImage"
        )

    def take_center_crop(self, step: Any, where: Where) -> None:
        size = step.size
        sides = (int(size), int(size)) if isinstance(size, int) else tuple(int(side) for side in size)
        if len(sides) == 1:
            sides = (sides[0], sides[0])
        self._crop((sides[0], sides[1]), where, pads=True)

    def take_crop_or_pad(self, step: Any, where: Where) -> None:
        height, width = step.size
        self._crop((int(height), int(width)), where, pads=False)

    def _crop(self, sides: tuple[int, int], where: Where, pads: bool) -> None:
        if self.crop is not None:
            raise where.refuse("is a second crop; crop once")
        # What the crop adds around a smaller picture is zero before normalising.
        if (self.is_normalised or not pads) and not self._fits(sides):
            raise where.refuse("can be larger than the picture, and then pads otherwise than a spec; put CenterCrop right after Resize")
        self.crop = sides

    def _fits(self, sides: tuple[int, int]) -> bool:
        if self.resize is None:
            return False
        if "short_side" in self.resize:
            return max(sides) <= int(self.resize["short_side"])
        height, width = self.resize["stretch"]
        return sides[0] <= int(height) and sides[1] <= int(width)

    def take_grayscale(self, step: Any, where: Where) -> None:
        if step.num_output_channels != 3:
            raise where.refuse("gives one channel, and VGG16 takes three; use Grayscale(num_output_channels=3)")
        if self.form != _PILLOW:
            raise where.refuse("works on a tensor, whose grey differs from Pillow's by rounding; put Grayscale first")
        # The nearest pixel is the same before and after.
        if self.resize is not None and self.filter != "nearest":
            raise where.refuse("comes after Resize, and a spec converts to grey first, which differs by rounding; put Grayscale first")
        self.is_grey = True

    def take_to_tensor(self, step: Any, where: Where) -> None:
        if self.form == _FLOATS:
            raise where.refuse("is given a tensor; leave it out")
        self.form, self.scale = _FLOATS, UNIT

    def take_to_image(self, step: Any, where: Where) -> None:
        if self.form == _PILLOW:
            self.form = _BYTES

    def take_dtype(self, step: Any, where: Where) -> None:
        scales = type(step).__name__ == "ConvertImageDtype" or getattr(step, "scale", False)
        dtype = str(step.dtype).removeprefix("torch.")
        if self.form == _PILLOW:
            raise where.refuse("is given a Pillow image, which it leaves as it is; put ToImage() before it")
        if dtype == "uint8" and self.form == _BYTES:
            return
        if dtype != "float32":
            raise where.refuse(f"makes values of {dtype}; use torch.float32")
        if self.form == _BYTES:
            self.form, self.scale = _FLOATS, UNIT if scales else 1.0

    def take_normalize(self, step: Any, where: Where) -> None:
        if self.form != _FLOATS:
            raise where.refuse(f"is given a {self.form}; put ToTensor(), or ToImage() and ToDtype(torch.float32, scale=True), before it")
        self._normalise(_three(step.mean, "mean", where), _three(step.std, "std", where), where)

    def _normalise(self, mean: Sequence[float], std: Sequence[float], where: Where) -> None:
        if min(std) <= 0:
            raise where.refuse(f"has the deviations {list(std)}; a spec takes positive ones")
        # ((x - m1) / s1 - m2) / s2 = (x - (m1 + m2 s1)) / (s1 s2)
        first, second, third = (m1 + m2 * s1 for m1, s1, m2 in zip(self.mean, self.std, mean))
        self.mean = (first, second, third)
        first, second, third = (s1 * s2 for s1, s2 in zip(self.std, std))
        self.std = (first, second, third)
        self.is_normalised = True

    def take_preset(self, step: Any, where: Where) -> None:
        """torchvision's `ImageClassification`: resizes, crops, makes a tensor, normalises."""
        if self.form != _PILLOW:
            raise where.refuse(f"is given a {self.form}; give it the Pillow image")
        self.take_resize(
            types.SimpleNamespace(size=list(step.resize_size), interpolation=step.interpolation, antialias=step.antialias), where
        )
        self.take_center_crop(types.SimpleNamespace(size=list(step.crop_size)), where)
        self.form, self.scale = _FLOATS, UNIT
        self.take_normalize(step, where)

    def take_nothing(self, step: Any, where: Where) -> None:
        """A step that leaves a picture in RGB as it is."""


@dataclass(frozen=True)
class Where:
    """A step of a transform."""

    path: str
    name: str

    def refuse(self, reason: str) -> UnsupportedTransform:
        named = f"{self.path} ({self.name})" if self.name else self.path
        return UnsupportedTransform(f"{named} {reason}", subject=self.path, kind=self.name)


_TORCHVISION: dict[str, Callable[[State, Any, Where], None]] = {
    "CenterCrop": State.take_center_crop,
    "ConvertDtype": State.take_dtype,
    "ConvertImageDtype": State.take_dtype,
    "Grayscale": State.take_grayscale,
    "Identity": State.take_nothing,
    "ImageClassification": State.take_preset,
    "Normalize": State.take_normalize,
    "PILToTensor": State.take_to_image,
    "RGB": State.take_nothing,
    "Resize": State.take_resize,
    "ToDtype": State.take_dtype,
    "ToImage": State.take_to_image,
    "ToPureTensor": State.take_nothing,
    "ToTensor": State.take_to_tensor,
}
_TIMM: dict[str, Callable[[State, Any, Where], None]] = {
    "CenterCropOrPad": State.take_crop_or_pad,
    "MaybePILToTensor": State.take_to_image,
    "MaybeToTensor": State.take_to_tensor,
}
_TAKERS = {f"torchvision.{name}": taker for name, taker in _TORCHVISION.items()} | {
    f"timm.{name}": taker for name, taker in _TIMM.items()
}


def _known_name(name: str, module: str) -> str:
    """The name of a step under its library; a class of the user's own has none."""
    if module.startswith("torchvision.transforms."):
        return f"torchvision.{name}"
    if module == "timm.data.transforms":
        return f"timm.{name}"
    if module == "torch.nn.modules.linear" and name == "Identity":
        return "torchvision.Identity"
    return ""


def _contained(step: Any, name: str, module: str) -> Sequence[object] | None:
    """The steps of a container."""
    if name == "Compose" and module.startswith("torchvision.transforms."):
        return list(step.transforms)
    if name == "Sequential" and module == "torch.nn.modules.container":
        return list(step)
    return None


def _unknown(step: object, path: str) -> UnsupportedTransform:
    if isinstance(step, functools.partial):
        return Where(path, f"partial of {_function_name(step.func)}").refuse(_FUNCTION)
    if callable(step) and hasattr(step, "__code__"):
        return Where(path, _function_name(step)).refuse(_FUNCTION)
    kind = type(step)
    where = Where(path, f"{kind.__module__}.{kind.__qualname__}")
    if kind.__name__ in ("Lambda", "Func"):
        function = getattr(step, "lambd", None)
        return where.refuse(f"of {_function_name(function)} {_FUNCTION}" if function else _FUNCTION)
    if kind.__name__.startswith("Random") or kind.__name__ in _TRAINING:
        return where.refuse("is a step of training, which changes pictures at random; pass the transform of validation")
    if step is None:
        return where.refuse("is None; pass the transform of validation")
    if not callable(step):
        return where.refuse("is not a transform; pass torchvision's or timm's")
    return where.refuse(
        "is a step that no head spec expresses; use Grayscale, Resize, CenterCrop, ToTensor and Normalize, or give preprocessing= with a "
        "spec of your own"
    )


_FUNCTION = (
    "is a function, of which cannot be known what it computes; use torchvision's classes in its place, or give preprocessing= with a spec "
    "of your own"
)


def _function_name(function: Any) -> str:
    name = getattr(function, "__qualname__", repr(function))
    code = getattr(function, "__code__", None)
    return f"{name} at {code.co_filename}:{code.co_firstlineno}" if code else str(name)


def _interpolation(mode: Any) -> str:
    """The name of torchvision's `InterpolationMode`, or of a constant of Pillow."""
    value = getattr(mode, "value", mode)
    return {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}.get(value, str(value))


def _three(numbers: Any, name: str, where: Where) -> list[float]:
    """One number for each channel."""
    values = [float(number) for number in numbers] if hasattr(numbers, "__iter__") else [float(numbers)]
    if len(values) == 1:
        values *= 3
    if len(values) != 3:
        raise where.refuse(f"has {len(values)} numbers as {name}; give one for each of three channels")
    return values
