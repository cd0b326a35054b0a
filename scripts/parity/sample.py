"""Writes a sample of the sweep, with its outcomes, for `tests/image.rs`.

    python sample.py ../../tests/fixtures/sweep.bin [--files 200] [--seed 1]

For each file: its name (u32 length, UTF-8), 1 or 0 for whether Pillow opens it, the CRC-32 of its 224x224 pixels or 0 (u32),
and its bytes (u32 length, bytes); numbers are little-endian. Needs what sweep.py needs.
"""

import argparse
import struct
import sys
import warnings
import zlib
from pathlib import Path

from sweep import generate, reference

# Small ones alone.
BYTES_MOST = 2048
# What a JPEG with damaged codes looks like depends on whether libjpeg was built with its vector code.
DAMAGED_CODES = {"data_bits", "bytes_set", "bytes_deleted", "bytes_inserted", "header_bits"}
DAMAGED_CODES |= {"restarts", "factors_altered", "sizes_altered"}


def records(files, seed):
    number = 0
    while files > 0:
        kind, damage, file = generate(seed, number)
        number += 1
        pixels = reference(file)
        if pixels is None or len(file) > BYTES_MOST or (kind == "jpeg" and damage in DAMAGED_CODES):
            continue
        opens = not isinstance(pixels, str)
        name = f"{number - 1} {kind}, {damage}".encode()
        checksum = zlib.crc32(pixels.tobytes()) if opens else 0
        yield struct.pack("<I", len(name)) + name + struct.pack("<BII", opens, checksum, len(file)) + file
        files -= 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    arguments.output.write_bytes(b"".join(records(arguments.files, arguments.seed)))


if __name__ == "__main__":
    sys.exit(main())
