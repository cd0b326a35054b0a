#!/usr/bin/env python3
"""Compares the plain head's forward pass of two builds: `benches/forward.py NEW OLD`.

Runs `headswap bench forward` of both in alternated pairs, one thread each, and prints the median ratio of the pairs. Times are
CPU time of the thread that computes (/proc/PID/task/TID/schedstat), so that other work on the machine disturbs them little.
"""

import argparse
import json
import statistics
import subprocess
import time
from pathlib import Path

# With --seconds 0, `bench forward` computes a batch four times for each of its two figures.
RUNS = 8


def device_thread(process):
    """Returns the path of the times of the thread that computes. The thread takes its name when it first runs."""
    for _ in range(1000):
        for task in Path(f"/proc/{process.pid}/task").iterdir():
            if (task / "comm").read_text().strip() == "device":
                return task / "schedstat"
        time.sleep(0.001)
    raise SystemExit("the program has no thread named device")


def measure(program, precision, batches, repeats):
    """Returns ms of CPU time an image by size of batch. The last line is not used: the thread may end before it is read."""
    sizes = [batch for batch in batches for _ in range(repeats[batch])] + [1]
    command = [program, "bench", "forward", "--json", "--weights", "demo", "--threads", "1", "--seconds", "0"]
    command += ["--precision", precision, "--batch", ",".join(map(str, sizes))]
    times = {batch: 0.0 for batch in batches}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        machine = json.loads(process.stdout.readline())
        assert "machine" in machine, machine
        schedstat = device_thread(process)
        before = int(schedstat.read_text().split()[0])
        for batch, line in zip(sizes[:-1], process.stdout):
            assert json.loads(line)["batch"] == batch
            now = int(schedstat.read_text().split()[0])
            times[batch] += (now - before) / 1e6
            before = now
        process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{program} failed")
    return {batch: times[batch] / (RUNS * repeats[batch] * batch) for batch in batches}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("new")
    parser.add_argument("old")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--precision", default="f32,int16")
    parser.add_argument("--batch", default="1,8")
    args = parser.parse_args()
    batches = [int(batch) for batch in args.batch.split(",")]
    # About as many images of each size.
    repeats = {batch: max(1, 4 // batch) for batch in batches}
    print("| precision | batch | new, ms CPU/image | old | new/old, median of the pairs | quartiles |\n|---|---|---|---|---|---|")
    for precision in args.precision.split(","):
        measured = {args.new: [], args.old: []}
        for pair in range(args.pairs):
            order = [args.new, args.old] if pair % 2 else [args.old, args.new]
            for program in order:
                measured[program].append(measure(program, precision, batches, repeats))
        for batch in batches:
            new, old = ([times[batch] for times in measured[program]] for program in (args.new, args.old))
            ratios = [n / o for n, o in zip(new, old)]
            low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
            medians = f"{statistics.median(new):.2f} | {statistics.median(old):.2f}"
            print(f"| {precision} | {batch} | {medians} | {middle:.3f} | {low:.3f} to {high:.3f} |", flush=True)


if __name__ == "__main__":
    main()
