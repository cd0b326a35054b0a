from . import error_details_pb2 as _error_details_pb2
from . import head_spec_pb2 as _head_spec_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HeadTier(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HEAD_TIER_UNSPECIFIED: _ClassVar[HeadTier]
    HEAD_TIER_HOT: _ClassVar[HeadTier]
    HEAD_TIER_WARM: _ClassVar[HeadTier]
    HEAD_TIER_COLD: _ClassVar[HeadTier]
HEAD_TIER_UNSPECIFIED: HeadTier
HEAD_TIER_HOT: HeadTier
HEAD_TIER_WARM: HeadTier
HEAD_TIER_COLD: HeadTier

class ReplaceHeadRequest(_message.Message):
    __slots__ = ("head", "safetensors", "uri", "file", "spec", "spec_json", "labels", "expected_version", "dry_run", "annotations", "backbone")
    class AnnotationsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    HEAD_FIELD_NUMBER: _ClassVar[int]
    SAFETENSORS_FIELD_NUMBER: _ClassVar[int]
    URI_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    SPEC_JSON_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    ANNOTATIONS_FIELD_NUMBER: _ClassVar[int]
    BACKBONE_FIELD_NUMBER: _ClassVar[int]
    head: str
    safetensors: bytes
    uri: str
    file: bytes
    spec: _head_spec_pb2.HeadSpec
    spec_json: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    expected_version: int
    dry_run: bool
    annotations: _containers.ScalarMap[str, str]
    backbone: str
    def __init__(self, head: _Optional[str] = ..., safetensors: _Optional[bytes] = ..., uri: _Optional[str] = ..., file: _Optional[bytes] = ..., spec: _Optional[_Union[_head_spec_pb2.HeadSpec, _Mapping]] = ..., spec_json: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., expected_version: _Optional[int] = ..., dry_run: _Optional[bool] = ..., annotations: _Optional[_Mapping[str, str]] = ..., backbone: _Optional[str] = ...) -> None: ...

class ReplaceHeadResponse(_message.Message):
    __slots__ = ("head", "previous_version", "validate_us", "place_us", "store_us", "sync_us", "prefixes", "left_out", "labels_left_out")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_VERSION_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_US_FIELD_NUMBER: _ClassVar[int]
    PLACE_US_FIELD_NUMBER: _ClassVar[int]
    STORE_US_FIELD_NUMBER: _ClassVar[int]
    SYNC_US_FIELD_NUMBER: _ClassVar[int]
    PREFIXES_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    LABELS_LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    head: HeadInfo
    previous_version: int
    validate_us: int
    place_us: int
    store_us: int
    sync_us: int
    prefixes: _containers.RepeatedScalarFieldContainer[str]
    left_out: _containers.RepeatedScalarFieldContainer[str]
    labels_left_out: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, head: _Optional[_Union[HeadInfo, _Mapping]] = ..., previous_version: _Optional[int] = ..., validate_us: _Optional[int] = ..., place_us: _Optional[int] = ..., store_us: _Optional[int] = ..., sync_us: _Optional[int] = ..., prefixes: _Optional[_Iterable[str]] = ..., left_out: _Optional[_Iterable[str]] = ..., labels_left_out: _Optional[_Iterable[str]] = ...) -> None: ...

