"""A small JPEG encoder for files that Pillow reads but does not write.

Sampling factors of any kind, component numbers, a scan for all components or one for each, progressive scans, restart
intervals, 16-bit quantisation tables, other Huffman tables. It follows T.81; speed comes second. Wrong files, too, are
made on purpose: nothing is checked.
"""

import struct
from dataclasses import dataclass, field

import numpy as np
from images import encoded, jpeg_segments, rgb

ZIGZAG = sorted(range(64), key=lambda at: (sum(divmod(at, 8)), divmod(at, 8)[(sum(divmod(at, 8)) + 1) % 2]))
DCT = np.array([[np.cos((2 * x + 1) * u * np.pi / 16) * (0.5 if u else 8**-0.5) for x in range(8)] for u in range(8)])


class Huffman:
    """A Huffman table by how many codes there are of each length, and what they stand for (T.81, annex C)."""

    def __init__(self, counts, symbols):
        self.specification = bytes(counts) + bytes(symbols)
        self.codes, code, at = {}, 0, 0
        for length, count in enumerate(counts, 1):
            for symbol in symbols[at : at + count]:
                self.codes[symbol] = (code, length)
                code += 1
            at += count
            code <<= 1


def standard_tables():
    """The tables of T.81, annex K, as libjpeg writes them: {class * 16 + number: table}."""
    tables = {}
    for marker, data in jpeg_segments(encoded(rgb(8, 8, 0), "JPEG")):
        at = 4
        while marker == 0xC4 and at < len(data):
            counts = data[at + 1 : at + 17]
            symbols = data[at + 17 : at + 17 + sum(counts)]
            tables[data[at]] = Huffman(counts, symbols)
            at += 17 + sum(counts)
    return tables


STANDARD = standard_tables()


def flat_tables():
    """Tables whose codes are equally long: 4 bits for DC, 8 for AC."""
    tables = {}
    for number, table in STANDARD.items():
        symbols = sorted(table.codes)
        length = 8 if number & 16 else 4
        tables[number] = Huffman([len(symbols) if at == length else 0 for at in range(1, 17)], symbols)
    return tables


def long_tables():
    """Tables with codes of up to 16 bits for DC: 0, 10, 110 and so on."""
    tables = dict(STANDARD)
    for number in (0, 1):
        tables[number] = Huffman([1] * 12 + [0] * 4, list(range(11, -1, -1)))
    return tables


@dataclass
class Component:
    """A component: its number in the file, sampling factors, tables, and quantised coefficients in zigzag order."""

    identifier: int
    horizontal: int
    vertical: int
    quantisation: int = 0
    tables: int = 0
    columns: int = 0  # Of blocks with samples of the picture in them.
    rows: int = 0
    blocks: list = field(default_factory=list)


@dataclass
class Scan:
    """Which components, which coefficients, and the bits of them (successive approximation)."""

    components: list
    first: int = 0
    last: int = 63
    high: int = 0
    low: int = 0


