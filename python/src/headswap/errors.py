"""The errors of this package. Every one is a `HeadswapError`.

Errors of a server keep its gRPC status and the details that it sent; errors of this package name what it refuses and say what to do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Sequence

import grpc

from ._proto import error_details_pb2, status_pb2

if TYPE_CHECKING:
    from ._check import Difference

_DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True)
class FieldViolation:
    """One field of a request that is wrong."""

    field: str
    """The field, as the protos name it, such as `input` or `head_spec`."""
    description: str
    """What is wrong with it."""


@dataclass(frozen=True)
class QuotaViolation:
    """One setting of the server that was exceeded."""

    subject: str
    """The setting, such as `--in-flight-max`."""
    description: str
    """By what."""


@dataclass(frozen=True)
class ErrorDetails:
    """The `google.rpc` details of a server's error."""

    field_violations: tuple[FieldViolation, ...] = ()
    quota_violations: tuple[QuotaViolation, ...] = ()
    resource: str = ""
    """The head, version or backbone that does not exist, or is damaged."""
    retry_after_s: float | None = None
    """When to try again, in seconds; `None` if the server did not say that a retry helps."""
    reason: str = ""
    """A constant such as `VERSION_MISMATCH`."""
    metadata: dict[str, str] = field(default_factory=dict)
    """Facts to `reason`, such as `live_version`."""


class HeadswapError(Exception):
    """What every error of this package is.

    `code` is the gRPC status of a server's error, and `None` for what the package itself refuses.
    """

    code: grpc.StatusCode | None = None

    def __init__(self, message: str, details: ErrorDetails | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details = details or ErrorDetails()

    @property
    def reason(self) -> str:
        """The server's constant for the reason, such as `VERSION_MISMATCH`; often empty."""
        return self.details.reason

    @property
    def field_violations(self) -> tuple[FieldViolation, ...]:
        """The fields of the request that are wrong."""
        return self.details.field_violations

    @property
    def retry_after_s(self) -> float | None:
        """When to try again, in seconds; `None` if the server did not say that a retry helps."""
        return self.details.retry_after_s


class ServerError(HeadswapError):
    """A server's error whose status has no class of its own."""

    def __init__(self, message: str, details: ErrorDetails | None = None, code: grpc.StatusCode | None = None) -> None:
        super().__init__(message, details)
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        name = self.code.name if self.code else "UNKNOWN"
        return f"{name}: {self.message}"


class InvalidArgument(ServerError):
    """A picture, name, tensor, spec or label is wrong. `field_violations` names the field: fix the request."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(ServerError):
    """No such head, version or backbone; `details.resource` names it."""

    code = grpc.StatusCode.NOT_FOUND


class Aborted(ServerError):
    """`expected_version` is not live; `live_version` is."""

    code = grpc.StatusCode.ABORTED

    @property
    def live_version(self) -> int | None:
        """The version that is live, 0 for none; `None` if the server did not say it."""
        value = self.details.metadata.get("live_version", "")
        return int(value) if value.isdigit() else None


class FailedPrecondition(ServerError):
    """The device cannot compute the head, or its backbone has no features."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class ResourceExhausted(ServerError):
    """A limit is reached. With `retry_after_s` a retry helps; else raise the setting in `details.quota_violations`."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class DeadlineExceeded(ServerError):
    """The call's time was over. The message names the stage."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Internal(ServerError):
    """A forward pass failed because of this head or picture, or a version could not be stored."""

    code = grpc.StatusCode.INTERNAL


class DataLoss(ServerError):
    """The head's file in the store is damaged: replace the head again."""

    code = grpc.StatusCode.DATA_LOSS


class Unavailable(ServerError):
    """The server cannot be reached, is loading or draining."""

    code = grpc.StatusCode.UNAVAILABLE


class Cancelled(ServerError):
    """The call was cancelled."""

    code = grpc.StatusCode.CANCELLED


class Unimplemented(ServerError):
    """The port has no such service: the ports of classification and administration may be mixed up."""

    code = grpc.StatusCode.UNIMPLEMENTED


class PictureError(HeadswapError, ValueError):
    """Something that is no picture: a file that cannot be read, an array of another shape."""


class UnsupportedError(HeadswapError, ValueError):
    """A model, transform or declaration that no head spec expresses, so that a push would answer something else.

    `subject` is what is refused: a module's path or a step of a transform; `kind` its class.
    """

    def __init__(self, message: str, *, subject: str = "", kind: str = "") -> None:
        super().__init__(message)
        self.subject = subject
        self.kind = kind


class UnsupportedTransform(UnsupportedError):
    """A step of a transform that no head spec expresses."""


class UnsupportedLayer(UnsupportedError):
    """A layer of a model that no head has."""


class MissingInformation(UnsupportedError):
    """Something that neither the model nor the call says, and that is not guessed."""


class CheckFailed(HeadswapError):
    """The server's answers differ from the framework's, so that nothing was pushed. `differences` has them, the worst first."""

    def __init__(self, message: str, differences: Sequence[Difference] = ()) -> None:
        super().__init__(message)
        self.differences = tuple(differences)


class AssumptionWarning(UserWarning):
    """Something usual that was assumed, because neither the model nor the call says it."""


_CLASSES: dict[grpc.StatusCode, type[ServerError]] = {
    kind.code: kind for kind in ServerError.__subclasses__() if kind.code is not None
}
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def from_status(status: status_pb2.Status) -> ServerError:
    """Returns the error of a `google.rpc.Status`, which answers carry in a field."""
    return _error(_CODES.get(status.code, grpc.StatusCode.UNKNOWN), status.message, _details(status))


def from_call(error: grpc.RpcError) -> ServerError:
    """Returns the error of a failed call, with the details of its trailing metadata."""
    code, message = error.code(), error.details() or ""
    trailing: Any = error.trailing_metadata() or ()
    status = status_pb2.Status()
    for key, value in trailing:
        if key == _DETAILS_KEY:
            status.ParseFromString(value if isinstance(value, bytes) else value.encode())
    return _error(code, message, _details(status))


def _error(code: grpc.StatusCode, message: str, details: ErrorDetails) -> ServerError:
    return _CLASSES.get(code, ServerError)(message, details, code)


def _details(status: status_pb2.Status) -> ErrorDetails:
    fields: list[FieldViolation] = []
    quotas: list[QuotaViolation] = []
    resource, reason, retry_after_s = "", "", None
    metadata: dict[str, str] = {}
    for packed in status.details:
        kind = packed.type_url.rpartition(".")[2]
        if kind == "BadRequest":
            bad = error_details_pb2.BadRequest.FromString(packed.value)
            fields.extend(FieldViolation(v.field, v.description) for v in bad.field_violations)
        elif kind == "QuotaFailure":
            quota = error_details_pb2.QuotaFailure.FromString(packed.value)
            quotas.extend(QuotaViolation(v.subject, v.description) for v in quota.violations)
        elif kind == "ResourceInfo":
            resource = error_details_pb2.ResourceInfo.FromString(packed.value).resource_name
        elif kind == "ErrorInfo":
            info = error_details_pb2.ErrorInfo.FromString(packed.value)
            reason, metadata = info.reason, dict(info.metadata)
        elif kind == "RetryInfo":
            delay = error_details_pb2.RetryInfo.FromString(packed.value).retry_delay
            retry_after_s = delay.seconds + delay.nanos / 1e9
    return ErrorDetails(tuple(fields), tuple(quotas), resource, retry_after_s, reason, metadata)
