"""A server of Python that answers as a test says, for what a real one does rarely."""

from __future__ import annotations

from concurrent import futures
from types import TracebackType
from typing import Any, Callable, Iterator

import grpc
from google.protobuf import any_pb2

from headswap import _rpc
from headswap._proto import classifier_pb2, error_details_pb2, status_pb2

Context = grpc.ServicerContext
Unary = Callable[[Any, Context], Any]
Stream = Callable[[Iterator[Any], Context], Iterator[Any]]


def answer(request: classifier_pb2.ClassifyRequest) -> classifier_pb2.ClassifyResponse:
    """The length of the picture, as a class."""
    prediction = classifier_pb2.Prediction(index=len(request.image), probability=1.0, kind=1)
    result = classifier_pb2.HeadResult(head="default", version=1, predictions=[prediction])
    return classifier_pb2.ClassifyResponse(results=[result], request_id=request.request_id)


def streamed(response: classifier_pb2.ClassifyResponse) -> classifier_pb2.ClassifyStreamResponse:
    return classifier_pb2.ClassifyStreamResponse(response=response)


def status(code: grpc.StatusCode, message: str = "no", retry_after_s: float | None = None, field: str = "") -> status_pb2.Status:
    """A status with the details that servers send."""
    made = status_pb2.Status(code=code.value[0], message=message)
    details: list[Any] = []
    if retry_after_s is not None:
        info = error_details_pb2.RetryInfo()
        info.retry_delay.nanos = int(retry_after_s * 1e9)
        details.append(info)
    if field:
        details.append(error_details_pb2.BadRequest(field_violations=[{"field": field, "description": message}]))
    for detail in details:
        packed = any_pb2.Any(type_url=f"type.googleapis.com/{detail.DESCRIPTOR.full_name}", value=detail.SerializeToString())
        made.details.add().ParseFromString(packed.SerializeToString())
    return made


def failed(request: classifier_pb2.ClassifyRequest, error: status_pb2.Status) -> classifier_pb2.ClassifyResponse:
    """An answer of a stream whose only head failed."""
    result = classifier_pb2.HeadResult(head="default", error=error)
    return classifier_pb2.ClassifyResponse(results=[result], request_id=request.request_id)


def abort(context: Context, made: status_pb2.Status) -> None:
    """Ends a call with a status and its details."""
    context.set_trailing_metadata((("grpc-status-details-bin", made.SerializeToString()),))
    codes = {code.value[0]: code for code in grpc.StatusCode}
    context.abort(codes[made.code], made.message)


class Fake:
    """Serves the given methods, by the names of `_rpc`, on a port of its own."""

    def __init__(self, **methods: Any) -> None:
        self._server = grpc.server(futures.ThreadPoolExecutor(8))
        handlers: dict[str, dict[str, Any]] = {}
        for name, behaviour in methods.items():
            method = getattr(_rpc, name)
            _, service, path = method.path.split("/")
            kind = {"CLASSIFY_STREAM": grpc.stream_stream_rpc_method_handler, "UPLOAD_HEAD": grpc.stream_unary_rpc_method_handler}
            make = kind.get(name, grpc.unary_unary_rpc_method_handler)
            handlers.setdefault(service, {})[path] = make(
                behaviour, request_deserializer=method.request.FromString, response_serializer=method.response.SerializeToString
            )
        for service, own in handlers.items():
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, own),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def __enter__(self) -> Fake:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.stop(0).wait()
