#!/usr/bin/env python3
"""compare.py [rounds]: ms per image of VGG16's forward pass here, in ncnn, OpenVINO and PyTorch, alternating, medians, 2 threads.
Needs torch==2.11.0, torchvision, numpy, pillow, openvino, ncnn, pnnx, onnx. BATCHES=1,8 and ENGINES=ours,ncnn,openvino,torch choose.
"""

import os, statistics, sys, time
import numpy as np, torch
from data import DIR, Ours, model

THREADS, RUNS = 2, int(sys.argv[1]) if len(sys.argv) > 1 else 5
BATCHES = [int(b) for b in os.environ.get("BATCHES", "1,8").split(",")]
ENGINES = os.environ.get("ENGINES", "ours,ncnn,openvino,torch").split(",")
torch.set_num_threads(THREADS)
net = model()
os.chdir(DIR)
cases = {}


def add(name, batch, call):
    cases[name, batch] = (batch, call)


def timed(call):
    def run():
        t0 = time.perf_counter()
        call()
        return (time.perf_counter() - t0) * 1e3

    return run


def picture_batches():
    for b in BATCHES:
        yield b, np.random.default_rng(0).standard_normal((b, 3, 224, 224), dtype=np.float32)


if "ours" in ENGINES:
    ours = Ours()
    for b in BATCHES:
        for p in ("float", "integer"):
            add(f"ours {p}", b, lambda p=p, b=b: float(ours.ask("time", p, b)) * b)
if "ncnn" in ENGINES:
    import ncnn

    if not os.path.exists("vgg16.ncnn.param"):
        import pnnx

        pnnx.export(net, "vgg16.pt", torch.randn(1, 3, 224, 224))

    def load(**kw):
        n = ncnn.Net()
        n.opt.num_threads = THREADS
        for k, v in kw.items():
            setattr(n.opt, k, v)
        n.load_param("vgg16.ncnn.param")
        n.load_model("vgg16.ncnn.bin")
        return n

    def one_by_one(n, x):
        for im in x:
            ex = n.create_extractor()
            ex.input("in0", ncnn.Mat(im))
            np.array(ex.extract("out0")[1])

    for k, n in {"ncnn f32": load(), "ncnn bf16 storage": load(use_bf16_storage=True)}.items():
        for b, x in picture_batches():
            add(k, b, timed(lambda n=n, x=x: one_by_one(n, x)))
if "openvino" in ENGINES:
    import openvino as ov

    if not os.path.exists("vgg16.onnx"):
        torch.onnx.export(
            net,
            torch.randn(1, 3, 224, 224),
            "vgg16.onnx",
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "b"}},
            dynamo=False,
        )
    core = ov.Core()
    for b, x in picture_batches():
        for p in ("f32", "bf16"):
            mod = core.read_model("vgg16.onnx")
            mod.reshape([b, 3, 224, 224])
            r = core.compile_model(
                mod, "CPU", {"INFERENCE_PRECISION_HINT": p, "INFERENCE_NUM_THREADS": THREADS, "NUM_STREAMS": 1}
            ).create_infer_request()
            add(f"openvino {p}", b, timed(lambda r=r, x=x: r.infer({0: x})))
if "torch" in ENGINES:
    half = model().bfloat16()

    def infer(m, t):
        with torch.inference_mode():
            m(t)

    for b, x in picture_batches():
        t = torch.from_numpy(x)
        add("torch f32", b, timed(lambda t=t: infer(net, t)))
        add("torch bf16", b, timed(lambda t=t.bfloat16(): infer(half, t)))
times = {k: [] for k in cases}
if RUNS == 0:
    sys.exit()
begin = time.time()
for _ in range(RUNS):
    for k, (b, f) in cases.items():
        f()  # warm: the engine before it has emptied the caches
        for _ in range(4 if b == 1 else 2):
            times[k].append(f() / b)
print(f"{RUNS} rounds in {time.time() - begin:.0f} s, load {os.getloadavg()}")
for b in BATCHES:
    rows = sorted(((statistics.median(v), min(v), k[0]) for k, v in times.items() if k[1] == b))
    for med, low, name in rows:
        print(f"batch {b}  {name:20s} {med:7.1f} ms/image (min {low:.1f})")
