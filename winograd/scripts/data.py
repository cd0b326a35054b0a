"""Seeded VGG16 weights and 1,000 pictures, in files for both sides; the other side's process."""

import os, subprocess, tempfile
import numpy as np, torch, torchvision
from PIL import Image

DIR = os.environ.get("DATA", os.path.join(tempfile.gettempdir(), "winograd"))
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
IMAGES = os.environ.get("IMAGES", os.path.join(ROOT, "..", "images"))


def model():
    """torchvision's VGG16 with He's uniform bounds in every layer and biases up to 0.05, as Headswap's demo weights have."""
    torch.manual_seed(0)
    net = torchvision.models.vgg16(weights=None, init_weights=False).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.uniform_(-1, 1).mul_((6 / p[0].numel()) ** 0.5 if p.dim() > 1 else 0.05)
    os.makedirs(DIR, exist_ok=True)
    if not os.path.exists(f"{DIR}/weights.f32"):
        with open(f"{DIR}/weights.f32", "wb") as f:
            for p in net.parameters():
                f.write(p.detach().numpy().tobytes())
    return net


def pictures(count):
    """Random crops, flips, brightness and contrast of four photographs: count x 224 x 224 x 3 u8."""
    rng = np.random.default_rng(1)
    photos = [
        Image.open(f"{IMAGES}/{n}").convert("RGB") for n in sorted(os.listdir(IMAGES)) if n[-3:] in ("png", "jpg")
    ]
    out = np.empty((count, 224, 224, 3), np.uint8)
    for i in range(count):
        im = photos[i % len(photos)]
        side = int(rng.uniform(0.3, 1) * min(im.size))
        x, y = rng.integers(0, im.size[0] - side + 1), rng.integers(0, im.size[1] - side + 1)
        a = np.asarray(im.crop((x, y, x + side, y + side)).resize((224, 224), Image.BILINEAR)).astype(np.float32)
        a = (a - 128) * rng.uniform(0.6, 1.4) + 128 + rng.uniform(-40, 40)
        out[i] = np.clip(a[:, ::-1] if rng.random() < 0.5 else a, 0, 255)
    return out


def normalised(pixels):
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(255)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ((x - mean[:, None, None]) / std[:, None, None]).contiguous()


class Ours:
    def __init__(self):
        exe = os.environ.get("EXE", f"{ROOT}/../target/release/examples/vgg16")
        self.p = subprocess.Popen(
            [exe, "serve", f"{DIR}/weights.f32"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.ready = self.p.stdout.readline()

    def ask(self, *words):
        self.p.stdin.write(" ".join(map(str, words)) + "\n")
        self.p.stdin.flush()
        return self.p.stdout.readline().strip()

    def run(self, precision, pixels):
        """Features and logits."""
        pixels.tofile(f"{DIR}/pixels.u8")
        assert self.ask("run", precision, f"{DIR}/pixels.u8", f"{DIR}/out.f32") == "done"
        out = np.fromfile(f"{DIR}/out.f32", np.float32).reshape(len(pixels), 5096)
        return out[:, :4096], out[:, 4096:]
