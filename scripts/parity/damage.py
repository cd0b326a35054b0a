"""What happens to files on their way, and what a hostile sender does: each function makes a damaged copy."""

import struct
import zlib

from kinds import chunk, jpeg_places, riff, riff_chunks

PNG_SIGNATURE = 8


def header_end(kind, file):
    """About where the coded pixels begin."""
    if kind == "jpeg":
        return min((jpeg_places(file) or [200])[-1] + 12, len(file))
    if kind == "png":
        return min(max(file.find(b"IDAT"), 0) + 4, len(file))
    return min(len(file), {"gif": 60, "bmp": 80, "webp": 50}[kind])


def cut(rng, kind, file):
    return file[: rng.randint(min(len(file), 10), len(file))]


def cut_near_end(rng, kind, file):
    return file[: len(file) - min(len(file) - 1, rng.choice([1, 2, 3, 4, rng.randint(5, 40)]))]


def cut_and_zeros(rng, kind, file):
    return cut(rng, kind, file) + b"\0" * rng.choice([1, 2, 100, len(file)])


def end_lost(rng, kind, file):
    marks = {"jpeg": b"\xff\xd9", "png": b"\0\0\0\0IEND", "gif": b";"}
    at = file.rfind(marks[kind]) if kind in marks else -1
    return file[:at] if at > 0 else file[:-1]


def flipped(rng, file, start, end, most=3):
    data = bytearray(file)
    for _ in range(rng.randint(1, most)):
        if start < end:
            data[rng.randrange(start, end)] ^= 1 << rng.randrange(8)
    return bytes(data)


def header_bits(rng, kind, file):
    return flipped(rng, file, 2, header_end(kind, file))


def data_bits(rng, kind, file):
    return flipped(rng, file, min(header_end(kind, file), len(file) - 1), len(file))


def bytes_set(rng, kind, file):
    data = bytearray(file)
    at = rng.randrange(2, len(data))
    for place in range(at, min(len(data), at + rng.choice([1, 1, 2, 20]))):
        data[place] = rng.choice([0, 0xFF, rng.randrange(256)])
    return bytes(data)


def bytes_deleted(rng, kind, file):
    at = rng.randrange(2, len(file))
    return file[:at] + file[at + rng.choice([1, 1, 2, 3, 50]) :]


def bytes_inserted(rng, kind, file):
    at = rng.randrange(2, len(file))
    new = rng.choice([b"\0", b"\xff", b"\xff\xd9", rng.randbytes(rng.randint(1, 20))])
    return file[:at] + new + file[at:]


def stretch_doubled(rng, kind, file):
    """A stretch comes twice, as after a read that was tried again."""
    at = rng.randrange(2, len(file))
    end = min(len(file), at + rng.randint(1, 200))
    return file[:end] + file[at:]


