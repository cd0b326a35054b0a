"""Pushes a live model to a server."""

from __future__ import annotations

import enum
import json
import time
import warnings
import zlib
from dataclasses import dataclass, replace as changed
from typing import Any, Callable, Final, Mapping, Sequence, Union

import numpy.typing as npt

from . import _check, _export, _keras_model, transforms
from ._check import CheckReport
from ._messages import Replacement
from .client import Client
from .errors import AssumptionWarning, MissingInformation, NotFound, UnsupportedError
from .pictures import Picture
from .results import HeadInfo, Model, Receipt
from .retry import RetryPolicy
from .specs import Output, Preprocessing, Spec, expanded, size_of

Labels = Union[Sequence[str], Mapping[str, int]]
"""One for each class in their order, or their numbers, such as `dataset.class_to_idx`."""

TOLERANCE = 1e-3
CHECK_SLOTS = 16
# How often a check is tried while others use the same scratch head.
_CHECK_ATTEMPTS = 5


class _Unset(enum.Enum):
    UNSET = "unset"


UNSET: Final = _Unset.UNSET


@dataclass(frozen=True)
class PushReceipt:
    """What a push did; after a dry run, what it would do."""

    head: HeadInfo
    """The new version."""
    previous_version: int
    """The version that was live before; 0 if the head is new."""
    spec: Spec
    """The spec that was sent."""
    assumed: tuple[str, ...]
    """What was assumed because nothing said it, a line each; a warning was given of each of the package's own."""
    sent_bytes: int
    """The length of the file that was sent."""
    sent_tensors: tuple[str, ...]
    """The names of the tensors in it; empty for a file of Keras, of which the server keeps what differs."""
    shared_tensors: int
    """How many tensors were not sent, because the backbone has them."""
    check: CheckReport | None
    """The comparison with the framework's answers, if there was one."""
    receipt: Receipt
    """The server's receipt."""


@dataclass(frozen=True)
class _Candidate:
    """A model, read for a server."""

    file: bytes
    spec: Spec
    output: Output
    backbone: str
    answer: Callable[[Any], npt.NDArray[Any]]
    """Answers a Pillow image as the framework does."""
    own: str | None
    """The output that the model's last layer computes itself."""
    names: tuple[str, ...] = ()
    same: int = 0
    assumed: tuple[str, ...] = ()


def push(
    model: Any,
    name: str,
    *,
    transform: object = None,
    labels: Labels | None = None,
    server: str | Client,
    admin: str | None = None,
    output: Output | None = None,
    classes: int | None = None,
    preprocessing: Preprocessing | None = None,
    preprocess: _keras_model.Preprocess | _Unset = UNSET,
    image_size: tuple[int, int] | None = None,
    interpolation: str | None = None,
    check: Sequence[Picture] = (),
    tolerance: float = TOLERANCE,
    prepare: Callable[[Any], Any] | None = None,
    approximate: bool = False,
    expected_version: int | None = None,
    annotations: Mapping[str, str] | None = None,
    backbone: str = "",
    dry_run: bool = False,
) -> PushReceipt:
    """Makes a fine-tuned VGG16 the live version of a head, exactly as the framework answers, or refuses it by name.

    Args:
        model: A live model of PyTorch (torchvision's, timm's, or one's own of `torch.nn`'s layers) or of Keras (3, 2 or tf.keras). It is
            not changed; its modules stay in the modes, train or eval, in which they were.
        name: The head: up to 63 lower-case letters, digits, `.`, `_` and `-`.
        transform: For PyTorch, the transform of validation: torchvision's of either version, or timm's.
        labels: One for each class, or a dictionary of their numbers, such as `dataset.class_to_idx`.
        server: `host:port` of classification, or a `Client`.
        admin: `host:port` of administration. Default: port 50052 of the same host.
        output: What the model's numbers mean: `softmax`, `sigmoid`, `linear` or `{"groups": n}`. Default: what its last layer says; for
            Keras, what its loss says; for PyTorch's Linear of several outputs `softmax`, with an `AssumptionWarning`.
        classes: How many of the outputs are classes. Default: all.
        preprocessing: In place of `transform` or `preprocess`, a preset or the keys of a spec (docs/head-specs.md).
        preprocess: For Keras, what was done to loaded pictures: `preprocess_input` of `keras.applications`, a factor such as `1/255`,
            a preset such as `"keras-caffe"`, or `None` for values of 0 to 255. What layers of the model do is read from the model.
        image_size: For Keras, height and width. Default: those of the model's input.
        interpolation: For Keras, how pictures were resized: `nearest`, `tensorflow-bilinear`, `pillow-bilinear`, `pillow-bicubic`,
            `pillow-lanczos` or `opencv-bilinear`. A preset has one.
        check: Pictures on which the server's answers must be those of the framework. They are compared before the version becomes live,
            on a scratch head `check--N`; if they differ, `CheckFailed` is raised and the head is unchanged.
        tolerance: The largest difference of a probability, or of a value as a share of the largest, that `check` accepts.
        prepare: In place of the declared preparation, the function with which `check` prepares a Pillow image for the model: it
            returns a tensor [3, height, width] for PyTorch, an array [height, width, 3] for Keras.
        approximate: Accept an antialiased `Resize` of a tensor as Pillow's.
        expected_version: Replace only if this version is live; 0 only if the head is new.
        annotations: Notes that are kept with the version.
        backbone: The server's backbone. Default: the one with which the model shares most.
        dry_run: Check everything, and change nothing but the scratch head of `check`.

    Returns what was done: the new version, and what of the model was sent.

    Raises:
        UnsupportedLayer: A module that heads do not have, with its path and class.
        UnsupportedTransform: A step of the transform that no spec expresses, with its place and class.
        MissingInformation: Something that neither the model nor the arguments say.
        CheckFailed: The server answers otherwise than the framework.
        ServerError: What the server refuses.
    """
    client = server if isinstance(server, Client) else Client(server, admin)
    try:
        candidate = _read(
            model, client, transform, preprocessing, preprocess, image_size, interpolation, prepare, approximate, output, backbone
        )
        if classes is not None:
            candidate.spec["classes"] = classes
        for line in candidate.assumed:
            warnings.warn(line, AssumptionWarning, stacklevel=2)
        replacement = Replacement(
            head=name,
            file=candidate.file,
            spec_json=json.dumps(candidate.spec),
            labels=_ordered(labels),
            expected_version=expected_version,
            dry_run=dry_run,
            annotations=dict(annotations or {}),
            backbone=candidate.backbone,
        )
        report = None
        if check:
            report = _compare(client, replacement, candidate, check, tolerance)
        receipt = client._replace(replacement)
    finally:
        if client is not server:
            client.close()
    return PushReceipt(
        head=receipt.head,
        previous_version=receipt.previous_version,
        spec=candidate.spec,
        assumed=receipt.head.assumed,
        sent_bytes=receipt.sent_bytes,
        sent_tensors=candidate.names,
        shared_tensors=candidate.same,
        check=report,
        receipt=receipt,
    )


