//! Names text that was sent instead of a picture: an encoding of one, an error page, a URL.

use super::encoded::{self, DECODE, NOT_PRINTED};
use super::{BINARY, CONVERT, Foreign, PIXELS, contains};

const FETCH: &str = "the server fetches nothing; read the picture and send its bytes";
const ERROR_PAGE: &str = "the URL gave an error or needs a login; fetch the picture and check the status";

/// The first letters of text, in lower case, that binary data may follow.
#[rustfmt::skip]
const STARTS: &[(&[u8], &str, &str)] = &[
    (b"http/1.", "an HTTP response with its header", "send the body alone"),
    (b"http/2", "an HTTP response with its header", "send the body alone"),
    (b"get /", "an HTTP request", "send the body alone"),
    (b"post /", "an HTTP request", "send the body alone"),
    (b"put /", "an HTTP request", "send the body alone"),
    (b"content-type:", "a MIME part with its header", "send the content alone"),
    (b"content-length:", "a MIME part with its header", "send the content alone"),
    (b"content-transfer-encoding:", "a MIME part with its header", "send the content alone"),
    (b"content-disposition:", "a MIME part with its header", "send the content alone"),
    (b"mime-version:", "a MIME message", "send the content of the picture's part alone"),
    (b"version https://git-lfs", "a Git LFS pointer", "run `git lfs pull` and send the file itself"),
    (b"<buffer ", "the printed form of a Node.js Buffer", NOT_PRINTED),
    (b"[object ", "the printed form of a JavaScript object", NOT_PRINTED),
    (b"<_io.", "the printed form of a Python object", NOT_PRINTED),
    (b"<pil.", "the printed form of a Python object", NOT_PRINTED),
    (b"<memory at", "the printed form of a Python object", NOT_PRINTED),
    (b"<starlette.", "the printed form of a Python object", NOT_PRINTED),
    (b"tensor(", "the printed form of a tensor", PIXELS),
    (b"blob:", "a browser's blob: URL", FETCH),
    (b"-----begin ", "a PEM or PGP block", "decrypt or decode it and send the picture"),
    (b"age-encryption.org/", "a file encrypted by age", "decrypt it and send the picture"),
    (b"[internetshortcut]", "an Internet shortcut", FETCH),
    (b"begin 644 ", "uuencoded text", DECODE),
    (b"/* xpm */", "an XPM picture", CONVERT),
    (b"! xpm2", "an XPM picture", CONVERT),
    (b"<?php", "the source text of a PHP page", "fetch the picture from the server that runs it"),
];

/// The values that programs print in place of a missing picture.
#[rustfmt::skip]
const NOTHING: &[&[u8]] = &[b"null", b"none", b"undefined", b"nan", b"nil", b"true", b"false", b"{}", b"[]", b"\"\""];

/// Names the text that `head` begins with; `None` if it is not text.
pub(super) fn name(head: &[u8]) -> Option<Foreign> {
    let (marked, text) = match head.strip_prefix(b"\xef\xbb\xbf") {
        Some(rest) => (true, rest),
        None => (false, head),
    };
    let text = text.trim_ascii();
    if let Some((_, what, advice)) = STARTS.iter().find(|(start, ..)| starts(text, start)) {
        return Some(Foreign::new(what, advice).around(head));
    }
    if text.starts_with(b"--") && contains(text, b"Content-") || contains(text, b"\r\nContent-Disposition: form-data") {
        return Some(Foreign::new("a multipart form", "send the content of the picture's part alone").around(head));
    }
    if utf16(head) {
        return Some(Foreign::new("UTF-16 text", BINARY));
    }
    if !is_text(head) {
        return None;
    }
    if text.is_empty() {
        let what = if marked {
            "a byte order mark and nothing else"
        } else {
            "white space and nothing else"
        };
        return Some(Foreign::new(what, "send the bytes of a picture file"));
    }
    if NOTHING.iter().any(|word| text.eq_ignore_ascii_case(word)) {
        return Some(Foreign::new(
            "the text of an empty value",
            "the client had no picture; send a file's bytes",
        ));
    }
    encoded::name(text)
        .or_else(|| markup(text))
        .or_else(|| json(text))
        .or_else(|| location(text))
        .or_else(|| Some(plain(text)))
}

pub(super) fn starts(text: &[u8], lower: &[u8]) -> bool {
    text.get(..lower.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(lower))
}

/// Returns true if the first 512 bytes contain `lower`, ignoring case.
pub(super) fn mentions(text: &[u8], lower: &[u8]) -> bool {
    text[..text.len().min(512)]
        .windows(lower.len())
        .any(|part| part.eq_ignore_ascii_case(lower))
}

