from . import error_details_pb2 as _error_details_pb2
from . import status_pb2 as _status_pb2
from . import head_spec_pb2 as _head_spec_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EmbedKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EMBED_KIND_UNSPECIFIED: _ClassVar[EmbedKind]
    EMBED_KIND_FEATURES: _ClassVar[EmbedKind]
    EMBED_KIND_POOL: _ClassVar[EmbedKind]
    EMBED_KIND_GAP: _ClassVar[EmbedKind]
EMBED_KIND_UNSPECIFIED: EmbedKind
EMBED_KIND_FEATURES: EmbedKind
EMBED_KIND_POOL: EmbedKind
EMBED_KIND_GAP: EmbedKind

class ClassifyRequest(_message.Message):
    __slots__ = ("image", "pixels", "heads", "top_k", "head_version", "include_logits", "request_id")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    PIXELS_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    HEAD_VERSION_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_LOGITS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    pixels: bytes
    heads: _containers.RepeatedScalarFieldContainer[str]
    top_k: int
    head_version: int
    include_logits: bool
    request_id: str
    def __init__(self, image: _Optional[bytes] = ..., pixels: _Optional[bytes] = ..., heads: _Optional[_Iterable[str]] = ..., top_k: _Optional[int] = ..., head_version: _Optional[int] = ..., include_logits: _Optional[bool] = ..., request_id: _Optional[str] = ...) -> None: ...

class ClassifyResponse(_message.Message):
    __slots__ = ("results", "request_id", "timing")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[HeadResult]
    request_id: str
    timing: Timing
    def __init__(self, results: _Optional[_Iterable[_Union[HeadResult, _Mapping]]] = ..., request_id: _Optional[str] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ...) -> None: ...

class ClassifyStreamRequest(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: ClassifyRequest
    def __init__(self, request: _Optional[_Union[ClassifyRequest, _Mapping]] = ...) -> None: ...

class ClassifyStreamResponse(_message.Message):
    __slots__ = ("response",)
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    response: ClassifyResponse
    def __init__(self, response: _Optional[_Union[ClassifyResponse, _Mapping]] = ...) -> None: ...

class HeadResult(_message.Message):
    __slots__ = ("head", "version", "digest", "predictions", "logits", "error")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    head: str
    version: int
    digest: str
    predictions: _containers.RepeatedCompositeFieldContainer[Prediction]
    logits: _containers.RepeatedScalarFieldContainer[float]
    error: _status_pb2.Status
    def __init__(self, head: _Optional[str] = ..., version: _Optional[int] = ..., digest: _Optional[str] = ..., predictions: _Optional[_Iterable[_Union[Prediction, _Mapping]]] = ..., logits: _Optional[_Iterable[float]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class Prediction(_message.Message):
    __slots__ = ("index", "label", "probability", "kind", "value", "group")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    index: int
    label: str
    probability: float
    kind: _head_spec_pb2.OutputKind
    value: float
    group: int
    def __init__(self, index: _Optional[int] = ..., label: _Optional[str] = ..., probability: _Optional[float] = ..., kind: _Optional[_Union[_head_spec_pb2.OutputKind, str]] = ..., value: _Optional[float] = ..., group: _Optional[int] = ...) -> None: ...

class Timing(_message.Message):
    __slots__ = ("decode_us", "queue_us", "compute_us", "batch_size")
    DECODE_US_FIELD_NUMBER: _ClassVar[int]
    QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_US_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    decode_us: int
    queue_us: int
    compute_us: int
    batch_size: int
    def __init__(self, decode_us: _Optional[int] = ..., queue_us: _Optional[int] = ..., compute_us: _Optional[int] = ..., batch_size: _Optional[int] = ...) -> None: ...

class EmbedRequest(_message.Message):
    __slots__ = ("image", "pixels", "request_id", "head", "head_version", "kind", "backbone", "preprocessing_json")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    PIXELS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    HEAD_VERSION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    BACKBONE_FIELD_NUMBER: _ClassVar[int]
    PREPROCESSING_JSON_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    pixels: bytes
    request_id: str
    head: str
    head_version: int
    kind: EmbedKind
    backbone: str
    preprocessing_json: str
    def __init__(self, image: _Optional[bytes] = ..., pixels: _Optional[bytes] = ..., request_id: _Optional[str] = ..., head: _Optional[str] = ..., head_version: _Optional[int] = ..., kind: _Optional[_Union[EmbedKind, str]] = ..., backbone: _Optional[str] = ..., preprocessing_json: _Optional[str] = ...) -> None: ...

class EmbedResponse(_message.Message):
    __slots__ = ("features", "request_id", "timing", "backbone_digest")
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    BACKBONE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    features: _containers.RepeatedScalarFieldContainer[float]
    request_id: str
    timing: Timing
    backbone_digest: str
    def __init__(self, features: _Optional[_Iterable[float]] = ..., request_id: _Optional[str] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., backbone_digest: _Optional[str] = ...) -> None: ...
