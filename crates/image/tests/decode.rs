//! Pictures are decoded to the pixels of torchvision's transforms, and damaged ones are refused.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};

use headswap_image::{Channels, Filter, ImageError, ImageLimits, ImageSettings, Pixels, Shape, Side, decode, resize};
use headswap_spec::PICTURE_BYTES;
use proptest::prelude::*;

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn fixtures() -> PathBuf {
    root().join("tests/fixtures/images")
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(fixtures().join(name)).unwrap()
}

/// One of the repository's own photographs.
fn photograph(name: &str) -> Vec<u8> {
    fs::read(root().join("images").join(name)).unwrap()
}

/// Returns the default settings with another limit.
fn up_to(pixels_max: u64) -> ImageSettings {
    ImageSettings {
        limits: ImageLimits { pixels_max },
        ..ImageSettings::default()
    }
}

fn refusal(bytes: &[u8]) -> ImageError {
    decode(bytes, ImageSettings::default()).unwrap_err()
}

/// Returns every reference in a folder: the picture's name, its file's bytes and the expected pixels.
fn references(folder: &Path) -> Vec<(String, Vec<u8>, Vec<u8>)> {
    let mut found: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name()?.to_str()?.strip_suffix(".golden.webp")?.to_owned();
            let bytes = fs::read(folder.join(&name)).unwrap_or_else(|_| photograph(&name));
            Some((name, bytes, image::open(&path).unwrap().into_rgb8().into_raw()))
        })
        .collect();
    found.sort();
    found
}

/// `PARITY_IMAGES` names a folder with the whole generated set, which `scripts/parity/run` writes; without it, the
/// committed part of it is compared.
#[test]
fn pixels_equal_those_of_pillow_and_torchvision() {
    let folder = std::env::var_os("PARITY_IMAGES").map_or_else(fixtures, PathBuf::from);
    let references = references(&folder);
    assert!(references.len() >= 20, "only {} references", references.len());
    for (name, bytes, theirs) in references {
        let ours = decode(&bytes, ImageSettings::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(ours.as_bytes() == theirs, "{name}: other pixels than Pillow's");
    }
}

/// A sample of `scripts/parity/sweep.py`, sound and damaged files of all formats; `scripts/parity/sample.py` writes it.
#[test]
fn generated_files_are_opened_and_refused_as_pillow_does() {
    let sample = fs::read(root().join("tests/fixtures/sweep.bin")).unwrap();
    let mut rest = sample.as_slice();
    let (mut opened, mut refused) = (0, 0);
    while !rest.is_empty() {
        let name = String::from_utf8(block(&mut rest).to_vec()).unwrap();
        let (&opens, after) = rest.split_first().unwrap();
        rest = after;
        let checksum = number(&mut rest);
        match decode(block(&mut rest), ImageSettings::default()) {
            Ok(pixels) => {
                assert_eq!((opens, crc32fast::hash(pixels.as_bytes())), (1, checksum), "{name}");
                opened += 1;
            }
            Err(error) => {
                assert_eq!(opens, 0, "{name}: {error}");
                refused += 1;
            }
        }
    }
    assert!(opened > 100 && refused > 50, "{opened}, {refused}");
}

fn number(rest: &mut &[u8]) -> u32 {
    let (number, after) = rest.split_first_chunk().unwrap();
    *rest = after;
    u32::from_le_bytes(*number)
}

fn block<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let length = number(rest) as usize;
    let (block, after) = rest.split_at(length);
    *rest = after;
    block
}

/// What `scripts/parity/resize.py` compares with Pillow, by the checksums of Pillow's results.
#[test]
fn resizing_is_pillows_for_every_filter_and_kind() {
    let text = fs::read_to_string(root().join("tests/fixtures/resize.json")).unwrap();
    let cases: Vec<ResizeCase> = serde_json::from_str(&text).unwrap();
    assert!(cases.len() >= 100);
    for case in cases {
        let [width, height] = case.size;
        let channels = if case.grey { Channels::Grey } else { Channels::Rgbx };
        let mut pixels = Vec::new();
        for index in 0..width * height * channels.count() as u32 {
            // The multiplier of the hash is 2^32 divided by the golden ratio.
            pixels.push(((index + case.seed).wrapping_mul(0x9e37_79b1) >> 13) as u8);
        }
        let [left, top, right, bottom] = case.kept;
        let sides =
            [(case.to[0], left..right), (case.to[1], top..bottom)].map(|(resized, kept)| Side { resized, kept });
        let filter = match case.filter.as_str() {
            "NEAREST" => Filter::Nearest,
            "BOX" => Filter::Box,
            "BILINEAR" => Filter::Bilinear,
            "HAMMING" => Filter::Hamming,
            "BICUBIC" => Filter::Bicubic,
            _ => Filter::Lanczos,
        };
        let shape = Shape {
            width,
            height,
            channels,
        };
        let resized = resize(shape, &pixels, filter, sides);
        assert_eq!(crc32fast::hash(&resized), case.crc32, "{case:?}");
    }
}

