//! Recognises formats by more of their header than a magic number: a length, a type or a name.

use super::magic::{AVIF, FRAME, HEIC, NO_PICTURE, UNPACK};
use super::{CONVERT, Foreign, PIXELS, contains};

/// Names the format of `head` by its header.
pub(super) fn name(head: &[u8]) -> Option<Foreign> {
    match head {
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => Some(boxes(head)),
        [b'R', b'I', b'F', b'F' | b'X', _, _, _, _, kind @ ..] => Some(riff(kind)),
        [b'F', b'O', b'R', b'M', _, _, _, _, kind @ ..] => Some(match kind {
            [b'A', b'I', b'F', ..] => Foreign::new("AIFF audio", NO_PICTURE),
            _ => Foreign::new("an IFF file", CONVERT),
        }),
        [b'I', b'I', b'*', 0, ..] | [b'M', b'M', 0, b'*', ..] => Some(tiff(head)),
        [b'P', b'K', 3, 4, ..] => Some(zip(head)),
        [
            b'P',
            b'1'..=b'7' | b'F' | b'f',
            b'\n' | b'\r' | b' ' | b'\t',
            b'0'..=b'9' | b'#' | b'W',
            ..,
        ] => Some(Foreign::new(
            "a Netpbm picture (PBM, PGM, PPM, PNM, PAM or PFM)",
            CONVERT,
        )),
        [0x1a, 0x45, 0xdf, 0xa3, ..] => Some(match contains(&head[..head.len().min(64)], b"webm") {
            true => Foreign::new("a WebM video", FRAME),
            false => Foreign::new("a Matroska video", FRAME),
        }),
        [0x0a, 0 | 2..=5, 0 | 1, 1 | 2 | 4 | 8, ..] if head.get(64) == Some(&0) => {
            Some(Foreign::new("a PCX picture", CONVERT))
        }
        [0, 0, kind @ 1..=2, 0, 1..=255, 0, _, _, _, 0, ..] => Some(match kind {
            1 => Foreign::new("a Windows icon (ICO)", "send the picture in it as PNG"),
            _ => Foreign::new("a Windows cursor (CUR)", "send the picture in it as PNG"),
        }),
        [
            40 | 108 | 124,
            0,
            0,
            0,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            1,
            0,
            1 | 4 | 8 | 16 | 24 | 32,
            0,
            ..,
        ] => Some(Foreign::new(
            "a bitmap without its file header (DIB)",
            "put the BMP file header before it",
        )),
        [0, 0, 0, 1, header, ..] if header & 0x1f == 7 => Some(Foreign::new("an H.264 video", FRAME)),
        [0x47, ..] if head.get(188) == Some(&0x47) && head.get(376) == Some(&0x47) => {
            Some(Foreign::new("an MPEG transport stream", FRAME))
        }
        _ => None,
    }
}

/// Names a file of ISO boxes by its major brand and, for HEIF, by the compatible ones.
fn boxes(head: &[u8]) -> Foreign {
    let length = head[..4]
        .iter()
        .fold(0, |length: usize, byte| length << 8 | usize::from(*byte));
    let brands = &head[8..head.len().min(length.clamp(8, 256))];
    match head.get(8..12).unwrap_or_default() {
        b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"hevm" | b"hevs" => HEIC,
        b"avif" | b"avis" => AVIF,
        b"mif1" | b"msf1" | b"miaf" | b"mif2" if contains(brands, b"avif") => AVIF,
        b"mif1" | b"msf1" | b"miaf" | b"mif2" if contains(brands, b"hei") => HEIC,
        b"mif1" | b"msf1" | b"miaf" | b"mif2" => Foreign::new("a HEIF picture", CONVERT),
        b"crx " => Foreign::new("a Canon camera's raw file (CR3)", CONVERT),
        b"jp2 " | b"jpx " | b"jpm " | b"jph " => Foreign::new("a JPEG 2000 picture", CONVERT),
        b"jxl " => Foreign::new("a JPEG XL picture", CONVERT),
        b"qt  " => Foreign::new("a QuickTime video", FRAME),
        b"M4A " | b"M4B " => Foreign::new("MPEG-4 audio", NO_PICTURE),
        _ => Foreign::new("an MP4 video", FRAME),
    }
}

