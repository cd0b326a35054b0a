"""The methods of the services, and the channels to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from ._proto import classifier_pb2, head_admin_pb2

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


@dataclass(frozen=True)
class Method(Generic[Request, Response]):
    """One method: its path and its messages."""

    path: str
    request: type[Request]
    response: type[Response]


CLASSIFY = Method(
    "/headswap.v1.ClassifierService/Classify", classifier_pb2.ClassifyRequest, classifier_pb2.ClassifyResponse
)
CLASSIFY_STREAM = Method(
    "/headswap.v1.ClassifierService/ClassifyStream",
    classifier_pb2.ClassifyStreamRequest,
    classifier_pb2.ClassifyStreamResponse,
)
EMBED = Method("/headswap.v1.ClassifierService/Embed", classifier_pb2.EmbedRequest, classifier_pb2.EmbedResponse)
REPLACE_HEAD = Method(
    "/headswap.v1.HeadAdminService/ReplaceHead", head_admin_pb2.ReplaceHeadRequest, head_admin_pb2.ReplaceHeadResponse
)
UPLOAD_HEAD = Method(
    "/headswap.v1.HeadAdminService/UploadHead", head_admin_pb2.UploadHeadRequest, head_admin_pb2.UploadHeadResponse
)
LIST_HEADS = Method(
    "/headswap.v1.HeadAdminService/ListHeads", head_admin_pb2.ListHeadsRequest, head_admin_pb2.ListHeadsResponse
)
GET_HEAD = Method("/headswap.v1.HeadAdminService/GetHead", head_admin_pb2.GetHeadRequest, head_admin_pb2.GetHeadResponse)
DESCRIBE_MODEL = Method(
    "/headswap.v1.HeadAdminService/DescribeModel",
    head_admin_pb2.DescribeModelRequest,
    head_admin_pb2.DescribeModelResponse,
)

ADMIN_PORT = 50052


def channel_options(address: str, options: tuple[tuple[str, Any], ...]) -> list[tuple[str, Any]]:
    """Returns the options of a channel: messages of any size, fast reconnection, and what the caller adds."""
    own: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
        # A peer that is gone without a word is noticed within 80 s.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]
    if address.startswith("unix:"):
        # grpcio would send the path as the host, which HTTP/2 servers refuse.
        own.append(("grpc.default_authority", "localhost"))
    return own + list(options)


def admin_address(server: str) -> str:
    """Returns the usual address of administration: port 50052 of the same host. A Unix socket has none."""
    if server.startswith("unix:"):
        raise ValueError("server is a Unix socket, so that the address of administration cannot be told from it; give admin")
    host, colon, port = server.rpartition(":")
    if not colon or not port.isdigit():
        host = server
    return f"{host}:{ADMIN_PORT}"
