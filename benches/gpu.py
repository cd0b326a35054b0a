#!/usr/bin/env python3
"""Everything that wants a GPU, in one command: `benches/gpu.py PATH-TO-HEADSWAP`.

Logits beside PyTorch f32, the forward pass beside PyTorch eager, CUDA graphs and `torch.compile` and beside the card's own
matrix products, the served rate, swaps under load and memory: as tables, with what each must reach. Exits with 1 if one
falls short. Needs a CUDA PyTorch 2.11.0 with numpy, torchvision, safetensors and Pillow, and no cargo; about ten minutes.
`--device cpu --quick` shows on any machine that the script itself works.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts/parity"))
from engines import seeded  # noqa: E402
from logits import PHOTOGRAPHS, SPLITS, ask, demo_head, expected, pictures, serve  # noqa: E402

# Multiplications and additions of one picture's forward pass.
FLOP = 30.94e9
# Of the largest logit: exact f32, and 15 layers rounded to 11 and 8 bits.
TOLERANCE = {"f32": 1e-4, "f16": 2e-2, "bf16": 1e-1}


class Check:
    def __init__(self, args):
        self.args, self.good = args, True
        self.cuda = args.device == "cuda"
        self.precisions = ["bf16", "f16", "f32"] if self.cuda else ["f32"]
        self.best = self.precisions[0]
        self.batches = [1, 2] if args.quick else [1, 8, 64, 128, 256]

    def bound(self, name, value, holds, wanted):
        self.good &= holds
        print(f"| {name} | {value} | {wanted} | {'ok' if holds else 'SHORT'} |", flush=True)

    def title(self, text):
        print(f"\n{text}\n\n| what | measured | must be | |\n|---|---|---|---|", flush=True)

    def headswap(self, *arguments):
        """The JSON lines that a sub-command prints."""
        command = [self.args.headswap, *map(str, arguments), "--json"]
        return [json.loads(line) for line in subprocess.check_output(command, text=True).splitlines()]

    def logits(self):
        self.title("Logits beside PyTorch f32 on the CPU: largest difference, of the largest logit")
        splits = SPLITS[:2] if self.args.quick else SPLITS
        with tempfile.TemporaryDirectory() as directory:
            net = seeded()
            weights = f"{directory}/vgg16.safetensors"
            save_file(net.state_dict(), weights)
            # Synthetic pictures, which are not resized.
            paths = pictures(directory)
            for precision in self.precisions:
                flags = ["--weights", weights, "--device", self.args.device, "--precision", precision, "--max-batch", "8"]
                with serve(self.args.headswap, *flags) as addresses:
                    self.compare(precision, "backbone", net, ask(self.args.headswap, addresses, paths))
                    for seed, split in enumerate(splits):
                        tuned = seeded()
                        tuned.classifier[6] = torch.nn.Linear(4096, 10)
                        names = demo_head(tuned, split, seed)
                        file, name = f"{directory}/head.safetensors", split.replace(".", "-")
                        save_file({n: t for n, t in tuned.state_dict().items() if n in names}, file)
                        replace = ["head", "replace", "--admin-address", addresses["admin"], name, file]
                        subprocess.check_call([self.args.headswap, *replace], stdout=subprocess.DEVNULL)
                        self.compare(precision, f"head from {split}", tuned, ask(self.args.headswap, addresses, paths, name))
                    if self.cuda:
                        self.memory(precision)

    def compare(self, precision, name, net, results):
        worst = 0
        for path, result in results.items():
            want, got = torch.from_numpy(expected(net, path)), torch.tensor(result["logits"])
            worst = max(worst, float((want - got).abs().max() / want.abs().max()))
        limit = TOLERANCE[precision]
        self.bound(f"{precision}, {name}", f"{worst:.1e}", worst <= limit, f"≤ {limit:.0e}")

    def memory(self, precision):
        query = ["nvidia-smi", "--query-compute-apps=used_memory", "--format=csv,noheader,nounits"]
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            used = subprocess.check_output(query, text=True).split()
            print(f"| {precision}, GPU memory of all processes | {' + '.join(used)} MiB | | |")

    def forward(self):
        """Medians of seconds per picture by name and batch, all in turn, round after round."""
        cases = {}
        for batch in self.batches:
            for precision in self.precisions[:2]:
                cases[f"Headswap {precision}", batch] = lambda b=batch, p=precision: self.ours(b, p)
            for name, net in self.peers().items():
                cases[name, batch] = lambda b=batch, n=net: self.peer(n, b)
            if self.cuda:
                cases["PyTorch bf16, CUDA graph", batch] = lambda b=batch: self.graph(b)
        times = {case: [] for case in cases}
        for number in range(1 if self.args.quick else 3):
            print(f"\nforward pass, round {number + 1}", flush=True)
            for case, run in cases.items():
                times[case].append(run())
        return {case: statistics.median(found) for case, found in times.items()}

    def ours(self, batch, precision):
        flags = ["--device", self.args.device, "--precision", precision, "--batch", batch, "--seconds", 2]
        [row] = self.headswap("bench", "forward", *flags)
        # One picture at a time is about latency, more are about the rate.
        return (row["ms_alone"] if batch == 1 else row["ms_per_image"]) / 1e3

    def peers(self):
        dtype = torch.bfloat16 if self.cuda else torch.float32
        if not hasattr(self, "eager"):
            self.eager = seeded().to(self.args.device, dtype, memory_format=torch.channels_last)
            self.compiled = torch.compile(self.eager, mode="max-autotune") if self.cuda else None
        nets = {f"PyTorch {str(dtype)[6:]}": self.eager, "torch.compile(max-autotune) bf16": self.compiled}
        return {name: net for name, net in nets.items() if net is not None}

    def input(self, batch):
        dtype = next(self.eager.parameters()).dtype
        return torch.randn(batch, 3, 224, 224, device=self.args.device, dtype=dtype).to(memory_format=torch.channels_last)

    def peer(self, net, batch):
        x = self.input(batch)
        with torch.inference_mode():
            return self.timed(lambda: net(x)) / batch

    def graph(self, batch):
        x = self.input(batch)
        with torch.inference_mode():
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                self.eager(x)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.eager(x)
            return self.timed(graph.replay) / batch

    def timed(self, call):
        """Median seconds of a call, the device's own work included."""
        wait = torch.cuda.synchronize if self.cuda else lambda: None
        for _ in range(3):
            call()
        times, began = [], time.perf_counter()
        while len(times) < 5 or time.perf_counter() - began < 1:
            wait()
            start = time.perf_counter()
            call()
            wait()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def peak(self):
        """The card's own matrix product, FLOP/s."""
        side = 8192 if self.cuda else 1024
        dtype = torch.bfloat16 if self.cuda else torch.float32
        a, b = (torch.randn(side, side, device=self.args.device, dtype=dtype) for _ in range(2))
        return 2 * side**3 / self.timed(lambda: a @ b)

    def speed(self):
        peak = self.peak()
        times = self.forward()
        after = self.peak()
        peak = max(peak, after)
        print(f"\nms per picture; a matrix product of this device reaches {peak / 1e12:.1f} TFLOP/s\n")
        names = list(dict.fromkeys(name for name, _ in times))
        print(f"| batch | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
        for batch in self.batches:
            print(f"| {batch} | {' | '.join(f'{times[name, batch] * 1e3:.3f}' for name in names)} |")

        self.title("The forward pass")
        ours = f"Headswap {self.best}"
        large = max((batch for batch in self.batches if batch >= 64), key=lambda b: 1 / times[ours, b], default=None)
        if large:
            share = FLOP / times[ours, large] / peak
            self.bound(f"share of the matrix product's rate, batch {large}", f"{share:.2f}", share >= 0.55, "≥ 0.55 (aim 0.75)")
            compiled = times["torch.compile(max-autotune) bf16", large] / times[ours, large]
            self.bound(f"times torch.compile's rate, batch {large}", f"{compiled:.2f}", compiled >= 1.1, "≥ 1.1")
        if self.cuda:
            latency = times[ours, 1] / times["PyTorch bf16, CUDA graph", 1]
            self.bound("latency of one picture, of PyTorch's CUDA graph", f"{latency:.2f}", latency <= 0.8, "≤ 0.8")

    def served(self):
        self.title("Served beside the bare forward pass in the same run")
        clients, batch, seconds = (4, 2, 1) if self.args.quick else (512, 128, 8)
        for kind, wanted in (("pixels", 0.95), ("jpeg", None)):
            flags = ["--device", self.args.device, "--precision", self.best, "--concurrency", clients, "--max-batch", batch]
            flags += ["--seconds", seconds, "--repetitions", 1] + (["--pixels"] if kind == "pixels" else [])
            [row] = self.headswap("bench", "serve", *flags)
            ratio = row["served_to_bare"]
            text = f"{row['images_per_second']:.0f} images/s, {ratio:.3f}, p99 {row['p99_ms']:.0f} ms"
            self.bound(f"{kind}, {clients} clients", text, wanted is None or ratio >= wanted, f"≥ {wanted}" if wanted else "")

    def swaps(self):
        self.title("Heads swapped under load")
        seconds, clients = (3, 4) if self.args.quick else (20, 64)
        command = [self.args.headswap, "demo", "--clients", str(clients), "--seconds", str(seconds), "--swap-ms", "100"]
        ended = subprocess.run(command, text=True, capture_output=True)
        print(ended.stdout[-2000:], ended.stderr[-2000:], sep="\n")
        self.bound("failed or wrong answers", "none" if ended.returncode == 0 else "some", ended.returncode == 0, "none")

    def run(self):
        device = torch.cuda.get_device_name() if self.cuda else "the CPU"
        print(f"{device}, PyTorch {torch.__version__}, {time.strftime('%Y-%m-%d')}")
        for part in self.args.parts:
            getattr(self, part)()
        return self.good


PARTS = ["logits", "speed", "served", "swaps"]

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("headswap", help="the release binary")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="small batches and one round: whether it runs, not how fast")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu: PyTorch finds no GPU; --device cpu --quick only tries this script")
    # The binary opens the libtorch that it is told of: this PyTorch's.
    libraries = [str(Path(torch.__file__).parent / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
    os.environ["LD_LIBRARY_PATH"] = ":".join(filter(None, libraries))
    sys.exit(0 if Check(args).run() else 1)
