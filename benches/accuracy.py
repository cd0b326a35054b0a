#!/usr/bin/env python3
"""Our precisions against PyTorch f32 on 1,000 pictures: `benches/accuracy.py PATH-TO-HEADSWAP [PICTURES]`.

A server of each precision is asked over the command line, with the backbone's own 1,000 classes and with a head of 20
classes whose margins are those of a trained one: fitted to the features, then pushed as a user would. PyTorch bf16, which
libtorch would compute, stands beside them. Needs what `scripts/parity/setup` installs.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts/parity"))
from engines import seeded  # noqa: E402
from logits import PHOTOGRAPHS, ask, serve  # noqa: E402

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
BATCH = 20


def pictures(count):
    """Random crops, flips, brightness and contrast of the photographs: count x 256 x 256 x 3 u8, which are not resized."""
    rng = np.random.default_rng(1)
    photographs = [Image.open(path).convert("RGB") for path in PHOTOGRAPHS]
    found = np.empty((count, 256, 256, 3), np.uint8)
    for i in range(count):
        photograph = photographs[i % len(photographs)]
        side = int(rng.uniform(0.3, 1) * min(photograph.size))
        x, y = rng.integers(0, photograph.size[0] - side + 1), rng.integers(0, photograph.size[1] - side + 1)
        crop = photograph.crop((x, y, x + side, y + side)).resize((256, 256), Image.BILINEAR)
        values = (np.asarray(crop).astype(np.float32) - 128) * rng.uniform(0.6, 1.4) + 128 + rng.uniform(-40, 40)
        found[i] = np.clip(values[:, ::-1] if rng.random() < 0.5 else values, 0, 255)
    return found


def normalised(images):
    """The middle 224 x 224, as torchvision's transforms make it."""
    x = torch.from_numpy(images[:, 16:240, 16:240]).permute(0, 3, 1, 2).float().div(255)
    return (x - MEAN[:, None, None]) / STD[:, None, None]


def features_and_logits(net, images, dtype=torch.float32):
    net, found = net.to(dtype), []
    with torch.inference_mode():
        for at in range(0, len(images), BATCH):
            x = net.features(normalised(images[at : at + BATCH]).to(dtype)).flatten(1)
            features = net.classifier[:6](x)
            found.append((features.float().numpy(), net.classifier[6](features).float().numpy()))
    return [np.concatenate(part) for part in zip(*found)]


def fitted(features, images):
    """The weight and bias of a head of 20 classes (photograph x fifth of brightness) by ridge regression."""
    count = len(features)
    # A feature that is almost always 0 must not count for more.
    mean, deviation = features.mean(0), features.std(0) + 0.3 * features.std(0).mean()
    brightness = images.reshape(count, -1).mean(1)
    fifth = np.searchsorted(np.quantile(brightness, [0.2, 0.4, 0.6, 0.8]), brightness)
    classes = np.arange(count) % 4 * 5 + fifth
    x = (features - mean) / deviation
    dual = np.linalg.solve(x @ x.T / 4096 + 0.003 * np.eye(count), np.eye(20)[classes] - 0.05)
    weight = (x.T @ dual / 4096).T / deviation * 5
    return np.ascontiguousarray(weight, np.float32), (-weight @ mean).astype(np.float32), classes


def softmax(logits):
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def report(name, logits, reference):
    error = np.abs(logits - reference).max() / np.abs(reference).max()
    agree = 100 * (logits.argmax(1) == reference.argmax(1)).mean()
    apart = np.abs(softmax(logits) - softmax(reference)).max()
    print(f"| {name} | {error:.1e} | {agree:.2f} % | {apart:.1e} |", flush=True)


def main(headswap, count):
    torch.set_num_threads(2)
    images, net = pictures(count), seeded()
    features, reference = features_and_logits(net, images)
    weight, bias, classes = fitted(features, images)
    expected = features @ weight.T + bias
    accuracy, sure = (expected.argmax(1) == classes).mean(), softmax(expected).max(1).mean()
    print(f"{count} pictures; the fitted head is right in {100 * accuracy:.1f} % and {sure:.2f} sure (mean)\n")
    print("| to PyTorch f32 | largest error / largest logit | top-1 | largest difference of a probability |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        save_file(net.state_dict(), folder / "vgg16.safetensors")
        head = {"classifier.6.weight": torch.from_numpy(weight), "classifier.6.bias": torch.from_numpy(bias)}
        save_file(head, folder / "fitted.safetensors")
        paths = [str(folder / f"{i}.png") for i in range(count)]
        for path, image in zip(paths, images):
            Image.fromarray(image).save(path, compress_level=1)
        for precision in ("f32", "int16"):
            flags = ["--weights", str(folder / "vgg16.safetensors"), "--device", "cpu", "--precision", precision]
            with serve(headswap, *flags) as addresses:
                replace = [headswap, "head", "replace", "--admin-address", addresses["admin"], "fitted"]
                subprocess.check_output([*replace, str(folder / "fitted.safetensors")])
                for name, wanted in (("default", reference), ("fitted", expected)):
                    found = ask(headswap, addresses, paths, name)
                    logits = np.array([found[path]["logits"] for path in paths], np.float32)
                    report(f"{precision}, {wanted.shape[1]} classes", logits, wanted)
    few = min(count, 240)
    halves = features_and_logits(net, images[:few], torch.bfloat16)
    report(f"PyTorch bf16, 1000 classes, {few} pictures", halves[1], reference[:few])
    report(f"PyTorch bf16, features, 20 classes, {few} pictures", halves[0] @ weight.T + bias, expected[:few])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("headswap", help="path to the binary")
    parser.add_argument("pictures", nargs="?", type=int, default=1000, help="how many (1000)")
    arguments = parser.parse_args()
    main(str(Path(arguments.headswap).resolve()), arguments.pictures)
