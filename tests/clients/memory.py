"""Costly pictures at the same time, in a container's memory: `python memory.py PATH-TO-HEADSWAP [--megabytes 1536] [ARGUMENT...]`

The server gets a memory control group (for that, be root), then 16 clients send the same picture at once – 8192 x 8192
pixels of 16-bit RGBA, plain or interlaced – while others send a photograph. Prints what became of each, and the group's
peak. The server must live, at least one costly picture alone and two of sixteen must be answered, and every photograph.
"""

import argparse
import collections
import pathlib
import struct
import sys
import threading
import time
import zlib

import grpc

from reflection import ROOT, Service
from server import Server

ROCKET = (ROOT / "images/rocket.jpg").read_bytes()


def png(interlaced):
    """8192 x 8192 pixels of 16-bit RGBA in half a megabyte."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    side = 8192
    header = struct.pack(">IIBBBBB", side, side, 16, 6, 0, 0, int(interlaced))
    passes = [(8, 8), (8, 8), (4, 8), (4, 4), (2, 4), (2, 2), (1, 2)] if interlaced else [(1, 1)]
    compressor = zlib.compressobj(9)
    data = b""
    for x, y in passes:
        row = b"\0" + bytes(range(256)) * (side // x * 8 // 256)
        for _ in range(side // y):
            data += compressor.compress(row)
    data += compressor.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


class Group:
    """A memory control group, version 1 or 2."""

    def __init__(self, megabytes):
        root = pathlib.Path("/sys/fs/cgroup")
        self.version = 1 if (root / "memory").is_dir() else 2
        self.path = (root / "memory" if self.version == 1 else root) / f"headswap-{time.time_ns()}"
        self.path.mkdir()
        limits = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"] if self.version == 1 else ["memory.max"]
        for name in limits:
            if (self.path / name).exists():
                (self.path / name).write_text(str(megabytes << 20))

    def add(self, process):
        (self.path / "cgroup.procs").write_text(str(process))

    def peak(self):
        """Bytes."""
        name = "memory.max_usage_in_bytes" if self.version == 1 else "memory.peak"
        return int((self.path / name).read_text())


def outcome(classify, picture):
    """The name of the status of one call."""
    try:
        classify({"image": picture}, timeout=60)
        return "OK"
    except grpc.RpcError as error:
        return error.code().name


def together(classify, picture, count):
    """How often each status came of so many calls at once."""
    outcomes = collections.Counter()
    threads = [threading.Thread(target=lambda: outcomes.update([outcome(classify, picture)])) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary")
    parser.add_argument("--megabytes", type=int, default=1536)
    arguments, more = parser.parse_known_args()
    group = Group(arguments.megabytes)
    # The group is joined before the server starts, so that it sees the limit.
    launcher = pathlib.Path("/tmp") / f"{group.path.name}.sh"
    launcher.write_text(f"#!/bin/sh\necho $$ > {group.path}/cgroup.procs\nexec {arguments.binary} \"$@\"\n")
    launcher.chmod(0o755)
    server = Server(str(launcher), "--weights", "demo", *more)
    launcher.unlink()
    fails = 0
    try:
        service = Service(server.addresses["grpc"], "headswap.v1.ClassifierService")
        for interlaced in (False, True):
            picture = png(interlaced)
            alone = outcome(service.Classify, picture)
            stop, beside = threading.Event(), collections.Counter()

            def photographs():
                while not stop.is_set():
                    beside.update([outcome(service.Classify, ROCKET)])

            other = threading.Thread(target=photographs)
            other.start()
            started = time.monotonic()
            costly = together(service.Classify, picture, 16)
            seconds = time.monotonic() - started
            stop.set()
            other.join()
            print(
                f"{'interlaced' if interlaced else 'plain':>10}, {len(picture):,} bytes: alone {alone}; of 16 {dict(costly)} "
                f"in {seconds:.1f} s; photographs beside them {dict(beside)}; peak {group.peak() >> 20} MiB"
            )
            fails += alone != "OK" or costly["OK"] < 2 or set(beside) - {"OK"} != set() or server.process.poll() is not None
    finally:
        status = server.stop()
    print(f"the server ended with {status}")
    sys.exit(fails > 0 or status != 0)


if __name__ == "__main__":
    main()
