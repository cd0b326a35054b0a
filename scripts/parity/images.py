"""Odd pictures, and what Pillow and torchvision make of them.

`reference_pixels` is the truth that `crates/image/src/` follows: torchvision's transforms for VGG16 on a Pillow picture, up to
the normalisation. `python images.py golden tests/fixtures/images` writes the committed fixtures anew; `python images.py
generate DIRECTORY` writes the whole set with its references, for a wider comparison.

Needs pillow, numpy, torch and torchvision 0.26.
"""

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

IMAGES = Path(__file__).resolve().parents[2] / "images"
PHOTOGRAPHS = ["grace_hopper.jpg", "rocket.jpg", "chelsea.png", "coffee.png"]

# The generated files that are committed: one of each kind, small.
GOLDEN = [
    "jpeg_420.jpg",
    "jpeg_422_progressive.jpg",
    "jpeg_420_planar.jpg",
    "jpeg_grey.jpg",
    "jpeg_cmyk.jpg",
    "jpeg_ycck.jpg",
    "jpeg_exif_rotated.jpg",
    "jpeg_restarts.jpg",
    "png_grey1.png",
    "png_grey16.png",
    "png_grey16_transparent.png",
    "png_rgb16.png",
    "png_rgba.png",
    "png_palette_transparent.png",
    "png_one.png",
    "png_wide.png",
    "gif_offset_transparent.gif",
    "gif_frame_beyond_screen.gif",
    "bmp_rle8.bmp",
    "bmp_565.bmp",
    "webp_lossy.webp",
    "webp_animated_alpha.webp",
]


def photographs():
    """The paths of the four photographs."""
    return [IMAGES / name for name in PHOTOGRAPHS]


def reference_pixels(path):
    """224 x 224 x 3 u8, as the transforms of `VGG16_Weights.IMAGENET1K_V1` see the picture before normalising it."""
    from torchvision.models import VGG16_Weights
    from torchvision.transforms import functional

    preset = VGG16_Weights.IMAGENET1K_V1.transforms()
    with Image.open(path) as file:
        picture = file.convert("RGB")
    picture = functional.resize(
        picture, preset.resize_size, interpolation=preset.interpolation, antialias=preset.antialias
    )
    return np.asarray(functional.center_crop(picture, preset.crop_size))


