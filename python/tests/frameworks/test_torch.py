"""Live models of PyTorch, pushed to a server and compared with it."""

import contextlib
import copy
import functools
import io
import pathlib
import re
import tempfile
import unittest
import warnings

import numpy as np
import torch
import torchvision.transforms as v1
from PIL import Image
from torch import nn

import headswap

import nets
from served import CHELSEA, NARROW, ROCKET, ROOT, Server

# Networks this narrow are slower on several threads.
torch.set_num_threads(1)
PICTURES = [CHELSEA, ROCKET]
TRANSFORM = v1.Compose(
    [v1.Resize(256), v1.CenterCrop(224), v1.ToTensor(), v1.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
)


class Served(unittest.TestCase):
    """A server whose backbone is that of `nets.vgg(seed=0)`."""

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        backbone = cls.folder / "backbone.pth"
        torch.save(nets.vgg(7).state_dict(), backbone)
        weights = ("--weights", str(backbone), *NARROW[2:])
        cls.server = Server(cls.folder / "heads", *weights)
        cls.addClassCleanup(cls.server.__exit__, None, None, None)
        cls.client = headswap.Client(cls.server.grpc, cls.server.admin)
        cls.addClassCleanup(cls.client.close)

    def push(self, model, name="head", **options):
        options = {"transform": TRANSFORM, "server": self.client} | options
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", headswap.AssumptionWarning)
            return headswap.push(model, name, **options)


class PushTest(Served):
    def test_every_shape_answers_as_the_framework(self):
        for name, model in nets.networks().items():
            with self.subTest(name):
                # Half precision differs from the server's f32.
                tolerance = 2e-2 if "half" in name else 1e-3
                receipt = self.push(model, check=PICTURES, tolerance=tolerance)
                self.assertLessEqual(receipt.check.worst, tolerance)
                self.assertEqual(receipt.check.digest, receipt.head.digest)

    def test_what_the_backbone_has_is_not_sent(self):
        receipt = self.push(nets.vgg(5))
        self.assertEqual(receipt.sent_tensors, ("classifier.6.weight", "classifier.6.bias"))
        self.assertEqual((receipt.shared_tensors, receipt.head.classes), (30, 5))
        self.assertLess(receipt.sent_bytes, 10_000)
        own = nn.Sequential(nn.Linear(nets.CHANNELS * 49, 8), nn.ReLU(), nn.Linear(8, 2))
        receipt = self.push(nets.vgg(classifier=own))
        self.assertEqual(receipt.shared_tensors, 26)

    def test_batch_norms_of_convolutions_fold_as_the_server_folds_them(self):
        file = self.folder / "bn.pth"
        model = nets.vgg(3, bn=True, seed=1)
        torch.save(model.state_dict(), file)
        with Server(self.folder / "bn-heads", "--weights", str(file), *NARROW[2:]) as server:
            receipt = self.push(model, server=server.grpc, admin=server.admin)
            self.assertEqual(receipt.sent_tensors, ("classifier.6.weight", "classifier.6.bias"))

    def test_answers_of_every_kind(self):
        model = nets.vgg(4)
        for output, labels in (("softmax", list("abcd")), ("sigmoid", list("abcd")), ("linear", None), ({"groups": 2}, ["a", "b"])):
            with self.subTest(output):
                receipt = self.push(model, output=output, labels=labels, check=PICTURES)
                self.assertEqual(receipt.spec["output"], output)
        receipt = self.push(nets.vgg(1), output="sigmoid", labels={"yes": 1, "no": 0}, check=PICTURES)
        self.assertEqual(receipt.head.labels, ("no", "yes"))
        receipt = self.push(model, classes=2, check=PICTURES)
        self.assertEqual(receipt.head.classes, 2)

    def test_the_model_is_left_as_it_was(self):
        model = nets.vgg(3)
        model.train()
        model.features.eval()
        before = copy.deepcopy(model.state_dict())
        modes = [module.training for module in model.modules()]
        self.push(model, check=[Image.open(CHELSEA), CHELSEA.read_bytes()])
        self.assertEqual([module.training for module in model.modules()], modes)
        self.assertTrue(all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items()))
        self.assertTrue(all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters()))

    def test_a_failed_check_changes_nothing(self):
        first = self.push(nets.vgg(3), "checked")
        self.assertEqual(first.head.version, 1)
        wrong = v1.Compose([v1.Resize((224, 224)), v1.ToTensor()])
        with self.assertRaises(headswap.CheckFailed) as caught:
            # The model was trained on other pictures than is said.
            self.push(nets.vgg(3), "checked", transform=wrong, prepare=TRANSFORM, check=PICTURES)
        self.assertEqual(len(caught.exception.differences), 2)
        self.assertIn("nothing was pushed", str(caught.exception))
        self.assertEqual(self.client.head("checked").version, 1)
        tried = self.push(nets.vgg(4), "checked", dry_run=True, check=PICTURES)
        self.assertEqual((tried.head.version, tried.head.live, self.client.head("checked").version), (2, False, 1))

    def test_scratch_heads_are_few(self):
        small = v1.Compose([v1.Resize((32, 32)), v1.ToTensor()])
        for number in range(20):
            self.push(nets.vgg(2), f"many-{number}", transform=small, check=PICTURES[:1], dry_run=True)
        self.assertLessEqual(len(self.client.heads("check--")), 16)
        self.assertEqual(self.client.heads("many-"), [])

    def test_what_was_assumed_is_warned_of_and_kept(self):
        with self.assertWarnsRegex(headswap.AssumptionWarning, "softmax of the 3 outputs"):
            receipt = headswap.push(nets.vgg(3), "assumed", transform=TRANSFORM, server=self.client)
        self.assertEqual(len(receipt.assumed), 1)
        self.assertEqual(self.client.head("assumed").assumed, receipt.assumed)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            headswap.push(nets.vgg(3), "assumed", transform=TRANSFORM, output="softmax", server=self.client)

    def test_presets_and_keys_stand_for_a_transform(self):
        receipt = self.push(nets.vgg(3), transform=None, preprocessing="torchvision", prepare=TRANSFORM, check=PICTURES)
        self.assertEqual(receipt.spec["preprocessing"], headswap.PRESETS["torchvision"])
        bgr = headswap.PRESETS["keras-caffe"]

        def prepare(image):
            pixels = np.asarray(image.resize((224, 224), Image.Resampling.NEAREST), np.float32)[..., ::-1]
            return torch.from_numpy((pixels - np.array([103.939, 116.779, 123.68], np.float32)).transpose(2, 0, 1).copy())

        self.push(nets.vgg(3), transform=None, preprocessing=bgr, prepare=prepare, check=PICTURES)

    def test_other_sizes(self):
        for size in ((96, 160), (150, 150), (299, 256)):
            with self.subTest(size):
                transform = v1.Compose([v1.Resize(size), v1.ToTensor(), v1.Normalize([0.5] * 3, [0.5] * 3)])
                self.push(nets.vgg(3), transform=transform, check=PICTURES)
                pooled = nets.vgg(classifier=nn.Linear(nets.CHANNELS, 3))
                pooled.avgpool = nn.AdaptiveAvgPool2d((1, 1))
                self.push(pooled, transform=transform, check=PICTURES)

    def test_trained_models(self):
        """Fine-tuned for a few steps, with dropout, weight decay and batch norms in training."""
        torch.manual_seed(0)
        classifier = nn.Sequential(
            nn.Linear(nets.CHANNELS * 49, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 3)
        )
        for model in (nets.vgg(3), nets.vgg(classifier=classifier), nets.vgg(3, bn=True)):
            for parameter in model.features.parameters():
                parameter.requires_grad = False
            optimiser = torch.optim.AdamW(model.classifier.parameters(), 1e-2)
            pictures, classes = torch.rand(12, 3, 224, 224), torch.arange(12) % 3
            pictures += classes.reshape(-1, 1, 1, 1) / 2
            model.train()
            for _ in range(4):
                optimiser.zero_grad()
                nn.functional.cross_entropy(model(pictures), classes).backward()
                optimiser.step()
            receipt = self.push(model, labels=["dark", "grey", "light"], check=PICTURES)
            self.assertTrue(model.training)
            self.assertLess(receipt.check.worst, 1e-3)


