"""What a stream of pictures does next: the part without connections, which the two clients share.

Pictures are named by their place in the iterable. A picture is pending from the moment it was taken until its answer or its error is
given out, whatever happens to connections in between, and an answer that is not of a pending picture is dropped: so each is told once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Iterator

from . import _messages, errors
from ._messages import Question
from ._proto import classifier_pb2
from .errors import HeadswapError, PictureError, ServerError
from .pictures import Picture
from .results import StreamAnswer
from .retry import Backoff, RetryPolicy

PICTURE_BYTES_MAX = 32 << 20
"""The server's default limit on a message; what is larger would end the stream for all of its pictures."""


@dataclass(frozen=True)
class Pending:
    """A picture that is not answered."""

    index: int
    key: Any
    request: classifier_pb2.ClassifyRequest
    backoff: Backoff = field(repr=False)
    """The waits after errors of its own."""


class StreamState:
    """The pictures of one stream that are not answered, and the waits between attempts."""

    def __init__(self, question: Question, policy: RetryPolicy, in_flight: int, ordered: bool) -> None:
        if in_flight < 1:
            raise ValueError(f"in_flight is {in_flight}; give 1 at least")
        self._question = question
        self._policy = policy
        self._in_flight = in_flight
        self._ordered = ordered
        self._pending: dict[str, Pending] = {}
        # Those whose own error says that a retry may help, and how long to wait.
        self._again: dict[str, float] = {}
        self._ready: dict[int, StreamAnswer[Any]] = {}
        self._taken = 0
        self._told = 0
        self._backoff = Backoff(policy)

    @property
    def wants_more(self) -> bool:
        """Whether another picture may be taken from the iterable."""
        # In order, answers wait for those before them, and count as in flight.
        return self._taken - self._told < self._in_flight

    @property
    def is_idle(self) -> bool:
        """Whether no picture is unanswered."""
        return not self._pending

    @property
    def only_retries(self) -> bool:
        """Whether all unanswered pictures are to be sent again."""
        return len(self._again) == len(self._pending)

    @property
    def pending(self) -> list[Pending]:
        """The unanswered pictures, in the order of the iterable."""
        return sorted(self._pending.values(), key=lambda pending: pending.index)

    def take(self, item: Any) -> classifier_pb2.ClassifyStreamRequest | None:
        """Takes a picture, or a pair of key and picture. Returns what to send; `None` if it is no picture, which is its answer."""
        index = self._taken
        self._taken += 1
        key, picture = item if isinstance(item, tuple) and len(item) == 2 else (index, item)
        try:
            request = self._request(picture, str(index))
        except PictureError as error:
            self._tell(StreamAnswer(index, key, None, error))
            return None
        self._pending[request.request_id] = Pending(index, key, request, Backoff(self._policy))
        return classifier_pb2.ClassifyStreamRequest(request=request)

    def _request(self, picture: Picture, request_id: str) -> classifier_pb2.ClassifyRequest:
        request = self._question.request(picture, request_id)
        if request.ByteSize() > PICTURE_BYTES_MAX:
            raise PictureError(f"the picture has {len(request.image)} bytes, and a message at most {PICTURE_BYTES_MAX}")
        return request

    def answer(self, response: classifier_pb2.ClassifyResponse) -> None:
        """Takes an answer."""
        pending = self._pending.get(response.request_id)
        if pending is None or response.request_id in self._again:
            return
        told = self._told_by(pending, response)
        self._backoff.reset()
        if isinstance(told.error, ServerError):
            wait_s = pending.backoff.next_s(told.error)
            if wait_s is not None:
                self._again[response.request_id] = wait_s
                return
        self._finish(pending, told)

    def _told_by(self, pending: Pending, response: classifier_pb2.ClassifyResponse) -> StreamAnswer[Any]:
        """The answer, or its first error if no head answered."""
        classification = _messages.classification(response)
        failed = [answer.error for answer in classification if answer.error is not None]
        if len(failed) < len(classification):
            return StreamAnswer(pending.index, pending.key, classification)
        error = failed[0] if failed else HeadswapError("the server's answer has no result")
        return StreamAnswer(pending.index, pending.key, None, error)

    def answer_alone(self, pending: Pending, response: classifier_pb2.ClassifyResponse) -> None:
        """Takes the answer of a call of its own."""
        self._backoff.reset()
        self._finish(pending, self._told_by(pending, response))

    def fail(self, pending: Pending, error: HeadswapError) -> None:
        """Takes the error of one picture."""
        self._finish(pending, StreamAnswer(pending.index, pending.key, None, error))

    def fail_all(self, error: HeadswapError) -> None:
        """Takes the error of all unanswered pictures."""
        for pending in self.pending:
            self.fail(pending, error)

    def next_wait_s(self, error: ServerError) -> float | None:
        """Returns how long to wait before a stream that ended so is opened again; `None` if that is over."""
        return self._backoff.next_s(error)

    @property
    def again_wait_s(self) -> float:
        """How long to wait before pictures with errors of their own are sent again."""
        return max(self._again.values(), default=0.0)

    def may_retry(self, error: ServerError) -> bool:
        """Whether a stream that ended so may be opened again. If not, its pictures are asked for one by one."""
        return self._policy.is_retryable(error)

    def requests_again(self) -> list[classifier_pb2.ClassifyStreamRequest]:
        """Returns what to send again on the same stream."""
        names, self._again = self._again, {}
        waiting = sorted((self._pending[name] for name in names), key=lambda pending: pending.index)
        return [classifier_pb2.ClassifyStreamRequest(request=pending.request) for pending in waiting]

    def requests_anew(self) -> list[classifier_pb2.ClassifyStreamRequest]:
        """Returns what to send on a new stream: all unanswered pictures."""
        self._again = {}
        return [classifier_pb2.ClassifyStreamRequest(request=pending.request) for pending in self.pending]

    def told(self) -> Iterator[StreamAnswer[Any]]:
        """Gives out what is ready: in order, or as it comes."""
        while self._ready:
            index = self._told if self._ordered else next(iter(self._ready))
            answer = self._ready.pop(index, None)
            if answer is None:
                return
            self._told += 1
            yield answer

    def _finish(self, pending: Pending, answer: StreamAnswer[Any]) -> None:
        name = pending.request.request_id
        self._again.pop(name, None)
        if self._pending.pop(name, None) is not None:
            self._tell(answer)

    def _tell(self, answer: StreamAnswer[Any]) -> None:
        self._ready[answer.index] = answer


def ended() -> ServerError:
    """The error of a stream that the server ended while pictures were unanswered."""
    return errors.Unavailable("the server ended the stream before it answered all pictures")
