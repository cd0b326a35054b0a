#!/usr/bin/env python3
"""Times decoding a JPEG to 224x224 pixels here, in torchvision and in Pillow: `benches/image.py PATH-TO-HEADSWAP [FILES]`.

One thread each, a round through all of them again and again, medians of ms; and how far `--jpeg-scaling` moves the pixels.
Without FILES, four are made of the photographs in images/, at quality 90: one of 500x375; of 4000x3000 one enlarged, one of
all side by side at twice their size, and one at their own size, the last three with noise. Needs torch, torchvision, numpy
and pillow.
"""

import argparse
import io
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

import numpy as np
import torch
import torchvision.transforms.functional as v1
import torchvision.transforms.v2.functional as v2
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

SCALINGS = ("off", "fine", "coarse")
PHOTOGRAPHS = pathlib.Path(__file__).resolve().parent.parent / "images"


def side_by_side(pictures, enlarged, size):
    """Rows of the photographs in turn, each begun where the lowest before it ends."""
    wall = Image.new("RGB", size)
    pictures = [p.resize((p.width * enlarged, p.height * enlarged), Image.Resampling.BICUBIC) for p in pictures]
    step, turn = min(p.height for p in pictures), 0
    for top in range(0, size[1], step):
        left = 0
        while left < size[0]:
            picture = pictures[turn % len(pictures)]
            wall.paste(picture, (left, top))
            left, turn = left + picture.width, turn + 1
    return wall


def noisy(picture):
    noise = np.random.default_rng(0).normal(0, 2, (picture.height, picture.width, 1))
    return Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))


def made(folder):
    names = sorted(path for path in PHOTOGRAPHS.iterdir() if path.suffix in (".jpg", ".png"))
    pictures = [Image.open(name).convert("RGB") for name in names]
    coffee = next(p for p, name in zip(pictures, names) if name.stem == "coffee")
    large = (4000, 3000)
    files = {
        "small": coffee.resize((500, 375), Image.Resampling.BICUBIC),
        "enlarged": noisy(coffee.resize(large, Image.Resampling.BICUBIC)),
        "detailed": noisy(side_by_side(pictures, 2, large)),
        "most detailed": noisy(side_by_side(pictures, 1, large)),
    }
    for name, picture in files.items():
        picture.save(f"{folder}/{name}.jpg", quality=90)
    return [f"{folder}/{name}.jpg" for name in files]


def tensor(data):
    return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)


def drafted(data):
    picture = Image.open(io.BytesIO(data))
    picture.draft("RGB", (320, 320))
    return v1.center_crop(v1.resize(picture.convert("RGB"), 256), 224)


PEERS = {
    "torchvision.io, Resize of VGG16_Weights": lambda data: v1.center_crop(v1.resize(tensor(data), 256), 224),
    "torchvision.io, v2.Resize": lambda data: v2.center_crop(v2.resize(tensor(data), 256), 224),
    "Pillow": lambda data: v1.center_crop(v1.resize(Image.open(io.BytesIO(data)).convert("RGB"), 256), 224),
    "Pillow, draft": drafted,
}


def ours(args, file, scaling):
    command = [args.headswap, "bench", "image", "--json", "--seconds", str(args.seconds), "--jpeg-scaling", scaling, file]
    return json.loads(subprocess.check_output(command, text=True).splitlines()[-1])


def peer(args, call, data):
    """The median after one call to warm up."""
    call(data)
    times, end = [], time.perf_counter() + args.seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        call(data)
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def measure(args, file):
    data, times, apart = pathlib.Path(file).read_bytes(), {}, {}
    for _ in range(args.rounds):
        for scaling in SCALINGS:
            found = ours(args, file, scaling)
            times.setdefault(f"Headswap, {scaling}", []).append(found["ms"])
            apart[f"Headswap, {scaling}"] = f"{found['mean']:.2f}, {found['p99']}, {found['max']}"
        for name, call in PEERS.items():
            times.setdefault(name, []).append(peer(args, call, data))
    ms = {name: statistics.median(found) for name, found in times.items()}
    against = list(PEERS)[:3]
    size = "{}x{}".format(*Image.open(file).size)
    print(f"\n| {pathlib.Path(file).stem}, {size}, {len(data) / 1e6:.2f} MB | ms | {' | '.join(f'/ {name}' for name in against)}", end="")
    print(" | mean, p99, largest difference to off |\n|---|---|" + "---|" * len(against) + "---|")
    for name, own in ms.items():
        ratios = " | ".join(f"{ms[other] / own:.2f}" for other in against)
        print(f"| {name} | {own:.2f} | {ratios} | {apart.get(name, '')} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("headswap", help="the release binary")
    parser.add_argument("files", nargs="*", help="JPEG files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="for each decoder in a round")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for file in args.files or made(folder):
            measure(args, file)
        print(f"\nmedians of {args.rounds} rounds; times as fast as the columns' peers; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