class ReadmeTest(Served):
    def test_the_lines_of_the_readmes(self):
        classes = ["aster", "poppy", "rose"]
        names = {"model": nets.vgg(3), "val_transform": TRANSFORM, "classes": classes, "paths": [CHELSEA, ROCKET], "headswap": headswap}
        count = 0
        for readme in (ROOT / "README.md", ROOT / "python/README.md"):
            for block in re.findall(r"^```python\n(.*?)^```", readme.read_text(), re.S | re.M):
                if "headswap" not in block or "keras" in block:
                    continue
                for old, new in (("localhost:50051", self.server.grpc), ("127.0.0.1:50051", self.server.grpc), ("localhost:50052", self.server.admin)):
                    block = block.replace(old, new)
                block = re.sub(r'"(?:images/)?(?:rose|tulip|chelsea|rocket)\.\w+"', repr(str(CHELSEA)), block)
                if "push(" in block and "admin=" not in block:
                    block = block.replace("server=", f"admin={self.server.admin!r}, server=")
                with self.subTest(block), contextlib.redirect_stdout(io.StringIO()):
                    exec(block, names)
                count += 1
        self.assertEqual(count, 3)


class Hooked(nn.Module):
    """A ReLU that is hidden from the graph."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        model.classifier.register_forward_hook(lambda module, inputs, output: output.abs())

    def forward(self, x):
        return self.model(x)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nets.vgg(3)

    def forward(self, x):
        if x.mean() > 0:
            return self.model(x)
        return -self.model(x)


class TwoAnswers(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nets.vgg(3)

    def forward(self, x):
        answer = self.model(x)
        return answer, answer


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(16, 16)

    def forward(self, x):
        return x + self.inner(x)


class Loose(nn.Module):
    """A parameter outside of a layer."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(16))

    def forward(self, x):
        return x * self.scale


