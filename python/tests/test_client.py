"""The clients against a real server."""

import json
import pathlib
import struct
import tempfile
import unittest

import grpc
import numpy as np

import headswap
from headswap import RetryPolicy
from headswap.pictures import png

from both import KINDS, call, stream
from served import CHELSEA, NARROW, ROCKET, Server

FEATURES = 128
WHOLE = png(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
BROKEN = WHOLE[:500]


def head(classes, seed=0):
    """The tensors of a last Linear."""
    numbers = np.random.default_rng(seed)
    return {
        "classifier.6.weight": numbers.standard_normal((classes, FEATURES)).astype(np.float32),
        "classifier.6.bias": numbers.standard_normal(classes).astype(np.float32),
    }


class ClientTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        cls.server = Server(cls.folder / "heads", *NARROW)
        cls.addClassCleanup(cls.server.__exit__, None, None, None)
        with headswap.Client(cls.server.grpc, cls.server.admin) as client:
            client.replace("cats", head(2), headswap.spec("unit", "softmax"), ["cat", "tiger"])
            client.replace("ages", head(1), headswap.spec("unit", "linear"), ["age"])

    def call(self, kind, name, *args, **options):
        return call(kind, self.server.grpc, name, *args, admin=self.server.admin, **options)

    def test_classify(self):
        for kind in KINDS:
            with self.subTest(kind):
                answer = self.call(kind, "classify", CHELSEA, ["cats", "ages", "nobody"], include_logits=True)
                self.assertEqual([one.head for one in answer], ["cats", "ages", "nobody"])
                cats = answer["cats"]
                self.assertEqual((cats.version, len(cats.logits), cats.top), (1, 2, answer.top))
                self.assertEqual({one.label for one in cats.predictions}, {"cat", "tiger"})
                self.assertAlmostEqual(sum(one.probability for one in cats.predictions), 1, places=5)
                ages = answer["ages"].top
                self.assertEqual((ages.kind, ages.label, ages.number), ("linear", "age", ages.value))
                with self.assertRaises(headswap.NotFound):
                    answer["nobody"].top
                self.assertEqual(answer["nobody"].error.details.resource, "nobody")
                self.assertGreater(answer.timing.compute_us, 0)

    def test_pictures_of_every_form_are_the_same(self):
        numbers = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
        path = self.folder / "picture.png"
        path.write_bytes(png(numbers))
        forms = [path, str(path), path.read_bytes(), memoryview(path.read_bytes()), numbers]
        for kind in KINDS:
            answers = [one.top for one in self.call(kind, "classify", forms, "cats")]
            self.assertEqual(answers, [answers[0]] * len(forms))

    def test_one_broken_picture_of_a_list_is_raised(self):
        for kind in KINDS:
            with self.subTest(kind), self.assertRaises(headswap.InvalidArgument) as caught:
                self.call(kind, "classify", [CHELSEA, BROKEN])
            self.assertEqual([violation.field for violation in caught.exception.field_violations], ["input"])

    def test_embed(self):
        for kind in KINDS:
            for what, length in (("features", FEATURES), ("pool", 16 * 49), ("gap", 16)):
                embedding = self.call(kind, "embed", CHELSEA, what)
                self.assertEqual((embedding.features.shape, embedding.features.dtype), ((length,), np.float32))
                self.assertRegex(embedding.backbone_digest, "^[0-9a-f]{64}$")
            with self.assertRaises(ValueError):
                self.call(kind, "embed", CHELSEA, "last")

    def test_heads(self):
        for kind in KINDS:
            with self.subTest(kind):
                name = f"birds-{kind}"
                spec = headswap.spec("unit", "softmax", classes=2)
                first = self.call(kind, "replace", name, head(3), spec, annotations={"run": "42"}, expected_version=0)
                self.assertEqual((first.head.version, first.previous_version, first.head.classes), (1, 0, 2))
                with self.assertRaises(headswap.Aborted) as caught:
                    self.call(kind, "replace", name, head(3), spec, expected_version=0)
                self.assertEqual((caught.exception.live_version, caught.exception.reason), (1, "VERSION_MISMATCH"))
                tried = self.call(kind, "replace", name, head(4), spec, dry_run=True)
                self.assertEqual((tried.head.version, tried.head.live), (2, False))
                got = self.call(kind, "head", name)
                self.assertEqual((got.annotations, got.available_versions, got.spec["classes"]), ({"run": "42"}, (1,), 2))
                self.assertEqual([one.head for one in self.call(kind, "heads", "birds-" + kind)], [name])
                self.assertEqual(self.call(kind, "heads", "cats", labels=True)[0].labels, ("cat", "tiger"))
                with self.assertRaises(headswap.NotFound):
                    self.call(kind, "head", "nobody")

    def test_a_large_file_is_uploaded(self):
        # Above the limit of one message.
        file = self.folder / "large.safetensors"
        header = {"loss.weight": {"dtype": "F32", "shape": [1 << 21], "data_offsets": [0, 1 << 23]}}
        data = bytes(1 << 23)
        for name, tensor in head(3).items():
            header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [len(data), len(data) + tensor.nbytes]}
            data += tensor.tobytes()
        text = json.dumps(header).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + data)
        for kind in KINDS:
            receipt = self.call(kind, "replace", f"large-{kind}", file, headswap.spec("unit", "softmax"))
            self.assertEqual((receipt.head.classes, receipt.left_out), (3, ("loss.weight",)))
            self.assertEqual(receipt.sent_bytes, file.stat().st_size)

    def test_a_refused_spec_names_its_field(self):
        for kind in KINDS:
            with self.assertRaises(headswap.InvalidArgument) as caught:
                self.call(kind, "replace", "birds", head(3), {"preprocessing": {"preset": "unit"}, "output": "loud"})
            self.assertEqual(caught.exception.field_violations[0].field, "spec_json")

    def test_the_ports_mixed_up(self):
        for kind in KINDS:
            with self.assertRaises(headswap.Unimplemented) as caught:
                call(kind, self.server.admin, "classify", CHELSEA)
            self.assertEqual(caught.exception.code, grpc.StatusCode.UNIMPLEMENTED)

    def test_model(self):
        for kind in KINDS:
            model = self.call(kind, "model")
            self.assertEqual(model.backbones[0].name, "default")
            self.assertTrue(model.backbones[0].has_features)
            self.assertEqual(model.parameters[0].shape, (2, 3, 3, 3))

    def test_a_head_in_a_stream(self):
        for kind in KINDS:
            with self.subTest(kind):
                images = [("cat", CHELSEA), ("broken", BROKEN), ("rocket", ROCKET)]
                told = stream(kind, self.server.grpc, images, ["cats", "nobody"], top_k=1, ordered=True)
                self.assertEqual([one.key for one in told], ["cat", "broken", "rocket"])
                self.assertIsInstance(told[1].error, headswap.InvalidArgument)
                self.assertEqual([len(told[0].unwrap()["cats"].predictions), told[0].unwrap()["nobody"].error.code.name], [1, "NOT_FOUND"])


