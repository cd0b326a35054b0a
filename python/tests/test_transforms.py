"""Transforms as specs, with classes that have the names and attributes of torchvision's."""

import functools
import unittest
from types import SimpleNamespace

import headswap
from headswap import spec_of

UNIT = 1 / 255
FLOAT = "torch.float32"


def made(name, module="torchvision.transforms.transforms", **attributes):
    """An object of a class with this name."""
    kind = type(name, (), {"__module__": module, "__call__": lambda self, picture: picture})
    step = kind()
    vars(step).update(attributes)
    return step


V2 = "torchvision.transforms.v2._geometry"


def resize(size, interpolation="bilinear", **attributes):
    return made("Resize", size=size, interpolation=SimpleNamespace(value=interpolation), max_size=None, antialias=True, **{}) if not attributes else made(
        "Resize", **{"size": size, "interpolation": SimpleNamespace(value=interpolation), "max_size": None, "antialias": True} | attributes
    )


def crop(size):
    return made("CenterCrop", size=size)


def normalize(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)):
    return made("Normalize", mean=mean, std=std)


def compose(*steps, module="torchvision.transforms.transforms"):
    return made("Compose", module, transforms=list(steps))


def to_dtype(dtype=FLOAT, scale=True):
    return made("ToDtype", "torchvision.transforms.v2._misc", dtype=dtype, scale=scale)


def sequential(*steps):
    kind = type("Sequential", (), {"__module__": "torch.nn.modules.container", "__iter__": lambda self: iter(steps)})
    return kind()


TENSOR = made("ToTensor")
IMAGE = made("ToImage", "torchvision.transforms.v2._type_conversion")
GREY = made("Grayscale", num_output_channels=3)


class AcceptedTest(unittest.TestCase):
    def check(self, transform, **expected):
        usual = {"resize": None, "filter": "bilinear", "crop": None, "channels": "rgb", "scale": UNIT, "mean": [0.0] * 3, "std": [1.0] * 3}
        got = spec_of(transform, output="softmax")
        self.assertEqual(got, {"preprocessing": usual | expected, "output": "softmax"})

    def test_the_usual(self):
        transform = compose(resize(256), crop((224, 224)), TENSOR, normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        self.check(transform, **headswap.PRESETS["torchvision"])
        self.check(compose(resize((224, 224)), TENSOR, normalize()), **headswap.PRESETS["half"])
        self.check(compose(resize((224, 224)), TENSOR), **headswap.PRESETS["unit"])

    def test_the_second_version(self):
        transform = compose(IMAGE, to_dtype("torch.uint8"), module="torchvision.transforms.v2._container")
        transform = compose(resize([200]), crop(192), transform, sequential(to_dtype(), normalize((0.5,), (0.5,))))
        self.check(transform, resize={"short_side": 200}, crop=[192, 192], mean=[0.5] * 3, std=[0.5] * 3)

    def test_values_of_bytes(self):
        steps = made("PILToTensor"), made("ToDtype", dtype=FLOAT, scale=False), normalize((128,), (64,))
        self.check(compose(resize((96, 96)), *steps), resize={"stretch": [96, 96]}, scale=1.0, mean=[128.0] * 3, std=[64.0] * 3)

    def test_presets_of_weights(self):
        preset = made(
            "ImageClassification", "torchvision.transforms._presets",
            crop_size=[224], resize_size=[256], interpolation=SimpleNamespace(value="bicubic"), antialias=True,
            mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225],
        )  # fmt: skip
        self.check(preset, **headswap.PRESETS["torchvision"] | {"filter": "bicubic"})

    def test_timm(self):
        steps = resize(248, "bicubic"), crop(224), made("MaybeToTensor", "timm.data.transforms"), normalize()
        expected = {"resize": {"short_side": 248}, "filter": "bicubic", "crop": [224, 224], "mean": [0.5] * 3, "std": [0.5] * 3}
        self.check(compose(*steps), **expected)

    def test_grey(self):
        self.check(compose(GREY, resize((64, 64)), TENSOR), resize={"stretch": [64, 64]}, channels="grey")
        nearest = resize((64, 64), "nearest")
        self.check(compose(nearest, GREY, TENSOR), resize={"stretch": [64, 64]}, filter="nearest", channels="grey")

    def test_two_normalisations_are_one(self):
        transform = compose(resize((64, 64)), TENSOR, normalize(), normalize((1, 1, 1), (2, 2, 2)))
        self.check(transform, resize={"stretch": [64, 64]}, mean=[1.0] * 3, std=[1.0] * 3)

    def test_a_tensor_without_antialiasing(self):
        self.check(compose(TENSOR, resize((64, 64), antialias=False)), resize={"stretch": [64, 64]}, filter="bilinear_no_antialias")
        # Pillow antialiases whatever is asked.
        self.check(compose(resize((64, 64), antialias=False), TENSOR), resize={"stretch": [64, 64]})

    def test_a_crop_after_normalising_that_always_fits(self):
        expected = {"resize": {"short_side": 64}, "crop": [64, 48], "mean": [0.5] * 3, "std": [0.5] * 3}
        self.check(compose(resize(64), TENSOR, normalize(), crop((64, 48))), **expected)

    def test_an_approximation_that_is_asked_for(self):
        got = spec_of(compose(IMAGE, resize((64, 64)), to_dtype()), approximate=True)["preprocessing"]
        self.assertEqual((got["filter"], got["resize"]), ("bilinear", {"stretch": [64, 64]}))


