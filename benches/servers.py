#!/usr/bin/env python3
"""Headswap beside other servers under the same client: `benches/servers.py PATH-TO-HEADSWAP null|vgg16`.

`null` computes nothing and is sent 150,528 bytes of pixels: the servers alone. `vgg16` is sent a JPEG photograph and answers
the five best classes, all from the same seeded weights: Python servers with PyTorch in bf16, the faster of its choices on a
CPU, Triton's with OpenVINO in bf16 as well, Headswap in f32 and int16. All are started, and loaded in turns, the others
suspended, by h2load with as many requests under way: gRPC over at most four connections, HTTP over one for each.
`benches/setup` installs what it needs; servers whose package is missing are left out.
"""

import argparse
import contextlib
import os
import statistics
import tempfile
from pathlib import Path

import psutil
from peers import start

ROOT = Path(__file__).resolve().parents[1]


def peers(null):
    """How to start each of the others, Triton first."""
    if null:
        return [(server, "null") for server in (start.triton, start.mlserver, start.litserve, start.mosec)]
    return [
        (start.triton, "torch"),
        (start.triton, "openvino"),
        (start.mlserver, "torch"),
        (start.litserve, "torch"),
        (start.mosec, "torch"),
    ]


def started(args, work, servers):
    """Adds to `servers` all that can be started, and sees that they answer, and the same."""
    for server, engine in peers(work.null):
        try:
            servers.append(server(work, engine))
        except ImportError as missing:
            print(f"left out: {missing}; benches/setup installs it", flush=True)
    for precision in ("f32",) if work.null else ("f32", "int16"):
        servers.append(start.headswap(work, args.headswap, precision))
    expected = servers[-1].classes()
    for server in servers:
        classes = server.classes()
        print(f"{server.name} answers {', '.join(map(str, classes))}", flush=True)
        # bf16 may put another in the place of the last of five.
        if len(set(classes) & set(expected)) < 4:
            server.failed(f"{servers[-1].name} answers otherwise")


def table(servers, found, null):
    """Prints the medians, and the ratios to Triton and to the fastest of the others."""
    unit, scale = ("µs", 1e3) if null else ("ms", 1)
    print("\n| clients | server | requests/s | p50 | p99 | server CPU per request | MB ", end="")
    print("| of the first's: rate, p99, CPU | of the fastest peer's |\n" + "|---" * 9 + "|")
    for clients in sorted({clients for clients, _ in found}):
        middle = {}
        for server in servers:
            runs = found[clients, server.name]
            middle[server.name] = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        others = [figures for name, figures in middle.items() if not name.startswith("Headswap")]
        references = [others[0], max(others, key=lambda figures: figures["rate"])] if others else []
        for name, it in middle.items():
            cells = [f"{it['rate']:,.1f}", f"{it['p50']:,.1f} ms", f"{it['p99']:,.1f} ms"]
            cells += [f"{it['cpu'] * scale:,.0f} {unit}", f"{it['megabytes']:,.0f}"]
            for base in references:
                cells.append(", ".join(f"{it[key] / base[key]:.2f}" for key in ("rate", "p99", "cpu")))
            print(f"| {clients} | {name} | {' | '.join(cells)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("headswap", help="the release binary")
    parser.add_argument("work", choices=["null", "vgg16"])
    parser.add_argument("--h2load", default="h2load", help="where h2load is, of Debian's nghttp2-client")
    parser.add_argument("--concurrency", type=int, nargs="+", help="clients; default: 16 and 64 for null, else 32")
    parser.add_argument("--rounds", type=int, default=3, help="the medians are of all of them")
    parser.add_argument("--seconds", type=float, help="of each load; default: 3 for null, else 15")
    parser.add_argument("--quick", action="store_true", help="one round of 2 seconds, to see that all of it runs")
    parser.add_argument("--threads", type=int, default=2, help="of each server's forward passes together")
    parser.add_argument("--workers", type=int, help="processes of each other server; default: 1 for null, else 2")
    parser.add_argument("--image", type=Path, default=ROOT / "images/rocket.jpg")
    parser.add_argument("--dir", default=f"{tempfile.gettempdir()}/headswap-engines", help="where exported models are kept")
    args = parser.parse_args()
    null = args.work == "null"
    concurrency = args.concurrency or ([16, 64] if null else [32])
    rounds, seconds = (1, 2) if args.quick else (args.rounds, args.seconds or (3 if null else 15))
    picture = bytes(i * 31 % 251 for i in range(224 * 224 * 3)) if null else args.image.read_bytes()
    if not null:
        from engines import models

        models(args.dir)

    with tempfile.TemporaryDirectory() as folder:
        servers, found = [], {}
        try:
            workers = args.workers or (1 if null else 2)
            started(args, start.Work(null, picture, args.dir, args.threads, workers, Path(folder)), servers)
            for server in servers:
                server.suspend()
            for number in range(rounds):
                for clients in concurrency:
                    print(f"round {number + 1} of {rounds}, {clients} clients, load {os.getloadavg()[0]:.1f}", flush=True)
                    for server in servers:
                        server.resume()
                        figures = server.load(args.h2load, clients, seconds)
                        server.suspend()
                        print(f"  {server.name}: {figures['rate']:,.1f}/s", flush=True)
                        found.setdefault((clients, server.name), []).append(figures)
        finally:
            for server in servers:
                with contextlib.suppress(psutil.NoSuchProcess):
                    server.resume()
                server.stop()
    table(servers, found, null)


if __name__ == "__main__":
    main()