class Scaling(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nets.vgg(3)

    def forward(self, x):
        return self.model(x / 255)


def pooled(*layers):
    """Layers between a global average and the last Linear."""
    return nn.Sequential(nets.make_layers(nets.WIDTHS), nn.AdaptiveAvgPool2d(1), nn.Flatten(), *layers, nn.Linear(16, 3))


def with_last(layer):
    return nn.Sequential(nets.vgg(3), layer)


def with_avgpool(layer, inputs):
    model = nets.vgg(classifier=nn.Linear(inputs, 3))
    model.avgpool = layer
    return model


def with_feature(place, layer):
    model = nets.vgg(3)
    model.features[place] = layer
    return model


def overridden():
    model = nets.vgg(3)
    model.forward = functools.partial(nn.Sequential.forward, model.features)
    return model


# The model, the path and the class that the refusal names, and a part of what it says.
REFUSED = {
    "LayerNorm": (lambda: pooled(nn.LayerNorm(16)), "3", "LayerNorm"),
    "GroupNorm": (lambda: pooled(nn.GroupNorm(4, 16)), "3", "GroupNorm"),
    "InstanceNorm": (lambda: pooled(nn.InstanceNorm1d(16)), "3", "InstanceNorm1d"),
    "Softplus": (lambda: pooled(nn.Softplus()), "3", "Softplus"),
    "ReLU6": (lambda: pooled(nn.ReLU6()), "3", "ReLU6"),
    "PReLU": (lambda: pooled(nn.PReLU()), "3", "PReLU"),
    "Hardswish": (lambda: pooled(nn.Hardswish()), "3", "Hardswish"),
    "Mish": (lambda: pooled(nn.Mish()), "3", "Mish"),
    "CELU": (lambda: pooled(nn.CELU()), "3", "CELU"),
    "Bilinear residual": (lambda: pooled(Residual()), "add", "add"),
    "parameter outside of a layer": (lambda: pooled(Loose()), "mul", "mul"),
    "attention": (lambda: pooled(nn.TransformerEncoderLayer(16, 2)), "3", "TransformerEncoderLayer"),
    "recurrence": (lambda: pooled(nn.LSTM(16, 16)), "", ""),
    "untracked batch norm": (lambda: pooled(nn.BatchNorm1d(16, track_running_stats=False)), "3", "running statistics"),
    "softmax in the middle": (lambda: pooled(nn.Softmax(1)), "3", "at the end"),
    "softmax of another dimension": (lambda: with_last(nn.Softmax(0)), "1", "at the end"),
    "AdaptiveAvgPool2d(3)": (lambda: with_avgpool(nn.AdaptiveAvgPool2d(3), 16 * 9), "avgpool", "pools the last map"),
    "AdaptiveMaxPool2d(2)": (lambda: with_avgpool(nn.AdaptiveMaxPool2d(2), 16 * 4), "avgpool", "pools the last map"),
    "LPPool2d": (lambda: with_avgpool(nn.LPPool2d(2, 7), 16), "avgpool", "LPPool2d"),
    "another activation of a convolution": (lambda: with_feature(1, nn.GELU()), "features.1", "a ReLU of VGG16"),
    "another pooling": (lambda: with_feature(4, nn.AvgPool2d(2)), "features.4", "MaxPool2d(2)"),
    "overlapping pooling": (lambda: with_feature(4, nn.MaxPool2d(3, 2, 1)), "features.4", "MaxPool2d(2)"),
    "a strided convolution": (lambda: with_feature(2, nn.Conv2d(2, 2, 3, 2, 1)), "features.2", "not VGG16's convolution 2"),
    "reflected padding": (lambda: with_feature(2, nn.Conv2d(2, 2, 3, 1, 1, padding_mode="reflect")), "features.2", "zeros"),
    "vgg19": (lambda: nn.Sequential(nets.make_layers([2, 2, "M", 4, 4, "M", *[8] * 4, "M"])), "0.16", "MaxPool2d(2) of VGG16"),
    "arithmetic before the convolutions": (Scaling, "truediv", "truediv"),
    "control flow": (Branching, "", "torch.fx cannot follow"),
    "two answers": (TwoAnswers, "", "returns one tensor"),
    "a hook": (lambda: Hooked(nets.vgg(3)), "abs", "called in model.classifier"),
    "a hook that the graph does not show": (lambda: hidden_hook(), "", "by a hook"),
    "a forward of the object": (overridden, "", "set on the object"),
    "no head": (lambda: nets.make_layers(nets.WIDTHS), "", "no Linear"),
    "NaN": (lambda: with_nan(), "classifier.6.weight", "NaN"),
}


def hidden_hook():
    """A hook of a layer, into which the graph does not look."""
    model = nets.vgg(3)
    model.classifier[3].register_forward_hook(lambda module, inputs, output: output.abs())
    return model


def with_nan():
    model = nets.vgg(3)
    with torch.no_grad():
        model.classifier[6].weight[0, 0] = float("nan")
    return model


class RefusedTest(Served):
    def test_each_layer_by_its_path_and_class(self):
        for name, (make, path, text) in REFUSED.items():
            with self.subTest(name):
                with self.assertRaises(headswap.UnsupportedLayer) as caught:
                    self.push(make(), "refused")
                if path:
                    self.assertEqual(caught.exception.subject.removesuffix("()"), path)
                self.assertIn(text, str(caught.exception))
        self.assertEqual(self.client.heads("refused"), [])

    def test_what_is_missing_or_contradicts(self):
        one, softmax = nets.vgg(1), with_last(nn.Softmax(1))
        for model, options, error, text in (
            (nets.vgg(3), {"transform": None}, headswap.MissingInformation, "give transform="),
            (one, {}, headswap.MissingInformation, "one output"),
            (softmax, {"output": "sigmoid"}, headswap.UnsupportedError, "ends with a softmax"),
            (nets.vgg(3), {"preprocessing": "unit"}, ValueError, "give one of them"),
            (nets.vgg(3), {"image_size": (3, 3)}, ValueError, "for Keras"),
            (nets.vgg(3), {"labels": ["a"]}, headswap.InvalidArgument, "labels"),
            (nets.vgg(3), {"backbone": "faces"}, ValueError, "no backbone 'faces'"),
            (nets.vgg(3).state_dict(), {}, headswap.UnsupportedError, "OrderedDict is no model"),
            (nets.vgg(3), {"transform": v1.RandomCrop(3)}, headswap.UnsupportedTransform, "RandomCrop"),
        ):
            with self.subTest(text), self.assertRaisesRegex(error, text):
                self.push(model, **options)

    def test_another_width_is_refused(self):
        wide = nn.Sequential(nets.make_layers([n if n == "M" else 2 * n for n in nets.WIDTHS]), nn.Flatten(), nn.Linear(32 * 49, 3))
        with self.assertRaisesRegex(ValueError, "features.0.weight has the shape"):
            self.push(wide)


if __name__ == "__main__":
    unittest.main()
