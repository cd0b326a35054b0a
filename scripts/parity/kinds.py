"""Undamaged files of each kind, odd but readable as a rule, made from a `random.Random`."""

import io
import struct
import zlib

import jpeg_writer
import numpy as np
from images import adobe_transform, bmp_rows, encoded, jpeg_planar, packed, rle8
from jpeg_writer import Scan, segment
from PIL import Image

# The resized picture has at most this many pixels: 256 * 256 * LONGEST.
LONGEST = 120


def size(rng, most=257):
    """Width and height: mostly small, sometimes close to those where the resize or the crop changes."""
    if most > 200 and rng.random() < 0.1:
        sides = [rng.choice([223, 224, 225, 255, 256, 257]) for _ in range(2)]
    else:
        sides = [min(rng.choice([rng.randint(1, 9), rng.randint(1, 40), rng.randint(1, most)]), most) for _ in range(2)]
    longest = min(sides) * LONGEST
    return min(sides[0], longest), min(sides[1], longest)


def canvas(rng, width, height, channels):
    """Noise, blotches, steps or one colour, as an array of bytes (height, width, channels)."""
    noise = np.random.default_rng(rng.getrandbits(64))
    shape = (height, width, channels)
    match rng.randrange(5):
        case 0:
            return noise.integers(0, 256, shape, dtype=np.uint8)
        case 1:
            return np.broadcast_to(noise.integers(0, 256, channels, dtype=np.uint8), shape).copy()
        case 2:
            step = rng.randint(2, 20)
            coarse = noise.integers(0, 256, (height // step + 1, width // step + 1, channels), dtype=np.uint8)
            return np.ascontiguousarray(coarse.repeat(step, 0).repeat(step, 1)[:height, :width])
    y, x = np.ogrid[:height, :width]
    waves = [
        np.sin(rng.uniform(0, 0.5) * x + rng.uniform(0, 6)) * np.cos(rng.uniform(0, 0.5) * y) for _ in range(channels)
    ]
    wave = 127 + rng.choice([20, 110, 160]) * np.stack(waves, axis=-1) + noise.integers(-5, 6, shape)
    return np.clip(wave, 0, 255).astype(np.uint8)


def picture(rng, mode="RGB", most=257):
    """A Pillow picture of a mode with a byte for each channel."""
    pixels = canvas(rng, *size(rng, most), len(mode))
    return Image.fromarray(pixels[..., 0] if len(mode) == 1 else pixels, mode)


def some(rng, **options):
    """Each option with a value drawn from its list, or left out."""
    return {name: rng.choice(values) for name, values in options.items() if rng.random() < 0.5}


def junk(rng, most=40):
    return rng.randbytes(rng.randint(0, most))


# --- JPEG ---

JFIF = segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")


def adobe(transform):
    return segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))


def jpeg(rng):
    file = rng.choices([pillow_jpeg, planar_jpeg, own_jpeg], [5, 1, 6])[0](rng)
    if rng.random() < 0.3:
        file = decorated_jpeg(rng, file)
    return file


def pillow_jpeg(rng):
    mode = rng.choice(["L", "RGB", "RGB", "RGB", "CMYK"])
    options = some(
        rng,
        quality=[5, 20, 50, 75, 90, 95, 100, rng.randint(1, 100)],
        progressive=[True],
        optimize=[True],
        subsampling=[0, 1, 2],
        keep_rgb=[True],
        dpi=[(72, 72)],
        comment=[b"\xff\xd9 \xff\xd8", junk(rng)],
        icc_profile=[junk(rng, 90000)],
    )
    options |= some(rng, restart_marker_blocks=[1, 2, 7], restart_marker_rows=[1, 2]) if rng.random() < 0.4 else {}
    if rng.random() < 0.1:
        options["qtables"] = [[rng.randint(1, rng.choice([40, 255])) for _ in range(64)] for _ in range(2)]
        options.pop("quality", None)
    file = encoded(picture(rng, mode), "JPEG", **options)
    if mode == "CMYK" and rng.random() < 0.6:
        file = adobe_transform(file, rng.choice([0, 1, 2, 2, 2]))
    return file