fn riff(kind: &[u8]) -> Foreign {
    match kind {
        [b'W', b'A', b'V', b'E', ..] => Foreign::new("WAVE audio", NO_PICTURE),
        [b'A', b'V', b'I', b' ', ..] => Foreign::new("an AVI video", FRAME),
        [b'A', b'C', b'O', b'N', ..] => Foreign::new("an animated Windows cursor (ANI)", CONVERT),
        [b'R', b'M', b'I', b'D', ..] => Foreign::new("MIDI music", NO_PICTURE),
        [b'C', b'D', b'R', ..] => Foreign::new("a CorelDRAW drawing", "render it to PNG"),
        _ => Foreign::new(
            "a RIFF file that is not WebP",
            "send a JPEG, PNG, WebP, GIF or BMP file",
        ),
    }
}

/// Names a TIFF file, or a raw file of the same structure.
fn tiff(head: &[u8]) -> Foreign {
    // The tag DNGVersion of four bytes, in either byte order.
    let dng =
        contains(head, b"\x12\xc6\x01\x00\x04\x00\x00\x00") || contains(head, b"\xc6\x12\x00\x01\x00\x00\x00\x04");
    if dng {
        Foreign::new("a camera's raw file (DNG)", CONVERT)
    } else if head.get(8..10) == Some(b"CR") {
        Foreign::new("a Canon camera's raw file (CR2)", CONVERT)
    } else if contains(head, b"NIKON CORPORATION\0") {
        Foreign::new("a Nikon camera's TIFF or raw file (NEF)", CONVERT)
    } else if contains(head, b"SONY\0") || contains(head, b"SONY \0") {
        Foreign::new("a Sony camera's TIFF or raw file (ARW)", CONVERT)
    } else {
        Foreign::new("a TIFF picture", CONVERT)
    }
}

/// Names a ZIP archive by its first member.
fn zip(head: &[u8]) -> Foreign {
    let names = &head[..head.len().min(120)];
    if contains(names, b".npy") {
        Foreign::new("a NumPy archive (.npz)", PIXELS)
    } else if contains(names, b"data.pkl") {
        Foreign::new("a PyTorch file", PIXELS)
    } else if contains(names, b"[Content_Types].xml") || contains(names, b"mimetypeapplication/") {
        Foreign::new("an office document", "save its page or picture as PNG and send that")
    } else {
        Foreign::new("a ZIP archive", UNPACK)
    }
}

/// Returns true if the bytes are a TGA file: if they end with its footer, or begin with a header whose fields are all
/// valid. The format has no magic number.
pub(super) fn is_tga(bytes: &[u8]) -> bool {
    if bytes.ends_with(b"TRUEVISION-XFILE.\0") {
        return true;
    }
    let &[
        text,
        mapped,
        kind,
        m0,
        m1,
        m2,
        m3,
        m4,
        _,
        _,
        _,
        _,
        w0,
        w1,
        h0,
        h1,
        depth,
        flags,
        ..,
    ] = bytes
    else {
        return false;
    };
    let [width, height] = [[w0, w1], [h0, h1]].map(|side| usize::from(u16::from_le_bytes(side)));
    let is_valid = match kind {
        1 | 9 => mapped == 1 && depth == 8 && [m0, m1] == [0, 0] && matches!(m4, 15 | 16 | 24 | 32),
        2 | 10 => mapped == 0 && [m0, m1, m2, m3, m4] == [0; 5] && matches!(depth, 15 | 16 | 24 | 32),
        3 | 11 => mapped == 0 && [m0, m1, m2, m3, m4] == [0; 5] && matches!(depth, 8 | 16),
        _ => false,
    };
    let data = width * height * usize::from(depth.div_ceil(8));
    let length_max = 18 + usize::from(text) + 4 * 256 + data + 4096;
    is_valid && data > 0 && flags & 0xc0 == 0 && (kind > 3 || (18 + data..=length_max).contains(&bytes.len()))
}
