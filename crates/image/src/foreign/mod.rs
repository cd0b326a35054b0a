//! Names bytes that are not a picture of a supported format, so that the error says what was sent and what to do.
//!
//! Only guesses that are almost certain are made. At most the first [`HEAD`] bytes and the last ones are read, and no
//! memory is allocated.

mod encoded;
mod header;
mod magic;
#[cfg(test)]
mod tests;
mod text;

use std::fmt;

use memchr::memmem;

use super::format::Format;

/// The bytes that are examined.
const HEAD: usize = 4096;

const CONVERT: &str = "convert it to JPEG or PNG";
const BINARY: &str = "send the file's bytes unchanged, as binary";
const FROM_THERE: &str = "send the file from there on";
const UNCHANGED: &str = "read the file in binary mode and send its bytes unchanged";
const PIXELS: &str = "send a picture file, or 224x224x3 bytes in `pixels`";

/// What was sent instead of a picture. It is printed after "the image is": "base64 text of a JPEG file; decode it and
/// send the bytes".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Foreign {
    pub what: &'static str,
    /// What the client should do.
    pub advice: &'static str,
    pub inside: Inside,
}

/// What the bytes contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inside {
    Unknown,
    /// They encode this kind of file.
    Of(&'static str),
    /// A file of this format begins at this byte.
    At(Format, usize),
}

impl Foreign {
    const fn new(what: &'static str, advice: &'static str) -> Self {
        let inside = Inside::Unknown;
        Self { what, advice, inside }
    }

    fn of(self, decoded: Option<&'static str>) -> Self {
        let inside = decoded.map_or(Inside::Unknown, Inside::Of);
        Self { inside, ..self }
    }

    /// Adds where the first picture in `head` begins, if there is one.
    fn around(self, head: &[u8]) -> Self {
        let inside = embedded(head).map_or(Inside::Unknown, |(format, at)| Inside::At(format, at));
        Self { inside, ..self }
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)?;
        match self.inside {
            Inside::Unknown => {}
            Inside::Of(decoded) => write!(f, " of {decoded}")?,
            Inside::At(format, at) => write!(f, " with a {} file from byte {at}", format.name())?,
        }
        write!(f, "; {}", self.advice)
    }
}

/// Names `bytes`, which must not be of a supported format; `None` if it does not recognise them.
pub(super) fn name(bytes: &[u8]) -> Option<Foreign> {
    let head = &bytes[..bytes.len().min(HEAD)];
    magic::name(head)
        .or_else(|| mangled(head))
        .or_else(|| header::name(head))
        .or_else(|| text::name(head))
        .or_else(|| wrapped(head, bytes.len()))
        .or_else(|| shaped(head, bytes))
}

/// Returns the kind of file whose first bytes these are.
fn kind(start: &[u8]) -> Option<&'static str> {
    match picture(start) {
        Some(Format::Jpeg) => Some("a JPEG file"),
        Some(Format::Png) => Some("a PNG file"),
        Some(Format::WebP) => Some("a WebP file"),
        Some(Format::Gif) => Some("a GIF file"),
        Some(Format::Bmp) => Some("a BMP file"),
        None => magic::name(start)
            .or_else(|| header::name(start))
            .map(|foreign| foreign.what),
    }
}

/// As [`Format::of`], but checks more than two or three bytes, which occur by chance within other data.
fn picture(start: &[u8]) -> Option<Format> {
    let format = Format::of(start)?;
    let sure = match format {
        Format::Jpeg => matches!(start.get(3), Some(0xc0..=0xc4 | 0xdb | 0xdd | 0xe0..=0xef | 0xfe)),
        // Four reserved bytes, and a second header of a known length.
        Format::Bmp => {
            start.get(6..10) == Some(&[0; 4])
                && matches!(start.get(14..18), Some([12 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0]))
        }
        Format::Png | Format::WebP | Format::Gif => true,
    };
    sure.then_some(format)
}

/// Returns the format and the offset of the first picture file that begins after the first byte.
fn embedded(head: &[u8]) -> Option<(Format, usize)> {
    (1..head.len()).find_map(|at| Some((picture(&head[at..])?, at)))
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    memmem::find(bytes, needle).is_some()
}

const REPLACED: Foreign = Foreign::new(
    "binary read as UTF-8 text (U+FFFD, bytes EF BF BD, stand where bytes were lost)",
    "send the file's bytes as binary: in Node.js a Buffer, not a string",
);
const LATIN: Foreign = Foreign::new(
    "binary read as Latin-1 text and written as UTF-8",
    "send the file's bytes as binary: in Node.js a Buffer, not a string",
);
const ASCII: Foreign = Foreign::new("binary read as ASCII text (`?` stands where bytes were lost)", BINARY);
const WIDE: Foreign = Foreign::new("a file with each byte widened to 16 bits", "send each byte as one byte");
const LINES: Foreign = Foreign::new(
    "a PNG file whose line ends were changed by a transfer as text",
    UNCHANGED,
);

/// The first bytes of pictures that were changed on the way.
const MANGLED: &[(&[u8], Foreign)] = &[
    (b"\xef\xbf\xbd\xef\xbf\xbd", REPLACED),
    (b"\xef\xbf\xbdPNG", REPLACED),
    (b"\xc3\xbf\xc3\x98\xc3\xbf", LATIN),
    (b"\xc2\x89PNG", LATIN),
    (b"\xe2\x80\xb0PNG", LATIN),
    (b"?PNG", ASCII),
    (b"\xff\x00\xd8\x00\xff\x00", WIDE),
    (b"\x00\xff\x00\xd8\x00\xff", WIDE),
    (b"\xff\xfe\xff\x00\xd8\x00", WIDE),
    (b"\x89\0P\0N\0G\0", WIDE),
    (b"\xff\xfe\x89\0P\0N\0G\0", WIDE),
    (b"\xfe\xff\x00\xff\x00\xd8", WIDE),
    (b"\x89PNG", LINES),
    (
        b"IF8",
        Foreign::new("a GIF file whose first bytes are lost or changed", UNCHANGED),
    ),
    (
        b"\tPNG",
        Foreign::new("a PNG file whose bytes lost their highest bit", UNCHANGED),
    ),
    (
        b"\xd8\xff\xe0\xff",
        Foreign::new("a JPEG file with its bytes swapped in pairs", UNCHANGED),
    ),
];

