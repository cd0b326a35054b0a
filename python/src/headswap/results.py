"""What the clients return: values that do not change."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Generic, Iterator, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from .errors import HeadswapError

OutputKind = Literal["", "softmax", "sigmoid", "linear", "groups"]
Tier = Literal["", "hot", "warm", "cold"]
Key = TypeVar("Key")


@dataclass(frozen=True)
class Prediction:
    """One class and its probability, or one value."""

    index: int
    """The index of the class, from 0."""
    label: str
    """Its label; empty if the head has none."""
    probability: float
    """From 0 to 1; 0 for a `linear` head."""
    value: float
    """The value of a `linear` head; 0 for the other kinds."""
    group: int
    """The group of the class, from 0; 0 unless the head's output is groups."""
    kind: OutputKind
    """What the head's outputs mean."""

    @property
    def number(self) -> float:
        """The value of a `linear` head, else the probability."""
        return self.value if self.kind == "linear" else self.probability


@dataclass(frozen=True)
class HeadAnswer:
    """The answer of one head, or the reason why there is none."""

    head: str
    version: int
    """The version that computed it; 0 if it failed."""
    digest: str
    """The SHA-256 of that version, 64 hexadecimal digits."""
    predictions: tuple[Prediction, ...]
    """The most probable classes first; the values of a `linear` head in the order of their indices."""
    logits: tuple[float, ...]
    """Those of all classes, if they were asked for."""
    error: HeadswapError | None = None
    """Why this head has no answer. All else is empty then."""

    @property
    def top(self) -> Prediction:
        """The first prediction. Raises `error` if the head failed."""
        if self.error is not None:
            raise self.error
        return self.predictions[0]


@dataclass(frozen=True)
class Timing:
    """The time that each step of one request took, in microseconds."""

    decode_us: int
    queue_us: int
    compute_us: int
    batch_size: int
    """The number of pictures in the batch."""


@dataclass(frozen=True)
class Classification:
    """The answers of all heads to one picture, in the order in which the heads were named."""

    answers: tuple[HeadAnswer, ...]
    timing: Timing
    request_id: str = ""

    def __getitem__(self, head: str) -> HeadAnswer:
        for answer in self.answers:
            if answer.head == head:
                return answer
        raise KeyError(head)

    def __iter__(self) -> Iterator[HeadAnswer]:
        return iter(self.answers)

    def __len__(self) -> int:
        return len(self.answers)

    @property
    def top(self) -> Prediction:
        """The first prediction of the first head. Raises its error if it failed."""
        return self.answers[0].top


@dataclass(frozen=True)
class StreamAnswer(Generic[Key]):
    """The answer to one picture of a stream, or the reason why there is none."""

    index: int
    """The picture's place in the iterable, from 0."""
    key: Key
    """The key that came with it, else its index."""
    classification: Classification | None
    error: HeadswapError | None = None
    """Why the picture was not answered: it is broken, or all heads failed, or retries did not help."""

    def unwrap(self) -> Classification:
        """Returns the classification. Raises `error` if there is none."""
        if self.classification is None:
            raise self.error or HeadswapError("the picture was not answered")
        return self.classification


@dataclass(frozen=True)
class Embedding:
    """What the backbone computes of one picture."""

    features: npt.NDArray[np.float32]
    """A vector: 4096 numbers for `features`, 25,088 for `pool` of 224 x 224, 512 for `gap`."""
    backbone_digest: str
    """The SHA-256 of the backbone. Features of different backbones cannot be compared."""
    timing: Timing


@dataclass(frozen=True)
class HeadInfo:
    """One version of a head."""

    head: str
    version: int
    digest: str
    """The SHA-256 of its tensors, labels and spec."""
    classes: int
    labels: tuple[str, ...]
    annotations: dict[str, str]
    created_unix_us: int
    """When it was made, in microseconds since 1970-01-01 00:00 UTC."""
    resident_bytes: int
    parameters: tuple[str, ...]
    """The names of the parameters that it overrides."""
    live: bool
    split_layer: str
    tier: Tier
    requests: int
    spec_json: str
    assumed: tuple[str, ...]
    """What was assumed because nothing said it, a line each."""
    backbone: str
    available_versions: tuple[int, ...] = ()
    """The versions that requests can name, oldest first. Only `Client.head` knows them."""

    @property
    def spec(self) -> dict[str, Any]:
        """Its head spec, without labels."""
        spec: dict[str, Any] = json.loads(self.spec_json) if self.spec_json else {}
        return spec


@dataclass(frozen=True)
class Receipt:
    """What a replacement did; after a dry run, what it would do."""

    head: HeadInfo
    previous_version: int
    """The version that was live before; 0 if the head is new."""
    validate_us: int
    place_us: int
    store_us: int
    sync_us: int
    prefixes: tuple[str, ...]
    """What was removed from the front of the names in the file."""
    left_out: tuple[str, ...]
    """Tensors of the file that are not part of the network."""
    labels_left_out: tuple[str, ...]
    """Lists of labels in the file that do not fit."""
    sent_bytes: int = field(default=0, compare=False)
    """The length of the file that was sent."""


@dataclass(frozen=True)
class Parameter:
    """One tensor of a backbone."""

    name: str
    shape: tuple[int, ...]
    digest: str
    """The SHA-256 of its rank, dimensions and f32 values; empty for the last Linear."""


@dataclass(frozen=True)
class Backbone:
    """One backbone of a server."""

    name: str
    digest: str
    weights: str
    has_features: bool
    """Whether it has VGG16's Linears, which heads need that begin with its features."""
    parameters: tuple[Parameter, ...]


@dataclass(frozen=True)
class Model:
    """The model that a server runs."""

    layers: str
    """In the format that PyTorch prints."""
    backbones: tuple[Backbone, ...]
    """The first is the one that requests get which name none."""
    parameters: tuple[Parameter, ...]
    """Those of the described backbone, the last Linear's included."""
    device: str
    precision: str
    max_batch: int
