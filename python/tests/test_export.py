"""What is sent of a head: digests, folding, and what a backbone has already."""

import json
import tempfile
import unittest

import numpy as np
import safetensors.numpy

import headswap
from headswap import _check, _export, _keras_model
from headswap._export import Head, Layer, ScaleShift
from headswap.push import _ordered
from headswap.results import Backbone, HeadAnswer, Model, Parameter, Prediction

from served import CHELSEA, NARROW, Server


def backbone(name, tensors):
    parameters = tuple(Parameter(key, value.shape, _export.digest(value)) for key, value in tensors.items())
    return Backbone(name, "", "", True, parameters)


def model(*backbones):
    return Model("", backbones, backbones[0].parameters, "cpu", "f32", 1)


def ones(*shape):
    return np.ones(shape, np.float32)


class ExportTest(unittest.TestCase):
    def test_the_digest_is_the_servers(self):
        with tempfile.TemporaryDirectory() as folder, Server(folder, *NARROW) as server:
            with headswap.Client(server.grpc, server.admin) as client:
                spec = headswap.spec("unit", "softmax", input="global_average", layers=["linear"])
                # One tensor of the backbone's is sent again, under its digest it is known.
                served = client.model()
                shape = served.parameters[0].shape
                head = Head({"features.0.weight": ones(*shape), "head.0.weight": ones(2, 16), "head.0.bias": ones(2)}, spec)
                first = _export.difference(head, served)
                self.assertEqual((first.same, first.backbone), (0, ""))
                receipt = client.replace("own", first.file, spec)
                self.assertEqual(receipt.head.assumed, ())
                self.assertIn("features.0.weight", receipt.head.parameters)
                self.assertEqual(client.classify(CHELSEA, "own").top.kind, "softmax")

    def test_what_the_backbone_has_is_not_sent(self):
        tensors = {"features.0.weight": ones(2, 3, 3, 3), "features.0.bias": ones(2), "head.0.weight": ones(4, 5)}
        head = Head(tensors, {"output": "softmax"}, ("a line",))
        other = backbone("other", {"features.0.bias": ones(2)})
        same = backbone("same", {"features.0.weight": ones(2, 3, 3, 3), "features.0.bias": ones(2)})
        difference = _export.difference(head, model(other, same))
        self.assertEqual((difference.names, difference.same, difference.backbone), (("head.0.weight",), 2, "same"))
        self.assertEqual(list(safetensors.numpy.load(difference.file)), ["head.0.weight"])
        length = int.from_bytes(difference.file[:8], "little")
        metadata = json.loads(difference.file[8 : 8 + length])["__metadata__"]
        self.assertEqual(json.loads(metadata["headswap.spec"]), {"output": "softmax"})
        self.assertEqual(json.loads(metadata["headswap.assumed"]), ["a line"])
        named = _export.difference(head, model(other, same), "other")
        self.assertEqual((named.same, named.backbone), (1, "other"))
        with self.assertRaisesRegex(ValueError, "no backbone 'none'; it has other, same"):
            _export.difference(head, model(other, same), "none")

    def test_another_network_is_refused(self):
        head = Head({"features.0.weight": ones(64, 3, 3, 3)}, {})
        with self.assertRaisesRegex(ValueError, r"features.0.weight has the shape \[64, 3, 3, 3\], and the server's model takes \[2, 3, 3, 3\]"):
            _export.difference(head, model(backbone("", {"features.0.weight": ones(2, 3, 3, 3)})))

    def test_batch_norms_are_folded(self):
        numbers = np.random.default_rng(0)

        def some(*shape):
            return numbers.standard_normal(shape).astype(np.float32)

        def norm(width):
            return ScaleShift.of_batch_norm(some(width), some(width) ** 2, some(width), some(width), 1e-3)

        def run(layers, x):
            for layer in layers:
                if isinstance(layer, ScaleShift):
                    x = x * layer.scale + layer.shift
                elif layer.name == "linear":
                    x = x @ layer.weight.T.astype(np.float64) + layer.bias
                elif layer.name == "affine":
                    x = x * layer.weight + layer.bias
                else:
                    x = np.maximum(x, 0)
            return x

        def linear(outputs, inputs):
            return Layer("linear", None, some(outputs, inputs), some(outputs))

        cases = {
            ("linear", "relu", "linear"): [linear(5, 4), norm(5), Layer("relu"), norm(5), norm(5), linear(3, 5)],
            ("linear",): [norm(4), linear(3, 4), norm(3), norm(3)],
            ("affine", "relu", "linear", "relu", "affine"): [norm(4), Layer("relu"), linear(3, 4), Layer("relu"), norm(3)],
        }
        for names, layers in cases.items():
            x = some(7, 4).astype(np.float64)
            expected = run(layers, x)
            folded = _export.fold(layers)
            self.assertEqual(tuple(layer.name for layer in folded), names)
            np.testing.assert_allclose(run(folded, x), expected, rtol=1e-4, atol=1e-5)