/// Names a damaged file, of a format whose first bytes are letters, if it was read as text on the way.
pub(super) fn text_damage(bytes: &[u8]) -> Option<Foreign> {
    /// Three bytes in a row are these by chance once in 16 million times.
    const COUNT_MIN: usize = 3;
    let head = &bytes[..bytes.len().min(HEAD)];
    let lost = memmem::find_iter(head, b"\xef\xbf\xbd").take(COUNT_MIN).count();
    (lost == COUNT_MIN).then_some(REPLACED)
}

/// Names a picture whose bytes were changed on the way.
fn mangled(head: &[u8]) -> Option<Foreign> {
    if let Some((_, foreign)) = MANGLED.iter().find(|(start, _)| head.starts_with(start)) {
        return Some(*foreign);
    }
    let start = &head[..head.len().min(40)];
    let tagged = contains(start, b"JFIF\0") || contains(start, b"Exif\0\0");
    if contains(start, b"WEBPVP8") && memmem::find_iter(head, b"\xef\xbf\xbd").nth(2).is_some() {
        Some(REPLACED)
    } else if tagged && start.starts_with(b"??") {
        Some(ASCII)
    } else if tagged && !start.starts_with(b"\xff\xd8") && embedded(head).is_none() {
        Some(Foreign::new(
            "a JPEG file whose first bytes are lost or changed",
            UNCHANGED,
        ))
    } else if contains(&start[..start.len().min(24)], b"IHDR") && embedded(head).is_none() {
        Some(Foreign::new(
            "a PNG file whose first bytes are lost or changed",
            UNCHANGED,
        ))
    } else if contains(start, b"WEBPVP8") {
        Some(Foreign::new(
            "a WebP file whose first bytes are lost or changed",
            UNCHANGED,
        ))
    } else {
        None
    }
}

/// Names bytes that contain a picture after other bytes.
fn wrapped(head: &[u8], length: usize) -> Option<Foreign> {
    let (format, at) = embedded(head)?;
    let before = &head[..at];
    let blank = before.trim_ascii_start();
    let (what, advice) = if blank.is_empty() {
        ("white space", FROM_THERE)
    } else if blank
        .strip_prefix(b"\xef\xbb\xbf")
        .is_some_and(|rest| rest.trim_ascii().is_empty())
    {
        ("a byte order mark (EF BB BF)", FROM_THERE)
    } else if at == 5 && length >= 5 && before[1..].iter().fold(0, |n: usize, b| n << 8 | usize::from(*b)) == length - 5
    {
        ("a gRPC message with its 5-byte prefix", FROM_THERE)
    } else if field(before, length) {
        (
            "a serialized protobuf message",
            "send the bytes of the field that holds the file",
        )
    } else if before.iter().all(|byte| *byte == 0) {
        ("zero bytes", FROM_THERE)
    } else {
        ("unknown bytes", FROM_THERE)
    };
    let inside = Inside::At(format, at);
    Some(Foreign { what, advice, inside })
}

/// Returns true if `before` ends with a protobuf tag of the wire type LEN and a length that fits the bytes that follow.
fn field(before: &[u8], length: usize) -> bool {
    (2..=6.min(before.len())).any(|header| {
        let [tag, varint @ ..] = &before[before.len() - header..] else {
            return false;
        };
        let mut value = 0;
        for (at, byte) in varint.iter().enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if (byte & 0x80 == 0) != (at + 1 == varint.len()) {
                return false;
            }
        }
        // A tag of one byte: fields 1 to 15.
        (0x0a..=0x7a).contains(tag) && tag & 7 == 2 && value > 8 && value <= (length - before.len()) as u64
    })
}

/// Guesses by a weak header, the last bytes or the length.
fn shaped(head: &[u8], bytes: &[u8]) -> Option<Foreign> {
    if let [first, ..] = head
        && head.len() >= 16
        && head.iter().all(|byte| byte == first)
    {
        let what = if *first == 0 { "zero bytes" } else { "one repeated byte" };
        return Some(Foreign::new(
            what,
            "the upload was cut or its buffer never filled; send the file's bytes",
        ));
    }
    if header::is_tga(bytes) {
        return Some(Foreign::new("a TGA picture", CONVERT));
    }
    match head {
        [0x80, 2..=5, ..] if bytes.last() == Some(&b'.') => Some(Foreign::new("a Python pickle", BINARY)),
        // A layer of MPEG audio with a valid bit rate and sampling rate.
        [0xff, 0xe2..=0xe7 | 0xf2..=0xf7 | 0xfa..=0xfb, rates, ..] if rates >> 4 != 15 && rates >> 2 & 3 != 3 => {
            Some(Foreign::new("MP3 audio", magic::NO_PICTURE))
        }
        _ => match bytes.len() {
            150_528 => Some(Foreign::new(
                "as long as the raw pixels of 224x224 RGB",
                "send raw pixels in `pixels`",
            )),
            602_112 => Some(Foreign::new("as long as 224x224x3 float32 numbers", PIXELS)),
            _ => None,
        },
    }
}
