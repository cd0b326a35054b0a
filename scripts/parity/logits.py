"""Logits of a running Headswap against real torchvision on the same weights: `python logits.py PATH-TO-HEADSWAP`.

A seeded VGG16 is saved by PyTorch as safetensors, served, and asked over the command line, as a user would. A second
server runs the documented generator of demo weights, which is done again here in numpy. `golden FILE` as a second
argument writes the figures that the tests hold.
"""

import contextlib
import copy
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.models import VGG16_Weights, vgg16
from torchvision.models.vgg import VGG, make_layers

ROOT = Path(__file__).resolve().parents[2]
PHOTOGRAPHS = sorted(path for path in (ROOT / "images").iterdir() if path.suffix in (".png", ".jpg"))
TOLERANCE = 1e-4
PHOTOGRAPH_TOLERANCE = 1e-2
SPLITS = ["classifier.6", "classifier.3", "classifier.0", "features.28", "features.24", "features.0"]
FEATURES = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]
SEED = 0x4845414453574150
MASK = (1 << 64) - 1


@contextlib.contextmanager
def serve(headswap, *arguments):
    """A server on free ports; gives its addresses."""
    with tempfile.TemporaryDirectory() as heads:
        listen = [flag for name in ("listen", "admin-listen", "http-listen") for flag in (f"--{name}", "127.0.0.1:0")]
        command = [headswap, "serve", "--announce", "--heads-dir", heads, "--log", "warn", *listen, *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        addresses = {}
        try:
            for line in process.stdout:
                said = json.loads(line)
                if said.get("ready"):
                    break
                addresses[said["listening"]] = said["address"]
            yield addresses
        finally:
            process.terminate()
            assert process.wait() == 0, "the server did not end well"


def ask(headswap, addresses, paths, head="default"):
    """Every path's result from the server."""
    command = [headswap, "classify", "--address", addresses["grpc"], "--head", head, "--logits", "--json", *paths]
    answers = [json.loads(line) for line in subprocess.check_output(command, text=True).splitlines()]
    return {answer["image"]: answer["results"][0] for answer in answers}


def narrow(classes=1000):
    """The table of VGG16 with 1/32 of its channels."""
    model = VGG(make_layers([width if width == "M" else width // 32 for width in FEATURES]), num_classes=classes)
    model.classifier[0] = torch.nn.Linear(16 * 7 * 7, 128)
    model.classifier[3] = torch.nn.Linear(128, 128)
    model.classifier[6] = torch.nn.Linear(128, classes)
    return model


def demo(model):
    """Fills a model with the generator that `crates/model/src/demo.rs` documents."""
    for index, parameter in enumerate(model.parameters()):
        generate(parameter, SEED, index)
    return model.eval()


def demo_head(model, split, seed):
    """Fills a model from a layer on, as the generator does for heads; gives the tensors' names."""
    seed = SEED ^ ((seed + 1) * 0xD1342543DE82EF95 & MASK)
    names = [name for name, _ in model.named_parameters()]
    overridden = names[names.index(f"{split}.weight"):]
    for index, (name, parameter) in enumerate(model.named_parameters()):
        if name in overridden:
            generate(parameter, seed, (index + 2) % len(names))
    return overridden


def generate(parameter, seed, index):
    counter = np.arange(parameter.numel(), dtype=np.uint64) + np.uint64((index << 40) + 1)
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + counter * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    unit = (z >> np.uint64(40)).astype(np.float32) / np.float32(8388608) - np.float32(1)
    fan_in = math.prod(parameter.shape[1:])
    bound = np.float32(0.05) if parameter.dim() == 1 else np.sqrt(np.float32(6) / np.float32(fan_in))
    parameter.data = torch.from_numpy(unit * bound).reshape(parameter.shape)


def vgg16_of(classes):
    return vgg16(weights=None, num_classes=classes)


def seeded():
    torch.manual_seed(7)
    return vgg16(weights=None).eval()


def expected(model, path):
    """torchvision's logits for a file."""
    picture = VGG16_Weights.IMAGENET1K_V1.transforms()(Image.open(path).convert("RGB"))
    with torch.inference_mode():
        return model(picture[None])[0].numpy()


def compare(name, model, results):
    """Prints a row for each picture; gives whether all are equal enough."""
    good = True
    for path, result in results.items():
        want, got = expected(model, path), np.array(result["logits"], dtype=np.float32)
        relative = np.abs(want - got).max() / np.abs(want).max()
        top = [prediction["index"] for prediction in result["predictions"]]
        same = top == list(np.argsort(-want, kind="stable")[: len(top)])
        # A photograph's pixels may differ by a rounding of the resizing; the synthetic pictures are not resized.
        fits = same and relative <= (TOLERANCE if "mod" in Path(path).name else PHOTOGRAPH_TOLERANCE)
        good &= fits
        print(f"{name:28} {Path(path).name:18} {relative:.1e} top-5 {'equal' if same else 'DIFFERENT'} {'ok' if fits else 'WRONG'}")
    return good


def pictures(directory):
    """Two synthetic pictures that every language can make, as PNG files of exactly 256 x 256: nothing is resized."""
    paths = []
    for name, pixels in (("31mod251", np.arange(256 * 256 * 3) * 31 % 251), ("7919mod256", np.arange(256 * 256 * 3) * 7919 % 256)):
        path = Path(directory) / f"{name}.png"
        Image.fromarray(pixels.astype(np.uint8).reshape(256, 256, 3)).save(path)
        paths.append(str(path))
    return paths


def golden(file):
    """torchvision's logits of demo weights, for the tests."""
    figures, heads = [], []
    with tempfile.TemporaryDirectory() as directory:
        for arch, model in (("vgg16-narrow", demo(narrow())), ("vgg16", demo(vgg16(weights=None)))):
            for path in [*pictures(directory), *map(str, PHOTOGRAPHS)]:
                logits = expected(model, path)
                top = np.argsort(-logits, kind="stable")[:5]
                figures.append({
                    "arch": arch, "picture": Path(path).name, "scale": float(np.abs(logits).max()),
                    "top5": top.tolist(), "every_50th": logits[::50].tolist(),
                })
        for arch, new in (("vgg16-narrow", narrow), ("vgg16", vgg16_of)):
            for seed, split in enumerate(SPLITS):
                model, path = demo(new(1000)), pictures(directory)[0]
                model.classifier[6] = torch.nn.Linear(model.classifier[6].in_features, 10)
                demo_head(model, split, seed)
                heads.append({"arch": arch, "split": split, "seed": seed, "logits": expected(model, path).tolist()})
    Path(file).write_text(json.dumps(figures, indent=1) + "\n")
    Path(file).with_name("golden_heads.json").write_text(json.dumps(heads, indent=1) + "\n")


def main():
    if sys.argv[2:3] == ["golden"]:
        return golden(sys.argv[3])
    headswap, good = sys.argv[1], True
    with tempfile.TemporaryDirectory() as directory:
        paths = [*map(str, PHOTOGRAPHS), *pictures(directory)]
        model = seeded()
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            file = f"{directory}/{dtype}.safetensors"
            rounded = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
            save_file(rounded, file)
            with serve(headswap, "--weights", file) as addresses:
                same = vgg16(weights=None).eval()
                same.load_state_dict({name: tensor.float() for name, tensor in rounded.items()})
                good &= compare(f"vgg16 saved as {dtype}", same, ask(headswap, addresses, paths))
                if dtype == torch.float32:
                    good &= compare_heads(headswap, addresses, directory, same, paths)
            Path(file).unlink()
        for arch, model in (("vgg16-narrow", narrow()), ("vgg16", vgg16(weights=None))):
            with serve(headswap, "--weights", "demo", "--arch", arch) as addresses:
                good &= compare(f"demo weights, {arch}", demo(model), ask(headswap, addresses, paths))
    sys.exit(0 if good else 1)


def compare_heads(headswap, addresses, directory, model, paths):
    """Fine-tunes a copy of the model from each split layer on, and asks for it as a head."""
    good = True
    for seed, split in enumerate(SPLITS):
        tuned = copy.deepcopy(model)
        tuned.classifier[6] = torch.nn.Linear(4096, 10)
        names = demo_head(tuned, split, seed)
        file, name = f"{directory}/{split}.safetensors", split.replace(".", "-")
        save_file({name: tensor for name, tensor in tuned.state_dict().items() if name in names}, file)
        subprocess.check_call([headswap, "head", "replace", "--admin-address", addresses["admin"], name, file])
        Path(file).unlink()
        good &= compare(f"a head from {split} on", tuned, ask(headswap, addresses, paths, name))
    return good


if __name__ == "__main__":
    main()