class RestartTest(unittest.TestCase):
    """A server is killed and started again in the middle of a stream."""

    COUNT = 90

    def check(self, kind, later):
        broken = set(range(5, self.COUNT, 15))
        with tempfile.TemporaryDirectory() as folder, Server(folder, *NARROW) as server:
            told = []
            is_down = False

            def images():
                nonlocal is_down
                for index in range(self.COUNT):
                    if index == self.COUNT // 2:
                        server.kill()
                        is_down = True
                    yield f"key {index}", BROKEN if index in broken else WHOLE

            def start_again():
                # Called before each wait: the client has seen by then that the server is away.
                nonlocal is_down
                if is_down:
                    is_down = False
                    server.start_again()
                return 0.0

            policy = RetryPolicy(initial_s=0.01, random=start_again)
            stream(kind, server.grpc, images(), retry=policy, in_flight=32, told=told.append, later=later, top_k=1)
            self.assertFalse(is_down)
        self.assertEqual(sorted(one.index for one in told), list(range(self.COUNT)))
        self.assertEqual({one.index for one in told if one.error is not None}, broken)
        self.assertTrue(all(one.key == f"key {one.index}" for one in told))
        errors = {type(one.error) for one in told if one.error is not None}
        self.assertEqual(errors, {headswap.InvalidArgument})
        answers = {one.unwrap().top.index for one in told if one.error is None}
        self.assertEqual(len(answers), 1)

    def test_sync(self):
        self.check("sync", later=False)

    def test_aio(self):
        self.check("aio", later=False)

    def test_aio_with_an_asynchronous_source(self):
        self.check("aio", later=True)

    def test_a_unary_call_waits_for_a_restart(self):
        for kind in KINDS:
            with self.subTest(kind), tempfile.TemporaryDirectory() as folder, Server(folder, *NARROW) as server:
                server.kill()
                started = []

                def start_again():
                    if not started:
                        server.start_again()
                        started.append(True)
                    return 0.0

                policy = RetryPolicy(initial_s=0.01, random=start_again)
                self.assertEqual(call(kind, server.grpc, "classify", CHELSEA, retry=policy).top.kind, "softmax")


if __name__ == "__main__":
    unittest.main()
