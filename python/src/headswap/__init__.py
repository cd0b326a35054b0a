"""Headswap's client: pushes fine-tuned VGG16s to a server, and classifies pictures with them.

    import headswap

    headswap.push(model, "flowers", transform=val_transform, labels=classes, server="localhost:50051", check=["rose.jpg"])

    with headswap.Client("localhost:50051") as client:
        print(client.classify("rose.jpg", "flowers").top.label)
"""

from ._check import CheckReport, Difference
from .aio import AsyncClient
from .client import Client
from .errors import (
    Aborted,
    AssumptionWarning,
    Cancelled,
    CheckFailed,
    DataLoss,
    DeadlineExceeded,
    ErrorDetails,
    FailedPrecondition,
    FieldViolation,
    HeadswapError,
    Internal,
    InvalidArgument,
    MissingInformation,
    NotFound,
    PictureError,
    QuotaViolation,
    ResourceExhausted,
    ServerError,
    Unavailable,
    Unimplemented,
    UnsupportedError,
    UnsupportedLayer,
    UnsupportedTransform,
)
from .pictures import Picture
from .push import PushReceipt, push
from .results import (
    Backbone,
    Classification,
    Embedding,
    HeadAnswer,
    HeadInfo,
    Model,
    Parameter,
    Prediction,
    Receipt,
    StreamAnswer,
    Timing,
)
from .retry import RetryPolicy
from .specs import PRESETS, spec
from .transforms import spec_of

__version__ = "0.2.0"

__all__ = [
    "PRESETS",
    "Aborted",
    "AssumptionWarning",
    "AsyncClient",
    "Backbone",
    "Cancelled",
    "CheckFailed",
    "CheckReport",
    "Classification",
    "Client",
    "DataLoss",
    "DeadlineExceeded",
    "Difference",
    "Embedding",
    "ErrorDetails",
    "FailedPrecondition",
    "FieldViolation",
    "HeadAnswer",
    "HeadInfo",
    "HeadswapError",
    "Internal",
    "InvalidArgument",
    "MissingInformation",
    "Model",
    "NotFound",
    "Parameter",
    "Picture",
    "PictureError",
    "Prediction",
    "PushReceipt",
    "QuotaViolation",
    "Receipt",
    "ResourceExhausted",
    "RetryPolicy",
    "ServerError",
    "StreamAnswer",
    "Timing",
    "Unavailable",
    "Unimplemented",
    "UnsupportedError",
    "UnsupportedLayer",
    "UnsupportedTransform",
    "push",
    "spec",
    "spec_of",
]