def planar_jpeg(rng):
    return jpeg_planar(picture(rng), rng.random() < 0.5)


def one_scan(parts):
    return [Scan(parts)]


def scan_each(parts):
    return [Scan([part]) for part in parts]


def two_scans(parts):
    return [Scan(parts[:1]), Scan(parts[1:])] if len(parts) > 1 else [Scan(parts)]


def spectral(parts):
    return [Scan(parts, 0, 0), *(Scan([part], 1, 63) for part in parts)]


def banded(parts):
    bands = [Scan([part], first, last) for first, last in ((1, 5), (6, 63)) for part in reversed(parts)]
    return [Scan(parts, 0, 0, 0, 1), *bands, Scan(parts, 0, 0, 1, 0)]


def unrefined(parts):
    """Ends before every bit of every coefficient came, which is allowed; libjpeg then smooths between blocks."""
    return [Scan(parts, 0, 0, 0, 1), *(Scan([part], 1, 9, 0, 1) for part in parts[:1])]


def only_dc(parts):
    return [Scan(parts, 0, 0)]


def own_jpeg(rng):
    """A file of the encoder beside this one, with what Pillow cannot be told to write."""
    count = rng.choices([1, 3, 4, 2], [2, 10, 3, 1])[0]
    most = rng.choice([1, 2, 2, 2, 4])
    factors = [(rng.randint(1, most), rng.randint(1, most)) for _ in range(count)]
    if rng.random() < 0.5:
        factors = [rng.choice([(1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (4, 2), (3, 1)])] + [(1, 1)] * (count - 1)
        if count == 4:
            factors[3] = factors[0]
    strength = rng.choice([0, 0.1, 0.5, 2, 8])
    base = np.add.outer(np.arange(8), np.arange(8)).ravel()[jpeg_writer.ZIGZAG] * 3 + 2
    scaled = [base * strength * rng.uniform(0.5, 2) for _ in range(min(count, 2))]
    tables = [np.clip(table, 1, 2000).astype(int).tolist() for table in scaled]
    progressive = rng.random() < 0.4
    if progressive:
        scans, marker = rng.choice([spectral, banded, banded, unrefined, only_dc]), 0xC2
    else:
        scans, marker = rng.choice([one_scan, one_scan, scan_each, two_scans]), rng.choice([0xC0, 0xC0, 0xC1])
    identifiers = rng.choice(
        [range(1, 5)] * 5 + [range(4), b"RGBA", b"CMYK", range(17, 21), [1, 34, 35, 4], [7] * 4, b"rgba", [1, 2, 4, 3]]
    )
    markers = rng.choice(
        [[JFIF]] * 3
        + [[], [], [adobe(rng.randint(0, 3))], [adobe(rng.choice([0, 1, 2]))], [JFIF, adobe(rng.randint(0, 2))]]
        + [[adobe(rng.randint(0, 2)), JFIF], [segment(0xEE, b"Adobe")], [segment(0xE0, b"JFXX\0\x13")]]
    )
    segments = jpeg_writer.jpeg(
        canvas(rng, *size(rng, 56), count),
        identifiers[:count],
        factors,
        tables,
        scans,
        marker=marker,
        huffman=rng.choice([jpeg_writer.STANDARD, FLAT, LONG]),
        interval=rng.choice([0, 0, 0, 1, 2, 5, 9]),
        before=markers,
        dnl=rng.random() < 0.02,
    )
    if rng.random() < 0.05:
        segments = [part for part in segments if part[1] != 0xC4]
    if rng.random() < 0.1:
        middle = segments[1:-1]
        at = next(number for number, part in enumerate(middle) if part[1] == 0xDA)
        segments[1 : 1 + at] = rng.sample(middle[:at], at)
    return b"".join(segments)


FLAT, LONG = jpeg_writer.flat_tables(), jpeg_writer.long_tables()


def decorated_jpeg(rng, file):
    """With things that decoders go past: in front of the frame, between segments, after the end."""
    places = jpeg_places(file)
    at = rng.choice(places) if places else 2
    thumbnail = encoded(picture(rng, most=16), "JPEG")
    head = rng.choice(
        [
            b"\xff" * rng.randint(1, 5),
            segment(0xFE, b"\xff\xd9\xff\xda\xff\xd8" * rng.randint(0, 9)),
            segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0" + thumbnail),
            segment(0xE2, b"MPF\0" + junk(rng)),
            segment(rng.randint(0xE0, 0xEF), junk(rng)),
            segment(rng.randint(0xF0, 0xFD), junk(rng)),
            adobe(rng.randint(0, 3)),
            JFIF,
            junk(rng, 5),
            bytes([0xFF, rng.choice([0x01, 0xD0, 0xD7])]),
            segment(0xCC, b"\0\x10"),
            segment(0xDD, struct.pack(">H", rng.randint(0, 9))),
            b"",
        ]
    )
    tail = rng.choice([b"", b"", b"\xff\xd9", junk(rng), thumbnail, b"\0" * rng.randint(1, 5000)])
    return file[:at] + head + file[at:] + tail


def jpeg_places(file):
    """Where each segment begins that is found by the lengths of those before it, up to the first scan."""
    places, at = [], 2
    while at + 4 <= len(file) and file[at] == 0xFF and file[at + 1] not in (0xD9, 0xFF, 0x00):
        places.append(at)
        if file[at + 1] == 0xDA:
            break
        at += 2 + int.from_bytes(file[at + 2 : at + 4], "big")
    return places


# --- PNG ---


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def filtered(rng, rows, distance, choice):
    """Rows of bytes with the filter of each before it."""
    out, above = [], None
    for row in rows:
        line = np.frombuffer(row, np.uint8).astype(np.int16)
        above = np.zeros_like(line) if above is None or len(above) != len(line) else above
        left = np.concatenate([np.zeros(distance, np.int16), line])[: len(line)]
        corner = np.concatenate([np.zeros(distance, np.int16), above])[: len(line)]
        kind = rng.randrange(5) if choice is None else choice
        guess = left + above - corner
        to = [np.abs(guess - left), np.abs(guess - above), np.abs(guess - corner)]
        paeth = np.where((to[0] <= to[1]) & (to[0] <= to[2]), left, np.where(to[1] <= to[2], above, corner))
        wanted = [0, left, above, (left + above) // 2, paeth][min(kind, 4)]
        out.append(bytes([kind]) + ((line - wanted) & 255).astype(np.uint8).tobytes())
        above = line
    return b"".join(out)


def passes(rng, pixels, pack, distance, choice):
    """The filtered rows of the seven passes of an interlaced picture."""
    data = []
    grids = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    for y0, x0, dy, dx in grids:
        part = pixels[y0::dy, x0::dx]
        if part.size:
            data.append(filtered(rng, pack(part), distance, choice))
    return b"".join(data)


def png(rng):
    colour, depths, channels = rng.choice(
        [(0, [1, 2, 4, 8, 16], 1), (2, [8, 16], 3), (3, [1, 2, 4, 8], 1), (4, [8, 16], 2), (6, [8, 16], 4)]
    )
    depth = rng.choice(depths)
    width, height = size(rng, rng.choice([40, 257]))
    samples = canvas(rng, width, height, channels)

    def pack(part):
        if depth == 16:
            return [row.tobytes() for row in part.astype(">u2") * rng.choice([1, 2, 257])]
        if depth == 8:
            return [row.tobytes() for row in part]
        return packed(part[..., 0] >> 8 - depth, depth)

    interlaced = rng.random() < 0.3
    choice = rng.choice([None, None, 0, 1, 2, 3, 4] + [5] * (rng.random() < 0.02))
    distance = max(1, channels * depth // 8)
    if interlaced:
        data = passes(rng, samples, pack, distance, choice)
    else:
        data = filtered(rng, pack(samples), distance, choice)
    if rng.random() < 0.05:
        data = rng.choice([data + junk(rng), data[: rng.randrange(len(data))], data[:-1]])
    deflate = zlib.compressobj(rng.randint(0, 9), zlib.DEFLATED, rng.randint(9, 15), 9, rng.randint(0, 4))
    data = deflate.compress(data) + deflate.flush()
    if rng.random() < 0.05:
        data = rng.choice([data + junk(rng), data[:-4], data[:-1], b"\0" + data])
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    if rng.random() < 0.03:
        header = header[:8] + bytes([rng.choice([0, 1, 2, 3, 4, 8, 16, 32]), rng.randrange(8), 0, 0, rng.randrange(3)])
    colours = 1 << min(depth, 8)
    extras = [chunk(b"PLTE", rng.randbytes(3 * colours))] if colour == 3 else []
    if rng.random() < 0.1:
        extras = [chunk(b"PLTE", rng.randbytes(3 * rng.randint(0, 256)))] * rng.randint(0, 2)
    if rng.random() < 0.3:
        alpha = {0: 2, 2: 6, 3: rng.randint(0, colours)}.get(colour, 2)
        extras.append(chunk(b"tRNS", rng.choice([bytes(alpha), rng.randbytes(alpha), b"\0\1" * (alpha // 2)])))
    for _ in range(rng.choice([0, 0, 1, 3])):
        extras.insert(rng.randint(0, len(extras)), ancillary(rng))
    parts = [chunk(b"IDAT", data)]
    if rng.random() < 0.3:
        step = rng.randint(1, max(1, len(data) // rng.choice([2, 20])) + 1)
        parts = [chunk(b"IDAT", data[at : at + step]) for at in range(0, len(data), step)][:2000]
        if rng.random() < 0.2:
            parts.insert(rng.randint(0, len(parts)), rng.choice([chunk(b"IDAT", b""), ancillary(rng)]))
    end = rng.choice([chunk(b"IEND", b"")] * 20 + [b"", chunk(b"IEND", b"x"), ancillary(rng), junk(rng)])
    tail = rng.choice([b"", b"", b"", junk(rng)])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(extras + parts) + end + tail


def ancillary(rng):
    text = b"Title\0" + junk(rng)
    kind, data = rng.choice(
        [
            (b"gAMA", struct.pack(">I", rng.choice([0, 45455, 100000]))),
            (b"sRGB", bytes([rng.randrange(5)])),
            (b"cHRM", rng.randbytes(rng.choice([32, 32, 5]))),
            (b"pHYs", struct.pack(">IIB", 1, 2, rng.randrange(2))[: rng.choice([9, 9, 3])]),
            (b"tEXt", rng.choice([text, b"", b"\0", b"no end"])),
            (b"zTXt", b"Title\0" + bytes([rng.choice([0, 0, 1])]) + rng.choice([zlib.compress(text), junk(rng)])),
            (b"iTXt", b"Title\0" + bytes([rng.randrange(2), 0]) + b"\0\0" + rng.choice([zlib.compress(text), text])),
            (b"iCCP", b"name\0" + bytes([rng.choice([0, 0, 0, 1])]) + rng.choice([zlib.compress(text), junk(rng)])),
            (b"bKGD", junk(rng, 6)),
            (b"hIST", junk(rng, 6)),
            (b"sBIT", junk(rng, 4)),
            (b"tIME", junk(rng, 8)),
            (b"eXIf", b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"),
            (b"acTL", struct.pack(">II", rng.randint(0, 3), 0)),
            (b"fcTL", struct.pack(">IIIIIHHBB", 0, 1, 1, 0, 0, 1, 1, 0, 0)),
            (b"fdAT", junk(rng)),
            (bytes(rng.choices(b"abXYz", k=4)), junk(rng)),
            (b"teSt", junk(rng)),
            (b"CRIT", junk(rng)),
        ]
    )
    return chunk(kind, data)


# --- GIF ---


def lzw(rng, pixels, bits):
    """Codes for the pixels as blocks, with what encoders differ in: clear codes, a full table, how it ends."""
    clear = 1 << bits
    often = rng.choice([0, 0, 7, 300])
    table, width, string = {}, bits + 1, ()
    out, held, count = bytearray(), 0, 0
    codes = 0

    def put(code):
        nonlocal held, count
        held |= code << count
        count += width
        while count >= 8:
            out.append(held & 255)
            held >>= 8
            count -= 8

    def reset():
        table.clear()
        table.update({(value,): value for value in range(clear)})
        return clear + 2, bits + 1

    following, fresh = reset()
    if rng.random() < 0.95:
        put(clear)
    for pixel in pixels:
        if string + (pixel,) in table:
            string += (pixel,)
            continue
        put(table[string])
        codes += 1
        if following < 4096:
            table[string + (pixel,)] = following
            following += 1
            if following > 1 << width and width < 12:
                width += 1
        if (often and codes % often == 0) or (following == 4096 and often == 300):
            put(clear)
            following, width = reset()
        string = (pixel,)
    if string:
        put(table[string])
    if rng.random() < 0.9:
        if following + 1 > 1 << width and width < 12:
            width += 1
        put(clear + 1)
    if count:
        out.append(held & 255)
    step = rng.choice([255, 255, 1, 60])
    blocks = b"".join(bytes([len(out[at : at + step])]) + out[at : at + step] for at in range(0, len(out), step))
    return bytes([bits]) + blocks + b"\0" * rng.choice([1] * 9 + [0])


def gif(rng):
    return rng.choice([pillow_gif, own_gif])(rng)


def pillow_gif(rng):
    frames = [picture(rng, most=120).quantize(rng.choice([2, 3, 16, 200, 256]), dither=Image.Dither.NONE)]
    options = some(rng, interlace=[0, 1], transparency=[0, 1, 5], comment=[b"hello"], optimize=[True], background=[3])
    if rng.random() < 0.3:
        frames += [frames[0].rotate(90 * turn) for turn in range(rng.randint(1, 2))]
        options |= some(rng, disposal=[0, 1, 2, 3], loop=[0, 5], duration=[10])
    return encoded(frames[0], "GIF", save_all=len(frames) > 1, append_images=frames[1:], **options)


def own_gif(rng):
    """A file written byte by byte: any screen, offsets, colour tables and blocks between."""
    width, height = size(rng, 60)
    bits = rng.choice([2, 3, 5, 8, 8])
    pixels = canvas(rng, width, height, 1)[..., 0] >> 8 - rng.choice([bits, bits, max(1, bits - 1)])
    screen = rng.choice([(width, height)] * 3 + [(width + 9, height + 4), (0, 0), (1, 1), size(rng, 90)])
    colours = rng.choice([bits, bits, rng.randint(1, 8)])
    local = rng.choice([None, None, rng.randint(1, 8)])
    whole = rng.random() < 0.85
    head = rng.choice([b"GIF89a", b"GIF87a"]) + struct.pack("<HH", *screen)
    head += bytes([(0x80 if whole else 0) | 0x70 | colours - 1, rng.choice([0, 0, 1, 200]), 0])
    head += rng.randbytes(3 << colours) if whole else b""
    out = [head]
    for _ in range(rng.choice([1, 1, 1, 2])):
        if rng.random() < 0.5:
            disposal = rng.randrange(8) << 2 | rng.randrange(2)
            out.append(b"!\xf9\4" + bytes([disposal, 1, 0, rng.choice([0, 1, pixels.flat[0], 255])]) + b"\0")
        if rng.random() < 0.2:
            loops = b"!\xff\x0bNETSCAPE2.0\3\1\0\0\0"
            out.append(rng.choice([b"!\xfe\3abc\0", loops, b"!\x01\0", b"!\xfe\0", junk(rng, 3)]))
        place = rng.choice([(0, 0)] * 3 + [(rng.randint(0, 9), rng.randint(0, 9))])
        interlaced = rng.random() < 0.3
        flags = (0x40 if interlaced else 0) | (0x80 | local - 1 if local else 0)
        out.append(b"," + struct.pack("<HHHHB", *place, width, height, flags))
        out.append(rng.randbytes(3 << local) if local else b"")
        rows = [y for start, step in ((0, 8), (4, 8), (2, 4), (1, 2)) for y in range(start, height, step)]
        stream = (pixels[rows] if interlaced else pixels).ravel().tolist()
        if rng.random() < 0.05:
            stream = rng.choice([stream + stream[:9], stream[: rng.randint(1, len(stream))]])
        out.append(lzw(rng, stream, bits))
    return b"".join(out) + rng.choice([b";", b";", b"", b";" + junk(rng)])


# --- BMP ---


def bmp(rng):
    if rng.random() < 0.25:
        mode = rng.choice(["1", "L", "P", "RGB", "RGBA"])
        return encoded(picture(rng, "RGBA" if mode == "RGBA" else "RGB").convert(mode), "BMP")
    return own_bmp(rng)


def own_bmp(rng):
    """Headers of every length, depths, compressions and masks that agree, or do not."""
    width, height = size(rng, rng.choice([30, 257]))
    bits = rng.choice([1, 4, 8, 8, 16, 16, 24, 32, 32, 2])
    length = rng.choice([40, 40, 40, 12, 52, 56, 64, 108, 124])
    compression = 0
    if length >= 40:
        compression = rng.choice({8: [0, 1], 4: [0, 2], 16: [0, 3], 32: [0, 3, 3, 6]}.get(bits, [0]))
    if rng.random() < 0.03:
        compression = rng.randint(0, 7)
    indices = canvas(rng, width, height, 1)[..., 0] >> max(0, 8 - bits)
    if compression == 1:
        data = rng.choice([rle8(indices), run_lengths(rng, 8, width, height)])
    elif compression == 2:
        data = run_lengths(rng, 4, width, height)
    elif bits < 8:
        data = bmp_rows(packed(indices.astype(np.uint16), bits))
    else:
        row = canvas(rng, width * bits // 8, height, 1)[..., 0]
        data = bmp_rows([line.tobytes() for line in row])
    if rng.random() < 0.05:
        data = rng.choice([data + junk(rng), data[: rng.randint(0, len(data))]])
    masks = rng.choice(
        [(0xF800, 0x7E0, 0x1F, 0), (0x7C00, 0x3E0, 0x1F, 0), (0xF00, 0xF0, 0xF, 0xF000)]
        if bits == 16
        else [
            (0xFF0000, 0xFF00, 0xFF, 0),
            (0xFF0000, 0xFF00, 0xFF, 0xFF000000),
            (0xFF, 0xFF00, 0xFF0000, 0xFF000000),
            (0xFF000000, 0xFF0000, 0xFF00, 0),
            (0xFF000000, 0xFF0000, 0xFF00, 0xFF),
            (0, 0, 0, 0),
        ]
    )
    if rng.random() < 0.05:
        masks = tuple(rng.getrandbits(32) for _ in range(4))
    colours = 0 if bits > 8 else rng.choice([0, 0, 1 << bits, rng.randint(1, 1 << bits)])
    stored = (colours or 1 << bits) if bits <= 8 else 0
    grey = rng.random() < 0.2
    entries = [bytes([at % 256] * 3) if grey else rng.randbytes(3) for at in range(stored)]
    palette = b"".join(entry + (b"" if length == 12 else b"\0") for entry in entries)
    flip = -1 if rng.random() < 0.25 and length != 12 else 1
    if length == 12:
        info = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        planes = rng.choice([1] * 20 + [0, 2])
        info = struct.pack("<IiiHHII", length, width, height * flip, planes, bits, compression, len(data))
        info += struct.pack("<iiII", 0, 0, colours, 0)
        if length >= 52:
            info += struct.pack("<IIII", *masks)[: length - 40]
        elif compression in (3, 6):
            info += struct.pack("<IIII", *masks)[: 16 if compression == 6 else 12]
        info += bytes(max(0, length - len(info)))
    offset = 14 + len(info) + len(palette)
    gap = junk(rng) if rng.random() < 0.1 else b""
    shown = offset + len(gap) if rng.random() < 0.97 else rng.randint(0, offset + 20)
    head = b"BM" + struct.pack("<IHHI", offset + len(gap) + len(data), 0, 0, shown)
    return head + info + palette + gap + data


def run_lengths(rng, bits, width, height):
    """Runs, literal stretches and moves that stay in the picture as a rule."""
    out = bytearray()
    for _ in range(height):
        left = width
        while left > 0:
            run = rng.randint(1, min(left, 255))
            if rng.random() < 0.2 and run > 2:
                literal = rng.randbytes(run if bits == 8 else (run + 1) // 2)
                out += bytes([0, run]) + literal + b"\0" * (len(literal) % 2)
            elif rng.random() < 0.05:
                out += bytes([0, 2, run, 0])
            else:
                out += bytes([run, rng.randrange(256)])
            left -= run
            if rng.random() < 0.02:
                break
        out += b"\0\0" if rng.random() < 0.95 else b""
    return bytes(out) + (b"\0\1" if rng.random() < 0.9 else b"")


# --- WebP ---


def webp(rng):
    mode = rng.choice(["RGB", "RGB", "RGBA"])
    options = some(rng, quality=[0, 10, 50, 80, 100], method=[0, 1, 2], exact=[True], alpha_quality=[0, 50, 100])
    options |= {"method": options.get("method", 1), "lossless": rng.random() < 0.4}
    if rng.random() < 0.3:
        options |= some(rng, icc_profile=[junk(rng)], exif=[b"Exif\0\0" + junk(rng)], xmp=[junk(rng)])
    first = picture(rng, mode, rng.choice([40, 200]))
    if rng.random() < 0.2:
        frames = [first.rotate(90 * turn) for turn in range(1, rng.randint(2, 3))]
        options |= some(rng, allow_mixed=[True], minimize_size=[True], duration=[10], background=[(1, 2, 3, 4)])
        file = encoded(first, "WEBP", save_all=True, append_images=frames, **options)
    else:
        file = encoded(first, "WEBP", **options)
    if rng.random() < 0.35:
        file = odd_webp(rng, file)
    return file


def odd_webp(rng, file):
    """With an extended header put on, or its flags and size changed, other chunks between, or another length."""
    chunks = riff_chunks(file)
    with Image.open(io.BytesIO(file)) as opened:
        width, height = opened.size
    if chunks and chunks[0][0] != b"VP8X":
        chunks.insert(0, (b"VP8X", bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")))
    header = bytearray(chunks[0][1])
    match rng.randrange(5):
        case 0:
            header[0] ^= 1 << rng.randrange(8)
        case 1:
            at = rng.choice([4, 7])
            header[at] = max(0, min(255, header[at] + rng.choice([-1, 1, 5])))
        case 2:
            chunks.insert(rng.randint(1, len(chunks)), (rng.choice([b"ABCD", b"EXIF", b"ALPH", b"ANIM"]), junk(rng)))
        case 3:
            chunks.append(rng.choice(chunks))
    chunks[0] = (b"VP8X", bytes(header))
    return riff(chunks, rng.choice([0, 0, 0, 1, -1, 2, 1000])) + rng.choice([b"", b"", junk(rng)])


def riff_chunks(file):
    """(name, data) of each chunk of a WebP file."""
    chunks, at = [], 12
    while at + 8 <= len(file):
        length = int.from_bytes(file[at + 4 : at + 8], "little")
        chunks.append((file[at : at + 4], file[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    return chunks


def riff(chunks, more=0):
    body = b"".join(name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in chunks)
    return b"RIFF" + struct.pack("<I", max(0, 4 + len(body) + more)) + b"WEBP" + body


def undamaged(kind, rng):
    """A file of a kind. Some mixtures of options are none that Pillow's encoders take: then others are drawn."""
    while True:
        try:
            return KINDS[kind](rng)
        except (OSError, ValueError):
            continue


KINDS = {"jpeg": jpeg, "png": png, "gif": gif, "bmp": bmp, "webp": webp}
