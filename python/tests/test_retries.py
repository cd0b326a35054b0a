"""What the clients do when calls fail, against a server that fails as told."""

import threading
import unittest

import grpc

import headswap
from headswap import RetryPolicy
from headswap.retry import Backoff
from headswap.results import StreamAnswer

from both import AT_ONCE, KINDS, call, stream
from fake import Fake, abort, answer, failed, status, streamed

UNAVAILABLE = status(grpc.StatusCode.UNAVAILABLE, "loading")
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


class Failing:
    """A unary method that fails with each of some statuses once, then answers."""

    def __init__(self, *statuses):
        self.statuses = list(statuses)
        self.calls = 0

    def __call__(self, request, context):
        self.calls += 1
        if self.statuses:
            abort(context, self.statuses.pop(0))
        return answer(request)


class UnaryTest(unittest.TestCase):
    def check(self, expected_calls, *statuses, error=None):
        for kind in KINDS:
            with self.subTest(kind):
                failing = Failing(*statuses)
                with Fake(CLASSIFY=failing) as fake:
                    if error is None:
                        got = call(kind, fake.address, "classify", b"abc", retry=AT_ONCE)
                        self.assertEqual(got.top.index, 3)
                    else:
                        with self.assertRaises(error) as caught:
                            call(kind, fake.address, "classify", b"abc", retry=AT_ONCE)
                        self.error = caught.exception
                self.assertEqual(failing.calls, expected_calls)

    def test_what_is_unavailable_is_tried_again(self):
        self.check(3, UNAVAILABLE, UNAVAILABLE)

    def test_what_is_exhausted_is_tried_again_if_the_server_says_so(self):
        self.check(2, status(EXHAUSTED, retry_after_s=0.001))
        self.check(1, status(EXHAUSTED), error=headswap.ResourceExhausted)

    def test_what_is_wrong_is_not_tried_again(self):
        self.check(1, status(grpc.StatusCode.INVALID_ARGUMENT, "no picture", field="input"), error=headswap.InvalidArgument)
        self.assertEqual([violation.field for violation in self.error.field_violations], ["input"])
        self.assertEqual(str(self.error), "INVALID_ARGUMENT: no picture")
        self.check(1, status(grpc.StatusCode.PERMISSION_DENIED), error=headswap.ServerError)
        self.assertEqual(self.error.code, grpc.StatusCode.PERMISSION_DENIED)

    def test_a_call_has_a_deadline(self):
        for kind in KINDS:
            with self.subTest(kind):
                ended = threading.Event()

                def hang(request, context, ended=ended):
                    context.add_callback(ended.set)
                    ended.wait()
                    return answer(request)

                with Fake(CLASSIFY=hang) as fake, self.assertRaises(headswap.DeadlineExceeded):
                    call(kind, fake.address, "classify", b"abc", timeout_s=0.05)

    def test_a_replacement_is_not_repeated_after_a_lost_connection(self):
        for kind in KINDS:
            with self.subTest(kind):
                failing = Failing(UNAVAILABLE)
                with Fake(REPLACE_HEAD=failing) as fake, self.assertRaises(headswap.Unavailable):
                    call(kind, fake.address, "replace", "cats", b"abc", retry=AT_ONCE)
                self.assertEqual(failing.calls, 1)

    def test_a_closed_client_is_refused(self):
        client = headswap.Client("127.0.0.1:1")
        client.close()
        with self.assertRaises(headswap.Cancelled):
            client.classify(b"abc")


class BackoffTest(unittest.TestCase):
    def test_waits_grow_to_a_limit_and_end(self):
        backoff = Backoff(RetryPolicy(initial_s=1, multiplier=2, backoff_s_max=5, give_up_s=14, random=lambda: 1.0))
        lost = headswap.Unavailable("")
        self.assertEqual([backoff.next_s(lost) for _ in range(6)], [1, 2, 4, 5, 5, None])
        backoff.reset()
        self.assertEqual(backoff.next_s(lost), 1)

    def test_waits_have_jitter_and_obey_the_server(self):
        backoff = Backoff(RetryPolicy(initial_s=1, random=lambda: 0.0))
        self.assertEqual(backoff.next_s(headswap.Unavailable("")), 0.5)
        details = headswap.ErrorDetails(retry_after_s=3.0)
        self.assertEqual(backoff.next_s(headswap.ResourceExhausted("", details)), 3.0)

    def test_an_endless_policy_does_not_overflow(self):
        backoff = Backoff(RetryPolicy(give_up_s=float("inf")))
        self.assertTrue(all(backoff.next_s(headswap.Unavailable("")) <= 5 for _ in range(3000)))

    def test_never(self):
        self.assertIsNone(Backoff(RetryPolicy.never()).next_s(headswap.Unavailable("")))