def segment(marker, data):
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def fill(component, samples, size, most, table):
    """Gives a component the coefficients of `samples`, a plane of the whole picture's size."""
    (width, height), (widest, highest) = size, most
    across, down = -(-width * component.horizontal // widest), -(-height * component.vertical // highest)
    component.columns, component.rows = -(-across // 8), -(-down // 8)
    columns = -(-width // (8 * widest)) * component.horizontal
    rows = -(-height // (8 * highest)) * component.vertical
    x = np.minimum(np.arange(columns * 8) * widest // component.horizontal, width - 1)
    y = np.minimum(np.arange(rows * 8) * highest // component.vertical, height - 1)
    blocks = samples[np.ix_(y, x)].astype(np.float64).reshape(rows, 8, columns, 8).swapaxes(1, 2) - 128
    coefficients = np.einsum("ui,rcij,vj->rcuv", DCT, blocks, DCT, optimize=True)
    coefficients = coefficients.reshape(rows, columns, 64)[..., ZIGZAG]
    component.blocks = np.clip(np.rint(coefficients / table), -1023, 1023).astype(int).tolist()


def units(scan):
    """The blocks of each MCU of a scan, in order; not interleaved, an MCU is a block."""
    if len(scan.components) == 1:
        (component,) = scan.components
        return [[(component, y, x)] for y in range(component.rows) for x in range(component.columns)]
    one = scan.components[0]
    down, across = len(one.blocks) // one.vertical, len(one.blocks[0]) // one.horizontal
    return [
        [
            (part, row * part.vertical + v, column * part.horizontal + h)
            for part in scan.components
            for v in range(part.vertical)
            for h in range(part.horizontal)
        ]
        for row in range(down)
        for column in range(across)
    ]


def signed(value, size):
    """The bits that T.81 writes after a code for a value of `size` bits."""
    return value if value > 0 else value + (1 << size) - 1


def block_bits(out, scan, component, block, before, tables):
    """Puts (bits, how many) of a block's part in a scan into `out`; returns the DC value, which the next one needs."""
    if scan.first == 0 and scan.high:
        out.append((block[0] >> scan.low & 1, 1))
    elif scan.first == 0:
        value = block[0] >> scan.low
        difference, before = value - before, value
        size = abs(difference).bit_length()
        code, length = tables[component.tables].codes[size]
        out.append((code << size | signed(difference, size), length + size))
    codes, run = tables[16 + component.tables].codes, 0
    for at in range(max(scan.first, 1), scan.last + 1):
        value = block[at]
        value = value >> scan.low if value >= 0 else -(-value >> scan.low)
        if value == 0:
            run += 1
            continue
        while run > 15:
            out.append(codes[0xF0])
            run -= 16
        size = abs(value).bit_length()
        code, length = codes[run << 4 | size]
        out.append((code << size | signed(value, size), length + size))
        run = 0
    if scan.last > 0 and run:
        out.append(codes[0])
    return before


def packed_bits(bits):
    """Bytes of (bits, how many), ones at the end, zeros put after each FF."""
    if not bits:
        return b""
    values, lengths = np.array(bits, dtype=np.int64).T
    ends = np.cumsum(lengths)
    places = np.repeat(ends, lengths) - np.arange(ends[-1]) - 1
    stream = (np.repeat(values, lengths) >> places & 1).astype(np.uint8)
    stream = np.concatenate([stream, np.ones(-len(stream) % 8, np.uint8)])
    return np.packbits(stream).tobytes().replace(b"\xff", b"\xff\0")


def scan_data(scan, tables, interval):
    """The entropy-coded data of a scan, with a restart marker after each `interval` MCUs if that is not 0."""
    mcus = units(scan)
    step = interval or len(mcus)
    data = []
    for number, start in enumerate(range(0, len(mcus), step)):
        bits, before = [], {}
        for blocks in mcus[start : start + step]:
            for component, y, x in blocks:
                key = id(component)
                before[key] = block_bits(bits, scan, component, component.blocks[y][x], before.get(key, 0), tables)
        data.append((bytes([0xFF, 0xD0 + (number - 1) % 8]) if number else b"") + packed_bits(bits))
    return b"".join(data)


def scan_header(scan):
    parts = b"".join(bytes([part.identifier, part.tables << 4 | part.tables]) for part in scan.components)
    coefficients = bytes([scan.first, scan.last, scan.high << 4 | scan.low])
    return segment(0xDA, bytes([len(scan.components)]) + parts + coefficients)


def quantisation_segment(number, table):
    """Of 16 bits where a value needs them."""
    deep = max(table) > 255
    return segment(0xDB, bytes([deep << 4 | number]) + np.asarray(table, ">u2" if deep else "u1").tobytes())


def frame_header(marker, size, components):
    parts = (bytes([part.identifier, part.horizontal << 4 | part.vertical, part.quantisation]) for part in components)
    return segment(marker, struct.pack(">BHHB", 8, size[1], size[0], len(components)) + b"".join(parts))


def jpeg(
    samples, identifiers, factors, tables, scans, *, marker=0xC0, huffman=STANDARD, interval=0, before=(), dnl=False
):
    """The segments of a file, the first and the last marker among them, as a list.

    `samples` has the shape (height, width, components); `tables` are quantisation tables, one for the first component
    and one for the others; `scans` makes the list of scans from the components; `before` are segments to put at the
    beginning; with `dnl` the height is in a DNL segment after the first scan.
    """
    height, width = samples.shape[:2]
    most = tuple(max(factor[axis] for factor in factors) for axis in (0, 1))
    components = []
    for number, (identifier, (horizontal, vertical)) in enumerate(zip(identifiers, factors)):
        part = Component(identifier, horizontal, vertical, min(number, 1), min(number, 1))
        fill(part, samples[..., number], (width, height), most, tables[part.quantisation])
        components.append(part)
    segments = [b"\xff\xd8", *before]
    segments += [quantisation_segment(number, table) for number, table in enumerate(tables)]
    segments.append(frame_header(marker, (width, 0 if dnl else height), components))
    segments += [segment(0xC4, bytes([number]) + table.specification) for number, table in huffman.items()]
    if interval:
        segments.append(segment(0xDD, struct.pack(">H", interval)))
    for number, scan in enumerate(scans(components)):
        segments.append(scan_header(scan) + scan_data(scan, huffman, interval))
        if dnl and number == 0:
            segments.append(segment(0xDC, struct.pack(">H", height)))
    return [*segments, b"\xff\xd9"]