#[derive(Debug, serde::Deserialize)]
struct ResizeCase {
    seed: u32,
    size: [u32; 2],
    grey: bool,
    filter: String,
    to: [u64; 2],
    kept: [u64; 4],
    crc32: u32,
}

fn of_another_length(got: usize) -> ImageError {
    ImageError::PixelsLength {
        got,
        height: 224,
        width: 224,
    }
}

#[test]
fn raw_pixels_must_have_their_exact_length() {
    let bytes: Vec<u8> = (0..PICTURE_BYTES).map(|index| (index % 251) as u8).collect();
    assert_eq!(Pixels::from_bytes(bytes.clone().into()).unwrap().as_bytes(), bytes);
    for got in [0, 1, PICTURE_BYTES - 1, PICTURE_BYTES + 1] {
        let error = Pixels::from_bytes(vec![0; got].into()).unwrap_err();
        assert_eq!(error, of_another_length(got));
    }
}

#[test]
fn no_bytes_and_unknown_bytes_are_refused() {
    assert_eq!(refusal(b""), ImageError::Empty);
    for bytes in [
        b"\0".as_slice(),
        b"hello",
        b"%PDF-1.7",
        b"\xff\xd8",
        b"RIFF\0\0\0\0WAVE",
        b"\x89PNG",
    ] {
        let error = refusal(bytes);
        assert!(
            matches!(error, ImageError::UnknownFormat | ImageError::Foreign(_)),
            "{bytes:?}: {error}"
        );
    }
}

#[test]
fn other_files_are_named() {
    let gif = fixture("gif_offset_transparent.gif");
    let cases: [(Vec<u8>, &str); 5] = [
        (
            b"/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRof".to_vec(),
            "base64",
        ),
        (
            b"<!DOCTYPE html><html><title>404</title></html>".to_vec(),
            "an HTML page",
        ),
        (
            b"\0\0\0\x18ftypheic\0\0\0\0mif1heic".to_vec(),
            "a HEIC picture; convert it",
        ),
        (
            String::from_utf8_lossy(&photograph("rocket.jpg"))
                .into_owned()
                .into_bytes(),
            "UTF-8 text",
        ),
        (String::from_utf8_lossy(&gif).into_owned().into_bytes(), "UTF-8 text"),
    ];
    for (bytes, part) in cases {
        let error = refusal(&bytes);
        assert!(
            matches!(error, ImageError::Foreign(_)) && error.to_string().contains(part),
            "{error}"
        );
    }
}

#[test]
fn messages_are_one_line() {
    for name in [
        "jpeg_420.jpg",
        "png_rgba.png",
        "webp_lossy.webp",
        "bmp_565.bmp",
        "gif_offset_transparent.gif",
    ] {
        let bytes = fixture(name);
        let message = refusal(&bytes[..bytes.len() / 2]).to_string();
        assert!(message.starts_with("the ") && !message.contains('\n'), "{message}");
    }
}

#[test]
fn a_file_cut_short_is_refused_where_pillow_refuses_it() {
    // The last bytes of some formats (checksums, a terminator, padding) may be missing: how many, Pillow decides.
    let names = [
        ("jpeg_420.jpg", 0),
        ("jpeg_422_progressive.jpg", 0),
        ("jpeg_420_planar.jpg", 0),
        ("jpeg_grey.jpg", 0),
        ("jpeg_cmyk.jpg", 0),
        ("jpeg_restarts.jpg", 0),
        ("png_rgba.png", 22),
        ("gif_offset_transparent.gif", 2),
        ("bmp_565.bmp", 2),
        ("bmp_rle8.bmp", 4),
        ("webp_lossy.webp", 0),
    ];
    for (name, spare) in names {
        let bytes = fixture(name);
        for length in 1..=bytes.len() {
            let result = decode(&bytes[..length], ImageSettings::default());
            let suffices = length >= bytes.len() - spare;
            assert_eq!(result.is_ok(), suffices, "{name}: {length} of {} bytes", bytes.len());
        }
    }
}

#[test]
fn a_photograph_cut_short_is_refused() {
    for name in ["grace_hopper.jpg", "rocket.jpg"] {
        let bytes = photograph(name);
        for length in (1..bytes.len()).step_by(997).chain([bytes.len() - 2, bytes.len() - 1]) {
            let error = refusal(&bytes[..length]);
            let is_named = matches!(
                error,
                ImageError::Malformed { format: "JPEG", .. } | ImageError::UnknownFormat | ImageError::Foreign(_)
            );
            assert!(is_named, "{name}, {length} bytes: {error}");
        }
    }
}

