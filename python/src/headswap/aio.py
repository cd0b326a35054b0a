"""The client for programs with an event loop of asyncio."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence, TypeVar, Union, overload

import grpc
import grpc.aio
from google.protobuf.message import Message

from . import _messages, _rpc, errors
from ._messages import EmbedKind, HeadFile, Question, Replacement
from ._proto import classifier_pb2, head_admin_pb2
from ._rpc import Method
from ._stream import StreamState, ended
from .client import Attempts
from .errors import Cancelled, ServerError, Unavailable
from .pictures import Picture
from .results import Classification, Embedding, HeadInfo, Model, Receipt, StreamAnswer
from .retry import RetryPolicy

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
Item = Union[Picture, "tuple[Any, Picture]"]

_END = object()


class AsyncClient:
    """As `headswap.Client`, with coroutines. All calls belong to one event loop.

    Use it as an asynchronous context manager, or `await close()`.
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
        self._channels: dict[str, grpc.aio.Channel] = {}

    @property
    def admin(self) -> str:
        """The address of administration."""
        return self._admin or _rpc.admin_address(self.server)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections. Calls in flight are cancelled."""
        self._is_closed = True
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await channel.close()

    # Pictures.

    @overload
    async def classify(
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
    async def classify(
        self,
        images: list[Picture] | tuple[Picture, ...],
        heads: str | Sequence[str] = (),
        *,
        top_k: int = 0,
        head_version: int = 0,
        include_logits: bool = False,
    ) -> list[Classification]: ...

    async def classify(
        self,
        images: Picture | list[Picture] | tuple[Picture, ...],
        heads: str | Sequence[str] = (),
        *,
        top_k: int = 0,
        head_version: int = 0,
        include_logits: bool = False,
        timeout_s: float | None = None,
    ) -> Classification | list[Classification]:
        """As `Client.classify`."""
        question = Question.new(heads, top_k, head_version, include_logits)
        if isinstance(images, (list, tuple)):
            with_places = ((place, image) for place, image in enumerate(images))
            answers = self._answers(with_places, StreamState(question, self._retry, 64, ordered=True))
            try:
                return [answer.unwrap() async for answer in answers]
            finally:
                await answers.aclose()
        return _messages.classification(await self._call(_rpc.CLASSIFY, question.request(images), timeout_s))

    def classify_stream(
        self,
        images: Iterable[Item] | AsyncIterable[Item],
        heads: str | Sequence[str] = (),
        *,
        top_k: int = 0,
        head_version: int = 0,
        include_logits: bool = False,
        in_flight: int = 64,
        ordered: bool = False,
    ) -> AsyncGenerator[StreamAnswer[Any], None]:
        """As `Client.classify_stream`: `async for answer in client.classify_stream(images)`.

        `images` may be asynchronous; while its next picture is awaited, answers are yielded. A plain iterable is advanced in the event
        loop. A loop that is left early should close the generator, for example with `contextlib.aclosing`.
        """
        question = Question.new(heads, top_k, head_version, include_logits)
        return self._answers(images, StreamState(question, self._retry, in_flight, ordered))

    async def embed(
        self,
        image: Picture,
        kind: EmbedKind = "features",
        *,
        head: str = "",
        backbone: str = "",
        timeout_s: float | None = None,
    ) -> Embedding:
        """As `Client.embed`."""
        request = _messages.embed_request(image, kind, head, backbone)
        return _messages.embedding(await self._call(_rpc.EMBED, request, timeout_s))

    # Heads.

    async def heads(self, prefix: str = "", *, labels: bool = False) -> list[HeadInfo]:
        """As `Client.heads`."""
        heads: list[HeadInfo] = []
        token = ""
        while True:
            request = head_admin_pb2.ListHeadsRequest(
                include_labels=labels, page_size=1000, page_token=token, name_prefix=prefix
            )
            page = await self._call(_rpc.LIST_HEADS, request)
            heads.extend(_messages.head_info(head) for head in page.heads)
            token = page.next_page_token
            if not token:
                return heads

    async def head(self, name: str = "default", version: int = 0) -> HeadInfo:
        """As `Client.head`."""
        got = await self._call(_rpc.GET_HEAD, head_admin_pb2.GetHeadRequest(head=name, version=version))
        return _messages.head_info(got.head, got.available_versions)

    async def model(self, head: str = "", backbone: str = "") -> Model:
        """As `Client.model`."""
        request = head_admin_pb2.DescribeModelRequest(head=head, backbone=backbone)
        return _messages.model(await self._call(_rpc.DESCRIBE_MODEL, request))

    async def replace(
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
        """As `Client.replace`."""
        replacement = Replacement.new(
            name, file, spec, labels, expected_version, dry_run, annotations, backbone
        )
        timeout_s = self._upload_timeout_s if timeout_s is None else timeout_s
        response: head_admin_pb2.ReplaceHeadResponse | head_admin_pb2.UploadHeadResponse
        if replacement.is_small:
            response = await self._call(_rpc.REPLACE_HEAD, replacement.request(), timeout_s, changes=True)
        else:
            response = await self._upload(replacement, timeout_s)
        return _messages.receipt(response, len(replacement.file))

    # Calls.

    def _channel(self, address: str) -> grpc.aio.Channel:
        if self._is_closed:
            raise Cancelled("the client is closed")
        channel = self._channels.get(address)
        if channel is None:
            options = _rpc.channel_options(address, self._options)
            if self._credentials is None:
                channel = grpc.aio.insecure_channel(address, options)
            else:
                channel = grpc.aio.secure_channel(address, self._credentials, options)
            self._channels[address] = channel
        return channel

    def _address(self, method: Method[Any, Any]) -> str:
        return self.admin if "HeadAdminService" in method.path else self.server

    async def _call(
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
                response: Response = await call(request, timeout=attempts.left_s, metadata=self._metadata)
                return response
            except grpc.RpcError as error:
                await asyncio.sleep(attempts.wait_s(errors.from_call(error)))

    async def _upload(self, replacement: Replacement, timeout_s: float) -> head_admin_pb2.UploadHeadResponse:
        method = _rpc.UPLOAD_HEAD
        call = self._channel(self.admin).stream_unary(
            method.path, method.request.SerializeToString, method.response.FromString
        )
        attempts = Attempts(self._retry, timeout_s, changes=True)
        while True:
            try:
                response: head_admin_pb2.UploadHeadResponse = await call(
                    replacement.upload(), timeout=attempts.left_s, metadata=self._metadata
                )
                return response
            except grpc.RpcError as error:
                await asyncio.sleep(attempts.wait_s(errors.from_call(error)))

    async def _answers(
        self, images: Iterable[Any] | AsyncIterable[Any], state: StreamState
    ) -> AsyncGenerator[StreamAnswer[Any], None]:
        source = _Source(images)
        connection = _Connection(self)
        try:
            while True:
                for answer in state.told():
                    yield answer
                event = connection.event()
                if event is None and not source.is_exhausted and state.wants_more:
                    # With an asynchronous source, whichever comes first: the next picture or an answer.
                    item, event = await source.next_or(connection)
                    if item is not _END:
                        request = state.take(item)
                        if request is not None:
                            connection.send([request])
                    if event is None:
                        continue
                if event is None and state.is_idle:
                    return
                if event is None and state.only_retries:
                    await asyncio.sleep(state.again_wait_s)
                    connection.send(state.requests_again())
                    continue
                event = event or await connection.wait()
                if isinstance(event, classifier_pb2.ClassifyStreamResponse):
                    state.answer(event.response)
                elif not state.is_idle:
                    lost = await self._reconnect(state, connection, event)
                    if lost is not None:
                        state.fail_all(lost)
                        for answer in state.told():
                            yield answer
                        if source.is_exhausted:
                            return
                        raise lost
        finally:
            await source.close()
            await connection.close()

    async def _reconnect(self, state: StreamState, connection: _Connection, error: ServerError) -> ServerError | None:
        """Has the unanswered pictures of a stream that ended answered. Returns the error if that is given up."""
        if state.may_retry(error):
            wait_s = state.next_wait_s(error)
            if wait_s is None:
                return error
            await asyncio.sleep(wait_s)
            connection.send(state.requests_anew())
            return None
        # One of them may be at fault: each is asked for alone.
        for pending in state.pending:
            try:
                response = await self._call(_rpc.CLASSIFY, pending.request)
            except ServerError as own:
                if state.may_retry(own):
                    # The server stays away.
                    return own
                state.fail(pending, own)
            else:
                state.answer_alone(pending, response)
        return None


def _lost(error: ServerError) -> ServerError:
    """grpc.aio's error for a request that was written while the connection was lost, as what it is; other errors as they are."""
    return Unavailable("the connection was lost") if error.message == "Internal error from Core" else error