/// Returns true for printable ASCII in UTF-16: pairs of bytes of which one is always zero.
fn utf16(head: &[u8]) -> bool {
    let start = &head[..head.len().min(64)];
    let (pairs, _) = start
        .strip_prefix(b"\xff\xfe")
        .or(start.strip_prefix(b"\xfe\xff"))
        .unwrap_or(start)
        .as_chunks();
    let little = pairs.iter().all(|[text, zero]| *zero == 0 && is_printed(*text));
    let big = pairs.iter().all(|[zero, text]| *zero == 0 && is_printed(*text));
    pairs.len() >= 4 && (little || big)
}

fn is_printed(byte: u8) -> bool {
    matches!(byte, b'\t' | b'\n' | b'\r' | 0x0c | 0x1b | b' '..=b'~')
}

/// Returns true for UTF-8 without control characters; the last character may be incomplete.
fn is_text(head: &[u8]) -> bool {
    let cut = std::str::from_utf8(head).is_err_and(|error| error.error_len().is_none());
    (cut || std::str::from_utf8(head).is_ok()) && head.iter().all(|byte| is_printed(*byte) || *byte >= 0x80)
}

fn markup(text: &[u8]) -> Option<Foreign> {
    if !text.starts_with(b"<") {
        return None;
    }
    Some(
        if starts(text, b"<!doctype html")
            || starts(text, b"<html")
            || mentions(text, b"<body")
            || mentions(text, b"<head")
        {
            Foreign::new("an HTML page", ERROR_PAGE)
        } else if mentions(text, b"<svg") || mentions(text, b"<!doctype svg") {
            Foreign::new("an SVG drawing", "render it to PNG")
        } else if mentions(text, b"<error") || mentions(text, b"<code>") || mentions(text, b"<message>") {
            Foreign::new("an XML error document", ERROR_PAGE)
        } else if starts(text, b"<?xml") || contains(text, b"</") || contains(text, b"/>") {
            Foreign::new("an XML document", "send the bytes of a picture file")
        } else {
            return None;
        },
    )
}

fn json(text: &[u8]) -> Option<Foreign> {
    let object = text.strip_prefix(b"{").or(text.strip_prefix(b"["))?.trim_ascii_start();
    if !matches!(object, [b'"' | b'{' | b'[' | b'}' | b']', ..]) {
        return None;
    }
    let base64 = [&b"\"/9j/"[..], b"\"iVBORw0K", b"\"R0lGOD", b"\"UklGR", b"data:image/"];
    Some(if contains(text, b"\"Buffer\"") {
        Foreign::new("a Node.js Buffer as JSON", "send the Buffer itself")
    } else if base64.iter().any(|start| contains(text, start)) {
        Foreign::new(
            "JSON with a picture in base64",
            "decode that field and send its bytes alone",
        )
    } else if contains(text, b"\"layers\"") && contains(text, b"\"fr\"") {
        Foreign::new("a Lottie animation", "render one frame of it to PNG")
    } else if [&b"\"error"[..], b"\"message\"", b"\"detail\"", b"\"status\""]
        .iter()
        .any(|key| mentions(text, key))
    {
        Foreign::new("a JSON error document", ERROR_PAGE)
    } else {
        Foreign::new("JSON text", "send the bytes of a picture file alone")
    })
}

/// Names a URL or a path.
fn location(text: &[u8]) -> Option<Foreign> {
    const SCHEMES: &[&[u8]] = &[
        b"http://",
        b"https://",
        b"s3://",
        b"gs://",
        b"file://",
        b"ftp://",
        b"content://",
    ];
    const ENDINGS: &[&[u8]] = &[
        b".jpg", b".jpeg", b".png", b".webp", b".gif", b".bmp", b".heic", b".tif", b".tiff", b".avif", b".svg",
    ];
    let line = text.len() < 2048 && !text.contains(&b'\n');
    if line && SCHEMES.iter().any(|scheme| starts(text, scheme)) {
        return Some(Foreign::new("a URL", FETCH));
    }
    let ends = ENDINGS
        .iter()
        .any(|ending| text.len() > ending.len() && starts(&text[text.len() - ending.len()..], ending));
    let drive = matches!(text, [b'A'..=b'Z' | b'a'..=b'z', b':', b'\\' | b'/', ..]);
    let rooted = drive
        || matches!(text, [b'/' | b'~', b'a'..=b'z' | b'A'..=b'Z' | b'/', ..])
        || text.starts_with(b"./")
        || text.starts_with(b"../");
    let spaced = text.contains(&b' ');
    (line && (ends || rooted && !spaced)).then_some(Foreign::new("a file's name", "open the file and send its bytes"))
}

fn plain(text: &[u8]) -> Foreign {
    let mut lines = text.split(|byte| *byte == b'\n');
    let commas =
        [lines.next(), lines.next()].map(|line| line.map_or(0, |line| memchr::memchr_iter(b',', line).count()));
    if contains(text, b"#define ") && contains(text, b"_width ") {
        Foreign::new("an XBM picture", CONVERT)
    } else if commas[0] >= 1 && commas[0] == commas[1] {
        Foreign::new("CSV text", "send the bytes of a picture file")
    } else {
        Foreign::new("plain text", "send the bytes of a picture file")
    }
}
