"""The client for programs without an event loop."""

from __future__ import annotations

import queue
import threading
import time
from types import TracebackType
from typing import Any, Generator, Iterable, Mapping, Sequence, TypeVar, overload

import grpc
from google.protobuf.message import Message

from . import _messages, _rpc, errors
from ._messages import EmbedKind, HeadFile, Question, Replacement
from ._proto import classifier_pb2, head_admin_pb2
from ._rpc import Method
from ._stream import StreamState, ended
from .errors import Cancelled, ServerError
from .pictures import Picture
from .results import Classification, Embedding, HeadInfo, Model, Receipt, StreamAnswer
from .retry import Backoff, RetryPolicy

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


class Client:
    """A connection to a server's ports of classification and administration. Threads may share it.

    Args:
        server: `host:port` or `unix:/path` of classification.
        admin: The same of administration. Default: port 50052 of the same host.
        timeout_s: The time of a call, its retries included, in seconds.
        upload_timeout_s: The time of `replace`.
        retry: When calls are tried again. `RetryPolicy.never()` turns that off.
        credentials: For a proxy that speaks TLS. Default: an insecure channel, since the server itself speaks none.
        metadata: Headers of every call, for a proxy.
        options: Further options of gRPC's channels.

    Both ports are connected to on first use, and again whenever a connection is lost. Use it as a context manager, or `close` it.
    """

    def __init__(
        self,
        server: str,
        admin: str | None = None,
        *,
        timeout_s: float = 60.0,
        upload_timeout_s: float = 600.0,
        retry: RetryPolicy | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Sequence[tuple[str, str]] = (),
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        self.server = server
        self._admin = admin
        self._timeout_s = timeout_s
        self._upload_timeout_s = upload_timeout_s
        self._retry = retry or RetryPolicy()
        self._credentials = credentials
        self._metadata = tuple(metadata)
        self._options = tuple(options)
        self._is_closed = False
        self._channels: dict[str, grpc.Channel] = {}
        self._lock = threading.Lock()

    @property
    def admin(self) -> str:
        """The address of administration."""
        return self._admin or _rpc.admin_address(self.server)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections. Calls in flight end with `Cancelled`."""
        with self._lock:
            self._is_closed = True
            channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.close()

    # Pictures.

    @overload
    def classify(
        self,
        images: Picture,
        heads: str | Sequence[str] = (),
        *,
        top_k: int = 0,
        head_version: int = 0,
        include_logits: bool = False,
        timeout_s: float | None = None,
    ) -> Classification: ...

    @overload
    def classify(
        self,
        images: list[Picture] | tuple[Picture, ...],
        heads: str | Sequence[str] = (),
        *,
        top_k: int = 0,
        head_version: int = 0,
        include_logits: bool = False,
    ) -> list[Classification]: ...

    def classify(
        self,
        images: Picture | list[Picture] | tuple[Picture, ...],
        heads: str | Sequence[str] = (),
        *,
        top_k: int = 0,
        head_version: int = 0,
        include_logits: bool = False,
        timeout_s: float | None = None,
    ) -> Classification | list[Classification]:
        """Classifies one picture, or a list of them.

        Args:
            images: A path, the bytes of a file, a Pillow image or an array of uint8 [height, width, 3]; or a list or tuple of them.
            heads: The heads to run; none means the head `default`.
            top_k: How many classes each head answers; 0 means 5, and for a `linear` head all.
            head_version: The version to run; 0 means the live one.
            include_logits: Whether to return the logits of all classes.
            timeout_s: The time of the call for one picture, retries included. Lists are sent over a stream and have none.

        Returns the classification, or a list of them in the order of the pictures.

        Raises a `HeadswapError` if no head answered, for a list that of the first picture which failed. If some of several heads
        failed, their answers carry the error. `classify_stream` tells each picture's error instead.
        """
        question = Question.new(heads, top_k, head_version, include_logits)
        if isinstance(images, (list, tuple)):
            with_places = ((place, image) for place, image in enumerate(images))
            answers = self._stream(with_places, question, 64, ordered=True)
            try:
                return [answer.unwrap() for answer in answers]
            finally:
                answers.close()
        return _messages.classification(self._call(_rpc.CLASSIFY, question.request(images), timeout_s))

    def classify_stream(
        self,
        images: Iterable[Picture | tuple[Any, Picture]],
        heads: str | Sequence[str] = (),
        *,
        top_k: int = 0,
        head_version: int = 0,
        include_logits: bool = False,
        in_flight: int = 64,
        ordered: bool = False,
    ) -> Generator[StreamAnswer[Any], None, None]:
        """Classifies any number of pictures over one stream, and yields an answer for each.

        Args:
            images: Pictures as in `classify`, or pairs of a key and a picture. It may be lazy and endless: it is advanced in the
                caller's thread, by one picture at a time, while fewer than `in_flight` are unanswered and no answer is ready.
            in_flight: How many pictures are taken and not yet yielded, at most. It bounds the memory.
            ordered: Whether to yield in the order of `images`. By default answers are yielded as they come; `index` and `key`
                say which picture each is of.

        Every picture is yielded exactly once, with its classification or its error; an error of one picture does not end the stream.
        If the connection is lost or the server restarts, what is unanswered is sent again, as `RetryPolicy` says; a picture whose own
        error says that a retry helps is sent again alone. If the server does not come back, the pictures that were taken are yielded
        with the error, and then the error is raised, since the rest of `images` was not asked for.

        An error that `images` raises is passed on. Closing the generator, or leaving its loop, cancels what is in flight.
        """
        question = Question.new(heads, top_k, head_version, include_logits)
        return self._stream(images, question, in_flight, ordered)

    def embed(
        self,
        image: Picture,
        kind: EmbedKind = "features",
        *,
        head: str = "",
        backbone: str = "",
        timeout_s: float | None = None,
    ) -> Embedding:
        """Returns what the backbone computes of a picture.

        Args:
            kind: `features`, what enters the last Linear (4096 numbers); `pool`, the last pooling's map by channel, row and column
                (512 x 7 x 7 for pictures of 224 x 224); or `gap`, each channel's mean (512).
            head: The head whose preprocessing prepares the picture. Default: the backbone's preprocessing.
            backbone: The backbone that computes it. Default: that of `head`, or else the server's first.
        """
        request = _messages.embed_request(image, kind, head, backbone)
        return _messages.embedding(self._call(_rpc.EMBED, request, timeout_s))

    # Heads.

    def heads(self, prefix: str = "", *, labels: bool = False) -> list[HeadInfo]:
        """Returns the live version of each head whose name begins with `prefix`, sorted by name; with `labels` only if asked for."""
        heads: list[HeadInfo] = []
        token = ""
        while True:
            request = head_admin_pb2.ListHeadsRequest(
                include_labels=labels, page_size=1000, page_token=token, name_prefix=prefix
            )
            page = self._call(_rpc.LIST_HEADS, request)
            heads.extend(_messages.head_info(head) for head in page.heads)
            token = page.next_page_token
            if not token:
                return heads

    def head(self, name: str = "default", version: int = 0) -> HeadInfo:
        """Returns one version of a head; 0 means the live one. Raises `NotFound` if there is none."""
        got = self._call(_rpc.GET_HEAD, head_admin_pb2.GetHeadRequest(head=name, version=version))
        return _messages.head_info(got.head, got.available_versions)

    def model(self, head: str = "", backbone: str = "") -> Model:
        """Returns what the server runs: its backbones, with the digests of their tensors."""
        request = head_admin_pb2.DescribeModelRequest(head=head, backbone=backbone)
        return _messages.model(self._call(_rpc.DESCRIBE_MODEL, request))

    def replace(
        self,
        name: str,
        file: HeadFile,
        spec: Mapping[str, Any] | str | None = None,
        labels: Sequence[str] | None = None,
        *,
        expected_version: int | None = None,
        dry_run: bool = False,
        annotations: Mapping[str, str] | None = None,
        backbone: str = "",
        timeout_s: float | None = None,
    ) -> Receipt:
        """Makes a new version of a head live.

        Args:
            file: A path or the bytes of a file in any format that the server reads (docs/weights.md), or tensors by name.
            spec: What the file does not say, as `headswap.spec` makes it, or its JSON. Without one the server assumes the backbone's
                preprocessing and softmax, and says so in `Receipt.head.assumed`.
            labels: One for each class.
            expected_version: Replace only if this version is live; 0 only if the head is new. Else `Aborted` is raised.
            dry_run: Check everything, change nothing.
            annotations: Notes that are kept with the version.
            backbone: The backbone that it stands on. Default: the one with which the file shares most.

        Once it returns, the version survives a crash of the server, and every later request runs on it or a newer one. A call whose
        connection is lost is not repeated, since the version may have become live: `head` tells.
        """
        replacement = Replacement.new(
            name, file, spec, labels, expected_version, dry_run, annotations, backbone
        )
        return self._replace(replacement, timeout_s)

    def _replace(self, replacement: Replacement, timeout_s: float | None = None) -> Receipt:
        timeout_s = self._upload_timeout_s if timeout_s is None else timeout_s
        response: head_admin_pb2.ReplaceHeadResponse | head_admin_pb2.UploadHeadResponse
        if replacement.is_small:
            response = self._call(_rpc.REPLACE_HEAD, replacement.request(), timeout_s, changes=True)
        else:
            response = self._upload(replacement, timeout_s)
        return _messages.receipt(response, len(replacement.file))

    # Calls.

    def _channel(self, address: str) -> grpc.Channel:
        with self._lock:
            if self._is_closed:
                raise Cancelled("the client is closed")
            channel = self._channels.get(address)
            if channel is None:
                options = _rpc.channel_options(address, self._options)
                if self._credentials is None:
                    channel = grpc.insecure_channel(address, options)
                else:
                    channel = grpc.secure_channel(address, self._credentials, options)
                self._channels[address] = channel
        return channel

    def _address(self, method: Method[Any, Any]) -> str:
        return self.admin if "HeadAdminService" in method.path else self.server

    def _call(
        self,
        method: Method[Request, Response],
        request: Request,
        timeout_s: float | None = None,
        *,
        changes: bool = False,
    ) -> Response:
        call = self._channel(self._address(method)).unary_unary(
            method.path, method.request.SerializeToString, method.response.FromString
        )
        attempts = Attempts(self._retry, self._timeout_s if timeout_s is None else timeout_s, changes)
        while True:
            try:
                response: Response = call(request, timeout=attempts.left_s, metadata=self._metadata)
                return response
            except grpc.RpcError as error:
                time.sleep(attempts.wait_s(errors.from_call(error)))

    def _upload(self, replacement: Replacement, timeout_s: float) -> head_admin_pb2.UploadHeadResponse:
        method = _rpc.UPLOAD_HEAD
        call = self._channel(self.admin).stream_unary(
            method.path, method.request.SerializeToString, method.response.FromString
        )
        attempts = Attempts(self._retry, timeout_s, changes=True)
        while True:
            try:
                response: head_admin_pb2.UploadHeadResponse = call(
                    replacement.upload(), timeout=attempts.left_s, metadata=self._metadata
                )
                return response
            except grpc.RpcError as error:
                time.sleep(attempts.wait_s(errors.from_call(error)))

    def _stream(
        self, images: Iterable[Any], question: Question, in_flight: int, ordered: bool
    ) -> Generator[StreamAnswer[Any], None, None]:
        return self._answers(images, StreamState(question, self._retry, in_flight, ordered))

    def _answers(
        self, images: Iterable[Any], state: StreamState
    ) -> Generator[StreamAnswer[Any], None, None]:
        source = iter(images)
        connection = _Connection(self)
        is_exhausted = False
        try:
            while True:
                yield from state.told()
                event = connection.event()
                if event is None and state.wants_more and not is_exhausted:
                    try:
                        request = state.take(next(source))
                    except StopIteration:
                        is_exhausted = True
                        continue
                    if request is not None:
                        connection.send([request])
                    continue
                if event is None and state.is_idle:
                    return
                if event is None and state.only_retries:
                    time.sleep(state.again_wait_s)
                    connection.send(state.requests_again())
                    continue
                event = event or connection.wait()
                if isinstance(event, classifier_pb2.ClassifyStreamResponse):
                    state.answer(event.response)
                elif not state.is_idle:
                    lost = self._reconnect(state, connection, event)
                    if lost is not None:
                        state.fail_all(lost)
                        yield from state.told()
                        if is_exhausted:
                            return
                        raise lost
        finally:
            connection.close()

    def _reconnect(self, state: StreamState, connection: _Connection, error: ServerError) -> ServerError | None:
        """Has the unanswered pictures of a stream that ended answered. Returns the error if that is given up."""
        if state.may_retry(error):
            wait_s = state.next_wait_s(error)
            if wait_s is None:
                return error
            time.sleep(wait_s)
            connection.send(state.requests_anew())
            return None
        # One of them may be at fault: each is asked for alone.
        for pending in state.pending:
            try:
                response = self._call(_rpc.CLASSIFY, pending.request)
            except ServerError as own:
                if state.may_retry(own):
                    # The server stays away.
                    return own
                state.fail(pending, own)
            else:
                state.answer_alone(pending, response)
        return None


class Attempts:
    """The attempts of one unary call within its time."""

    def __init__(self, policy: RetryPolicy, timeout_s: float, changes: bool) -> None:
        self._backoff = Backoff(policy)
        self._ends_s = time.monotonic() + timeout_s
        self._changes = changes

    @property
    def left_s(self) -> float:
        """The time that is left, in seconds."""
        return max(self._ends_s - time.monotonic(), 0.0)

    def wait_s(self, error: ServerError) -> float:
        """Returns how long to wait before the next attempt. Raises the error if there is none."""
        # What was unavailable may have been done. What the server had no space for was not begun.
        if self._changes and error.code == grpc.StatusCode.UNAVAILABLE:
            raise error
        wait_s = self._backoff.next_s(error)
        if wait_s is None or wait_s >= self.left_s:
            raise error
        return wait_s


class _Connection:
    """The current stream of a `classify_stream`: opened when something is sent, until it ends."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._call: Any = None
        self._thread: threading.Thread | None = None
        self._outbox: queue.SimpleQueue[classifier_pb2.ClassifyStreamRequest | None] = queue.SimpleQueue()
        self._inbox: queue.SimpleQueue[classifier_pb2.ClassifyStreamResponse | ServerError] = queue.SimpleQueue()

    def send(self, requests: Iterable[classifier_pb2.ClassifyStreamRequest]) -> None:
        """Sends requests, without waiting for the network."""
        if self._call is None:
            self._open()
        for request in requests:
            self._outbox.put(request)

    def event(self) -> classifier_pb2.ClassifyStreamResponse | ServerError | None:
        """Returns an answer, or why the stream ended; `None` if nothing has arrived."""
        try:
            return self._arrived(self._inbox.get_nowait())
        except queue.Empty:
            return None

    def wait(self) -> classifier_pb2.ClassifyStreamResponse | ServerError:
        """As `event`, and waits for it."""
        return self._arrived(self._inbox.get())

    def close(self) -> None:
        """Cancels the stream and waits for its thread."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
        self._outbox.put(None)
        if self._thread is not None:
            self._thread.join()

    def _open(self) -> None:
        method = _rpc.CLASSIFY_STREAM
        client = self._client
        stream = client._channel(client.server).stream_stream(
            method.path, method.request.SerializeToString, method.response.FromString
        )
        self._outbox = queue.SimpleQueue()
        self._call = stream(iter(self._outbox.get, None), metadata=client._metadata)
        self._thread = threading.Thread(target=self._read, args=(self._call,), name="headswap-stream", daemon=True)
        self._thread.start()

    def _read(self, call: Iterable[classifier_pb2.ClassifyStreamResponse]) -> None:
        try:
            for response in call:
                self._inbox.put(response)
        except grpc.RpcError as error:
            self._inbox.put(errors.from_call(error))
        else:
            self._inbox.put(ended())

    def _arrived(
        self, event: classifier_pb2.ClassifyStreamResponse | ServerError
    ) -> classifier_pb2.ClassifyStreamResponse | ServerError:
        if isinstance(event, ServerError):
            self._call = None
            self._outbox.put(None)
            if self._thread is not None:
                self._thread.join()
        return event
