"""Compares a server's answers with those of the framework."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import Any, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from .errors import CheckFailed, PictureError
from .pictures import Picture, encoded
from .results import HeadAnswer
from .specs import Output

Numbers = npt.NDArray[np.float64]

# How many of the worst differences a message names.
_NAMED = 3


@dataclass(frozen=True)
class Difference:
    """How far the answers to one picture are apart."""

    picture: str
    """The picture: its path, or its place."""
    difference: float
    """The largest difference: of probabilities, or of values as a share of the largest value, or of 1 if that is larger."""
    index: int
    """The class, or the value, with that difference."""
    expected: float
    """The framework's number."""
    got: float
    """The server's."""


@dataclass(frozen=True)
class CheckReport:
    """A check that found no difference above the tolerance."""

    differences: tuple[Difference, ...]
    """One for each picture, the worst first."""
    tolerance: float
    head: str
    """The head under which the version was tried."""
    version: int
    digest: str
    """Of the version that was tried, and of the one that was pushed."""

    @property
    def worst(self) -> float:
        """The largest difference of all pictures."""
        return max((difference.difference for difference in self.differences), default=0.0)


def opened(picture: Picture) -> Any:
    """Returns a Pillow image in RGB of what a server is sent for this picture."""
    try:
        import PIL.Image
    except ImportError as error:
        raise ImportError("check needs Pillow: pip install pillow") from error
    try:
        return PIL.Image.open(io.BytesIO(encoded(picture))).convert("RGB")
    except OSError as error:
        raise PictureError(f"check: {name_of(picture, 0)}: {error}") from error


def name_of(picture: Picture, place: int) -> str:
    """Returns a name for messages."""
    return os.fspath(picture) if isinstance(picture, (str, os.PathLike)) else f"picture {place}"


def probabilities(answer: npt.ArrayLike, output: Output, own: str | None) -> Numbers:
    """Returns what a head should answer: of a model's answer for one picture, the probabilities, or values.

    `own` is the output that the model's last layer computes itself, so that its answer is already that.
    """
    numbers = np.asarray(answer, np.float64).reshape(-1)
    if own == "softmax" and len(numbers) and numbers.max() <= 0 and not np.isclose(numbers.sum(), 1):
        # A logarithm of softmax.
        return np.asarray(np.exp(numbers))
    if own is not None or output == "linear":
        return numbers
    if output == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-numbers)))
    if isinstance(output, Mapping):
        return softmax(numbers.reshape(int(output["groups"]), -1)).reshape(-1)
    return softmax(numbers)


def softmax(numbers: Numbers) -> Numbers:
    """Over the last dimension."""
    powers = np.exp(numbers - numbers.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def answered(answer: HeadAnswer, output: Output, rows: int) -> Numbers:
    """Returns the numbers of a server's answer, in the order of the classes."""
    if answer.error is not None:
        raise answer.error
    if isinstance(output, Mapping):
        return softmax(np.array(answer.logits).reshape(int(output["groups"]), -1)).reshape(-1)
    numbers = np.full(max((p.index for p in answer.predictions), default=-1) + 1, np.nan)
    for prediction in answer.predictions:
        numbers[prediction.index] = prediction.number
    if output == "sigmoid" and rows == 1:
        # With two labels, no and yes.
        return numbers[-1:]
    return numbers


def compare(name: str, expected: Numbers, got: Numbers, output: Output) -> Difference:
    """Returns the largest difference for one picture. The model may have more rows than the head has classes."""
    expected = expected[: len(got)]
    if expected.shape != got.shape:
        raise CheckFailed(f"{name}: the model answers {len(expected)} numbers and the server {len(got)}")
    unit = max(1.0, float(np.abs(expected).max())) if output == "linear" else 1.0
    apart = np.abs(expected - got) / unit
    apart[~np.isfinite(apart)] = np.inf
    worst = int(apart.argmax())
    return Difference(name, float(apart[worst]), worst, float(expected[worst]), float(got[worst]))


def judge(differences: Sequence[Difference], tolerance: float, labels: Sequence[str]) -> tuple[Difference, ...]:
    """Returns the differences, the worst first. Raises `CheckFailed` if one is above the tolerance."""
    ordered = tuple(sorted(differences, key=lambda difference: -difference.difference))
    failed = [difference for difference in ordered if not difference.difference <= tolerance]
    if not failed:
        return ordered
    lines = [
        f"  {d.picture}: {_label(labels, d.index)} is {d.expected:.6g} in the framework and {d.got:.6g} on the server"
        for d in failed[:_NAMED]
    ]
    more = len(failed) - _NAMED
    if more > 0:
        lines.append(f"  and {more} more")
    raise CheckFailed(
        f"{len(failed)} of {len(ordered)} pictures are answered otherwise than by the framework, by more than {tolerance:g}; nothing was "
        "pushed. Compare the transform with what the model was trained on; a server with --precision int16 or bf16, or with "
        "--jpeg-scaling, needs a larger tolerance.\n" + "\n".join(lines),
        ordered,
    )


def _label(labels: Sequence[str], index: int) -> str:
    return repr(labels[index]) if index < len(labels) else f"number {index}"