class CheckTest(unittest.TestCase):
    def answer(self, *numbers, kind="softmax", logits=()):
        predictions = [
            Prediction(index, "", 0 if kind == "linear" else number, number if kind == "linear" else 0, 0, kind)
            for index, number in enumerate(numbers)
        ]
        return HeadAnswer("h", 1, "", tuple(sorted(predictions, key=lambda one: -one.number)), logits)

    def compare(self, model_answer, output, answer, own=None):
        expected = _check.probabilities(model_answer, output, own)
        return _check.compare("p", expected, _check.answered(answer, output, len(expected)), output)

    def test_answers_of_every_kind_are_compared(self):
        third = 1 / 3
        for model_answer, output, answer, own in (
            ([2.0, 2.0, 2.0], "softmax", self.answer(third, third, third), None),
            ([0.2, 0.8], "softmax", self.answer(0.2, 0.8), "softmax"),
            ([np.log(0.2), np.log(0.8)], "softmax", self.answer(0.2, 0.8), "softmax"),
            ([0.0], "sigmoid", self.answer(0.5, 0.5), None),
            ([[0.0, 0.0]], "sigmoid", self.answer(0.5, 0.5), None),
            ([0.9], "sigmoid", self.answer(0.1, 0.9), "sigmoid"),
            ([7.0, -2.0], "linear", self.answer(7.0, -2.0, kind="linear"), None),
            ([1.0, 1.0, 5.0, 5.0], {"groups": 2}, self.answer(logits=(1.0, 1.0, 5.0, 5.0)), None),
        ):
            self.assertLess(self.compare(model_answer, output, answer, own).difference, 1e-6, output)

    def test_values_differ_by_a_share(self):
        apart = self.compare([100.0, 1.0], "linear", self.answer(101.0, 1.0, kind="linear"))
        self.assertAlmostEqual(apart.difference, 0.01)
        self.assertEqual((apart.index, apart.expected, apart.got), (0, 100.0, 101.0))

    def test_the_first_rows_may_be_the_classes(self):
        third = 1 / 3
        self.assertLess(self.compare([1.0, 1.0, 1.0], "softmax", self.answer(third, third)).difference, 1e-6)
        with self.assertRaises(headswap.CheckFailed):
            self.compare([1.0, 1.0], "softmax", self.answer(0.3, 0.3, 0.4))

    def test_the_worst_are_named(self):
        apart = [self.compare([0.2, 0.8], "softmax", self.answer(0.2 + 0.1 * n, 0.8 - 0.1 * n), "softmax") for n in range(5)]
        with self.assertRaises(headswap.CheckFailed) as caught:
            _check.judge(apart, 1e-3, ["cat", "dog"])
        self.assertEqual([round(one.difference, 3) for one in caught.exception.differences], [0.4, 0.3, 0.2, 0.1, 0])
        self.assertRegex(str(caught.exception), r"^4 of 5 pictures .*(?s:.*)'(cat|dog)' is 0\.\d+ in the framework and .*\n  and 1 more$")
        self.assertEqual(_check.judge(apart[:1], 1e-3, [])[0].difference, apart[0].difference)

    def test_nan_fails(self):
        apart = self.compare([np.nan, 0.8], "softmax", self.answer(0.2, 0.8), "softmax")
        with self.assertRaises(headswap.CheckFailed):
            _check.judge([apart], 1e-3, [])


