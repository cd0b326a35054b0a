"""Messages to and from the values of this package."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from dataclasses import dataclass, field
from typing import Any, Iterable, Iterator, Literal, Mapping, Sequence, Union

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from . import errors
from ._proto import classifier_pb2, head_admin_pb2, head_spec_pb2
from .pictures import Picture, encoded
from .results import (
    Backbone,
    Classification,
    Embedding,
    HeadAnswer,
    HeadInfo,
    Model,
    OutputKind,
    Parameter,
    Prediction,
    Receipt,
    Tier,
    Timing,
)

EmbedKind = Literal["features", "pool", "gap"]
Tensors = Mapping[str, npt.NDArray[Any]]
HeadFile = Union[str, "os.PathLike[str]", bytes, Tensors]
"""A path, the bytes of a file in any format that the server reads, or tensors by name."""

ONE_MESSAGE_BYTES_MAX = 4 << 20
"""A larger file is sent in chunks."""
CHUNK_BYTES = 1 << 20

_KINDS: dict[int, OutputKind] = {
    head_spec_pb2.OUTPUT_KIND_SOFTMAX: "softmax",
    head_spec_pb2.OUTPUT_KIND_SIGMOID: "sigmoid",
    head_spec_pb2.OUTPUT_KIND_LINEAR: "linear",
    head_spec_pb2.OUTPUT_KIND_GROUPS: "groups",
}
_TIERS: dict[int, Tier] = {
    head_admin_pb2.HEAD_TIER_HOT: "hot",
    head_admin_pb2.HEAD_TIER_WARM: "warm",
    head_admin_pb2.HEAD_TIER_COLD: "cold",
}
_EMBED_KINDS = {
    "features": classifier_pb2.EMBED_KIND_FEATURES,
    "pool": classifier_pb2.EMBED_KIND_POOL,
    "gap": classifier_pb2.EMBED_KIND_GAP,
}


@dataclass(frozen=True)
class Question:
    """What is asked about pictures."""

    heads: tuple[str, ...] = ()
    top_k: int = 0
    head_version: int = 0
    include_logits: bool = False

    @classmethod
    def new(cls, heads: str | Sequence[str], top_k: int, head_version: int, include_logits: bool) -> Question:
        """Checks the types of what callers give."""
        named = (heads,) if isinstance(heads, str) else tuple(heads)
        return cls(named, top_k, head_version, include_logits)

    def request(self, picture: Picture, request_id: str = "") -> classifier_pb2.ClassifyRequest:
        """Raises `PictureError` if the picture is none."""
        return classifier_pb2.ClassifyRequest(
            image=encoded(picture),
            heads=self.heads,
            top_k=self.top_k,
            head_version=self.head_version,
            include_logits=self.include_logits,
            request_id=request_id,
        )


def embed_request(picture: Picture, kind: EmbedKind, head: str, backbone: str) -> classifier_pb2.EmbedRequest:
    if kind not in _EMBED_KINDS:
        raise ValueError(f"kind is {kind!r}; give one of {', '.join(_EMBED_KINDS)}")
    return classifier_pb2.EmbedRequest(image=encoded(picture), kind=_EMBED_KINDS[kind], head=head, backbone=backbone)


def timing(message: classifier_pb2.Timing) -> Timing:
    return Timing(message.decode_us, message.queue_us, message.compute_us, message.batch_size)


def classification(message: classifier_pb2.ClassifyResponse) -> Classification:
    answers = tuple(_answer(result) for result in message.results)
    return Classification(answers, timing(message.timing), message.request_id)


def _answer(message: classifier_pb2.HeadResult) -> HeadAnswer:
    if message.HasField("error"):
        return HeadAnswer(message.head, 0, "", (), (), errors.from_status(message.error))
    predictions = tuple(
        Prediction(p.index, p.label, p.probability, p.value, p.group, _KINDS.get(p.kind, "")) for p in message.predictions
    )
    return HeadAnswer(message.head, message.version, message.digest, predictions, tuple(message.logits))


def embedding(message: classifier_pb2.EmbedResponse) -> Embedding:
    features = np.array(message.features, np.float32)
    features.setflags(write=False)
    return Embedding(features, message.backbone_digest, timing(message.timing))


def head_info(message: head_admin_pb2.HeadInfo, available_versions: Iterable[int] = ()) -> HeadInfo:
    return HeadInfo(
        head=message.head,
        version=message.version,
        digest=message.digest,
        classes=message.classes,
        labels=tuple(message.labels),
        annotations=dict(message.annotations),
        created_unix_us=message.created_unix_us,
        resident_bytes=message.resident_bytes,
        parameters=tuple(message.parameters),
        live=message.live,
        split_layer=message.split_layer,
        tier=_TIERS.get(message.tier, ""),
        requests=message.requests,
        spec_json=message.spec_json,
        assumed=tuple(message.assumed),
        backbone=message.backbone,
        available_versions=tuple(available_versions),
    )


def receipt(message: head_admin_pb2.ReplaceHeadResponse | head_admin_pb2.UploadHeadResponse, sent_bytes: int) -> Receipt:
    return Receipt(
        head=head_info(message.head),
        previous_version=message.previous_version,
        validate_us=message.validate_us,
        place_us=message.place_us,
        store_us=message.store_us,
        sync_us=message.sync_us,
        prefixes=tuple(message.prefixes),
        left_out=tuple(message.left_out),
        labels_left_out=tuple(message.labels_left_out),
        sent_bytes=sent_bytes,
    )


def model(message: head_admin_pb2.DescribeModelResponse) -> Model:
    backbones = tuple(
        Backbone(b.name, b.digest, b.weights, b.has_features, _parameters(b.parameters)) for b in message.backbones
    )
    parameters = _parameters(message.parameters)
    if not backbones:
        # Releases before several backbones have one without a name.
        backbones = (Backbone("", message.backbone_digest, message.weights, True, parameters),)
    return Model(message.layers, backbones, parameters, message.device, message.precision, message.max_batch)


def _parameters(messages: Iterable[head_admin_pb2.Parameter]) -> tuple[Parameter, ...]:
    return tuple(Parameter(p.name, tuple(p.shape), p.digest) for p in messages)


@dataclass(frozen=True)
class Replacement:
    """A head's new version, before it is sent."""

    head: str
    file: bytes = field(repr=False)
    spec_json: str = ""
    labels: tuple[str, ...] = ()
    expected_version: int | None = None
    dry_run: bool = False
    annotations: dict[str, str] = field(default_factory=dict)
    backbone: str = ""

    @classmethod
    def new(
        cls,
        head: str,
        file: HeadFile,
        spec: Mapping[str, Any] | str | None,
        labels: Sequence[str] | None,
        expected_version: int | None,
        dry_run: bool,
        annotations: Mapping[str, str] | None,
        backbone: str,
    ) -> Replacement:
        spec_json = spec if isinstance(spec, str) else "" if spec is None else json.dumps(spec)
        return cls(
            head=head,
            file=file_bytes(file),
            spec_json=spec_json,
            labels=tuple(labels or ()),
            expected_version=expected_version,
            dry_run=dry_run,
            annotations=dict(annotations or {}),
            backbone=backbone,
        )

    @property
    def is_small(self) -> bool:
        """Whether it goes into one message."""
        return len(self.file) <= ONE_MESSAGE_BYTES_MAX

    def request(self) -> head_admin_pb2.ReplaceHeadRequest:
        return head_admin_pb2.ReplaceHeadRequest(file=self.file, **self._fields())

    def upload(self) -> Iterator[head_admin_pb2.UploadHeadRequest]:
        """The messages of an upload, whose length and SHA-256 the server verifies."""
        header = head_admin_pb2.UploadHeadHeader(
            size_bytes=len(self.file), sha256=hashlib.sha256(self.file).hexdigest(), **self._fields()
        )
        yield head_admin_pb2.UploadHeadRequest(header=header)
        whole = memoryview(self.file)
        for start in range(0, len(whole), CHUNK_BYTES):
            yield head_admin_pb2.UploadHeadRequest(chunk=bytes(whole[start : start + CHUNK_BYTES]))

    def _fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "head": self.head,
            "labels": self.labels,
            "expected_version": self.expected_version,
            "dry_run": self.dry_run,
            "annotations": self.annotations,
            "backbone": self.backbone,
        }
        if self.spec_json:
            fields["spec_json"] = self.spec_json
        return fields


def file_bytes(file: HeadFile) -> bytes:
    """Returns the bytes to send: those of a file, or a safetensors file of tensors."""
    if isinstance(file, (bytes, bytearray, memoryview)):
        return bytes(file)
    if isinstance(file, (str, os.PathLike)):
        return pathlib.Path(file).read_bytes()
    return safetensors_bytes(file)


def safetensors_bytes(tensors: Tensors, metadata: dict[str, str] | None = None) -> bytes:
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    return safetensors.numpy.save(contiguous, metadata)
