#!/usr/bin/env python3
"""Times VGG16's forward pass here and in other engines, side by side: `benches/engines.py PATH-TO-HEADSWAP`.

The same seeded weights everywhere, a round through all engines again and again, medians of ms per image. Ours takes u8
pixels to logits, the others normalised f32. INT8 peers are calibrated on the photographs of `images/`, and what that does
to the logits is printed last. `benches/setup` installs what it needs; engines whose package is missing are left out.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.models import VGG16_Weights, vgg16

ROOT = Path(__file__).resolve().parents[1]


def seeded():
    """torchvision's VGG16 with He's uniform bounds in every layer, so that activations keep their size, and small biases."""
    torch.manual_seed(0)
    net = vgg16(weights=None, init_weights=False).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.uniform_(-1, 1).mul_((6 / p[0].numel()) ** 0.5 if p.dim() > 1 else 0.05)
    return net


def models(folder):
    """Leaves the seeded weights in a folder, as vgg16.safetensors and vgg16.onnx, once; gives the network."""
    os.makedirs(folder, exist_ok=True)
    net, path = seeded(), f"{folder}/vgg16.onnx"
    if not os.path.exists(path):
        print("exporting the model", flush=True)
        save_file(net.state_dict(), f"{folder}/vgg16.safetensors")
        names = dict(input_names=["x"], output_names=["y"], dynamic_axes={"x": {0: "b"}}, dynamo=False)
        torch.onnx.export(net, torch.randn(1, 3, 224, 224), f"{path}.partial", **names)
        os.replace(f"{path}.partial", path)
    return net


def photographs():
    """The repository's photographs as torchvision's transforms make them: 1 x 3 x 224 x 224 each."""
    transform = VGG16_Weights.DEFAULT.transforms()
    paths = sorted(path for path in (ROOT / "images").iterdir() if path.suffix in (".jpg", ".png"))
    return [transform(Image.open(path).convert("RGB"))[None].numpy() for path in paths]


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
        self.args, self.net, self.cases, self.int8 = args, models(args.dir), {}, {}
        torch.set_num_threads(args.threads)

    def pictures(self, batch):
        return np.random.default_rng(0).standard_normal((batch, 3, 224, 224), dtype=np.float32)

    def add(self, name, batch, call):
        run = timed(call, 4 if batch == 1 else 2 if batch <= 8 else 1)
        self.cases[name, batch] = lambda: [t / batch for t in run()]

    def ours(self):
        kinds = [("native", "f32"), ("native", "int16")]
        if Path(self.args.headswap).with_name("headswap-torch").exists():
            kinds.append(("torch", "f32"))
        else:
            print("left out: headswap with libtorch; TORCH=1 make build builds it", flush=True)
        for engine, precision in kinds:
            for batch in self.args.batch:

                def run(engine=engine, precision=precision, batch=batch):
                    flags = f"--backend {engine} --precision {precision} --batch {batch} --threads {self.args.threads}"
                    command = [self.args.headswap, "bench", "forward", "--weights", f"{self.args.dir}/vgg16.safetensors"]
                    command += ["--device", "cpu", "--seconds", "1", "--json", *flags.split()]
                    return [json.loads(subprocess.check_output(command, text=True).splitlines()[-1])["ms_per_image"]]

                self.cases[f"headswap {engine} {precision}", batch] = run

    def onnxruntime(self):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.args.threads
        session = onnxruntime.InferenceSession(f"{self.args.dir}/vgg16.onnx", options, providers=["CPUExecutionProvider"])
        for batch in self.args.batch:
            x = self.pictures(batch)
            self.add("ONNX Runtime f32", batch, lambda x=x: session.run(None, {"x": x}))

    def onnxruntime_int8(self):
        import onnxruntime
        from onnxruntime.quantization import CalibrationDataReader, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Photographs(CalibrationDataReader):
            def __init__(self):
                self.left = photographs()

            def get_next(self):
                return {"x": self.left.pop()} if self.left else None

        path = f"{self.args.dir}/vgg16-int8.onnx"
        if not os.path.exists(path):
            print("quantising for ONNX Runtime", flush=True)
            quant_pre_process(f"{self.args.dir}/vgg16.onnx", f"{path}.prepared")
            quantize_static(f"{path}.prepared", f"{path}.partial", Photographs(), per_channel=True)
            os.replace(f"{path}.partial", path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.args.threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.int8["ONNX Runtime INT8"] = lambda x: session.run(None, {"x": x})[0]
        for batch in self.args.batch:
            x = self.pictures(batch)
            self.add("ONNX Runtime INT8", batch, lambda x=x: session.run(None, {"x": x}))

    def openvino(self):
        import openvino

        core = openvino.Core()
        for batch in self.args.batch:
            x = self.pictures(batch)
            for precision in ("f32", "bf16"):
                model = core.read_model(f"{self.args.dir}/vgg16.onnx")
                model.reshape([batch, 3, 224, 224])
                options = {
                    "INFERENCE_PRECISION_HINT": precision,
                    "INFERENCE_NUM_THREADS": self.args.threads,
                    "NUM_STREAMS": 1,
                }
                request = core.compile_model(model, "CPU", options).create_infer_request()
                self.add(f"OpenVINO {precision}", batch, lambda r=request, x=x: r.infer({0: x}))

    def openvino_int8(self):
        import nncf
        import openvino

        core = openvino.Core()
        model = core.read_model(f"{self.args.dir}/vgg16.onnx")
        model.reshape([-1, 3, 224, 224])
        pictures = photographs()
        quantised = nncf.quantize(model, nncf.Dataset(pictures), subset_size=len(pictures))
        options = {"INFERENCE_NUM_THREADS": self.args.threads, "NUM_STREAMS": 1}
        for batch in self.args.batch:
            x = self.pictures(batch)
            quantised.reshape([batch, 3, 224, 224])
            request = core.compile_model(quantised, "CPU", options).create_infer_request()
            self.add("OpenVINO INT8", batch, lambda r=request, x=x: r.infer({0: x}))
            if batch == 1:
                self.int8["OpenVINO INT8"] = lambda x, r=request: r.infer({0: x})[0].copy()

    def ncnn(self):
        import ncnn

        param = f"{self.args.dir}/vgg16.ncnn.param"
        if not os.path.exists(param):
            import pnnx

            with contextlib.chdir(self.args.dir):
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
        def infer(net, x):
            with torch.inference_mode():
                net(x)

        # With channels last, which takes 0.7 of the time of the usual order.
        for name, dtype in (("PyTorch f32", torch.float32), ("PyTorch bf16", torch.bfloat16)):
            kind = dict(dtype=dtype, memory_format=torch.channels_last)
            net = seeded().to(**kind)
            for batch in self.args.batch:
                x = torch.from_numpy(self.pictures(batch)).to(**kind)
                self.add(name, batch, lambda net=net, x=x: infer(net, x))

    def run(self):
        engines = (self.ours, self.onnxruntime, self.onnxruntime_int8, self.openvino, self.openvino_int8, self.ncnn, self.torch)
        for engine in engines:
            try:
                engine()
            except ImportError as missing:
                print(f"left out: {missing}; benches/setup installs it", flush=True)
        times = {case: [] for case in self.cases}
        for number in range(self.args.rounds):
            for batch in self.args.batch:
                progress = f"round {number + 1} of {self.args.rounds}, batch {batch}"
                print(f"{progress}, load {os.getloadavg()[0]:.1f}", flush=True)
                for case in self.cases:
                    times[case] += self.cases[case]() if case[1] == batch else []
        for batch in self.args.batch:
            print(f"\n| engine | ms/image at batch {batch} | of the best peer's | of the best f32 peer's |")
            print("|---|---|---|---|")
            medians = {name: statistics.median(found) for (name, b), found in times.items() if b == batch}
            peers = {name: ms for name, ms in medians.items() if not name.startswith("headswap")}
            best = min(peers.values())
            best_f32 = min(ms for name, ms in peers.items() if name.endswith("f32"))
            for name, ms in sorted(medians.items(), key=lambda item: item[1]):
                f32 = f"{ms / best_f32:.2f}" if name.endswith("f32") else ""
                print(f"| {name} | {ms:.1f} | {ms / best:.2f} | {f32} |")
        self.report_int8()

    def report_int8(self):
        """How far INT8 changes the logits of the photographs it was calibrated on."""
        pictures = photographs()
        with torch.inference_mode():
            right = [self.net(torch.from_numpy(x)).numpy() for x in pictures]
        print()
        for name, logits in self.int8.items():
            found = [logits(x) for x in pictures]
            error = max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(found, right))
            same = sum(a.argmax() == b.argmax() for a, b in zip(found, right))
            print(f"{name}: logits off by up to {error:.4f} of the largest, {same} of {len(right)} top classes as in f32")



if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("headswap", help="the release binary")
    parser.add_argument("--rounds", type=int, default=5, help="the medians are of all of them")
    parser.add_argument("--quick", action="store_true", help="one round of small batches, to see that all of it runs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, nargs="+", help="default: 1, 8 and 32")
    parser.add_argument("--dir", default=f"{tempfile.gettempdir()}/headswap-engines", help="where exported models are kept")
    args = parser.parse_args()
    args.rounds, args.batch = 1 if args.quick else args.rounds, args.batch or ([1, 2] if args.quick else [1, 8, 32])
    Bench(args).run()
