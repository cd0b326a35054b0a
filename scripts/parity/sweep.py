"""Compares a decoder with Pillow and torchvision on many generated picture files, whole and damaged.

    python sweep.py PROGRAM [--files 20000] [--seed 0] [--kinds jpeg,png] [--keep DIR] [--only N] [--jobs 2]

PROGRAM reads requests from its standard input, each a u32 (little endian) and that many bytes of a file, and answers on
its standard output: a byte 1 and the 150528 bytes of the 224x224 RGB pixels, or a byte 0, a u32 and that many bytes of
an error message. The same seed and number make the same file, whatever the other options are.

Whether a file opens must be the same here and there, and the pixels: equal for PNG, GIF, BMP and WebP, at most 2 apart
for JPEG. The status is 1 if a file broke that. Files whose header announces more pixels than the server takes, or whose
resized picture would be huge, are made but not compared.

Needs pillow, numpy, torch and torchvision 0.26, as images.py does.
"""

import argparse
import collections
import io
import multiprocessing
import os
import random
import select
import shlex
import struct
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from damage import DAMAGES
from kinds import KINDS, undamaged
from PIL import Image
from torchvision.transforms import InterpolationMode, functional

BOUNDS = {"jpeg": 2, "png": 0, "gif": 0, "bmp": 0, "webp": 0}
# Which kind a number has: the same whatever kinds are asked for.
TURNS = ["jpeg", "png", "jpeg", "webp", "jpeg", "gif", "png", "jpeg", "bmp", "png"]
PIXELS = 224 * 224 * 3
PIXELS_MOST = 64 << 20  # What the server takes at most; it refuses more in its own words.
RESIZED_MOST = 8_000_000
SHOWN = 20
PATIENCE = 30  # Seconds for an answer.


@dataclass
class Outcome:
    """What became of one file: `difference` is of the pixels, if both opened it; `wrong` says what disagrees, if so."""

    number: int
    kind: str
    damage: str
    status: str
    difference: int = 0
    wrong: str = ""


def generate(seed, number):
    """(kind, damage, bytes) of a file; half of them are damaged, and a few of those twice."""
    rng = random.Random(f"{seed} {number}")
    kind = TURNS[number % len(TURNS)]
    file, damage = undamaged(kind, rng), "none"
    if rng.random() < 0.5:
        for _ in range(rng.choice([1] * 9 + [2])):
            function = rng.choice(DAMAGES[kind])
            if len(file) > 20:
                file, damage = function(rng, kind, file), function.__name__
    return kind, damage, file


def reference(file):
    """The pixels after torchvision's transforms for VGG16, or the error's text; None for what is not compared."""
    try:
        with Image.open(io.BytesIO(file)) as opened:
            width, height = opened.size
            longest = max(width, height) * 256 / max(1, min(width, height))
            if width * height > PIXELS_MOST or longest * 256 > RESIZED_MOST:
                return None
            picture = opened.convert("RGB")
        picture = functional.resize(picture, 256, interpolation=InterpolationMode.BILINEAR, antialias=True)
        return np.asarray(functional.center_crop(picture, 224))
    except Exception as error:  # Whatever Pillow raises, the file is refused.
        return f"{type(error).__name__}: {error}"


class Program:
    """The decoder that is compared. It is started again if it dies or does not answer."""

    def __init__(self, command):
        self.command, self.process = command, None

    def decode(self, file):
        """The pixels, or the error's text; raises `OSError` if there was no answer."""
        if self.process is None:
            self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        try:
            request = memoryview(struct.pack("<I", len(file)) + file)
            while request:
                request = request[self.process.stdin.write(request) :]
            if self.read(1) == b"\1":
                return np.frombuffer(self.read(PIXELS), np.uint8).reshape(224, 224, 3)
            return self.read(struct.unpack("<I", self.read(4))[0]).decode()
        except OSError:
            self.process.kill()
            self.process.wait()
            self.process = None
            raise

    def read(self, length):
        parts = []
        while length:
            if not select.select([self.process.stdout], [], [], PATIENCE)[0]:
                raise OSError(f"no answer in {PATIENCE} s")
            part = self.process.stdout.read(length)
            if not part:
                raise OSError("the program ended")
            parts.append(part)
            length -= len(part)
        return b"".join(parts)


