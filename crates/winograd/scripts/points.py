#!/usr/bin/env python3
"""points.py: how rounding disturbs Winograd's filtering, by tile, points, number format and scales: relative error (L2) after
VGG16's 13 convolutions (He-uniform weights, four photographs). Needs torch, numpy, pillow. Minutes."""

import os
import numpy as np, torch, torch.nn.functional as F
from PIL import Image

torch.manual_seed(0)
IMAGES = os.environ.get("IMAGES", os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "images"))
CHANNELS = [64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0]
half, root = 0.5, 0.5**0.5
TILES = {
    "F2 at 0 ±1": (2, [0, 1, -1]),
    "F4 at 0 ±1 ±2": (4, [0, 1, -1, 2, -2]),
    "F4 at 0 ±√½ ±√2": (4, [0, root, -root, 2 * root, -2 * root]),
    "F6 at 0 ±1 ±2 ±½": (6, [0, 1, -1, 2, -2, half, -half]),
}


def matrices(m, points):
    powers = lambda k: np.array([[p**j for j in range(k)] for p in points] + [[0] * (k - 1) + [1]], float)
    return [torch.tensor(x) for x in (np.linalg.inv(powers(m + 2)).T, powers(3), powers(m).T)]


def bf16(x):
    return x.to(torch.bfloat16).to(x.dtype)


def rounded(v, u, bt, how):
    """v: product x tile x channel, u: product x output x channel."""
    if how == "f32":
        return v, u
    if how == "bf16":
        return bf16(v), bf16(u)

    def scale(x):
        return torch.minimum(
            2**15.5 / x.pow(2).sum(2, keepdim=True).sqrt(), 32767 / x.abs().amax(2, keepdim=True)
        ).clamp(max=1e12)

    su, sv = scale(u), scale(v)
    if how == "i16, a scale a tile":
        norm = bt.float().pow(2).sum(1).sqrt()
        norm = (norm[:, None] * norm).reshape(-1, 1, 1)
        sv = (sv * norm).amin(0, keepdim=True) / norm
    return (torch.round(v * sv) / sv).double(), (torch.round(u * su) / su).double()


def winograd(x, w, b, tile, how):
    m, (bt, g, at) = tile[0], matrices(*tile)
    n, _, h, wd = x.shape
    o, a = w.shape[0], m + 2
    th, tw = -(-h // m), -(-wd // m)
    x = F.pad(x, (1, tw * m + 1 - wd, 1, th * m + 1 - h)).unfold(2, a, m).unfold(3, a, m)
    v = torch.einsum("ij,ncyxjk,lk->ilnyxc", bt.float(), x, bt.float()).reshape(a * a, n * th * tw, -1)
    u = torch.einsum("ij,ocjk,lk->iloc", g, w.double(), g).float().reshape(a * a, o, -1)
    v, u = rounded(v, u, bt, how)
    p = torch.einsum("atc,aoc->ato", v, u).float().reshape(a, a, n, th, tw, o)
    y = torch.einsum("ij,jknyxo,lk->noyixl", at.float(), p, at.float()).reshape(n, o, th * m, tw * m)
    return y[:, :, :h, :wd] + b[None, :, None, None]


def run(x, conv):
    for layer in LAYERS:
        direct = layer and layer[0].shape[1] == 3
        x = (
            F.max_pool2d(x, 2)
            if layer is None
            else F.relu(F.conv2d(x, *layer, padding=1) if direct else conv(x, *layer))
        )
    return x


LAYERS, c = [], 3
for o in CHANNELS:
    LAYERS.append(
        ((torch.rand(o, c, 3, 3) * 2 - 1) * (6 / (c * 9)) ** 0.5, (torch.rand(o) * 2 - 1) * 0.05) if o else None
    )
    c = o or c
names = sorted(n for n in os.listdir(IMAGES) if n[-3:] in ("png", "jpg"))
x = (
    torch.tensor(
        np.stack([np.array(Image.open(f"{IMAGES}/{n}").convert("RGB").resize((224, 224))) for n in names])
    ).permute(0, 3, 1, 2)
    / 255
)
x = (x - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
with torch.inference_mode():
    ref = run(x, lambda x, w, b: F.conv2d(x, w, b, padding=1))
    error = lambda y: f"{((y - ref).norm() / ref.norm()).item():.1e}"
    print("direct bf16", error(run(x, lambda x, w, b: bf16(F.conv2d(bf16(x), bf16(w), b, padding=1)))), flush=True)
    for name, tile in TILES.items():
        for how in ("f32", "bf16", "i16, a scale a tile", "i16, a scale a product"):
            print(name, how, error(run(x, lambda x, w, b: winograd(x, w, b, tile, how))), flush=True)