def _ordered(labels: Labels | None) -> tuple[str, ...]:
    """Labels in the order of their classes."""
    if labels is None:
        return ()
    if isinstance(labels, str):
        raise TypeError("labels is one text; give a list of them")
    if isinstance(labels, Mapping):
        numbers = sorted(labels.values())
        if numbers != list(range(len(numbers))):
            raise ValueError(f"labels have the numbers {numbers}, not 0 to {len(numbers) - 1}")
        return tuple(sorted(labels, key=lambda label: labels[label]))
    return tuple(labels)


def _read(
    model: Any,
    client: Client,
    transform: object,
    preprocessing: Preprocessing | None,
    preprocess: _keras_model.Preprocess | _Unset,
    image_size: tuple[int, int] | None,
    interpolation: str | None,
    prepare: Callable[[Any], Any] | None,
    approximate: bool,
    output: Output | None,
    backbone: str,
) -> _Candidate:
    if preprocessing is not None and (transform is not None or preprocess is not UNSET):
        raise ValueError("preprocessing stands for transform and preprocess; give one of them")
    if _keras_model.is_keras(model):
        if transform is not None:
            raise ValueError("transform is for PyTorch; for Keras give preprocess and interpolation")
        return _read_keras(model, preprocessing, preprocess, image_size, interpolation, prepare, output, backbone)
    if not _is_torch(model):
        kind = f"{type(model).__module__}.{type(model).__qualname__}"
        raise UnsupportedError(
            f"{kind} is no model of PyTorch or Keras; push the live model, and a file with Client.replace", kind=kind
        )
    if preprocess is not UNSET or image_size is not None or interpolation is not None:
        raise ValueError("preprocess, image_size and interpolation are for Keras; for PyTorch give transform")
    return _read_torch(model, client.model(), transform, preprocessing, prepare, approximate, output, backbone)


def _is_torch(model: object) -> bool:
    return any(kind.__module__ == "torch.nn.modules.module" and kind.__name__ == "Module" for kind in type(model).__mro__)


def _read_torch(
    model: Any,
    served: Model,
    transform: object,
    preprocessing: Preprocessing | None,
    prepare: Callable[[Any], Any] | None,
    approximate: bool,
    output: Output | None,
    backbone: str,
) -> _Candidate:
    import torch

    from . import _torch_model

    assumed: list[str] = []
    if preprocessing is not None:
        prepared = expanded(preprocessing)
    elif transform is not None:
        state = transforms.read(transform, approximate)
        prepared = state.preprocessing()
        assumed.extend(state.assumed)
    else:
        raise MissingInformation(
            "nothing says how pictures are prepared; give transform= with the transform of validation, or preprocessing=",
            subject="transform",
        )
    head, own = _torch_model.export(model, size_of(prepared))
    meaning = _meaning(head, own, output, assumed)
    spec = {"preprocessing": prepared, **head.spec, "output": meaning}
    head = changed(head, spec=spec, assumed=tuple(assumed))
    difference = _export.difference(head, served, backbone)
    make = prepare or transform
    device, dtype = _torch_model.place_of(_torch_model.unwrapped(model))

    def answer(image: Any) -> npt.NDArray[Any]:
        if make is None:
            raise MissingInformation("check needs transform= or prepare=, to prepare pictures for the model", subject="prepare")
        with _torch_model.evaluating(model):
            ready = torch.as_tensor(make(image)).to(device, dtype)  # type: ignore[operator]
            result: npt.NDArray[Any] = model(ready[None])[0].to("cpu", torch.float32).numpy()
        return result

    return _Candidate(
        file=difference.file,
        spec=spec,
        output=meaning,
        backbone=difference.backbone,
        answer=answer,
        own=own,
        names=difference.names,
        same=difference.same,
        assumed=tuple(assumed),
    )