class _Source:
    """The pictures, from an iterable of either kind."""

    def __init__(self, images: Iterable[Any] | AsyncIterable[Any]) -> None:
        self._plain = iter(images) if isinstance(images, Iterable) else None
        self._later: AsyncIterator[Any] | None = None if isinstance(images, Iterable) else images.__aiter__()
        self._task: asyncio.Task[Any] | None = None
        self.is_exhausted = False

    async def next_or(self, connection: _Connection) -> tuple[Any, classifier_pb2.ClassifyStreamResponse | ServerError | None]:
        """Returns the next picture, or `_END`, and an event of the connection that came first, or `None`."""
        if self._plain is not None:
            # Lets the connection make progress between pictures.
            await asyncio.sleep(0)
            item = next(self._plain, _END)
            self.is_exhausted = item is _END
            return item, None
        if self._task is None:
            self._task = asyncio.ensure_future(self._next())
        arrival = asyncio.ensure_future(connection.wait())
        try:
            await asyncio.wait({self._task, arrival}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # The event stays in the inbox if the waiting is cancelled before it took it.
            if not arrival.done():
                arrival.cancel()
                await asyncio.gather(arrival, return_exceptions=True)
        event = arrival.result() if not arrival.cancelled() else None
        if not self._task.done():
            return _END, event
        task, self._task = self._task, None
        item = task.result()
        self.is_exhausted = item is _END
        return item, event

    async def _next(self) -> Any:
        assert self._later is not None
        try:
            return await self._later.__anext__()
        except StopAsyncIteration:
            return _END

    async def close(self) -> None:
        """Cancels the waiting for a picture."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


class _Connection:
    """The current stream of a `classify_stream`: opened when something is sent, until it ends."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._call: Any = None
        self._task: asyncio.Task[None] | None = None
        self._outbox: asyncio.Queue[classifier_pb2.ClassifyStreamRequest | None] = asyncio.Queue()
        self._inbox: asyncio.Queue[classifier_pb2.ClassifyStreamResponse | ServerError] = asyncio.Queue()

    def send(self, requests: Iterable[classifier_pb2.ClassifyStreamRequest]) -> None:
        """Sends requests, without waiting for the network."""
        if self._call is None:
            self._open()
        for request in requests:
            self._outbox.put_nowait(request)

    def event(self) -> classifier_pb2.ClassifyStreamResponse | ServerError | None:
        """Returns an answer, or why the stream ended; `None` if nothing has arrived."""
        if self._inbox.empty():
            return None
        return self._arrived(self._inbox.get_nowait())

    async def wait(self) -> classifier_pb2.ClassifyStreamResponse | ServerError:
        """As `event`, and waits for it."""
        return self._arrived(await self._inbox.get())

    async def close(self) -> None:
        """Cancels the stream and waits for its task."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
        self._outbox.put_nowait(None)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _open(self) -> None:
        method = _rpc.CLASSIFY_STREAM
        client = self._client
        stream = client._channel(client.server).stream_stream(
            method.path, method.request.SerializeToString, method.response.FromString
        )
        self._outbox = asyncio.Queue()
        self._call = stream(self._requests(self._outbox), metadata=client._metadata)
        self._task = asyncio.ensure_future(self._read(self._call))

    @staticmethod
    async def _requests(
        outbox: asyncio.Queue[classifier_pb2.ClassifyStreamRequest | None],
    ) -> AsyncIterator[classifier_pb2.ClassifyStreamRequest]:
        while (request := await outbox.get()) is not None:
            yield request

    async def _read(self, call: AsyncIterable[classifier_pb2.ClassifyStreamResponse]) -> None:
        try:
            async for response in call:
                self._inbox.put_nowait(response)
        except grpc.RpcError as error:
            self._inbox.put_nowait(_lost(errors.from_call(error)))
        except asyncio.CancelledError:
            self._inbox.put_nowait(Cancelled("the client is closed"))
            raise
        else:
            self._inbox.put_nowait(ended())

    def _arrived(
        self, event: classifier_pb2.ClassifyStreamResponse | ServerError
    ) -> classifier_pb2.ClassifyStreamResponse | ServerError:
        if isinstance(event, ServerError):
            self._call = None
            self._outbox.put_nowait(None)
        return event
