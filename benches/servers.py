#!/usr/bin/env python3
"""Headswap beside Triton under the same client: `benches/servers.py PATH-TO-HEADSWAP null|vgg16`.

`null` computes nothing and is sent 150,528 bytes of pixels: the servers alone. `vgg16` is sent a JPEG photograph and answers
the five best classes: Triton's Python backend with PyTorch in bf16, the faster of its choices on a CPU, and Headswap in f32
and int16. All servers stay up, and are loaded in turns by h2load (of nghttp2), over at most four connections.

Run it in an environment with nvidia-pytriton==0.7.0, which carries Triton's server, torch==2.11.0, torchvision, pillow,
grpcio and psutil. Triton waits up to 2 ms for a fuller batch, Headswap starts at once; batches have at most 8 pictures.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import grpc
import psutil

ROOT = Path(__file__).resolve().parents[1]
PIXELS = 224 * 224 * 3

TRITON_MODEL = '''
import io
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.vgg16 = {vgg16}
        if not self.vgg16:
            return
        import torch, torchvision
        self.torch = torch
        torch.set_num_threads({threads})
        torch.manual_seed(0)
        self.net = torchvision.models.vgg16(weights=None).eval().to(torch.bfloat16)
        self.transform = torchvision.transforms.Compose([
            torchvision.transforms.Resize(256), torchvision.transforms.CenterCrop(224), torchvision.transforms.ToTensor(),
            torchvision.transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])

    def best(self, files):
        if not self.vgg16:
            return np.tile(np.arange(5, dtype=np.int32), (len(files), 1))
        from PIL import Image
        pictures = [self.transform(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
        with self.torch.inference_mode():
            logits = self.net(self.torch.stack(pictures).to(self.torch.bfloat16)).float()
            return logits.softmax(1).topk(5).indices.numpy().astype(np.int32)

    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(request, "image").as_numpy() for request in requests]
        classes = self.best([row[0] if self.vgg16 else row for rows in inputs for row in rows])
        answers, at = [], 0
        for rows in inputs:
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("classes", classes[at:at + len(rows)])]))
            at += len(rows)
        return answers
'''

TRITON_CONFIG = """
name: "model"
backend: "python"
max_batch_size: 8
input [ {{ name: "image" data_type: {type} dims: [ {dims} ] }} ]
output [ {{ name: "classes" data_type: TYPE_INT32 dims: [ 5 ] }} ]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
dynamic_batching {{ max_queue_delay_microseconds: 2000 }}
"""


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out + bytes([number]))


def field(number, content):
    """A length-delimited field of a protobuf message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