class KerasTest(unittest.TestCase):
    """What needs no Keras."""

    class Model:
        input_shape = (None, 96, 64, 3)

    def test_preparations(self):
        made = _keras_model.prepared(self.Model(), "keras-caffe", None, None).preprocessing
        self.assertEqual(made, headswap.PRESETS["keras-caffe"] | {"resize": {"stretch": [96, 64]}})
        made = _keras_model.prepared(self.Model(), 1 / 255, None, "tensorflow-bilinear").preprocessing
        self.assertEqual(made, headswap.PRESETS["tensorflow-unit"] | {"resize": {"stretch": [96, 64]}})
        made = _keras_model.prepared(self.Model(), None, (96, 64), "nearest").preprocessing
        self.assertEqual(made, headswap.PRESETS["keras-raw"] | {"resize": {"stretch": [96, 64]}})

    def test_what_is_not_said_is_refused(self):
        anything = type("Model", (), {"input_shape": (None, None, None, 3)})()
        for model_, preprocess, size, interpolation, error, text in (
            (anything, None, None, "nearest", headswap.MissingInformation, "image_size"),
            (self.Model(), None, None, None, headswap.MissingInformation, "interpolation"),
            (self.Model(), None, None, "bilinear", headswap.MissingInformation, "does not say whose"),
            (self.Model(), None, (32, 32), "nearest", headswap.UnsupportedError, "takes 96x64"),
            (self.Model(), len, None, "nearest", headswap.UnsupportedTransform, "builtins.len"),
            (self.Model(), "torchvision", None, None, ValueError, "crops"),
            (self.Model(), "sparkling", None, None, ValueError, "not a preset"),
        ):
            with self.assertRaisesRegex(error, text):
                _keras_model.prepared(model_, preprocess, size, interpolation)

    def test_the_loss_says_what_logits_are(self):
        def loss(name, **config):
            return type("Loss", (), {"get_config": lambda self: {"name": name, **config}})()

        for given, expected in (
            (loss("sparse_categorical_crossentropy", from_logits=True), "softmax"),
            (loss("binary_crossentropy", from_logits=True), "sigmoid"),
            (loss("binary_crossentropy", from_logits=False), None),
            ("mse", "linear"),
            ("categorical_crossentropy", None),
            (None, None),
            ({"a": "mse"}, None),
        ):
            model_ = type("Model", (), {"loss": given})()
            self.assertEqual(_keras_model.output_of_loss(model_), expected)

    def test_bilinear_resizing_is_tensorflows(self):
        row = np.array([[[0.0] * 3, [30.0] * 3]], np.float32)
        self.assertEqual(_keras_model._bilinear(row, 1, 4)[0, :, 0].tolist(), [0, 7.5, 22.5, 30])
        self.assertEqual(_keras_model._bilinear(row, 2, 1)[:, 0, 0].tolist(), [15, 15])


class LabelsTest(unittest.TestCase):
    def test_labels_may_be_numbered(self):
        self.assertEqual(_ordered({"dog": 1, "cat": 0}), ("cat", "dog"))
        self.assertEqual(_ordered(["cat", "dog"]), ("cat", "dog"))
        self.assertEqual(_ordered(None), ())
        with self.assertRaisesRegex(ValueError, "not 0 to 1"):
            _ordered({"dog": 1, "cat": 2})
        with self.assertRaises(TypeError):
            _ordered("cat")


if __name__ == "__main__":
    unittest.main()