def _meaning(head: _export.Head, own: str | None, given: Output | None, assumed: list[str]) -> Output:
    """What a PyTorch model's output means."""
    if own is not None:
        if given is not None and given != own:
            raise UnsupportedError(f"output is {given!r}, and the model ends with a {own}", subject="output")
        return own
    if given is not None:
        return given
    last = [tensor for name, tensor in head.tensors.items() if tensor.ndim == 2][-1]
    if len(last) == 1:
        raise MissingInformation(
            'the model has one output, and nothing says what it means; give output="sigmoid" for a probability, "linear" for a value',
            subject="output",
        )
    assumed.append(f"output: softmax of the {len(last)} outputs, since the model ends with a Linear and output= was not given")
    return "softmax"


def _read_keras(
    model: Any,
    preprocessing: Preprocessing | None,
    preprocess: _keras_model.Preprocess | _Unset,
    image_size: tuple[int, int] | None,
    interpolation: str | None,
    prepare: Callable[[Any], Any] | None,
    output: Output | None,
    backbone: str,
) -> _Candidate:
    meaning, own = _keras_model.output_of(model, output)
    how = None
    if preprocessing is not None:
        prepared = expanded(preprocessing)
    elif preprocess is UNSET:
        raise MissingInformation(
            "nothing says what was done to pictures before they entered the model; give preprocess=preprocess_input, a factor such as "
            "1/255, a preset such as \"keras-unit\", or None for values of 0 to 255, for example because the model rescales them itself",
            subject="preprocess",
        )
    else:
        how = _keras_model.prepared(model, preprocess, image_size, interpolation)
        prepared = how.preprocessing

    def answer(image: Any) -> npt.NDArray[Any]:
        if prepare is not None:
            ready = prepare(image)
        elif how is not None:
            ready = how.apply(_keras_model.load(image, how))
        else:
            raise MissingInformation("check needs prepare=, to prepare pictures for the model", subject="prepare")
        return _keras_model.answer(model, ready)[0]  # type: ignore[no-any-return]

    spec = {"preprocessing": prepared, "output": meaning}
    return _Candidate(_keras_model.saved(model), spec, meaning, backbone, answer, own)


def _compare(
    client: Client, replacement: Replacement, candidate: _Candidate, pictures: Sequence[Picture], tolerance: float
) -> CheckReport:
    """Pushes to a scratch head, and compares its answers with the framework's."""
    expected = []
    for picture in pictures:
        answer = candidate.answer(_check.opened(picture))
        expected.append(_check.probabilities(answer, candidate.output, candidate.own))
    # Heads cannot be removed: few names, so that checks do not fill the store.
    name = f"check--{zlib.crc32(replacement.head.encode()) % CHECK_SLOTS}"
    annotations = {"headswap.check": f"a version of {replacement.head} that was tried"}
    scratch = changed(replacement, head=name, expected_version=None, dry_run=False, annotations=annotations)
    for attempt in range(_CHECK_ATTEMPTS):
        receipt = client._replace(scratch)
        try:
            differences = _differences(client, receipt, candidate, pictures, expected)
        except NotFound:
            # Checks of other heads with the same scratch head have removed the version.
            if attempt == _CHECK_ATTEMPTS - 1:
                raise
            time.sleep(RetryPolicy().random())
            continue
        break
    ordered = _check.judge(differences, tolerance, receipt.head.labels)
    return CheckReport(ordered, tolerance, name, receipt.head.version, receipt.head.digest)


def _differences(
    client: Client,
    receipt: Receipt,
    candidate: _Candidate,
    pictures: Sequence[Picture],
    expected: Sequence[_check.Numbers],
) -> list[_check.Difference]:
    tried = receipt.head
    answers = client.classify(
        # A single sigmoid with two labels answers both.
        list(pictures), tried.head, top_k=max(tried.classes, 2), head_version=tried.version, include_logits=True
    )
    differences = []
    for place, (picture, answer) in enumerate(zip(pictures, answers)):
        numbers = expected[place]
        got = _check.answered(answer.answers[0], candidate.output, len(numbers))
        differences.append(_check.compare(_check.name_of(picture, place), numbers, got, candidate.output))
    return differences
