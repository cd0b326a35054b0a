"""When a failed call is tried again."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Callable

import grpc

from .errors import ServerError


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential backoff with jitter, for calls that change nothing.

    A call is tried again after UNAVAILABLE, and after RESOURCE_EXHAUSTED if the server sent a `RetryInfo`. The n-th wait is
    `initial_s * multiplier ** n`, at most `backoff_s_max`, times a random number from 0.5 to 1, and never shorter than the server's
    `RetryInfo` asks. After `give_up_s` of waits without an answer in between, the error is final.
    """

    initial_s: float = 0.1
    multiplier: float = 2.0
    backoff_s_max: float = 5.0
    give_up_s: float = 60.0
    random: Callable[[], float] = field(default=random.random, repr=False)

    @classmethod
    def never(cls) -> RetryPolicy:
        """A policy that never tries again."""
        return cls(give_up_s=0.0)

    def is_retryable(self, error: ServerError) -> bool:
        """Whether the same call may succeed later."""
        if error.code == grpc.StatusCode.UNAVAILABLE:
            return True
        return error.code == grpc.StatusCode.RESOURCE_EXHAUSTED and error.retry_after_s is not None


class Backoff:
    """The waits between the attempts of one call."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self.reset()

    def reset(self) -> None:
        """Begins anew, after an answer."""
        self._attempts = 0
        self._waited_s = 0.0

    def next_s(self, error: ServerError) -> float | None:
        """Returns how long to wait before the next attempt, in seconds; `None` if there is none."""
        policy = self._policy
        left_s = policy.give_up_s - self._waited_s
        if left_s <= 0 or not policy.is_retryable(error):
            return None
        # The exponent is bounded: an endless policy would overflow.
        wait_s = min(policy.initial_s * policy.multiplier ** min(self._attempts, 64), policy.backoff_s_max)
        wait_s *= 0.5 + 0.5 * policy.random()
        wait_s = max(wait_s, error.retry_after_s or 0.0)
        self._attempts += 1
        self._waited_s += wait_s
        return wait_s