def texture(width, height, channels, seed):
    """Waves with a little noise: smooth enough for JPEG, not so smooth that a wrong resize goes unseen."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    planes = []
    for _ in range(channels):
        fx, fy, phase = rng.uniform(0.05, 0.35), rng.uniform(0.05, 0.35), rng.uniform(0, 6)
        wave = 127 + 100 * np.sin(fx * x + phase) * np.cos(fy * y)
        planes.append(wave + rng.integers(-6, 7, size=wave.shape))
    return np.clip(np.stack(planes, axis=-1), 0, 255).astype(np.uint8)


def rgb(width, height, seed):
    return Image.fromarray(texture(width, height, 3, seed), "RGB")


def grey(width, height, seed):
    return Image.fromarray(texture(width, height, 1, seed)[..., 0], "L")


def encoded(picture, format, **options):
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def png(width, height, depth, colour, rows, chunks=(), interlaced=False):
    """A PNG file of raw rows (bytes, filter 0 is put before each), for what Pillow does not write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    data = b"".join(b"\0" + row for row in rows)
    parts = [chunk(b"IHDR", header), *(chunk(kind, data) for kind, data in chunks)]
    parts += [chunk(b"IDAT", zlib.compress(data, 9)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def packed(indices, depth):
    """Rows of `depth`-bit numbers, most significant first."""
    bits = ((indices[..., None] >> np.arange(depth - 1, -1, -1)) & 1).astype(np.uint8)
    return [row.tobytes() for row in np.packbits(bits.reshape(indices.shape[0], -1), axis=1)]


def adam7(pixels):
    """The rows of the seven passes of an interlaced PNG."""
    rows = []
    for y0, x0, dy, dx in [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]:
        rows += [row.tobytes() for row in pixels[y0::dy, x0::dx] if row.size]
    return rows


def png_files():
    seed = 100
    samples = texture(31, 23, 4, seed).astype(np.uint16)
    deep = samples * 257 - np.minimum(samples, 31) * 3
    big = lambda array: [row.astype(">u2").tobytes() for row in array]
    palette = np.random.default_rng(seed).integers(0, 256, size=(256, 3), dtype=np.uint8).tobytes()
    index = samples[..., 0]
    alpha = bytes(range(0, 256, 16))

    for depth in (1, 2, 4):
        scaled = index >> (8 - depth)
        yield f"png_grey{depth}.png", png(31, 23, depth, 0, packed(scaled, depth))
        yield f"png_palette{depth}.png", png(31, 23, depth, 3, packed(scaled, depth), [(b"PLTE", palette[: 3 << depth])])
    yield "png_grey8.png", encoded(grey(31, 23, seed), "PNG")
    yield "png_grey8_transparent.png", encoded(grey(31, 23, seed), "PNG", transparency=128)
    # Pillow clips 16-bit grey at 255 where it keeps the high byte of every other 16-bit kind: half of this is above.
    dim = (samples[..., 0] * 2).astype(np.uint16)
    yield "png_grey16.png", png(31, 23, 16, 0, big(dim))
    yield "png_grey16_bright.png", png(31, 23, 16, 0, big(deep[..., 0]))
    yield "png_grey16_transparent.png", png(31, 23, 16, 0, big(dim), [(b"tRNS", struct.pack(">H", 200))])
    yield "png_la16.png", png(31, 23, 16, 4, big(deep[..., :2]))
    yield "png_rgb16.png", png(31, 23, 16, 2, big(deep[..., :3]))
    yield "png_rgb16_transparent.png", png(31, 23, 16, 2, big(deep[..., :3]), [(b"tRNS", struct.pack(">HHH", 1, 2, 3))])
    yield "png_rgba16.png", png(31, 23, 16, 6, big(deep))
    yield "png_la.png", encoded(Image.fromarray(texture(31, 23, 2, seed), "LA"), "PNG")
    yield "png_rgba.png", encoded(Image.fromarray(texture(31, 23, 4, seed), "RGBA"), "PNG")
    yield "png_palette8.png", png(31, 23, 8, 3, packed(index, 8), [(b"PLTE", palette)])
    yield "png_palette_transparent.png", png(
        31, 23, 4, 3, packed(index >> 4, 4), [(b"PLTE", palette[:48]), (b"tRNS", alpha)]
    )
    yield "png_palette_short.png", png(31, 23, 8, 3, packed(index, 8), [(b"PLTE", palette[:300])])
    yield "png_gamma.png", png(31, 23, 8, 0, packed(index, 8), [(b"gAMA", struct.pack(">I", 100000))])
    yield "png_interlaced.png", png(31, 23, 8, 2, adam7(texture(31, 23, 3, seed)), interlaced=True)
    sizes = {
        "one": (1, 1), "row": (7, 1), "column": (1, 7), "wide": (500, 3), "tall": (3, 500), "prime": (251, 257),
        "prime_small": (13, 17), "as_resized": (256, 256), "as_cropped": (224, 224), "almost": (257, 255),
        "one_over": (256, 257), "three_over": (256, 259), "five_over": (261, 256), "seven_over": (263, 256),
        "large": (1531, 1013), "huge_thin": (3001, 2), "huge_tall": (1, 1500),
    }  # fmt: skip
    for number, (name, (width, height)) in enumerate(sizes.items()):
        yield f"png_{name}.png", encoded(rgb(width, height, 200 + number), "PNG", optimize=True)


def adobe_transform(jpeg, transform):
    """The same file with another colour transform in its Adobe segment."""
    at = jpeg.index(b"Adobe\0")
    return jpeg[: at + 11] + bytes([transform]) + jpeg[at + 12 :]


def jpeg_planar(picture, halved):
    """A sequential YCbCr file with a scan for each component (T.81, A.2.2), which Pillow reads but does not write: made of
    three grey files, whose quantisation and Huffman tables are the same. With `halved` chroma, 4:2:0.
    """
    luma, *chroma = picture.convert("YCbCr").split()
    if halved:
        chroma = [plane.reduce(2) for plane in chroma]
    file, scans = b"", b""
    for component, plane in enumerate([luma, *chroma], 1):
        segments = jpeg_segments(encoded(plane, "JPEG", quality=85))
        scan = next(data for marker, data in segments if marker == 0xDA)
        scans += scan[:5] + bytes([component]) + scan[6:]
        if component == 1:
            factors = 0x22 if halved else 0x11
            size = struct.pack(">BHHB", 8, plane.height, plane.width, 3)
            frame = size + bytes([1, factors, 0, 2, 0x11, 0, 3, 0x11, 0])
            frame = b"\xff\xc0" + struct.pack(">H", len(frame) + 2) + frame
            file = b"".join(frame if marker == 0xC0 else data for marker, data in segments if marker != 0xDA)
    return b"\xff\xd8" + file + scans + b"\xff\xd9"


def jpeg_segments(jpeg):
    """(marker, all its bytes) of each segment between the file's first and last marker; a scan's codes are part of it."""
    at, segments = 2, []
    while jpeg[at + 1] != 0xD9:
        (length,) = struct.unpack(">H", jpeg[at + 2 : at + 4])
        end = len(jpeg) - 2 if jpeg[at + 1] == 0xDA else at + 2 + length
        segments.append((jpeg[at + 1], jpeg[at:end]))
        at = end
    return segments


def jpeg_files():
    for number, (width, height) in enumerate([(49, 31), (16, 16), (1, 1), (333, 500), (9, 250)]):
        for sampling, name in [(0, "444"), (1, "422"), (2, "420")]:
            picture = rgb(width, height, 300 + number)
            size = "" if number == 0 else f"_{width}x{height}"
            for progressive in (False, True):
                suffix = "_progressive" if progressive else ""
                file = encoded(picture, "JPEG", quality=85, subsampling=sampling, progressive=progressive)
                yield f"jpeg_{name}{suffix}{size}.jpg", file
    picture = rgb(49, 31, 310)
    yield "jpeg_grey.jpg", encoded(grey(49, 31, 311), "JPEG", quality=80)
    yield "jpeg_grey_progressive.jpg", encoded(grey(49, 31, 311), "JPEG", quality=80, progressive=True)
    yield "jpeg_rgb.jpg", encoded(picture, "JPEG", quality=80, keep_rgb=True)
    cmyk = encoded(Image.fromarray(texture(49, 31, 4, 312), "CMYK"), "JPEG", quality=85)
    yield "jpeg_cmyk.jpg", cmyk
    yield "jpeg_ycck.jpg", adobe_transform(cmyk, 2)
    cmyk = encoded(Image.fromarray(texture(49, 31, 4, 313), "CMYK"), "JPEG", quality=85, progressive=True)
    yield "jpeg_cmyk_progressive.jpg", cmyk
    yield "jpeg_ycck_progressive.jpg", adobe_transform(cmyk, 2)
    exif = Image.Exif()
    exif[0x0112] = 6
    yield "jpeg_exif_rotated.jpg", encoded(rgb(49, 31, 314), "JPEG", quality=85, exif=exif)
    yield "jpeg_restarts.jpg", encoded(rgb(49, 31, 315), "JPEG", quality=85, restart_marker_blocks=3)
    yield "jpeg_restarts_progressive.jpg", encoded(
        rgb(49, 31, 315), "JPEG", quality=85, restart_marker_rows=1, progressive=True
    )
    yield "jpeg_420_planar.jpg", jpeg_planar(rgb(49, 31, 319), True)
    yield "jpeg_444_planar.jpg", jpeg_planar(rgb(49, 31, 319), False)
    yield "jpeg_420_planar_333x500.jpg", jpeg_planar(rgb(333, 500, 320), True)
    yield "jpeg_bad_quality.jpg", encoded(rgb(49, 31, 316), "JPEG", quality=5)
    yield "jpeg_best_quality.jpg", encoded(rgb(49, 31, 316), "JPEG", quality=100, subsampling=0)
    yield "jpeg_comment.jpg", encoded(rgb(49, 31, 317), "JPEG", comment=b"\xff\xd9" * 30, icc_profile=b"x" * 70000)
    yield "jpeg_trailing.jpg", encoded(rgb(49, 31, 318), "JPEG") + b"\0" * 100 + b"\xff\xd8\xff"


def gif_indexed(width, height, seed, colours=32):
    return rgb(width, height, seed).quantize(colours, dither=Image.Dither.NONE)


def gif_moved(gif, screen, offset):
    """The same file with another logical screen, and its frame elsewhere on it."""
    data = bytearray(gif)
    data[6:10] = struct.pack("<HH", *screen)
    at = 13 + (3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    while data[at] == 0x21:
        at += 2
        while data[at]:
            at += data[at] + 1
        at += 1
    data[at + 1 : at + 5] = struct.pack("<HH", *offset)
    return bytes(data)


def gif_files():
    plain = encoded(gif_indexed(31, 23, 400), "GIF", interlace=0)
    clear = encoded(gif_indexed(31, 23, 401), "GIF", transparency=5, interlace=0)
    yield "gif_plain.gif", plain
    yield "gif_interlaced.gif", encoded(gif_indexed(31, 23, 400), "GIF", interlace=1)
    yield "gif_grey.gif", encoded(grey(31, 23, 402), "GIF")
    yield "gif_transparent.gif", clear
    yield "gif_offset.gif", gif_moved(plain, (90, 80), (13, 20))
    yield "gif_offset_transparent.gif", gif_moved(clear, (90, 80), (13, 20))
    yield "gif_below.gif", gif_moved(clear, (31, 80), (0, 20))
    yield "gif_frame_beyond_screen.gif", gif_moved(plain, (30, 20), (3, 2))
    yield "gif_no_screen.gif", gif_moved(plain, (0, 0), (0, 0))
    frames = [gif_indexed(31, 23, 403 + number) for number in range(3)]
    yield "gif_animated.gif", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], disposal=2)


def bmp(width, height, bits, data, compression=0, palette=b"", masks=b""):
    """A BMP file of raw data, for what Pillow does not write."""
    offset = 54 + len(masks) + len(palette)
    colours = len(palette) // 4
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(data), 2835, 2835, colours, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + info + masks + palette + data


def bmp_rows(rows):
    return b"".join(row + b"\0" * (-len(row) % 4) for row in rows)


def rle8(indices):
    """Runs of one and literal stretches by turns, rows from the bottom."""
    out = bytearray()
    for row in indices[::-1]:
        at = 0
        while at < len(row):
            run = 1
            while at + run < len(row) and run < 255 and row[at + run] == row[at]:
                run += 1
            out += bytes([run, row[at]])
            at += run
        out += b"\0\0"
    return bytes(out) + b"\0\1"


def bmp_files():
    picture = rgb(31, 23, 500)
    yield "bmp_grey1.bmp", encoded(grey(31, 23, 501).convert("1"), "BMP")
    yield "bmp_grey8.bmp", encoded(grey(31, 23, 501), "BMP")
    yield "bmp_palette8.bmp", encoded(gif_indexed(31, 23, 502, 200), "BMP")
    yield "bmp_rgb.bmp", encoded(picture, "BMP")
    yield "bmp_rgba.bmp", encoded(Image.fromarray(texture(31, 23, 4, 503), "RGBA"), "BMP")
    index = texture(31, 23, 1, 504)[..., 0]
    palette = np.random.default_rng(504).integers(0, 256, size=(256, 4), dtype=np.uint8)
    palette[:, 3] = 0
    four = bmp_rows(packed((index >> 4)[::-1].astype(np.uint16), 4))
    yield "bmp_palette4.bmp", bmp(31, 23, 4, four, palette=palette[:16].tobytes())
    yield "bmp_rle8.bmp", bmp(31, 23, 8, rle8(index // 40), 1, palette=palette.tobytes())
    yield "bmp_top_down.bmp", bmp(31, -23, 24, bmp_rows([row[:, ::-1].tobytes() for row in np.asarray(picture)]))
    high, middle, low = np.moveaxis(texture(31, 23, 3, 505).astype("<u2"), -1, 0)
    words = (high >> 3 << 11) | (middle >> 2 << 5) | (low >> 3)
    yield "bmp_555.bmp", bmp(31, 23, 16, bmp_rows([row.tobytes() for row in words]))
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    yield "bmp_565.bmp", bmp(31, 23, 16, bmp_rows([row.tobytes() for row in words]), 3, masks=masks)
    four = np.random.default_rng(506).integers(0, 256, size=(23, 31 * 4), dtype=np.uint8)
    yield "bmp_rgbx.bmp", bmp(31, 23, 32, four.tobytes())


def webp_files():
    clear = Image.fromarray(texture(31, 23, 4, 600), "RGBA")
    clear.putpixel((3, 3), (200, 100, 50, 0))
    yield "webp_lossy.webp", encoded(rgb(31, 23, 601), "WEBP", quality=80)
    yield "webp_lossy_best.webp", encoded(rgb(31, 23, 601), "WEBP", quality=100)
    yield "webp_lossy_large.webp", encoded(rgb(500, 333, 602), "WEBP", quality=75)
    yield "webp_lossless.webp", encoded(rgb(31, 23, 603), "WEBP", lossless=True)
    yield "webp_lossy_alpha.webp", encoded(clear, "WEBP", quality=80)
    yield "webp_lossless_alpha.webp", encoded(clear, "WEBP", lossless=True, exact=True)
    frames = [rgb(31, 23, 604 + number) for number in range(3)]
    yield "webp_animated.webp", encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    frames = [clear] + [Image.fromarray(texture(31, 23, 4, 608 + number), "RGBA") for number in range(2)]
    yield "webp_animated_alpha.webp", encoded(
        frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True, exact=True
    )


def generated(directory):
    """Writes well over a hundred small files of odd formats and sizes, always the same; returns their paths."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for files in (png_files, jpeg_files, gif_files, bmp_files, webp_files):
        for name, data in files():
            (directory / name).write_bytes(data)
            paths.append(directory / name)
    return paths


def write_references(paths, directory):
    """Beside each picture, its reference pixels as `<file name>.golden.webp`, which is lossless."""
    for path in paths:
        pixels = reference_pixels(path)
        golden = Path(directory) / f"{path.name}.golden.webp"
        Image.fromarray(pixels, "RGB").save(golden, "WEBP", lossless=True, quality=100, method=6)
        with Image.open(golden) as written:
            assert np.array_equal(np.asarray(written.convert("RGB")), pixels), golden


def main(arguments):
    match arguments:
        case ["generate", directory]:
            write_references(photographs() + generated(directory), directory)
        case ["golden", directory]:
            paths = generated(directory)
            kept = [path for path in paths if path.name in GOLDEN]
            for path in paths:
                if path.name not in GOLDEN:
                    path.unlink()
            assert len(kept) == len(GOLDEN), "a golden name is not generated"
            write_references(photographs() + kept, directory)
        case _:
            sys.exit("usage: images.py golden DIRECTORY | generate DIRECTORY")


if __name__ == "__main__":
    main(sys.argv[1:])
