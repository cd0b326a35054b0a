"""Pictures in the forms in which Python has them, as the bytes that a server takes."""

from __future__ import annotations

import os
import pathlib
import struct
import zlib
from typing import TYPE_CHECKING, Any, Union

import numpy as np
import numpy.typing as npt

from .errors import PictureError

if TYPE_CHECKING:
    import PIL.Image

Picture = Union[str, "os.PathLike[str]", bytes, bytearray, memoryview, "PIL.Image.Image", npt.NDArray[np.uint8]]
"""A path, the bytes of an encoded picture, a Pillow image, or an array of bytes [height, width, 3] in RGB."""


def encoded(picture: Picture) -> bytes:
    """Returns the bytes to send.

    Files and bytes are sent as they are. A Pillow image is converted to RGB, as the server converts files, and sent as PNG, which
    loses nothing; so is an array of uint8 [height, width, 3].

    Raises `PictureError` for anything else, and for a file that cannot be read.
    """
    if isinstance(picture, (bytes, bytearray, memoryview)):
        return bytes(picture)
    if isinstance(picture, (str, os.PathLike)):
        try:
            return pathlib.Path(picture).read_bytes()
        except OSError as error:
            raise PictureError(f"{os.fspath(picture)}: {error.strerror or error}") from error
    if isinstance(picture, np.ndarray):
        return png(picture)
    if _is_pillow(picture):
        return png(np.asarray(picture.convert("RGB")))
    raise PictureError(
        f"{type(picture).__module__}.{type(picture).__qualname__} is not a picture; give a path, the bytes of a file, a Pillow image "
        "or an array of uint8 [height, width, 3]"
    )


def _is_pillow(picture: object) -> bool:
    return any(kind.__module__ == "PIL.Image" and kind.__name__ == "Image" for kind in type(picture).__mro__)


def png(pixels: npt.NDArray[Any]) -> bytes:
    """Returns pixels, uint8 [height, width, 3] in RGB, as a PNG."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise PictureError(f"an array of {pixels.dtype} {list(pixels.shape)} is not a picture; give uint8 [height, width, 3] in RGB")
    height, width = pixels.shape[:2]
    rows = np.zeros((height, 1 + 3 * width), np.uint8)
    rows[:, 1:] = pixels.reshape(height, 3 * width)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(rows.tobytes(), 1)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