def echo(requests, context):
    for request in requests:
        yield streamed(answer(request.request))


class StreamTest(unittest.TestCase):
    def check(self, behaviour, images, unary=None, kinds=KINDS, **options):
        """Streams with both clients. Each picture is told once; returns the answers by index, of the last client."""
        for kind in kinds:
            for later in (False, True) if kind == "aio" else (False,):
                with self.subTest(kind, later=later):
                    made = behaviour() if isinstance(behaviour, type) else behaviour
                    with Fake(CLASSIFY_STREAM=made, CLASSIFY=unary or Failing()) as fake:
                        told = stream(kind, fake.address, images, retry=AT_ONCE, later=later, **options)
                    self.assertEqual(sorted(one.index for one in told), list(range(len(images))))
        return {one.index: one for one in told}

    def lengths(self, answers):
        return [answers[index].unwrap().top.index for index in sorted(answers)]

    def test_answers_in_any_order_are_matched(self):
        def reverse(requests, context):
            waiting = []
            for request in requests:
                waiting.append(request.request)
                if len(waiting) == 4:
                    yield from (streamed(answer(one)) for one in reversed(waiting))
                    waiting.clear()

        images = [bytes(length) for length in range(1, 9)]
        self.assertEqual(self.lengths(self.check(reverse, images, in_flight=4)), list(range(1, 9)))
        for kind in KINDS:
            with Fake(CLASSIFY_STREAM=reverse) as fake:
                told = stream(kind, fake.address, images, in_flight=4, ordered=True)
            self.assertEqual([one.index for one in told], list(range(8)))

    def test_no_more_are_in_flight_than_allowed(self):
        for kind in KINDS:
            for ordered in (False, True):
                with self.subTest(kind, ordered=ordered):
                    taken, yielded, most = 0, 0, 0

                    def images():
                        nonlocal taken, most
                        for _ in range(50):
                            taken += 1
                            most = max(most, taken - yielded)
                            yield b"abc"

                    def told(one: StreamAnswer):
                        nonlocal yielded
                        yielded += 1

                    with Fake(CLASSIFY_STREAM=echo) as fake:
                        stream(kind, fake.address, images(), told=told, in_flight=7, ordered=ordered)
                    self.assertEqual(yielded, 50)
                    # What is yielded is counted when the next answer is asked for.
                    self.assertLessEqual(most, 8)

    def test_an_endless_source_is_advanced_as_answers_are_taken(self):
        for kind in KINDS:
            with self.subTest(kind), Fake(CLASSIFY_STREAM=echo) as fake:

                def images():
                    while True:
                        yield b"abc"

                class Enough(Exception):
                    pass

                seen = 0

                def told(one):
                    nonlocal seen
                    seen += 1
                    if seen == 100:
                        raise Enough

                with self.assertRaises(Enough):
                    stream(kind, fake.address, images(), told=told)

    def test_an_error_of_the_source_is_passed_on_and_cancels(self):
        for kind in KINDS:
            with self.subTest(kind):
                ended = threading.Event()

                def hang(requests, context, ended=ended):
                    context.add_callback(ended.set)
                    yield streamed(answer(next(requests).request))
                    ended.wait()

                def images():
                    yield b"abc"
                    raise KeyError("source")

                with Fake(CLASSIFY_STREAM=hang) as fake:
                    # The error comes after the first answer.
                    with self.assertRaises(KeyError):
                        stream(kind, fake.address, images(), in_flight=1)
                    self.assertTrue(ended.wait(60))

    def test_broken_pictures_are_told_and_the_stream_goes_on(self):
        images = [b"a", ("key", "/no/such/file"), b"bb", 7]
        answers = self.check(echo, images)
        self.assertEqual([answers[index].classification is None for index in range(4)], [False, True, False, True])
        self.assertEqual(answers[1].key, "key")
        self.assertIsInstance(answers[1].error, headswap.PictureError)
        self.assertIn("int is not a picture", str(answers[3].error))
        with self.assertRaises(headswap.PictureError):
            answers[3].unwrap()

    def test_a_picture_that_may_be_tried_again_is_sent_again_alone(self):
        class Busy:
            def __init__(self):
                self.seen = set()
                self.requests = 0

            def __call__(self, requests, context):
                for request in requests:
                    self.requests += 1
                    is_new = request.request.request_id not in self.seen
                    self.seen.add(request.request.request_id)
                    error = status(EXHAUSTED, retry_after_s=0.001)
                    yield streamed(failed(request.request, error) if is_new else answer(request.request))

        self.assertEqual(self.lengths(self.check(Busy, [b"a", b"bb", b"ccc"])), [1, 2, 3])

    def test_a_picture_that_always_fails_is_told_its_error(self):
        def busy(requests, context):
            for request in requests:
                is_first = request.request.request_id == "0"
                yield streamed(failed(request.request, UNAVAILABLE) if is_first else answer(request.request))

        policy = RetryPolicy(initial_s=0.001, give_up_s=0.004)
        for kind in KINDS:
            with self.subTest(kind), Fake(CLASSIFY_STREAM=busy) as fake:
                told = {one.index: one for one in stream(kind, fake.address, [b"a", b"bb"], retry=policy)}
                self.assertIsInstance(told[0].error, headswap.Unavailable)
                self.assertIsNotNone(told[1].classification)

    def test_a_stream_that_breaks_goes_on_where_it_was(self):
        class Breaking:
            """Ends after each third answer, one of which it sends twice."""

            def __call__(self, requests, context):
                for count, request in enumerate(requests):
                    if count == 3:
                        abort(context, UNAVAILABLE)
                    yield streamed(answer(request.request))
                    yield streamed(answer(request.request))

        images = [bytes(length) for length in range(1, 21)]
        self.assertEqual(self.lengths(self.check(Breaking, images, in_flight=5)), list(range(1, 21)))

    def test_a_stream_that_ends_early_goes_on(self):
        def short(requests, context):
            yield streamed(answer(next(requests).request))

        self.assertEqual(self.lengths(self.check(short, [b"a", b"bb", b"ccc"])), [1, 2, 3])

    def test_a_picture_that_ends_the_stream_is_found(self):
        def fragile(requests, context):
            for request in requests:
                if request.request.image == b"bad":
                    abort(context, status(EXHAUSTED, "too large"))
                yield streamed(answer(request.request))

        def unary(request, context):
            if request.image == b"bad":
                abort(context, status(EXHAUSTED, "too large"))
            return answer(request)

        answers = self.check(fragile, [b"a", b"bad", b"ccc", b"dddd"], unary=unary)
        self.assertIsInstance(answers[1].error, headswap.ResourceExhausted)
        self.assertEqual([answers[index].unwrap().top.index for index in (0, 2, 3)], [1, 3, 4])

    def test_a_server_that_stays_away_is_told_and_raised(self):
        def away(requests, context):
            abort(context, UNAVAILABLE)

        for kind in KINDS:
            with self.subTest(kind), Fake(CLASSIFY_STREAM=away) as fake:
                told = []

                def images():
                    while True:
                        yield b"abc"

                policy = RetryPolicy(initial_s=0.001, give_up_s=0.003)
                with self.assertRaises(headswap.Unavailable):
                    stream(kind, fake.address, images(), told=told.append, retry=policy, in_flight=4)
                # As many as were taken until then.
                self.assertEqual(sorted(one.index for one in told), list(range(len(told))))
                self.assertIn(len(told), range(1, 5))
                self.assertTrue(all(isinstance(one.error, headswap.Unavailable) for one in told))

    def test_an_unread_stream_can_be_closed(self):
        with Fake(CLASSIFY_STREAM=echo) as fake, headswap.Client(fake.address) as client:
            answers = client.classify_stream(iter(lambda: b"abc", None))
            next(answers)
            answers.close()
        self.assertNotIn("headswap-stream", [thread.name for thread in threading.enumerate()])


if __name__ == "__main__":
    unittest.main()
