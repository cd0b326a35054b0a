//! Files of a few pixels are opened and refused as Pillow does.

use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;

use super::*;
use crate::picture::Channels;
use crate::plan::{Decoded, ResizePlan};
use crate::resize::Resizer;

/// Returns a chunk with its checksum.
fn chunk(name: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let length = data.len() as u32;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(name);
    hasher.update(data);
    [&length.to_be_bytes(), &name[..], data, &hasher.finalize().to_be_bytes()].concat()
}

fn ihdr(width: u32, height: u32, depth: u8, colour: u8, interlace: u8) -> Vec<u8> {
    let size = [width.to_be_bytes(), height.to_be_bytes()].concat();
    chunk(b"IHDR", &[&size[..], &[depth, colour, 0, 0, interlace]].concat())
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Two rows of two grey pixels.
const ROWS: [u8; 6] = [0, 1, 2, 0, 3, 4];

fn file(chunks: &[Vec<u8>]) -> Vec<u8> {
    [&b"\x89PNG\r\n\x1a\n"[..], &chunks.concat()].concat()
}

/// Returns a file of 2x2 grey pixels with chunks before and after the pixels.
fn grey(before: &[Vec<u8>], stream: &[u8], behind: &[Vec<u8>]) -> Vec<u8> {
    file(&[
        ihdr(2, 2, 8, 0, 0),
        before.concat(),
        chunk(b"IDAT", stream),
        behind.concat(),
        chunk(b"IEND", b""),
    ])
}

fn opens(bytes: &[u8]) -> bool {
    outcome(bytes).is_ok()
}

fn outcome(bytes: &[u8]) -> Result<(), ImageError> {
    let picture = open(bytes)?;
    let shape = picture.shape();
    let mut rows = Resizer::new(&ResizePlan::for_vgg16(Decoded::whole(shape)));
    picture.decode(&mut rows)
}

fn reason(bytes: &[u8]) -> String {
    match outcome(bytes) {
        Ok(()) => "none".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_shape_is_known_from_headers() {
    let bytes = file(&[ihdr(3, 5, 8, 2, 0), chunk(b"IDAT", b"")]);
    let shape = open(&bytes).unwrap().shape();
    assert_eq!(
        shape,
        Shape {
            width: 3,
            height: 5,
            channels: Channels::Rgbx
        }
    );
    let bytes = file(&[ihdr(3, 5, 16, 4, 0), chunk(b"IDAT", b"")]);
    assert_eq!(open(&bytes).unwrap().shape().channels, Channels::Grey);
}

#[test]
fn a_size_of_zero_is_refused() {
    assert!(open(&file(&[ihdr(0, 5, 8, 2, 0), chunk(b"IDAT", b"")])).is_err());
    assert!(open(&file(&[ihdr(5, 0, 8, 2, 0), chunk(b"IDAT", b"")])).is_err());
}

#[test]
fn cgbi_is_named() {
    let bytes = file(&[
        chunk(b"CgBI", &[0x50, 0, 0x20, 2]),
        ihdr(2, 2, 8, 0, 0),
        chunk(b"IDAT", &deflated(&ROWS)),
    ]);
    assert!(reason(&bytes).contains("Xcode's CgBI form"));
}

#[test]
fn only_interlaced_pictures_are_held() {
    let bytes = file(&[ihdr(8192, 8192, 16, 6, 0), chunk(b"IDAT", b"")]);
    assert!(open(&bytes).unwrap().memory() < 500_000);
    let bytes = file(&[ihdr(8192, 8192, 16, 6, 1), chunk(b"IDAT", b"")]);
    assert!(open(&bytes).unwrap().memory() > 4 << 26);
}

#[test]
fn checksums_count_before_the_pixels_only() {
    let mut text = chunk(b"tEXt", b"key\0value");
    *text.last_mut().unwrap() ^= 1;
    let stream = deflated(&ROWS);
    assert!(!opens(&grey(&[text.clone()], &stream, &[])));
    assert!(opens(&grey(&[], &stream, &[text])));
    let mut pixels = chunk(b"IDAT", &stream);
    *pixels.last_mut().unwrap() ^= 1;
    assert!(opens(&file(&[ihdr(2, 2, 8, 0, 0), pixels])));
}

#[test]
fn a_wrong_adler_is_seen_in_the_last_rows_piece() {
    let mut stream = deflated(&ROWS);
    *stream.last_mut().unwrap() ^= 1;
    assert!(!opens(&grey(&[], &stream, &[])));
    let (head, tail) = stream.split_at(stream.len() - 1);
    let split = file(&[ihdr(2, 2, 8, 0, 0), chunk(b"IDAT", head), chunk(b"IDAT", tail)]);
    assert!(opens(&split));
}

#[test]
fn a_stream_may_end_with_a_row() {
    assert!(opens(&grey(&[], &deflated(&ROWS[..3]), &[])));
    assert!(!opens(&grey(&[], &deflated(&ROWS[..2]), &[])));
    assert!(!opens(&grey(&[], &deflated(&ROWS[..4]), &[])));
    assert!(opens(&grey(&[], &deflated(&[ROWS; 2].concat()), &[])));
}

#[test]
fn a_long_stream_may_end_with_a_row_too() {
    // Long enough to be inflated ahead.
    let header = ihdr(99, 999, 8, 0, 0);
    let row = [0; 100];
    let stream = deflated(&row.repeat(500));
    assert!(opens(&file(&[header.clone(), chunk(b"IDAT", &stream)])));
    // The end is noticed in the next piece.
    let (head, tail) = stream.split_at(stream.len() - 1);
    assert!(!opens(&file(&[
        header.clone(),
        chunk(b"IDAT", head),
        chunk(b"IDAT", tail)
    ])));
    let stream = deflated(&row.repeat(500)[1..]);
    assert!(!opens(&file(&[header, chunk(b"IDAT", &stream)])));
}

#[test]
fn unknown_filters_are_refused() {
    assert!(!opens(&grey(&[], &deflated(&[0, 1, 2, 5, 3, 4]), &[])));
}

#[test]
fn the_end_chunk_may_be_missing_but_no_chunk_may_be_cut() {
    let pixels = chunk(b"IDAT", &deflated(&ROWS));
    let whole = file(&[ihdr(2, 2, 8, 0, 0), pixels, chunk(b"tEXt", b"key\0value")]);
    for cut in 0..=whole.len() {
        // Refused if cut within the text's data, or within the last row or before it.
        let data = whole.len() - 4 - 9;
        let refused = cut < data - 8 - 4 - 5 || (cut >= data && cut < data + 9);
        if cut < data - 8 - 4 - 5 || cut >= data - 8 {
            assert_eq!(opens(&whole[..cut]), !refused, "cut at {cut}");
        }
    }
}

#[test]
fn pixels_may_be_empty_or_split_but_not_interrupted() {
    let stream = deflated(&ROWS);
    let (head, tail) = stream.split_at(4);
    let [head, tail, none] = [head, tail, b""].map(|data| chunk(b"IDAT", data));
    let header = ihdr(2, 2, 8, 0, 0);
    assert!(opens(&file(&[
        header.clone(),
        none.clone(),
        head.clone(),
        none,
        tail.clone()
    ])));
    assert!(!opens(&file(&[header, head, chunk(b"tIME", b""), tail])));
}

#[test]
fn pixels_before_the_header_are_skipped() {
    let pixels = chunk(b"IDAT", &deflated(&ROWS));
    assert!(opens(&file(&[
        chunk(b"IDAT", b"abc"),
        ihdr(2, 2, 8, 0, 0),
        pixels.clone()
    ])));
    assert!(!opens(&file(&[pixels])));
}

#[test]
fn short_chunks_are_refused() {
    let stream = deflated(&ROWS);
    for (name, length) in [
        (b"gAMA", 4),
        (b"cHRM", 32),
        (b"sRGB", 1),
        (b"pHYs", 9),
        (b"tRNS", 2),
        (b"acTL", 8),
    ] {
        assert!(opens(&grey(&[chunk(name, &vec![0; length])], &stream, &[])));
        assert!(!opens(&grey(&[chunk(name, &vec![0; length - 1])], &stream, &[])));
        assert!(!opens(&grey(&[], &stream, &[chunk(name, &vec![0; length - 1])])));
    }
}

#[test]
fn names_of_chunks_are_letters_digits_or_underscores() {
    let stream = deflated(&ROWS);
    assert!(opens(&grey(&[chunk(b"a_0Z", b"")], &stream, &[])));
    assert!(!opens(&grey(&[chunk(b"a-0Z", b"")], &stream, &[])));
    // After the pixels, it ends the file.
    assert!(opens(&grey(&[], &stream, &[chunk(b"a-0Z", b"")])));
}

#[test]
fn bombs_are_refused() {
    let stream = deflated(&ROWS);
    let key = b"key\0\0";
    let fits = chunk(b"zTXt", &[&key[..], &deflated(&vec![b'x'; 1 << 20])].concat());
    let bomb = chunk(b"zTXt", &[&key[..], &deflated(&vec![b'x'; (1 << 20) + 1])].concat());
    let profile = chunk(b"iCCP", &[&key[..], &deflated(&vec![b'x'; (1 << 20) + 1])].concat());
    assert!(opens(&grey(&vec![fits.clone(); 64], &stream, &[])));
    assert!(!opens(&grey(&vec![fits; 65], &stream, &[])));
    for bomb in [bomb, profile] {
        assert!(!opens(&grey(std::slice::from_ref(&bomb), &stream, &[])));
        assert!(!opens(&grey(&[], &stream, &[bomb])));
    }
}

#[test]
fn palettes_may_be_short_but_not_long() {
    for (entries, fine) in [(0, true), (1, true), (256, true), (257, false)] {
        let palette = chunk(b"PLTE", &vec![7; entries * 3]);
        let bytes = file(&[ihdr(2, 2, 8, 3, 0), palette, chunk(b"IDAT", &deflated(&ROWS))]);
        assert_eq!(opens(&bytes), fine, "{entries} colours");
    }
    assert!(opens(&file(&[ihdr(2, 2, 8, 3, 0), chunk(b"IDAT", &deflated(&ROWS))])));
    // Pillow looks a single transparent colour up in the palette.
    let transparent = chunk(b"tRNS", &[0]);
    assert!(!opens(&file(&[
        ihdr(2, 2, 8, 3, 0),
        transparent,
        chunk(b"IDAT", &deflated(&ROWS))
    ])));
}

/// Returns a frame control chunk.
fn fctl(sequence: u32, [width, height, left, top]: [u32; 4]) -> Vec<u8> {
    let numbers = [sequence, width, height, left, top].map(u32::to_be_bytes).concat();
    chunk(b"fcTL", &[&numbers[..], &[0, 1, 0, 1, 0, 0]].concat())
}

fn fdat(sequence: u32, pixels: &[u8]) -> Vec<u8> {
    chunk(b"fdAT", &[&sequence.to_be_bytes()[..], pixels].concat())
}

#[test]
fn frames_are_within_the_picture_and_in_order() {
    let one = deflated(&[0, 9]);
    assert!(opens(&grey(&[fctl(0, [1, 1, 1, 1])], &one, &[])));
    assert!(!opens(&grey(&[fctl(1, [1, 1, 1, 1])], &one, &[])));
    assert!(!opens(&grey(&[fctl(0, [2, 1, 1, 1])], &one, &[])));
    assert!(!opens(&grey(&[fctl(0, [1, 0, 1, 1])], &one, &[])));
    let header = [ihdr(2, 2, 8, 0, 0), fctl(0, [1, 1, 0, 0])].concat();
    assert!(opens(&file(&[header.clone(), fdat(1, &one)])));
    assert!(!opens(&file(&[header, fdat(2, &one)])));
}

#[test]
fn an_animation_is_read_up_to_its_second_frame() {
    let stream = deflated(&ROWS);
    let animation = chunk(b"acTL", &[0, 0, 0, 2, 0, 0, 0, 0]);
    let broken = chunk(b"gAMA", b"");
    let behind = [fctl(1, [2, 2, 0, 0]), broken.clone()];
    assert!(opens(&grey(&[animation, fctl(0, [2, 2, 0, 0])], &stream, &behind)));
    assert!(!opens(&grey(&[fctl(0, [2, 2, 0, 0])], &stream, &behind)));
}

#[test]
fn interlaced_pictures_have_the_rows_of_their_passes() {
    // Passes 1, 6 and 7 of 2x2 pixels have one row each.
    let rows = [0, 1, 0, 2, 0, 3, 4];
    assert!(opens(&file(&[ihdr(2, 2, 8, 0, 1), chunk(b"IDAT", &deflated(&rows))])));
    assert!(!opens(&file(&[
        ihdr(2, 2, 8, 0, 1),
        chunk(b"IDAT", &deflated(&rows[..6]))
    ])));
    let passes = passes::of(2, 2, true);
    assert_eq!(
        passes.iter().map(|pass| (pass.width, pass.height)).collect::<Vec<_>>(),
        [(1, 1), (1, 1), (2, 1)]
    );
}

#[test]
fn texts_may_replace_fields() {
    let stream = deflated(&ROWS);
    assert!(!opens(&grey(&[chunk(b"tEXt", b"bbox\0x")], &stream, &[])));
    assert!(!opens(&grey(&[chunk(b"tEXt", b"transparency\0x")], &stream, &[])));
    assert!(opens(&grey(&[chunk(b"tEXt", b"interlace\0")], &stream, &[])));
    assert!(!opens(&grey(
        &[chunk(b"tEXt", b"interlace\0x")],
        &deflated(&ROWS[..5]),
        &[]
    )));
}

#[test]
fn no_byte_causes_a_panic() {
    let parts = [
        fctl(0, [2, 2, 0, 0]),
        chunk(b"iTXt", b"k\0\0\0en\0t\0v"),
        chunk(b"pHYs", &[0; 9]),
    ];
    let whole = grey(&parts, &deflated(&ROWS), &[chunk(b"tEXt", b"key\0value")]);
    for at in 8..whole.len() {
        for value in [0, 1, 127, 255] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            let _ = outcome_of_small(&bytes);
        }
    }
}

fn outcome_of_small(bytes: &[u8]) -> Option<()> {
    let shape = open(bytes).ok()?.shape();
    (u64::from(shape.width) * u64::from(shape.height) < 1 << 20)
        .then(|| outcome(bytes))?
        .ok()
}