class Server:
    """A process, and how to ask it."""

    def __init__(self, name, command, environment, method, message):
        self.name, self.method, self.message = name, method, message
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=self.log, text=True
        )

    def tree(self):
        process = psutil.Process(self.process.pid)
        return [process, *process.children(recursive=True)]

    def cpu_seconds(self):
        return sum(sum(process.cpu_times()[:2]) for process in self.tree())

    def megabytes(self):
        return sum(process.memory_info().rss for process in self.tree()) / 1e6

    def check(self):
        """h2load does not look at statuses, so one call by a client that does."""
        deadline = time.time() + 120
        with grpc.insecure_channel(self.address, options=[("grpc.max_send_message_length", 1 << 24)]) as channel:
            call = channel.unary_unary(self.method)
            while True:
                try:
                    return call(self.message, timeout=60)
                except grpc.RpcError as error:
                    if time.time() > deadline:
                        sys.exit(f"{self.name}: {error.code()}: {error.details()}")
                    time.sleep(0.2)

    def load(self, h2load, concurrency, seconds):
        """A dict of figures."""
        connections = min(concurrency, 4)
        with tempfile.TemporaryDirectory() as folder:
            body, log = f"{folder}/body", f"{folder}/log"
            Path(body).write_bytes(b"\0" + len(self.message).to_bytes(4, "big") + self.message)
            flags = ["-c", connections, "-m", concurrency // connections, "-d", body, f"--log-file={log}"]
            flags += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
            url = f"http://{self.address}{self.method}"

            def run(count):
                Path(log).unlink(missing_ok=True)
                before, start = self.cpu_seconds(), time.time()
                command = [h2load, "-n", str(count), *map(str, flags), url]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                return time.time() - start, self.cpu_seconds() - before

            probe = 4 * concurrency
            took, _ = run(probe)
            count = max(int(probe / took * seconds), probe)
            took, cpu = run(count)
            rows = [line.split() for line in Path(log).read_text().splitlines()]
        times = sorted(int(row[2]) / 1e3 for row in rows if row[1] == "200")
        if len(times) != count:
            sys.exit(f"{self.name}: {count - len(times)} of {count} requests failed")
        return {
            "rate": count / took,
            "p50": times[count // 2],
            "p99": times[int(0.99 * (count - 1))],
            "cpu": cpu / count * 1e6,
            "megabytes": self.megabytes(),
        }

    def stop(self):
        processes = self.tree()
        self.process.send_signal(signal.SIGTERM)
        psutil.wait_procs(processes, timeout=15)
        for process in processes:
            if process.is_running():
                process.kill()


def headswap(binary, folder, work, precision, picture):
    name = "Headswap" if work == "null" else f"Headswap {precision}"
    engine = ["--engine", "null"] if work == "null" else ["--precision", precision]
    listen = [word for flag in ("--listen", "--admin-listen", "--http-listen") for word in (flag, "127.0.0.1:0")]
    command = [binary, "serve", "--weights", "demo", "--max-batch", "8", "--heads-dir", f"{folder}/{precision}", *listen]
    message = field(2 if work == "null" else 1, picture)
    server = Server(name, [*command, *engine], {}, "/headswap.v1.ClassifierService/Classify", message)
    for line in server.process.stdout:
        said = json.loads(line)
        if said.get("listening") == "grpc":
            server.address = said["address"]
        if said.get("ready"):
            return server
    sys.exit("Headswap did not start")


def triton(folder, work, threads, picture):
    import pytriton

    wheel = Path(pytriton.__file__).parent / "tritonserver"
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    shutil.copytree(wheel / "backends/python", folder / "backends/python")
    stub = wheel / "python_backend_stubs" / python / "triton_python_backend_stub"
    shutil.copy(stub, folder / "backends/python")
    model = folder / "models/model"
    (model / "1").mkdir(parents=True)
    (model / "1/model.py").write_text(TRITON_MODEL.format(vgg16=work == "vgg16", threads=threads))
    kind, dims = ("TYPE_STRING", "1") if work == "vgg16" else ("TYPE_UINT8", "224, 224, 3")
    (model / "config.pbtxt").write_text(TRITON_CONFIG.format(type=kind, dims=dims))
    command = [str(wheel / "bin/tritonserver"), f"--model-repository={folder}/models"]
    command += [f"--backend-directory={folder}/backends", "--disable-auto-complete-config", "--allow-http=false"]
    command += ["--allow-metrics=false", "--grpc-address=127.0.0.1", "--grpc-port=8001"]
    libraries = f"{wheel.parents[1]}/nvidia_pytriton.libs:{sysconfig.get_config_var('LIBDIR')}"
    environment = {
        "LD_LIBRARY_PATH": libraries,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": ":".join(path for path in sys.path if path.endswith("site-packages")),
    }
    shape = field(3, b"".join(map(varint, [1, 1] if work == "vgg16" else [1, 224, 224, 3])))
    datatype = b"BYTES" if work == "vgg16" else b"UINT8"
    content = len(picture).to_bytes(4, "little") + picture if work == "vgg16" else picture
    tensor = field(1, b"image") + field(2, datatype) + shape
    message = field(1, b"model") + field(5, tensor) + field(7, content)
    name = "Triton, Python backend" + (", PyTorch bf16" if work == "vgg16" else "")
    server = Server(name, command, environment, "/inference.GRPCInferenceService/ModelInfer", message)
    server.address = "127.0.0.1:8001"
    return server


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("headswap", help="the release binary")
    parser.add_argument("work", choices=["null", "vgg16"])
    parser.add_argument("--h2load", default="h2load")
    parser.add_argument("--concurrency", type=int, nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch")
    parser.add_argument("--image", type=Path, default=ROOT / "images/rocket.jpg")
    args = parser.parse_args()
    null = args.work == "null"
    concurrency = args.concurrency or ([16, 64] if null else [32])
    seconds = args.seconds or (3 if null else 15)
    picture = bytes(i * 31 % 251 for i in range(PIXELS)) if null else args.image.read_bytes()

    with tempfile.TemporaryDirectory() as folder:
        servers = []
        try:
            servers.append(triton(Path(folder) / "triton", args.work, args.threads, picture))
            for precision in ("f32",) if null else ("f32", "int16"):
                servers.append(headswap(args.headswap, folder, args.work, precision, picture))
            for server in servers:
                server.check()
            found = {}
            for number in range(args.rounds):
                print(f"round {number + 1} of {args.rounds}, load {os.getloadavg()[0]:.1f}", flush=True)
                for clients in concurrency:
                    for server in servers:
                        figures = server.load(args.h2load, clients, seconds)
                        found.setdefault((clients, server.name), []).append(figures)
        finally:
            for server in servers:
                server.stop()
    print("\n| clients | server | requests/s | p50 | p99 | server CPU µs/request | of Triton's: rate, p99, CPU | MB |")
    print("|---|---|---|---|---|---|---|---|")
    for (clients, name), runs in found.items():
        middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        base = {key: statistics.median(run[key] for run in found[clients, servers[0].name]) for key in middle}
        ratios = ", ".join(f"{middle[key] / base[key]:.2f}" for key in ("rate", "p99", "cpu"))
        figures = f"{middle['rate']:.1f} | {middle['p50']:.1f} ms | {middle['p99']:.1f} ms | {middle['cpu']:.0f}"
        print(f"| {clients} | {name} | {figures} | {ratios} | {middle['megabytes']:.0f} |")


main()