/// Returns a PNG file that ends after its header, whose checksum is wrong: the size must be checked first.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut file = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
    file.extend(width.to_be_bytes());
    file.extend(height.to_be_bytes());
    file.extend(b"\x08\x02\0\0\0\0\0\0\0\0\0\0\x10IDAT");
    file
}

fn gif_header(width: u16, height: u16) -> Vec<u8> {
    let mut file = b"GIF89a\x01\0\x01\0\0\0\0,\0\0\0\0".to_vec();
    file.extend(width.to_le_bytes());
    file.extend(height.to_le_bytes());
    file.extend(b"\0\x02\x02\x4c\x01\0;");
    file
}

fn bmp_header(width: i32, height: i32) -> Vec<u8> {
    let mut file = b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".to_vec();
    file.extend(width.to_le_bytes());
    file.extend(height.to_le_bytes());
    file.extend(b"\x01\0\x18\0");
    file.resize(54 + 64, 0);
    file
}

fn jpeg_header(width: u16, height: u16) -> Vec<u8> {
    let mut file = fixture("jpeg_420.jpg");
    let at = file.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    file[at + 5..at + 7].copy_from_slice(&height.to_be_bytes());
    file[at + 7..at + 9].copy_from_slice(&width.to_be_bytes());
    file
}

#[test]
fn a_huge_picture_is_refused_by_its_header() {
    let headers = [
        png_header(60_000, 60_000),
        gif_header(60_000, 60_000),
        bmp_header(60_000, 60_000),
        jpeg_header(60_000, 60_000),
    ];
    for header in headers {
        let error = refusal(&header);
        let expected = ImageError::TooLarge {
            width: 60_000,
            height: 60_000,
            pixels_max: ImageLimits::default().pixels_max,
        };
        assert_eq!(error, expected);
    }
}

#[test]
fn the_limit_counts_pixels_and_is_inclusive() {
    let bytes = fixture("png_wide.png"); // 500 x 3
    assert!(decode(&bytes, up_to(1500)).is_ok());
    let error = decode(&bytes, up_to(1499)).unwrap_err();
    let pixels_max = 1499;
    assert_eq!(
        error,
        ImageError::TooLarge {
            width: 500,
            height: 3,
            pixels_max
        }
    );
}

#[test]
fn a_picture_without_pixels_is_refused() {
    let none = [
        png_header(0, 5),
        png_header(5, 0),
        jpeg_header(0, 5),
        bmp_header(0, 5),
        gif_header(5, 0),
    ];
    for header in none {
        let error = refusal(&header);
        assert!(matches!(error, ImageError::Malformed { .. }), "{error}");
    }
}

/// One row of pixels that would become 15,360,000 columns if the whole picture were resized.
#[test]
fn an_extreme_aspect_ratio_costs_no_more_than_another() {
    for (width, height) in [(1_u32, 60_000_u32), (60_000, 1)] {
        // Left to right or top to bottom, dark then bright, with the step in the middle.
        let picture = image::GrayImage::from_fn(width, height, |x, y| {
            image::Luma([if x + y < 30_000 { 0 } else { 200 }])
        });
        let mut file = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut file, image::ImageFormat::Png).unwrap();
        let pixels = decode(file.get_ref(), ImageSettings::default()).unwrap();
        let (first, last) = (pixels.as_bytes()[0], pixels.as_bytes()[PICTURE_BYTES - 1]);
        // The crop is shorter than one source pixel and is at the step, whose ramp it shows.
        assert!(first < 30 && last > 170, "{first} to {last}");
    }
}

const SMALL: u64 = 1 << 18;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn random_bytes_do_not_panic(kind in 0..7_usize, bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let starts: [&[u8]; 7] = [
            b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR", b"RIFF\xff\0\0\0WEBPVP8", b"GIF89a", b"BM", b"GIF87a",
        ];
        let _ = decode(&[starts[kind], &bytes].concat(), up_to(SMALL));
    }

    #[test]
    fn damaged_files_do_not_panic(
        which in any::<prop::sample::Index>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        is_near_start in any::<bool>(),
    ) {
        let names = [
            "jpeg_420.jpg", "jpeg_422_progressive.jpg", "jpeg_420_planar.jpg", "jpeg_grey.jpg", "jpeg_cmyk.jpg",
            "jpeg_ycck.jpg", "jpeg_restarts.jpg", "png_grey1.png", "png_grey16.png", "png_palette_transparent.png",
            "png_rgba.png", "gif_offset_transparent.gif", "gif_frame_beyond_screen.gif", "bmp_rle8.bmp",
            "bmp_565.bmp", "webp_lossy.webp", "webp_animated_alpha.webp",
        ];
        let mut bytes = fixture(names[which.index(names.len())]);
        // Half of the changes are in the headers.
        let span = if is_near_start { bytes.len().min(200) } else { bytes.len() };
        for (at, value) in changes {
            bytes[at.index(span)] = value;
        }
        let _ = decode(&bytes, up_to(SMALL));
    }
}
