"""Compares resizing with Pillow, bit for bit: random sizes, filters, crops and modes; then the time beside others.

`python resize.py PROGRAM [--pairs 20000] [--seed 0]`, where PROGRAM is the fuzz crate's `pictures`. Exits with 1 if a
picture differed. Needs pillow and numpy; times torchvision's v2 transforms, too, if it is installed. `python resize.py
--fixture ../../tests/fixtures/resize.json` writes the sample for the tests.
"""

import argparse
import json
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

FILTERS = [
    Image.Resampling.NEAREST,
    Image.Resampling.BOX,
    Image.Resampling.BILINEAR,
    Image.Resampling.HAMMING,
    Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS,
]


class Resizer:
    """The program, asked one picture after the other."""

    def __init__(self, program):
        self.process = subprocess.Popen([program, "resize"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def resize(self, pixels, filter, size, box, repeats=1):
        """Resizes H x W (grey) or H x W x 4 bytes to `size`, keeps `box` (left, top, right, bottom); seconds and H x W x 3."""
        height, width = pixels.shape[:2]
        left, top, right, bottom = box
        channels = 1 if pixels.ndim == 2 else 4
        header = struct.pack(
            "<11I", width, height, channels, filter, repeats, *size, left, right, top, bottom
        )  # fmt: skip
        self.process.stdin.write(header + pixels.tobytes())
        self.process.stdin.flush()
        (nanoseconds,) = struct.unpack("<Q", self.process.stdout.read(8))
        shape = (bottom - top, right - left, 3)
        kept = self.process.stdout.read(shape[0] * shape[1] * 3)
        return nanoseconds / 1e9, np.frombuffer(kept, np.uint8).reshape(shape)


def random_length(rng, most):
    """Small, ordinary and large lengths alike."""
    return int(np.exp(rng.uniform(0, np.log(most + 1))))


def random_pixels(rng, width, height, mode):
    """Noise, flat areas or extremes, which overshoot."""
    shape = (height, width) if mode == "L" else (height, width, 4)
    kind = rng.integers(3)
    if kind == 0:
        return rng.integers(0, 256, shape, np.uint8)
    if kind == 1:
        return np.full(shape, rng.integers(0, 256), np.uint8)
    return (rng.integers(0, 2, shape, np.uint8) * 255).astype(np.uint8)


def compare(resizer, pairs, seed):
    """The number of pictures that differ."""
    rng = np.random.default_rng(seed)
    different = 0
    for number in range(pairs):
        width, height = max(1, random_length(rng, 700)), max(1, random_length(rng, 700))
        size = max(1, random_length(rng, 700)), max(1, random_length(rng, 700))
        if rng.integers(8) == 0:
            size = (width, size[1]) if rng.integers(2) else (size[0], height)
        left, top = (int(rng.integers(0, length)) for length in size)
        box = left, top, int(rng.integers(left, size[0])) + 1, int(rng.integers(top, size[1])) + 1
        mode = ["L", "RGB"][rng.integers(2)]
        filter = int(rng.integers(len(FILTERS)))
        pixels = random_pixels(rng, width, height, mode)
        picture = Image.fromarray(pixels) if mode == "L" else Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
        expected = np.asarray(picture.resize(size, FILTERS[filter]).crop(box).convert("RGB"))
        _, ours = resizer.resize(pixels, filter, size, box)
        if not np.array_equal(ours, expected):
            different += 1
            print(f"{number}: {mode} {width}x{height} to {size}, {FILTERS[filter].name}, {box}")
        if sys.stderr.isatty() and number % 100 == 0:
            print(f"\r{number} of {pairs}", end="", file=sys.stderr)
    print(f"{pairs} random pairs of sizes, with filters, crops and modes: {different} differ from Pillow")
    return different


def fixture(path, count, seed):
    """Writes cases with the checksums of Pillow's results, for `tests/image.rs`; it makes the pixels by the same formula."""
    rng = np.random.default_rng(seed)
    cases = []
    for number in range(count):
        width, height, *size = (max(1, random_length(rng, 200)) for _ in range(4))
        left, top = (int(rng.integers(0, length)) for length in size)
        box = left, top, int(rng.integers(left, size[0])) + 1, int(rng.integers(top, size[1])) + 1
        grey, filter = bool(rng.integers(2)), FILTERS[number % len(FILTERS)]
        index = np.arange(width * height * (1 if grey else 4), dtype=np.uint32)
        pixels = ((index + np.uint32(number)) * np.uint32(0x9E3779B1) >> np.uint32(13)).astype(np.uint8)
        pixels = pixels.reshape((height, width) if grey else (height, width, 4))
        picture = Image.fromarray(pixels if grey else np.ascontiguousarray(pixels[..., :3]))
        resized = np.asarray(picture.resize(size, filter).crop(box).convert("RGB"))
        case = {"seed": number, "size": [width, height], "grey": grey, "filter": filter.name, "to": size}
        cases.append(case | {"kept": box, "crc32": zlib.crc32(resized.tobytes())})
    lines = ",\n".join(json.dumps(case) for case in cases)
    Path(path).write_text(f"[\n{lines}\n]\n")


def shortest(work, repeats=15):
    """Seconds of the fastest of some runs, in turn with nothing else."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def measure(resizer):
    """A table of milliseconds for Resize(256) and CenterCrop(224), bilinear, one thread."""
    rng = np.random.default_rng(0)
    print("Resize(256), CenterCrop(224), bilinear with antialiasing; ms, the fastest of 15 runs, one thread")
    print(f"{'picture':>12} {'here':>8} {'Pillow':>8} {'torchvision v2':>15}")
    for width, height in [(256, 341), (640, 427), (1920, 1080), (4000, 3000)]:
        pixels = rng.integers(0, 256, (height, width, 4), np.uint8)
        picture = Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
        short = min(width, height)
        size = 256 * width // short, 256 * height // short
        left, top = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
        box = left, top, left + 224, top + 224
        here, _ = resizer.resize(pixels, 2, size, box, repeats=15)
        pillow = shortest(lambda: picture.resize(size, Image.Resampling.BILINEAR).crop(box))
        print(f"{width:>6}x{height:<5} {here * 1e3:>8.2f} {pillow * 1e3:>8.2f} {torchvision(picture):>15}")


def torchvision(picture):
    """Milliseconds of torchvision's v2 transforms on a tensor."""
    try:
        import torch
        from torchvision.transforms.v2 import functional
    except ImportError:
        return "not installed"
    torch.set_num_threads(1)
    tensor = functional.pil_to_tensor(picture)

    def work():
        functional.center_crop(functional.resize(tensor, [256], antialias=True), [224, 224])

    return f"{shortest(work) * 1e3:.2f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", nargs="?")
    parser.add_argument("--fixture", metavar="FILE")
    parser.add_argument("--pairs", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.fixture:
        return fixture(arguments.fixture, 240, arguments.seed)
    if not arguments.program:
        parser.error("which program?")
    resizer = Resizer(arguments.program)
    different = compare(resizer, arguments.pairs, arguments.seed)
    measure(resizer)
    sys.exit(different > 0)


if __name__ == "__main__":
    main()
