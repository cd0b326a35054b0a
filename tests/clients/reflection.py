"""Every RPC, by a client that knows the services by reflection alone. No generated code, no copy of the protos."""

import hashlib
import json
import os
import pathlib
import random
import struct
import sys
import tempfile
import unittest

import grpc
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from server import Server

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHELSEA = (ROOT / "images/chelsea.png").read_bytes()
ROCKET = (ROOT / "images/rocket.jpg").read_bytes()
FEATURES = 128  # of vgg16-narrow
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Service:
    """A service found by reflection: its methods take dictionaries and give messages."""

    def __init__(self, address, name):
        # Of a Unix socket grpcio would make `%2F...` of the path, which HTTP/2 servers in Rust refuse as no host.
        authority = [("grpc.default_authority", "localhost")] if address.startswith("unix:") else []
        channel = grpc.insecure_channel(address, OPTIONS + authority)
        self.pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        self.descriptor = self.pool.FindServiceByName(name)
        for method in self.descriptor.methods:
            setattr(self, method.name, self._callable(channel, method))

    def _callable(self, channel, method):
        request = message_factory.GetMessageClass(method.input_type)
        response = message_factory.GetMessageClass(method.output_type)
        kind = ("stream" if method.client_streaming else "unary") + "_"
        kind += "stream" if method.server_streaming else "unary"
        call = getattr(channel, kind)(
            f"/{self.descriptor.full_name}/{method.name}", request.SerializeToString, response.FromString
        )
        if method.client_streaming:
            return lambda requests, **options: call((request(**r) for r in requests), **options)
        return lambda fields=None, **options: call(request(**(fields or {})), **options)


def head_file(classes, labels=None):
    """A safetensors file (https://github.com/huggingface/safetensors#format) with a seeded head."""
    numbers = random.Random(classes)
    shapes = {"classifier.6.weight": [classes, FEATURES], "classifier.6.bias": [classes]}
    header, data = {}, b""
    for name, shape in shapes.items():
        count = classes * (FEATURES if len(shape) == 2 else 1)
        values = struct.pack(f"<{count}f", *(numbers.uniform(-0.1, 0.1) for _ in range(count)))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    if labels:
        header["__metadata__"] = {"labels": json.dumps(labels)}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


class ReflectionTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.TemporaryDirectory()
        folder = pathlib.Path(cls.dir.name)
        (folder / "heads").mkdir()
        (folder / "source").mkdir()
        (folder / "source/dogs.safetensors").write_bytes(head_file(3))
        cls.uri = f"file://{folder}/source/dogs.safetensors"
        cls.server = Server(
            os.environ["HEADSWAP_BINARY"],
            *("--weights", "demo", "--arch", "vgg16-narrow", "--device", "cpu"),
            *("--heads-dir", folder / "heads", "--head-source-dir", folder / "source"),
        )
        cls.classifier = Service(cls.server.addresses["grpc"], "headswap.v1.ClassifierService")
        cls.admin = Service(cls.server.addresses["admin"], "headswap.v1.HeadAdminService")
        cls.addClassCleanup(cls.server.process.kill)
        cls.admin.ReplaceHead({"head": "cats", "safetensors": head_file(2, ["cat", "tiger"])})

    @classmethod
    def tearDownClass(cls):
        code = cls.server.stop()
        cls.dir.cleanup()
        assert code == 0, f"the server ended with {code}"

    def refused(self, code, call, *args, **options):
        with self.assertRaises(grpc.RpcError) as caught:
            answer = call(*args, **options)
            list(answer) if hasattr(answer, "__iter__") else answer
        self.assertEqual(caught.exception.code(), code)
        return caught.exception

    def test_classify(self):
        answer = self.classifier.Classify(
            {"image": ROCKET, "heads": ["cats", "default", "nobody"], "top_k": 2, "request_id": "r-1",
             "include_logits": True}
        )
        cats, default, nobody = answer.results
        self.assertEqual(answer.request_id, "r-1")
        self.assertEqual((cats.head, cats.version, len(cats.logits)), ("cats", 1, 2))
        self.assertEqual({p.label for p in cats.predictions}, {"cat", "tiger"})
        self.assertAlmostEqual(sum(p.probability for p in cats.predictions), 1, places=5)
        self.assertEqual((default.version, len(default.logits), len(default.predictions)), (1, 1000, 2))
        self.assertEqual(nobody.error.code, grpc.StatusCode.NOT_FOUND.value[0])
        (detail,) = json_format.MessageToDict(nobody.error, descriptor_pool=self.classifier.pool)["details"]
        self.assertEqual(detail["@type"], "type.googleapis.com/google.rpc.ResourceInfo")
        self.assertEqual(detail["resourceName"], "nobody")
        self.assertGreater(answer.timing.compute_us, 0)
        self.assertGreater(answer.timing.decode_us, 0)

    def test_pixels(self):
        answer = self.classifier.Classify({"pixels": bytes(224 * 224 * 3)})
        self.assertEqual((len(answer.results), answer.timing.decode_us), (1, 0))
        self.refused(grpc.StatusCode.INVALID_ARGUMENT, self.classifier.Classify, {"pixels": b"123"})

    def test_compressed_messages(self):
        plain = self.classifier.Classify({"image": CHELSEA, "include_logits": True})
        packed = self.classifier.Classify(
            {"image": CHELSEA, "include_logits": True}, compression=grpc.Compression.Gzip
        )
        self.assertEqual(plain.results[0].logits, packed.results[0].logits)

    def test_classify_stream(self):
        pictures = {"cat": CHELSEA, "rocket": ROCKET, "broken": ROCKET[:500], "again": CHELSEA}
        requests = [{"request": {"image": image, "request_id": name}} for name, image in pictures.items()]
        answers = {a.response.request_id: a.response.results for a in self.classifier.ClassifyStream(requests)}
        self.assertEqual(answers.keys(), pictures.keys())
        self.assertEqual(answers["broken"][0].error.code, grpc.StatusCode.INVALID_ARGUMENT.value[0])
        self.assertTrue(all(answers[name][0].predictions for name in ("cat", "rocket", "again")))

    def test_embed(self):
        answer = self.classifier.Embed({"image": CHELSEA, "request_id": "e"})
        self.assertEqual((len(answer.features), answer.request_id), (FEATURES, "e"))
        self.assertRegex(answer.backbone_digest, "^[0-9a-f]{64}$")

    def test_deadlines(self):
        self.refused(grpc.StatusCode.DEADLINE_EXCEEDED, self.classifier.Classify, {"image": ROCKET}, timeout=1e-6)

    def test_replace_head(self):
        first = self.admin.ReplaceHead({"head": "dogs", "uri": self.uri, "annotations": {"run": "42"}})
        self.assertEqual((first.head.version, first.previous_version, first.head.classes), (1, 0, 3))
        tried = self.admin.ReplaceHead({"head": "dogs", "safetensors": head_file(5), "dry_run": True})
        self.assertEqual((tried.head.version, tried.previous_version, tried.head.live), (2, 1, False))
        second = self.admin.ReplaceHead({"head": "dogs", "safetensors": head_file(5), "expected_version": 1})
        self.assertEqual((second.head.version, second.head.live), (2, True))
        self.refused(
            grpc.StatusCode.ABORTED,
            self.admin.ReplaceHead,
            {"head": "dogs", "safetensors": head_file(5), "expected_version": 1},
        )
        got = self.admin.GetHead({"head": "dogs", "version": 1})
        self.assertEqual((got.head.annotations["run"], list(got.available_versions)), ("42", [1, 2]))
        self.assertEqual(self.classifier.Classify({"image": ROCKET, "heads": ["dogs"]}).results[0].version, 2)

    def test_upload_head(self):
        file = head_file(4)
        header = {"head": "birds", "size_bytes": len(file), "sha256": hashlib.sha256(file).hexdigest()}
        chunks = [{"chunk": file[at : at + 500]} for at in range(0, len(file), 500)]
        uploaded = self.admin.UploadHead([{"header": header}, *chunks])
        self.assertEqual((uploaded.head.version, uploaded.head.classes, uploaded.head.split_layer), (1, 4, "classifier.6"))
        self.refused(grpc.StatusCode.INVALID_ARGUMENT, self.admin.UploadHead, [{"header": header}, *chunks[1:]])
        self.assertEqual(list(self.admin.GetHead({"head": "birds"}).available_versions), [1])

    def test_refusals_carry_details(self):
        error = self.refused(
            grpc.StatusCode.INVALID_ARGUMENT, self.admin.ReplaceHead, {"head": "No Name", "safetensors": head_file(2)}
        )
        details = dict(error.trailing_metadata())["grpc-status-details-bin"]
        self.assertIn(b"google.rpc.BadRequest", details)
        self.assertIn(b"head", details)
        # The port describes the messages of its details.
        self.assertTrue(self.admin.pool.FindMessageTypeByName("google.rpc.BadRequest"))

    def test_list_heads(self):
        listed = {head.head: head for head in self.admin.ListHeads({"include_labels": True}).heads}
        self.assertEqual(list(listed["cats"].labels), ["cat", "tiger"])
        self.assertIn("default", listed)
        page = self.admin.ListHeads({"page_size": 1, "name_prefix": "c", "tier": "HEAD_TIER_HOT"})
        self.assertEqual(([head.head for head in page.heads], page.total_size, page.next_page_token), (["cats"], 1, ""))

    def test_describe_model(self):
        model = self.admin.DescribeModel({"head": "cats"})
        self.assertIn("Conv2d(3, ", model.layers)
        overridden = {p.name for p in model.parameters if p.overridden}
        self.assertEqual(overridden, {"classifier.6.weight", "classifier.6.bias"})
        self.assertEqual(sum(p.count for p in model.parameters), model.parameter_count)

    def test_health(self):
        for kind, name in (("grpc", "headswap.v1.ClassifierService"), ("admin", "headswap.v1.HeadAdminService")):
            health = Service(self.server.addresses[kind], "grpc.health.v1.Health")
            for service in ("", name):
                status = json_format.MessageToDict(health.Check({"service": service}))
                self.assertEqual(status, {"status": "SERVING"})
            watch = health.Watch({"service": name})
            self.assertEqual(json_format.MessageToDict(next(watch)), {"status": "SERVING"})
            watch.cancel()


class UnixSocketTest(unittest.TestCase):
    def test_classify(self):
        with tempfile.TemporaryDirectory() as folder:
            args = ["--weights", "demo", "--arch", "vgg16-narrow", "--device", "cpu", "--heads-dir", f"{folder}/heads"]
            server = Server(os.environ["HEADSWAP_BINARY"], *args, "--listen", f"unix:{folder}/grpc.sock")
            self.addCleanup(server.process.kill)
            classifier = Service(server.addresses["grpc"], "headswap.v1.ClassifierService")
            self.assertEqual(len(classifier.Classify({"image": CHELSEA}).results), 1)
            self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    unittest.main(argv=sys.argv)
