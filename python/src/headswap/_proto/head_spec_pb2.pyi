from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ResizeFilter(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESIZE_FILTER_UNSPECIFIED: _ClassVar[ResizeFilter]
    RESIZE_FILTER_NEAREST: _ClassVar[ResizeFilter]
    RESIZE_FILTER_BILINEAR: _ClassVar[ResizeFilter]
    RESIZE_FILTER_BICUBIC: _ClassVar[ResizeFilter]
    RESIZE_FILTER_LANCZOS: _ClassVar[ResizeFilter]
    RESIZE_FILTER_BILINEAR_NO_ANTIALIAS: _ClassVar[ResizeFilter]
    RESIZE_FILTER_BILINEAR_NO_ANTIALIAS_ROUNDED: _ClassVar[ResizeFilter]

class ChannelOrder(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CHANNEL_ORDER_UNSPECIFIED: _ClassVar[ChannelOrder]
    CHANNEL_ORDER_RGB: _ClassVar[ChannelOrder]
    CHANNEL_ORDER_BGR: _ClassVar[ChannelOrder]
    CHANNEL_ORDER_GREY: _ClassVar[ChannelOrder]

class HeadInput(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HEAD_INPUT_UNSPECIFIED: _ClassVar[HeadInput]
    HEAD_INPUT_FLATTEN: _ClassVar[HeadInput]
    HEAD_INPUT_FLATTEN_HWC: _ClassVar[HeadInput]
    HEAD_INPUT_ADAPTIVE_7X7: _ClassVar[HeadInput]
    HEAD_INPUT_GLOBAL_AVERAGE: _ClassVar[HeadInput]
    HEAD_INPUT_GLOBAL_MAX: _ClassVar[HeadInput]
    HEAD_INPUT_GLOBAL_MAX_AVERAGE: _ClassVar[HeadInput]
    HEAD_INPUT_FEATURES: _ClassVar[HeadInput]

class HeadLayerKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HEAD_LAYER_KIND_UNSPECIFIED: _ClassVar[HeadLayerKind]
    HEAD_LAYER_KIND_LINEAR: _ClassVar[HeadLayerKind]
    HEAD_LAYER_KIND_BATCH_NORM: _ClassVar[HeadLayerKind]
    HEAD_LAYER_KIND_AFFINE: _ClassVar[HeadLayerKind]
    HEAD_LAYER_KIND_RELU: _ClassVar[HeadLayerKind]
    HEAD_LAYER_KIND_LEAKY_RELU: _ClassVar[HeadLayerKind]
    HEAD_LAYER_KIND_ELU: _ClassVar[HeadLayerKind]
    HEAD_LAYER_KIND_GELU: _ClassVar[HeadLayerKind]
    HEAD_LAYER_KIND_GELU_TANH: _ClassVar[HeadLayerKind]
    HEAD_LAYER_KIND_SILU: _ClassVar[HeadLayerKind]
    HEAD_LAYER_KIND_TANH: _ClassVar[HeadLayerKind]
    HEAD_LAYER_KIND_SIGMOID: _ClassVar[HeadLayerKind]
    HEAD_LAYER_KIND_L2_NORMALISE: _ClassVar[HeadLayerKind]

class OutputKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTPUT_KIND_UNSPECIFIED: _ClassVar[OutputKind]
    OUTPUT_KIND_SOFTMAX: _ClassVar[OutputKind]
    OUTPUT_KIND_SIGMOID: _ClassVar[OutputKind]
    OUTPUT_KIND_LINEAR: _ClassVar[OutputKind]
    OUTPUT_KIND_GROUPS: _ClassVar[OutputKind]
RESIZE_FILTER_UNSPECIFIED: ResizeFilter
RESIZE_FILTER_NEAREST: ResizeFilter
RESIZE_FILTER_BILINEAR: ResizeFilter
RESIZE_FILTER_BICUBIC: ResizeFilter
RESIZE_FILTER_LANCZOS: ResizeFilter
RESIZE_FILTER_BILINEAR_NO_ANTIALIAS: ResizeFilter
RESIZE_FILTER_BILINEAR_NO_ANTIALIAS_ROUNDED: ResizeFilter
CHANNEL_ORDER_UNSPECIFIED: ChannelOrder
CHANNEL_ORDER_RGB: ChannelOrder
CHANNEL_ORDER_BGR: ChannelOrder
CHANNEL_ORDER_GREY: ChannelOrder
HEAD_INPUT_UNSPECIFIED: HeadInput
HEAD_INPUT_FLATTEN: HeadInput
HEAD_INPUT_FLATTEN_HWC: HeadInput
HEAD_INPUT_ADAPTIVE_7X7: HeadInput
HEAD_INPUT_GLOBAL_AVERAGE: HeadInput
HEAD_INPUT_GLOBAL_MAX: HeadInput
HEAD_INPUT_GLOBAL_MAX_AVERAGE: HeadInput
HEAD_INPUT_FEATURES: HeadInput
HEAD_LAYER_KIND_UNSPECIFIED: HeadLayerKind
HEAD_LAYER_KIND_LINEAR: HeadLayerKind
HEAD_LAYER_KIND_BATCH_NORM: HeadLayerKind
HEAD_LAYER_KIND_AFFINE: HeadLayerKind
HEAD_LAYER_KIND_RELU: HeadLayerKind
HEAD_LAYER_KIND_LEAKY_RELU: HeadLayerKind
HEAD_LAYER_KIND_ELU: HeadLayerKind
HEAD_LAYER_KIND_GELU: HeadLayerKind
HEAD_LAYER_KIND_GELU_TANH: HeadLayerKind
HEAD_LAYER_KIND_SILU: HeadLayerKind
HEAD_LAYER_KIND_TANH: HeadLayerKind
HEAD_LAYER_KIND_SIGMOID: HeadLayerKind
HEAD_LAYER_KIND_L2_NORMALISE: HeadLayerKind
OUTPUT_KIND_UNSPECIFIED: OutputKind
OUTPUT_KIND_SOFTMAX: OutputKind
OUTPUT_KIND_SIGMOID: OutputKind
OUTPUT_KIND_LINEAR: OutputKind
OUTPUT_KIND_GROUPS: OutputKind

class HeadSpec(_message.Message):
    __slots__ = ("preprocessing", "input", "layers", "output", "groups", "labels", "classes")
    PREPROCESSING_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    preprocessing: Preprocessing
    input: HeadInput
    layers: _containers.RepeatedCompositeFieldContainer[HeadLayer]
    output: OutputKind
    groups: int
    labels: _containers.RepeatedScalarFieldContainer[str]
    classes: int
    def __init__(self, preprocessing: _Optional[_Union[Preprocessing, _Mapping]] = ..., input: _Optional[_Union[HeadInput, str]] = ..., layers: _Optional[_Iterable[_Union[HeadLayer, _Mapping]]] = ..., output: _Optional[_Union[OutputKind, str]] = ..., groups: _Optional[int] = ..., labels: _Optional[_Iterable[str]] = ..., classes: _Optional[int] = ...) -> None: ...

class Preprocessing(_message.Message):
    __slots__ = ("preset", "short_side", "stretch", "keep_size", "filter", "crop", "channels", "scale", "mean", "std", "standardise")
    PRESET_FIELD_NUMBER: _ClassVar[int]
    SHORT_SIDE_FIELD_NUMBER: _ClassVar[int]
    STRETCH_FIELD_NUMBER: _ClassVar[int]
    KEEP_SIZE_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    CROP_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    STD_FIELD_NUMBER: _ClassVar[int]
    STANDARDISE_FIELD_NUMBER: _ClassVar[int]
    preset: str
    short_side: int
    stretch: PictureSize
    keep_size: bool
    filter: ResizeFilter
    crop: PictureSize
    channels: ChannelOrder
    scale: float
    mean: _containers.RepeatedScalarFieldContainer[float]
    std: _containers.RepeatedScalarFieldContainer[float]
    standardise: bool
    def __init__(self, preset: _Optional[str] = ..., short_side: _Optional[int] = ..., stretch: _Optional[_Union[PictureSize, _Mapping]] = ..., keep_size: _Optional[bool] = ..., filter: _Optional[_Union[ResizeFilter, str]] = ..., crop: _Optional[_Union[PictureSize, _Mapping]] = ..., channels: _Optional[_Union[ChannelOrder, str]] = ..., scale: _Optional[float] = ..., mean: _Optional[_Iterable[float]] = ..., std: _Optional[_Iterable[float]] = ..., standardise: _Optional[bool] = ...) -> None: ...

class PictureSize(_message.Message):
    __slots__ = ("height", "width")
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    height: int
    width: int
    def __init__(self, height: _Optional[int] = ..., width: _Optional[int] = ...) -> None: ...

class HeadLayer(_message.Message):
    __slots__ = ("kind", "number")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    kind: HeadLayerKind
    number: float
    def __init__(self, kind: _Optional[_Union[HeadLayerKind, str]] = ..., number: _Optional[float] = ...) -> None: ...