def compare(program, seed, number, keep):
    """Makes one file, decodes it here and there, and says what came out."""
    kind, damage, file = generate(seed, number)
    expected = reference(file)
    outcome = Outcome(number, kind, damage, "skipped")
    if expected is None:
        return outcome
    try:
        got = program.decode(file)
    except OSError as error:
        outcome.status, outcome.wrong = "failed", str(error)
        got = None
    if got is None:
        pass
    elif isinstance(expected, str) and isinstance(got, str):
        outcome.status = "refused"
    elif isinstance(expected, str):
        outcome.status, outcome.wrong = "differs", f"opened, but Pillow refuses it: {expected}"
    elif isinstance(got, str):
        outcome.status, outcome.wrong = "differs", f"refused ({got}), but Pillow opens it"
    else:
        apart = np.abs(expected.astype(np.int16) - got)
        outcome.status, outcome.difference = "opened", int(apart.max())
        if outcome.difference > BOUNDS[kind]:
            outcome.wrong = f"{np.count_nonzero(apart.max(axis=-1))} pixels differ, by {outcome.difference} at most"
    if keep and outcome.wrong:
        Path(keep, f"{number}.{kind}").write_bytes(file)
    return outcome


def start(command, seed, keep):
    """Readies a process of the pool: its program, quiet warnings."""
    global worker
    warnings.simplefilter("ignore")
    # libjpeg and others write to the standard error by themselves.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    worker = (Program(command), seed, keep)


def step(number):
    program, seed, keep = worker
    return compare(program, seed, number, keep)


def table(outcomes):
    """The lines of the table: kind and damage, how many, and how far apart."""
    groups = collections.defaultdict(list)
    for outcome in outcomes:
        groups[outcome.kind, outcome.damage].append(outcome)
        groups[outcome.kind, "all"].append(outcome)
    yield f"{'kind':6}{'damage':18}{'files':>8}{'opened':>8}{'refused':>8}{'skipped':>8}{'largest':>8}{'wrong':>8}"
    for (kind, damage), group in sorted(groups.items()):
        count = collections.Counter(outcome.status for outcome in group)
        wrong = sum(bool(outcome.wrong) for outcome in group)
        largest = max(outcome.difference for outcome in group)
        numbers = (len(group), count["opened"], count["refused"], count["skipped"], largest, wrong)
        yield f"{kind:6}{damage:18}" + "".join(f"{number:8}" for number in numbers)


def disagreements(outcomes):
    """The lines about files that were wrong, the first ones of each kind."""
    shown = collections.Counter()
    for outcome in sorted(outcomes, key=lambda outcome: outcome.number):
        if outcome.wrong:
            shown[outcome.kind] += 1
            if shown[outcome.kind] <= SHOWN:
                yield f"{outcome.number} {outcome.kind}, {outcome.damage}: {outcome.wrong}"


def only(arguments, command):
    """Writes and compares one file."""
    kind, damage, file = generate(arguments.seed, arguments.only)
    path = Path(arguments.keep or ".", f"{arguments.only}.{kind}")
    path.write_bytes(file)
    outcome = compare(Program(command), arguments.seed, arguments.only, None)
    print(f"{path}, damage: {damage}\n{outcome.status}, difference {outcome.difference} {outcome.wrong}")
    return 1 if outcome.wrong else 0


def sweep(arguments, command, kinds):
    numbers = [number for number in range(arguments.files) if TURNS[number % len(TURNS)] in kinds]
    outcomes, begun, wrong = [], time.monotonic(), 0
    with multiprocessing.Pool(arguments.jobs, start, (command, arguments.seed, arguments.keep)) as pool:
        for outcome in pool.imap_unordered(step, numbers, chunksize=16):
            outcomes.append(outcome)
            wrong += bool(outcome.wrong)
            if len(outcomes) % 100 == 0 or len(outcomes) == len(numbers):
                speed = len(outcomes) / (time.monotonic() - begun)
                print(f"\r{len(outcomes)} of {len(numbers)}, {wrong} wrong, {speed:.0f} files/s ", end="", flush=True)
    print("", *table(outcomes), *disagreements(outcomes), sep="\n")
    return 1 if wrong else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("program", help="the decoder, with its arguments if it has any")
    parser.add_argument("--files", type=int, default=20_000, help="how many numbers, those of other kinds among them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--keep", help="a directory for the files that were wrong")
    parser.add_argument("--only", type=int, help="write and compare this file alone")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    kinds = arguments.kinds.split(",")
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"no such kinds: {', '.join(sorted(unknown))}")
    if arguments.keep:
        Path(arguments.keep).mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    command = shlex.split(arguments.program)
    if arguments.only is not None:
        return only(arguments, command)
    return sweep(arguments, command, kinds)


if __name__ == "__main__":
    sys.exit(main())