def other_number(rng, value, most):
    near = [value - 1, value + 1, value + rng.randint(-9, 40)]
    return max(0, min(most, rng.choice([0, 1, *near, value * 2, value // 2])))


def sizes_altered(rng, kind, file):
    """Another width or height in the header; in PNG with the right checksum."""
    data = bytearray(file)
    if kind == "png" and len(data) > 33:
        at = rng.choice([16, 20])
        data[at : at + 4] = other_number(rng, int.from_bytes(data[at : at + 4], "big"), 9999).to_bytes(4, "big")
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    elif kind == "jpeg":
        frames = [at for at in jpeg_places(file) if file[at + 1] in (0xC0, 0xC1, 0xC2)]
        if frames and frames[0] + 9 <= len(data):
            at = frames[0] + rng.choice([5, 7])
            data[at : at + 2] = other_number(rng, int.from_bytes(data[at : at + 2], "big"), 9999).to_bytes(2, "big")
    else:
        frame = max(data.find(b","), 13)
        screen_or_frame = rng.choice([6, 8, frame + 1, frame + 3, frame + 5, frame + 7])
        at = {"gif": screen_or_frame, "bmp": rng.choice([18, 22])}.get(kind)
        at = at or rng.choice([24, 26, 27, 21])
        data[at : at + 2] = other_number(rng, int.from_bytes(data[at : at + 2], "little"), 0xFFFF).to_bytes(2, "little")
    return bytes(data)


# --- JPEG ---


def restart_places(file):
    return [at for at in range(len(file) - 1) if file[at] == 0xFF and 0xD0 <= file[at + 1] <= 0xD7]


def restarts(rng, kind, file):
    """A restart marker is lost, comes twice, has another number, or is where none was."""
    places = restart_places(file)
    if not places:
        at = rng.randrange(header_end(kind, file) - 1, len(file))
        return file[:at] + bytes([0xFF, 0xD0 + rng.randrange(8)]) + file[at:]
    at = rng.choice(places)
    return rng.choice(
        [
            file[:at] + file[at + 2 :],
            file[:at] + file[at : at + 2] + file[at:],
            file[:at] + bytes([0xFF, 0xD0 + rng.randrange(8)]) + file[at + 2 :],
            file[:at] + file[rng.choice(places) :],
            file[:at] + bytes([file[at + 1], 0xFF]) + file[at + 2 :],
        ]
    )


def segments_altered(rng, kind, file):
    """A segment is lost, comes twice, moves to the front, has another length or type."""
    places = jpeg_places(file)
    if len(places) < 2:
        return file
    number = rng.randrange(len(places) - 1)
    start, end = places[number], places[number + 1]
    part = file[start:end]
    other = rng.choice([0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xDA, 0xE0, 0x02, 0xD8])
    longer = struct.pack(">H", min(max(0, len(part) - 2 + rng.choice([-1, 1, 2, -9, 300])), 0xFFFF))
    return rng.choice(
        [
            file[:start] + file[end:],
            file[:end] + part + file[end:],
            file[:2] + part + file[2:start] + file[end:],
            file[:start] + part[:2] + longer + part[4:] + file[end:],
            file[:start] + bytes([0xFF, other]) + file[start + 2 :],
        ]
    )


def factors_altered(rng, kind, file):
    """Another number of a component, factor or table in the frame header."""
    frames = [at for at in jpeg_places(file) if file[at + 1] in (0xC0, 0xC1, 0xC2)]
    if not frames or frames[0] + 10 >= len(file):
        return file
    data = bytearray(file)
    start = frames[0] + 9
    at = min(start + rng.randrange(1 + 3 * max(1, data[start])), len(data) - 1)
    data[at] = rng.choice([0x11, 0x21, 0x12, 0x22, 0x41, 0x14, 0x31, 0, 1, 2, 3, 4, rng.randrange(256)])
    return bytes(data)


# --- PNG and WebP ---


def png_chunks(file):
    """(name, data) of each chunk of a PNG file, as far as the lengths make sense."""
    chunks, at = [], PNG_SIGNATURE
    while at + 12 <= len(file):
        length = int.from_bytes(file[at : at + 4], "big")
        if length > len(file):
            break
        chunks.append((file[at + 4 : at + 8], file[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def chunks_altered(rng, kind, file):
    """A chunk is lost, comes twice, changes its place, name or content (with the right checksum)."""
    chunks = png_chunks(file) if kind == "png" else riff_chunks(file)
    if not chunks:
        return file
    at = rng.randrange(len(chunks))
    name, data = chunks[at]
    match rng.randrange(6):
        case 0:
            del chunks[at]
        case 1:
            chunks.insert(rng.randint(at, len(chunks)), chunks[at])
        case 2:
            chunks.insert(rng.randrange(len(chunks)), chunks.pop(at))
        case 3:
            chunks[at] = (flipped(rng, name, 0, len(name), 1), data)
        case 4:
            chunks[at] = (name, flipped(rng, data, 0, len(data)))
        case 5:
            chunks[at] = (name, rng.choice([data[: rng.randint(0, len(data))], data + rng.randbytes(3), b""]))
    if kind == "png":
        return file[:PNG_SIGNATURE] + b"".join(chunk(name, data) for name, data in chunks)
    return riff(chunks)


def checksum_wrong(rng, kind, file):
    """One CRC is wrong; everything else is whole."""
    places, at = [], PNG_SIGNATURE
    for _, data in png_chunks(file):
        at += 12 + len(data)
        places.append(at - 1)
    places = [place for place in places if place < len(file)]
    if not places:
        return file
    at = rng.choice(places)
    return file[:at] + bytes([file[at] ^ 1]) + file[at + 1 :]


EVERY = [
    cut,
    cut_near_end,
    cut_and_zeros,
    end_lost,
    header_bits,
    data_bits,
    bytes_set,
    bytes_deleted,
    bytes_inserted,
    stretch_doubled,
    sizes_altered,
]
DAMAGES = {
    "jpeg": EVERY + [restarts, restarts, segments_altered, factors_altered],
    "png": EVERY + [chunks_altered, chunks_altered, checksum_wrong],
    "gif": EVERY,
    "bmp": EVERY,
    "webp": EVERY + [chunks_altered],
}
