"""Live models of Keras 3 or of Keras 2 (tf_keras), as the variable HEADSWAP_KERAS says, pushed to a server and compared with it."""

import importlib
import os
import pathlib
import tempfile
import unittest

import numpy as np

import headswap

import keras_nets
from served import CHELSEA, NARROW, ROCKET, Server

NAME = os.environ.get("HEADSWAP_KERAS", "keras")
keras = importlib.import_module(NAME)
vgg16 = importlib.import_module(f"{NAME}.applications.vgg16")
mobilenet = importlib.import_module(f"{NAME}.applications.mobilenet_v2")
PICTURES = [CHELSEA, ROCKET]


class KerasTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.server = Server(pathlib.Path(folder.name) / "heads", *NARROW)
        cls.addClassCleanup(cls.server.__exit__, None, None, None)
        cls.client = headswap.Client(cls.server.grpc, cls.server.admin)
        cls.addClassCleanup(cls.client.close)

    def push(self, model, name="head", **options):
        return headswap.push(model, name, server=self.client, **options)

    def test_every_preparation_answers_as_the_framework(self):
        flat, pooled, rescaled = keras_nets.flat(keras), keras_nets.pooled(keras), keras_nets.rescaled(keras)
        for model, options in (
            (flat, {"preprocess": vgg16.preprocess_input, "interpolation": "nearest"}),
            (flat, {"preprocess": "keras-caffe"}),
            (flat, {"preprocess": "keras-caffe", "interpolation": "pillow-bilinear"}),
            (pooled, {"preprocess": 1 / 255, "interpolation": "tensorflow-bilinear"}),
            (pooled, {"preprocess": mobilenet.preprocess_input, "interpolation": "pillow-lanczos"}),
            (pooled, {"preprocess": "tensorflow-unit", "image_size": (96, 96)}),
            (rescaled, {"preprocess": None, "interpolation": "pillow-bicubic"}),
            (rescaled, {"preprocess": "tensorflow-raw"}),
        ):
            with self.subTest(options):
                receipt = self.push(model, labels={"a": 0, "c": 2, "b": 1}, check=PICTURES, **options)
                self.assertLess(receipt.check.worst, 1e-3)
                self.assertEqual((receipt.assumed, receipt.head.labels), ((), ("a", "b", "c")))

    def test_every_output(self):
        compiled = keras_nets.flat(keras, 3, None)
        compiled.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        regression = keras_nets.flat(keras, 2, None)
        regression.compile("adam", "mse")
        for model, output, labels, expected in (
            (keras_nets.flat(keras, 3), None, None, "softmax"),
            (keras_nets.pooled(keras, 1, "sigmoid"), None, ["no", "yes"], "sigmoid"),
            (keras_nets.pooled(keras, 4, "sigmoid"), None, None, "sigmoid"),
            (keras_nets.pooled(keras, 2, None), "linear", None, "linear"),
            (keras_nets.pooled(keras, 4, None), {"groups": 2}, None, {"groups": 2}),
            (compiled, None, None, "softmax"),
            (regression, None, None, "linear"),
        ):
            with self.subTest(expected):
                receipt = self.push(model, preprocess="keras-unit", output=output, labels=labels, check=PICTURES)
                self.assertEqual(receipt.spec["output"], expected)

    def test_trained_models(self):
        """Fine-tuned for a few steps, with the state of an optimiser that is not sent."""
        numbers = np.random.default_rng(0)
        classes = np.arange(12) % 3
        pictures = (numbers.random((12, 96, 96, 3)) * 80 + 80 * classes.reshape(-1, 1, 1, 1)).astype(np.float32)
        model = keras_nets.flat(keras)
        model.compile("adam", "sparse_categorical_crossentropy")
        untrained = self.push(model, "trained", preprocess=vgg16.preprocess_input, interpolation="nearest").sent_bytes
        model.fit(vgg16.preprocess_input(pictures.copy()), classes, epochs=3, verbose=0)
        receipt = self.push(model, "trained", preprocess=vgg16.preprocess_input, interpolation="nearest", check=PICTURES)
        self.assertLess(receipt.check.worst, 1e-3)
        self.assertLess(receipt.sent_bytes, 1.3 * untrained)

    def test_a_preparation_of_ones_own_is_compared(self):
        model = keras_nets.flat(keras)

        def prepare(image):
            return np.asarray(image.resize((96, 96), 0), np.float32) / 255

        self.push(model, "prepared", preprocess="keras-unit", prepare=prepare, check=PICTURES)
        with self.assertRaises(headswap.CheckFailed):
            self.push(model, "prepared", preprocess="keras-caffe", prepare=prepare, check=PICTURES)
        self.assertEqual(self.client.head("prepared").version, 1)

    def test_what_is_missing_is_refused(self):
        flat, logits = keras_nets.flat(keras), keras_nets.flat(keras, 3, None)
        for model, options, error, text in (
            (flat, {}, headswap.MissingInformation, "give preprocess="),
            (flat, {"preprocess": 1 / 255}, headswap.MissingInformation, "give interpolation="),
            (flat, {"preprocess": 1 / 255, "interpolation": "bilinear"}, headswap.MissingInformation, "does not say whose"),
            (flat, {"preprocess": lambda x: x, "interpolation": "nearest"}, headswap.UnsupportedTransform, "<lambda>"),
            (flat, {"preprocess": "keras-unit", "image_size": (224, 224)}, headswap.UnsupportedError, "takes 96x96"),
            (flat, {"preprocess": "keras-unit", "output": "sigmoid"}, headswap.UnsupportedError, "ends with a softmax"),
            (logits, {"preprocess": "keras-unit"}, headswap.MissingInformation, "give output="),
            (flat, {"transform": len}, ValueError, "is for PyTorch"),
        ):
            with self.subTest(text), self.assertRaisesRegex(error, text):
                self.push(model, "missing", **options)

    def test_what_heads_do_not_have_is_refused_by_name(self):
        for name, make in keras_nets.refused(keras).items():
            with self.subTest(name), self.assertRaises(headswap.InvalidArgument) as caught:
                self.push(make(), "refused", preprocess="keras-unit")
            self.assertTrue(any(part in str(caught.exception) for part in (name, name.lower(), "one branch")), caught.exception)
        self.assertEqual(self.client.heads("refused"), [])


if __name__ == "__main__":
    unittest.main()
