"""The transforms of torchvision and timm themselves: what is accepted prepares pictures as the server does, all else is refused."""

import functools
import unittest

import numpy as np
import timm.data
import torch
import torchvision.transforms as v1
from PIL import Image
from torch import nn
from torchvision.models import VGG16_BN_Weights, VGG16_Weights
from torchvision.transforms import InterpolationMode, v2

import headswap
from headswap import spec_of

import nets
from served import CHELSEA, ROCKET
from test_torch import Served

NORMALIZE = v1.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
FLOATS = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
ACCEPTED = {
    "weights": VGG16_Weights.DEFAULT.transforms(),
    "weights of features": VGG16_Weights.IMAGENET1K_FEATURES.transforms(),
    "weights with other numbers": VGG16_BN_Weights.DEFAULT.transforms(crop_size=128, resize_size=160),
    "squashed": v1.Compose([v1.Resize((224, 224)), v1.ToTensor(), NORMALIZE]),
    "the second version": v2.Compose([v2.Resize(200), v2.CenterCrop(192), FLOATS, v2.Normalize([0.5], [0.5])]),
    "nested": v2.Compose([v1.Compose([v1.Resize([180])]), nn.Sequential(v2.CenterCrop((160, 128)), v2.PILToTensor()), FLOATS]),
    "bicubic": v1.Compose([v1.Resize((224, 224), InterpolationMode.BICUBIC), v1.ToTensor()]),
    "lanczos": v2.Compose([v2.Resize((96, 224), InterpolationMode.LANCZOS), v2.ToTensor()]),
    "nearest": v1.Compose([v1.Resize((224, 224), InterpolationMode.NEAREST), v1.ToTensor()]),
    "nearest exact": v2.Compose([v2.Resize((224, 224), InterpolationMode.NEAREST_EXACT), FLOATS]),
    "antialias of a Pillow image": v2.Compose([v2.Resize((224, 224), antialias=False), FLOATS]),
    "no antialias of a tensor": v1.Compose([v1.ToTensor(), v1.Resize((224, 224), antialias=False), NORMALIZE]),
    "no antialias, short side": v2.Compose([FLOATS, v2.Resize(256, antialias=None), v2.CenterCrop(224)]),
    "grey": v1.Compose([v1.Grayscale(3), v1.Resize((224, 224)), v1.ToTensor(), v1.Normalize(0.5, 0.5)]),
    "grey of the second version": v2.Compose([v2.RGB(), v2.Grayscale(3), v2.Resize(224), v2.CenterCrop(224), FLOATS]),
    "crop alone": v1.Compose([v1.CenterCrop(480), v1.ToTensor()]),
    "values of bytes": v2.Compose([v2.Resize((224, 224)), v2.PILToTensor(), v2.ToDtype(torch.float32)]),
    "convert": v1.Compose([v1.Resize((224, 224)), v1.PILToTensor(), v1.ConvertImageDtype(torch.float32), NORMALIZE]),
    "crop after normalising": v1.Compose([v1.Resize(256), v1.ToTensor(), NORMALIZE, v1.CenterCrop(224)]),
    "timm": timm.data.create_transform(224),
    "timm squash": timm.data.create_transform((3, 224, 224), crop_mode="squash", crop_pct=0.9, interpolation="bicubic"),
    "timm of a model": timm.data.create_transform(**timm.data.resolve_data_config({}, model="vgg16")),
}  # fmt: skip


def _first(picture):
    return picture


