#!/usr/bin/env python3
"""Everything that wants a GPU, in one command: `benches/gpu.py PATH-TO-HEADSWAP`.

Logits beside PyTorch f32, the forward pass beside PyTorch eager, CUDA graphs and `torch.compile` and beside the card's own
matrix products, the served rate, swaps under load and memory: as tables, with what each must reach. Exits with 1 if one
falls short. Ours takes u8 pixels in the host's memory to logits there, the others what is already on the device and
normalised. Needs a CUDA PyTorch 2.11.0 with numpy, torchvision, safetensors and Pillow, and no cargo; about twenty minutes,
or `--parts` of it. `--device cpu --quick` shows on any machine that the script itself works.
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
        rows = [json.loads(line) for line in subprocess.check_output(command, text=True).splitlines()]
        # A benchmark's first line is the machine.
        return [row for row in rows if "machine" not in row]

    def logits(self):
        self.title("Logits beside PyTorch f32 on the CPU: largest difference, of the largest logit")
        splits = SPLITS[:2] if self.args.quick else SPLITS
        with tempfile.TemporaryDirectory() as directory:
            # Synthetic pictures, which are not resized.
            paths, net = pictures(directory), seeded()
            weights = f"{directory}/vgg16.safetensors"
            save_file(net.state_dict(), weights)
            wanted = {"default": {path: expected(net, path) for path in paths}}
            for seed, split in enumerate(splits):
                tuned = seeded()
                tuned.classifier[6] = torch.nn.Linear(4096, 10)
                names = demo_head(tuned, split, seed)
                own = {name: tensor for name, tensor in tuned.state_dict().items() if name in names}
                save_file(own, f"{directory}/{split}.safetensors")
                wanted[split.replace(".", "-")] = {path: expected(tuned, path) for path in paths}
            for precision in self.precisions:
                flags = ["--weights", weights, "--device", self.args.device, "--precision", precision, "--max-batch", "8"]
                with serve(self.args.headswap, *flags) as addresses:
                    for split in splits:
                        replace = ["head", "replace", "--admin-address", addresses["admin"]]
                        replace += [split.replace(".", "-"), f"{directory}/{split}.safetensors"]
                        subprocess.check_call([self.args.headswap, *replace], stdout=subprocess.DEVNULL)
                    for head, logits in wanted.items():
                        self.compare(precision, head, logits, ask(self.args.headswap, addresses, paths, head))
                    if self.cuda:
                        self.memory(precision)

    def compare(self, precision, name, wanted, results):
        worst = 0
        for path, result in results.items():
            want, got = torch.from_numpy(wanted[path]), torch.tensor(result["logits"])
            worst = max(worst, float((want - got).abs().max() / want.abs().max()))
        limit = TOLERANCE[precision]
        self.bound(f"{precision}, head {name}", f"{worst:.1e}", worst <= limit, f"≤ {limit:.0e}")

    def memory(self, precision):
        query = ["nvidia-smi", "--query-compute-apps=used_memory", "--format=csv,noheader,nounits"]
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            used = subprocess.check_output(query, text=True).split()
            print(f"| {precision}, GPU memory of all processes | {' + '.join(used)} MiB | | |")

    def forward(self):
        """Seconds per picture by name and batch, medians; all in turn, round after round."""
        dtype = torch.bfloat16 if self.cuda else torch.float32
        torch.backends.cudnn.benchmark = True
        self.eager = seeded().to(self.args.device, dtype, memory_format=torch.channels_last)
        cases = [lambda p=precision: self.ours(p) for precision in self.precisions[:2]] + [self.unchanged]
        if self.cuda:
            cases += [self.graphs, self.compiled]
        times = {}
        for number in range(1 if self.args.quick else 3):
            for case in cases:
                for key, seconds in case().items():
                    times.setdefault(key, []).append(seconds)
            print(f"forward pass, round {number + 1} done", flush=True)
        return {key: statistics.median(found) for key, found in times.items()}

    def ours(self, precision):
        batches = ",".join(map(str, self.batches))
        flags = ["--device", self.args.device, "--precision", precision, "--batch", batches, "--seconds", 2]
        rows = self.headswap("bench", "forward", *flags)
        # One picture at a time is about latency, more are about the rate.
        of = {row["batch"]: row["ms_alone"] if row["batch"] == 1 else row["ms_per_image"] for row in rows}
        return {(f"Headswap {precision}", batch): ms / 1e3 for batch, ms in of.items()}

    def input(self, batch):
        dtype = next(self.eager.parameters()).dtype
        x = torch.randn(batch, 3, 224, 224, device=self.args.device, dtype=dtype)
        return x.to(memory_format=torch.channels_last)

    def unchanged(self):
        """Eager, on pictures that are already there and normalised."""
        with torch.inference_mode():
            inputs = {batch: self.input(batch) for batch in self.batches}
            return {("PyTorch eager", batch): self.timed(lambda: self.eager(x)) / batch for batch, x in inputs.items()}

    def graphs(self):
        times = {}
        for batch in self.batches:
            with torch.inference_mode():
                x, stream = self.input(batch), torch.cuda.Stream()
                with torch.cuda.stream(stream):
                    self.eager(x)
                torch.cuda.synchronize()
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    self.eager(x)
                times["PyTorch, CUDA graph", batch] = self.timed(graph.replay) / batch
        return times

    def compiled(self):
        """`torch.compile`, for one picture and for large batches; it needs a C compiler and takes a minute for each."""
        times = {}
        for batch in [batch for batch in self.batches if batch == 1 or batch >= 64]:
            try:
                with torch.inference_mode():
                    net = torch.compile(self.eager, mode="max-autotune", dynamic=False)
                    x = self.input(batch)
                    times["torch.compile(max-autotune)", batch] = self.timed(lambda: net(x)) / batch
            except Exception as error:  # whatever a compiler may say
                print(f"torch.compile at batch {batch}: {str(error).splitlines()[0]}", flush=True)
        return times

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
        before = self.peak()
        times = self.forward()
        peak = max(before, self.peak())
        print(f"\nms per picture; a matrix product of this device reaches {peak / 1e12:.1f} TFLOP/s\n")
        names = list(dict.fromkeys(name for name, _ in times))
        print(f"| batch | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
        for batch in self.batches:
            cells = [f"{times[name, batch] * 1e3:.3f}" if (name, batch) in times else "-" for name in names]
            print(f"| {batch} | {' | '.join(cells)} |")

        self.title("The forward pass")
        ours = f"Headswap {self.best}"
        large = [batch for batch in self.batches if batch >= 64]
        if large:
            batch = min(large, key=lambda batch: times[ours, batch])
            share = FLOP / times[ours, batch] / peak
            self.bound(f"share of the matrix product's rate, batch {batch}", f"{share:.2f}", share >= 0.55, "≥ 0.55 (aim 0.75)")
            peers = [times.get(("torch.compile(max-autotune)", batch)) for batch in large]
            if peers := [seconds for seconds in peers if seconds]:
                ratio = min(peers) / times[ours, batch]
                self.bound("times torch.compile's rate, each at its best batch", f"{ratio:.2f}", ratio >= 1.1, "≥ 1.1")
        if self.cuda:
            latency = times[ours, 1] / times["PyTorch, CUDA graph", 1]
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
    parser.add_argument("headswap", help="the release binary, with headswap-torch beside it: make build TORCH=1")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="small batches and one round: whether it runs, not how fast")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu: PyTorch finds no GPU; --device cpu --quick only tries this script")
    # The binary opens the libtorch on LD_LIBRARY_PATH: this PyTorch's, and CUDA's libraries beside it.
    packages = Path(torch.__file__).parent.parent
    libraries = [str(packages / "torch/lib"), str(packages / "nvidia/cu13/lib"), os.environ.get("LD_LIBRARY_PATH", "")]
    os.environ["LD_LIBRARY_PATH"] = ":".join(filter(None, libraries))
    sys.exit(0 if Check(args).run() else 1)