class UploadHeadRequest(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: UploadHeadHeader
    chunk: bytes
    def __init__(self, header: _Optional[_Union[UploadHeadHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class UploadHeadHeader(_message.Message):
    __slots__ = ("head", "labels", "expected_version", "dry_run", "annotations", "size_bytes", "sha256", "spec", "spec_json", "backbone")
    class AnnotationsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    HEAD_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    ANNOTATIONS_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    SPEC_JSON_FIELD_NUMBER: _ClassVar[int]
    BACKBONE_FIELD_NUMBER: _ClassVar[int]
    head: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    expected_version: int
    dry_run: bool
    annotations: _containers.ScalarMap[str, str]
    size_bytes: int
    sha256: str
    spec: _head_spec_pb2.HeadSpec
    spec_json: str
    backbone: str
    def __init__(self, head: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., expected_version: _Optional[int] = ..., dry_run: _Optional[bool] = ..., annotations: _Optional[_Mapping[str, str]] = ..., size_bytes: _Optional[int] = ..., sha256: _Optional[str] = ..., spec: _Optional[_Union[_head_spec_pb2.HeadSpec, _Mapping]] = ..., spec_json: _Optional[str] = ..., backbone: _Optional[str] = ...) -> None: ...

class UploadHeadResponse(_message.Message):
    __slots__ = ("head", "previous_version", "validate_us", "place_us", "store_us", "sync_us", "prefixes", "left_out", "labels_left_out")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_VERSION_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_US_FIELD_NUMBER: _ClassVar[int]
    PLACE_US_FIELD_NUMBER: _ClassVar[int]
    STORE_US_FIELD_NUMBER: _ClassVar[int]
    SYNC_US_FIELD_NUMBER: _ClassVar[int]
    PREFIXES_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    LABELS_LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    head: HeadInfo
    previous_version: int
    validate_us: int
    place_us: int
    store_us: int
    sync_us: int
    prefixes: _containers.RepeatedScalarFieldContainer[str]
    left_out: _containers.RepeatedScalarFieldContainer[str]
    labels_left_out: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, head: _Optional[_Union[HeadInfo, _Mapping]] = ..., previous_version: _Optional[int] = ..., validate_us: _Optional[int] = ..., place_us: _Optional[int] = ..., store_us: _Optional[int] = ..., sync_us: _Optional[int] = ..., prefixes: _Optional[_Iterable[str]] = ..., left_out: _Optional[_Iterable[str]] = ..., labels_left_out: _Optional[_Iterable[str]] = ...) -> None: ...

class HeadInfo(_message.Message):
    __slots__ = ("head", "version", "digest", "classes", "labels", "annotations", "created_unix_us", "resident_bytes", "parameters", "live", "split_layer", "tier", "requests", "spec", "spec_json", "assumed", "backbone")
    class AnnotationsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    HEAD_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ANNOTATIONS_FIELD_NUMBER: _ClassVar[int]
    CREATED_UNIX_US_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    SPLIT_LAYER_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    SPEC_JSON_FIELD_NUMBER: _ClassVar[int]
    ASSUMED_FIELD_NUMBER: _ClassVar[int]
    BACKBONE_FIELD_NUMBER: _ClassVar[int]
    head: str
    version: int
    digest: str
    classes: int
    labels: _containers.RepeatedScalarFieldContainer[str]
    annotations: _containers.ScalarMap[str, str]
    created_unix_us: int
    resident_bytes: int
    parameters: _containers.RepeatedScalarFieldContainer[str]
    live: bool
    split_layer: str
    tier: HeadTier
    requests: int
    spec: _head_spec_pb2.HeadSpec
    spec_json: str
    assumed: _containers.RepeatedScalarFieldContainer[str]
    backbone: str
    def __init__(self, head: _Optional[str] = ..., version: _Optional[int] = ..., digest: _Optional[str] = ..., classes: _Optional[int] = ..., labels: _Optional[_Iterable[str]] = ..., annotations: _Optional[_Mapping[str, str]] = ..., created_unix_us: _Optional[int] = ..., resident_bytes: _Optional[int] = ..., parameters: _Optional[_Iterable[str]] = ..., live: _Optional[bool] = ..., split_layer: _Optional[str] = ..., tier: _Optional[_Union[HeadTier, str]] = ..., requests: _Optional[int] = ..., spec: _Optional[_Union[_head_spec_pb2.HeadSpec, _Mapping]] = ..., spec_json: _Optional[str] = ..., assumed: _Optional[_Iterable[str]] = ..., backbone: _Optional[str] = ...) -> None: ...

class ListHeadsRequest(_message.Message):
    __slots__ = ("include_labels", "page_size", "page_token", "name_prefix", "tier")
    INCLUDE_LABELS_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    NAME_PREFIX_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    include_labels: bool
    page_size: int
    page_token: str
    name_prefix: str
    tier: HeadTier
    def __init__(self, include_labels: _Optional[bool] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., name_prefix: _Optional[str] = ..., tier: _Optional[_Union[HeadTier, str]] = ...) -> None: ...

class ListHeadsResponse(_message.Message):
    __slots__ = ("heads", "next_page_token", "total_size")
    HEADS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SIZE_FIELD_NUMBER: _ClassVar[int]
    heads: _containers.RepeatedCompositeFieldContainer[HeadInfo]
    next_page_token: str
    total_size: int
    def __init__(self, heads: _Optional[_Iterable[_Union[HeadInfo, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., total_size: _Optional[int] = ...) -> None: ...

class GetHeadRequest(_message.Message):
    __slots__ = ("head", "version")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    head: str
    version: int
    def __init__(self, head: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class GetHeadResponse(_message.Message):
    __slots__ = ("head", "available_versions")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    head: HeadInfo
    available_versions: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, head: _Optional[_Union[HeadInfo, _Mapping]] = ..., available_versions: _Optional[_Iterable[int]] = ...) -> None: ...

class DescribeModelRequest(_message.Message):
    __slots__ = ("head", "backbone")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    BACKBONE_FIELD_NUMBER: _ClassVar[int]
    head: str
    backbone: str
    def __init__(self, head: _Optional[str] = ..., backbone: _Optional[str] = ...) -> None: ...

class DescribeModelResponse(_message.Message):
    __slots__ = ("layers", "parameters", "parameter_count", "backbone_digest", "weights", "device", "precision", "max_batch", "head", "preprocessing", "backbone", "backbones")
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_COUNT_FIELD_NUMBER: _ClassVar[int]
    BACKBONE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    PREPROCESSING_FIELD_NUMBER: _ClassVar[int]
    BACKBONE_FIELD_NUMBER: _ClassVar[int]
    BACKBONES_FIELD_NUMBER: _ClassVar[int]
    layers: str
    parameters: _containers.RepeatedCompositeFieldContainer[Parameter]
    parameter_count: int
    backbone_digest: str
    weights: str
    device: str
    precision: str
    max_batch: int
    head: HeadInfo
    preprocessing: _head_spec_pb2.Preprocessing
    backbone: str
    backbones: _containers.RepeatedCompositeFieldContainer[Backbone]
    def __init__(self, layers: _Optional[str] = ..., parameters: _Optional[_Iterable[_Union[Parameter, _Mapping]]] = ..., parameter_count: _Optional[int] = ..., backbone_digest: _Optional[str] = ..., weights: _Optional[str] = ..., device: _Optional[str] = ..., precision: _Optional[str] = ..., max_batch: _Optional[int] = ..., head: _Optional[_Union[HeadInfo, _Mapping]] = ..., preprocessing: _Optional[_Union[_head_spec_pb2.Preprocessing, _Mapping]] = ..., backbone: _Optional[str] = ..., backbones: _Optional[_Iterable[_Union[Backbone, _Mapping]]] = ...) -> None: ...

class Backbone(_message.Message):
    __slots__ = ("name", "digest", "weights", "preprocessing", "has_features", "parameters")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    PREPROCESSING_FIELD_NUMBER: _ClassVar[int]
    HAS_FEATURES_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: str
    weights: str
    preprocessing: _head_spec_pb2.Preprocessing
    has_features: bool
    parameters: _containers.RepeatedCompositeFieldContainer[Parameter]
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[str] = ..., weights: _Optional[str] = ..., preprocessing: _Optional[_Union[_head_spec_pb2.Preprocessing, _Mapping]] = ..., has_features: _Optional[bool] = ..., parameters: _Optional[_Iterable[_Union[Parameter, _Mapping]]] = ...) -> None: ...

class Parameter(_message.Message):
    __slots__ = ("name", "shape", "count", "overridden", "digest")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    OVERRIDDEN_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    count: int
    overridden: bool
    digest: str
    def __init__(self, name: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., count: _Optional[int] = ..., overridden: _Optional[bool] = ..., digest: _Optional[str] = ...) -> None: ...