REFUSED = {
    "RandomHorizontalFlip": v1.RandomHorizontalFlip(),
    "RandomResizedCrop": v1.RandomResizedCrop(224),
    "RandomCrop": v2.RandomCrop(224),
    "RandomRotation": v2.RandomRotation(10),
    "RandomErasing": v2.RandomErasing(),
    "RandomApply": v1.RandomApply([v1.GaussianBlur(3)]),
    "ColorJitter": v1.ColorJitter(),
    "GaussianBlur": v2.GaussianBlur(3),
    "TrivialAugmentWide": v1.TrivialAugmentWide(),
    "AutoAugment": v2.AutoAugment(),
    "RandAugment": v2.RandAugment(),
    "ElasticTransform": v2.ElasticTransform(),
    "Pad": v1.Pad(4),
    "FiveCrop": v1.FiveCrop(224),
    "TenCrop": v2.TenCrop(224),
    "ToPILImage": v1.ToPILImage(),
    "LinearTransformation": v1.LinearTransformation(torch.eye(12), torch.zeros(12)),
    "Lambda": v1.Lambda(_first),
    "_first": _first,
    "<lambda>": lambda picture: picture,
    "partial": functools.partial(_first),
    "Resize": v1.Resize(256, max_size=300),
    "Grayscale": v1.Grayscale(),
    "ToDtype": v2.Compose([v2.ToImage(), v2.ToDtype(torch.float16, scale=True)]),
    "ReLU": nn.ReLU(),
}
# Steps that depend on those before them.
REFUSED_ORDERS = {
    "resizes a tensor of floats": [v1.ToTensor(), v1.Resize(256)],
    "resizes a tensor of bytes": [v2.ToImage(), v2.Resize(256, antialias=True)],
    "without antialiasing": [v2.ToImage(), v2.Resize(256, antialias=False)],
    "by nearest": [v1.ToTensor(), v1.Resize(256, InterpolationMode.NEAREST)],
    "after a crop": [v1.CenterCrop(300), v1.Resize(256)],
    "second Resize": [v1.Resize(256), v1.Resize(224)],
    "put Grayscale first": [v1.Resize(256), v1.Grayscale(3)],
    "pads otherwise": [v1.Resize(200), v1.ToTensor(), NORMALIZE, v1.CenterCrop(224)],
    "ends with a Pillow image": [v1.Resize((224, 224))],
    "ends with a tensor of bytes": [timm.data.create_transform(224, use_prefetcher=True)],
    "size depends on the picture": [v1.Resize(224), v1.ToTensor()],
}


class TransformTest(Served):
    def test_what_is_accepted_answers_as_the_framework(self):
        flat = nets.vgg(classifier=nn.Linear(nets.CHANNELS, 3))
        flat.avgpool = nn.AdaptiveAvgPool2d(1)
        for name, transform in ACCEPTED.items():
            with self.subTest(name):
                receipt = self.push(flat, transform=transform, check=[CHELSEA, ROCKET], output="linear", tolerance=1e-4)
                self.assertEqual(receipt.assumed, ())

    def test_an_approximation_differs_by_rounding(self):
        flat = nets.vgg(classifier=nn.Linear(nets.CHANNELS, 3))
        flat.avgpool = nn.AdaptiveAvgPool2d(1)
        for steps in ([v2.ToImage(), v2.Resize((224, 224)), FLOATS], [v1.ToTensor(), v1.Resize((224, 224))]):
            receipt = self.push(flat, transform=v2.Compose(steps), approximate=True, check=[CHELSEA, ROCKET], output="softmax")
            self.assertIn("differs by rounding", receipt.assumed[0])
            self.assertGreater(receipt.check.worst, 0)

    def test_each_other_step_is_refused_by_name(self):
        for name, step in REFUSED.items():
            with self.subTest(name), self.assertRaises(headswap.UnsupportedTransform) as caught:
                spec_of(v2.Compose([v1.Compose([step]), v1.ToTensor()]))
            self.assertIn(name, str(caught.exception))
            self.assertTrue(caught.exception.subject.startswith("transform[0][0]"))
        for text, steps in REFUSED_ORDERS.items():
            with self.subTest(text), self.assertRaisesRegex(headswap.UnsupportedTransform, text):
                spec_of(v1.Compose(steps))
        with self.assertRaisesRegex(headswap.UnsupportedTransform, "RandomResizedCropAndInterpolation"):
            spec_of(timm.data.create_transform(224, is_training=True))

    def test_the_spec_prepares_as_torchvision(self):
        """The numbers of a spec, computed by Pillow, are those of the transform."""
        image = Image.open(CHELSEA).convert("RGB")
        spec = spec_of(ACCEPTED["squashed"])["preprocessing"]
        pixels = np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR), np.float32)
        expected = (pixels * spec["scale"] - np.array(spec["mean"])) / np.array(spec["std"])
        got = ACCEPTED["squashed"](image).permute(1, 2, 0).numpy()
        np.testing.assert_allclose(got, expected, atol=1e-5)


if __name__ == "__main__":
    unittest.main()