class RefusedTest(unittest.TestCase):
    def check(self, transform, path, text):
        with self.assertRaises(headswap.UnsupportedTransform) as caught:
            spec_of(transform)
        error = caught.exception
        self.assertEqual(error.subject, path)
        self.assertIn(text, str(error))
        self.assertIn(path, str(error))
        if error.kind:
            self.assertIn(error.kind, str(error))

    def test_each_by_its_place_and_class(self):
        def double(picture):
            return picture

        flip = made("RandomHorizontalFlip", "torchvision.transforms.v2._geometry")
        for step, text in (
            (flip, "RandomHorizontalFlip) is a step of training"),
            (made("ColorJitter"), "pass the transform of validation"),
            (made("RandAugment"), "pass the transform of validation"),
            (made("RandomResizedCropAndInterpolation", "timm.data.transforms"), "pass the transform of validation"),
            (double, "double at "),
            (lambda picture: picture, "<lambda> at "),
            (functools.partial(double), "partial of "),
            (made("Lambda", lambd=double), "Lambda) of "),
            (made("Pad"), "Pad) is a step that no head spec expresses"),
            (made("FiveCrop"), "FiveCrop"),
            (made("Invert"), "Invert"),
            (made("Resize", "mylib.transforms", size=3), "mylib.transforms.Resize"),
            (made("ResizeKeepRatio", "timm.data.transforms"), "ResizeKeepRatio"),
            (None, "is None"),
            ("resize", "is not a transform"),
            (made("Grayscale", num_output_channels=1), "Grayscale(num_output_channels=3)"),
            (resize(256, max_size=300), "max_size 300"),
            (resize(None), "no size"),
            (resize(256, "hamming"), "interpolates by hamming"),
            (normalize(), "ToTensor()"),
            (to_dtype(), "ToImage() before it"),
        ):
            with self.subTest(text):
                self.check(compose(resize(256) if step is GREY else IMAGE if step is None else made("RGB"), step), "transform[1]", text)
                self.check(compose(compose(step)), "transform[0][0]", text)

    def test_orders_that_no_spec_has(self):
        for steps, place, text in (
            ((crop(224), resize(224)), 1, "put Resize before CenterCrop"),
            ((resize(256), resize(224)), 1, "second Resize"),
            ((crop(224), crop(200)), 1, "second crop"),
            ((resize(64), GREY), 1, "put Grayscale first"),
            ((TENSOR, GREY), 1, "put Grayscale first"),
            ((TENSOR, resize(64)), 1, "put Resize before ToTensor"),
            ((IMAGE, resize(64)), 1, "approximate=True"),
            ((IMAGE, resize(64, antialias=False)), 1, "without antialiasing"),
            ((TENSOR, resize(64, "nearest")), 1, "by nearest"),
            ((TENSOR, normalize(), resize(64)), 2, "put Resize first"),
            ((resize(64), TENSOR, normalize(), crop(65)), 3, "put CenterCrop right after Resize"),
            ((resize(64), made("CenterCropOrPad", "timm.data.transforms", size=(65, 65))), 1, "pads"),
            ((TENSOR, TENSOR), 1, "is given a tensor"),
            ((IMAGE, to_dtype("torch.float16")), 1, "makes values of float16"),
            ((TENSOR, to_dtype("torch.uint8")), 1, "makes values of uint8"),
            ((TENSOR, normalize((0, 0), (1, 1))), 1, "2 numbers as mean"),
            ((TENSOR, normalize((0,), (0,))), 1, "positive"),
        ):
            with self.subTest(text):
                self.check(compose(*steps), f"transform[{place}]", text)

    def test_ends_that_no_network_takes(self):
        for steps, text in (
            ((resize((64, 64)),), "ends with a Pillow image"),
            ((resize((64, 64)), IMAGE), "ends with a tensor of bytes"),
            ((resize(64), TENSOR), "size depends on the picture"),
            ((TENSOR,), "size depends on the picture"),
        ):
            self.check(compose(*steps), "transform", text)


if __name__ == "__main__":
    unittest.main()
