#!/usr/bin/env python3
"""Times VGG16's forward pass here and in other engines, side by side: `benches/engines.py PATH-TO-HEADSWAP`.

The same seeded weights everywhere, a round through all engines again and again, medians of ms per image. Ours takes u8
pixels to logits, the others normalised f32. Needs torch==2.11.0, torchvision, numpy, safetensors, onnx, onnxruntime,
openvino, ncnn and pnnx; engines whose package is missing are left out.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import tempfile
import time

import numpy as np
import torch
from safetensors.torch import save_file
from torchvision.models import vgg16


def seeded():
    """torchvision's VGG16 with He's uniform bounds in every layer, so that activations keep their size, and small biases."""
    torch.manual_seed(0)
    net = vgg16(weights=None, init_weights=False).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.uniform_(-1, 1).mul_((6 / p[0].numel()) ** 0.5 if p.dim() > 1 else 0.05)
    return net


def timed(call, runs):
    """A round: once to warm up, since the engine before has emptied the caches, then the times of some runs in ms."""

    def run():
        call()
        times = []
        for _ in range(runs):
            start = time.perf_counter()
            call()
            times.append((time.perf_counter() - start) * 1e3)
        return times

    return run


class Bench:
    def __init__(self, args):
        self.args, self.net, self.cases = args, seeded(), {}
        self.dir = args.dir
        os.makedirs(self.dir, exist_ok=True)
        torch.set_num_threads(args.threads)

    def pictures(self, batch):
        return np.random.default_rng(0).standard_normal((batch, 3, 224, 224), dtype=np.float32)

    def add(self, name, batch, call):
        run = timed(call, 4 if batch == 1 else 2)
        self.cases[name, batch] = lambda: [t / batch for t in run()]

    def ours(self):
        weights = f"{self.dir}/vgg16.safetensors"
        save_file(self.net.state_dict(), weights)
        for engine, precision in (("native", "f32"), ("native", "int16"), ("torch", "f32")):
            for batch in self.args.batch:

                def run(engine=engine, precision=precision, batch=batch):
                    flags = f"--engine {engine} --precision {precision} --batch {batch} --threads {self.args.threads}"
                    command = [self.args.headswap, "bench", "forward", "--weights", weights, "--device", "cpu"]
                    command += ["--seconds", "1", "--json", *flags.split()]
                    return [json.loads(subprocess.check_output(command, text=True))["ms_per_image"]]

                self.cases[f"headswap {engine} {precision}", batch] = run

    def onnx(self):
        path = f"{self.dir}/vgg16.onnx"
        if not os.path.exists(path):
            names = dict(input_names=["x"], output_names=["y"], dynamic_axes={"x": {0: "b"}}, dynamo=False)
            torch.onnx.export(self.net, torch.randn(1, 3, 224, 224), path, **names)
        return path

    def onnxruntime(self):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.args.threads
        session = onnxruntime.InferenceSession(self.onnx(), options, providers=["CPUExecutionProvider"])
        for batch in self.args.batch:
            x = self.pictures(batch)
            self.add("ONNX Runtime f32", batch, lambda x=x: session.run(None, {"x": x}))

    def openvino(self):
        import openvino

        core = openvino.Core()
        for batch in self.args.batch:
            x = self.pictures(batch)
            for precision in ("f32", "bf16"):
                model = core.read_model(self.onnx())
                model.reshape([batch, 3, 224, 224])
                options = {
                    "INFERENCE_PRECISION_HINT": precision,
                    "INFERENCE_NUM_THREADS": self.args.threads,
                    "NUM_STREAMS": 1,
                }
                request = core.compile_model(model, "CPU", options).create_infer_request()
                self.add(f"OpenVINO {precision}", batch, lambda r=request, x=x: r.infer({0: x}))

    def ncnn(self):
        import ncnn

        param = f"{self.dir}/vgg16.ncnn.param"
        if not os.path.exists(param):
            import pnnx

            with contextlib.chdir(self.dir):
                pnnx.export(self.net, "vgg16.pt", torch.randn(1, 3, 224, 224))

        def infer(net, x):
            for picture in x:
                extractor = net.create_extractor()
                extractor.input("in0", ncnn.Mat(picture))
                np.array(extractor.extract("out0")[1])

        for name, bf16 in (("ncnn f32", False), ("ncnn bf16 storage", True)):
            net = ncnn.Net()
            net.opt.num_threads = self.args.threads
            net.opt.use_bf16_storage = bf16
            net.load_param(param)
            net.load_model(param.replace(".param", ".bin"))
            for batch in self.args.batch:
                x = self.pictures(batch)
                self.add(name, batch, lambda net=net, x=x: infer(net, x))

    def torch(self):
        half = seeded().bfloat16()

        def infer(net, x):
            with torch.inference_mode():
                net(x)

        for batch in self.args.batch:
            x = torch.from_numpy(self.pictures(batch))
            self.add("PyTorch f32", batch, lambda x=x: infer(self.net, x))
            self.add("PyTorch bf16", batch, lambda x=x.bfloat16(): infer(half, x))

    def run(self):
        for engine in (self.ours, self.onnxruntime, self.openvino, self.ncnn, self.torch):
            try:
                engine()
            except ImportError as missing:
                print(f"left out: {missing}")
        times = {case: [] for case in self.cases}
        for number in range(self.args.rounds):
            print(f"round {number + 1} of {self.args.rounds}, load {os.getloadavg()[0]:.1f}", flush=True)
            for case, run in self.cases.items():
                times[case] += run()
        for batch in self.args.batch:
            print(f"\n| engine | ms/image at batch {batch} | of the best peer's |\n|---|---|---|")
            medians = {name: statistics.median(found) for (name, b), found in times.items() if b == batch}
            peer = min(ms for name, ms in medians.items() if not name.startswith("headswap"))
            for name, ms in sorted(medians.items(), key=lambda item: item[1]):
                print(f"| {name} | {ms:.1f} | {ms / peer:.2f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("headswap", help="the release binary")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--dir", default=f"{tempfile.gettempdir()}/headswap-engines", help="where exported models are kept")
    Bench(parser.parse_args()).run()
