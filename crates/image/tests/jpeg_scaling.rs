//! Large JPEGs decoded at a part of their size have almost the same pixels, and damaged ones are refused all the same.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use headswap_image::{ImageError, ImageLimits, ImageSettings, JpegScaling, Pixels, decode};
use image::imageops::FilterType;
use mozjpeg::{ColorSpace, Compress};
use proptest::prelude::*;

const SCALED: [JpegScaling; 2] = [JpegScaling::Fine, JpegScaling::Coarse];

fn with(bytes: &[u8], jpeg_scaling: JpegScaling) -> Result<Pixels, ImageError> {
    let limits = ImageLimits::default();
    decode(bytes, ImageSettings { limits, jpeg_scaling })
}

/// One of the repository's own photographs with a short side of `short` pixels.
fn photograph(name: &str, short: u32) -> image::RgbImage {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../images")
        .join(name);
    let file = std::fs::read(path).unwrap();
    let picture = match name.strip_suffix(".jpg") {
        None => image::load_from_memory(&file).unwrap().into_rgb8(),
        Some(_) => {
            let mut rows = mozjpeg::Decompress::new_mem(&file).unwrap().rgb().unwrap();
            let (width, height) = (rows.width() as u32, rows.height() as u32);
            image::RgbImage::from_raw(width, height, rows.read_scanlines().unwrap()).unwrap()
        }
    };
    let (width, height) = picture.dimensions();
    let [new_width, new_height] = [width, height].map(|side| side * short / width.min(height));
    image::imageops::resize(&picture, new_width, new_height, FilterType::CatmullRom)
}

/// A JPEG of quality 90 with halved chroma, as cameras and most programs write them.
fn jpeg(picture: &image::RgbImage, set: impl Fn(&mut Compress)) -> Vec<u8> {
    encoded(ColorSpace::JCS_RGB, picture.dimensions(), picture, set)
}

fn encoded(colours: ColorSpace, (width, height): (u32, u32), bytes: &[u8], set: impl Fn(&mut Compress)) -> Vec<u8> {
    let mut settings = Compress::new(colours);
    settings.set_fastest_defaults();
    settings.set_size(width as usize, height as usize);
    settings.set_quality(90.0);
    set(&mut settings);
    let mut rows = settings.start_compress(Vec::new()).unwrap();
    rows.write_scanlines(bytes).unwrap();
    rows.finish().unwrap()
}

/// Mean, 99th percentile and largest difference, in 255ths.
fn difference(ours: &Pixels, theirs: &Pixels) -> (f64, u8, u8) {
    let pairs = ours.as_bytes().iter().zip(theirs.as_bytes());
    let mut each: Vec<u8> = pairs.map(|(a, b)| a.abs_diff(*b)).collect();
    each.sort_unstable();
    let sum: u64 = each.iter().copied().map(u64::from).sum();
    let mean = sum as f64 / each.len() as f64;
    (mean, each[each.len() * 99 / 100], each[each.len() - 1])
}

/// Checks the accuracy that `--help` states, for a file that is decoded at a part of its size.
fn check_accuracy(name: &str, file: &[u8], scaling: JpegScaling) {
    let (ours, whole) = (with(file, scaling).unwrap(), with(file, JpegScaling::Off).unwrap());
    let (mean, p99, max) = difference(&ours, &whole);
    println!("{name}, {scaling:?}: mean {mean:.2}, p99 {p99}, largest {max}");
    let (mean_max, p99_max, max_max) = match scaling {
        JpegScaling::Off => (0.0, 0, 0),
        JpegScaling::Fine => (0.6, 4, 20),
        JpegScaling::Coarse => (1.3, 10, 50),
    };
    let is_near = mean <= mean_max && p99 <= p99_max && max <= max_max;
    assert!(
        is_near && ours != whole,
        "{name}, {scaling:?}: mean {mean:.2}, p99 {p99}, largest {max}"
    );
}

#[test]
fn photographs_stay_within_the_accuracy_stated() {
    for name in ["chelsea.png", "coffee.png", "grace_hopper.jpg", "rocket.jpg"] {
        // The smallest sizes that are scaled, and one with incomplete blocks.
        for short in [640, 1024, 1501] {
            let picture = photograph(name, short);
            // Files with 4:2:2 differ most: libjpeg scales their chroma less well.
            for (chroma, sizes) in [("4:2:0", (2, 2)), ("4:2:2", (2, 1))] {
                let file = jpeg(&picture, |settings| {
                    settings.set_chroma_sampling_pixel_sizes(sizes, sizes)
                });
                let label = format!("{name} {short} {chroma}");
                check_accuracy(&label, &file, JpegScaling::Coarse);
                if short >= 1024 {
                    check_accuracy(&label, &file, JpegScaling::Fine);
                }
            }
        }
    }
}

#[test]
fn progressive_grey_and_full_chroma_files_do_as_well() {
    let picture = photograph("coffee.png", 1301);
    let camera = photograph("coffee.png", 2560);
    let grey = image::DynamicImage::from(picture.clone()).into_luma8();
    let files = [
        (
            "4:2:2, an eighth",
            jpeg(&camera, |settings| {
                settings.set_chroma_sampling_pixel_sizes((2, 1), (2, 1))
            }),
        ),
        (
            "4:4:4",
            jpeg(&picture, |settings| {
                settings.set_chroma_sampling_pixel_sizes((1, 1), (1, 1))
            }),
        ),
        ("progressive", jpeg(&picture, Compress::set_progressive_mode)),
        (
            "grey",
            encoded(ColorSpace::JCS_GRAYSCALE, grey.dimensions(), &grey, |_| {}),
        ),
    ];
    for (name, file) in files {
        for scaling in SCALED {
            check_accuracy(name, &file, scaling);
        }
    }
}

#[test]
fn files_of_other_colours_do_as_well() {
    let large = photograph("rocket.jpg", 1301);
    let inks: Vec<u8> = large
        .pixels()
        .flat_map(|pixel| [pixel[0], pixel[1], pixel[2], 230])
        .collect();
    let files = [
        ("CMYK", encoded(ColorSpace::JCS_CMYK, large.dimensions(), &inks, |_| {})),
        (
            "YCCK",
            encoded(ColorSpace::JCS_CMYK, large.dimensions(), &inks, |settings| {
                settings.set_color_space(ColorSpace::JCS_YCCK);
            }),
        ),
        (
            "RGB",
            jpeg(&large, |settings| settings.set_color_space(ColorSpace::JCS_RGB)),
        ),
    ];
    for (name, file) in files {
        for scaling in SCALED {
            check_accuracy(name, &file, scaling);
        }
    }
}

#[test]
fn a_small_file_is_not_scaled() {
    let file = jpeg(&photograph("rocket.jpg", 639), |_| {});
    let whole = with(&file, JpegScaling::Off).unwrap();
    for scaling in SCALED {
        assert_eq!(with(&file, scaling).unwrap(), whole, "{scaling:?}");
    }
}

#[test]
fn a_file_cut_short_is_refused_with_the_same_message() {
    let picture = photograph("coffee.png", 1030);
    for file in [jpeg(&picture, |_| {}), jpeg(&picture, Compress::set_progressive_mode)] {
        let lengths = (3..file.len()).step_by(file.len() / 30);
        for length in lengths.chain([file.len() - 2, file.len() - 1]) {
            // Cut off, without and with an end marker.
            for cut in [file[..length].to_vec(), [&file[..length], b"\xff\xd9"].concat()] {
                let whole = with(&cut, JpegScaling::Off);
                for scaling in SCALED {
                    match &whole {
                        Err(error) => assert_eq!(with(&cut, scaling).unwrap_err(), *error, "{length} bytes"),
                        // No code is cut off: the cut removes only fill bits, or whole scans.
                        Ok(_) => assert!(with(&cut, scaling).is_ok(), "{length} bytes"),
                    }
                }
            }
        }
    }
}

#[test]
fn limits_are_checked_first() {
    let file = jpeg(&photograph("coffee.png", 1024), |_| {});
    let limits = ImageLimits { pixels_max: 1 << 20 };
    for jpeg_scaling in SCALED {
        let error = decode(&file, ImageSettings { limits, jpeg_scaling }).unwrap_err();
        assert!(matches!(error, ImageError::TooLarge { .. }), "{error}");
    }
    // A picture of 12 GB, by its header.
    let mut header = file;
    let at = header.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    header[at + 5..at + 9].copy_from_slice(&[0xff; 4]);
    for scaling in SCALED {
        assert!(matches!(with(&header, scaling), Err(ImageError::TooLarge { .. })));
    }
}

/// A grey picture of 1024x1024 in 84 scans, which libjpeg accepts without a warning: `cjpeg -grayscale -scans` with a scan
/// for each coefficient, and 20 that refine one.
#[test]
fn more_scans_than_encoders_write_are_refused() {
    let file = std::fs::read(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/fixtures/jpeg_84_scans.jpg"
    ))
    .unwrap();
    for scaling in SCALED {
        let error = with(&file, scaling).unwrap_err();
        assert!(matches!(error, ImageError::Malformed { .. }), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    /// Damage causes no panic, and both scales refuse it with the same message. Only where codes end by chance at the end
    /// of the file may one of them return pixels.
    #[test]
    fn damage_is_refused_with_the_same_message(
        is_progressive in any::<bool>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        is_near_start in any::<bool>(),
    ) {
        static FILES: std::sync::LazyLock<[Vec<u8>; 2]> = std::sync::LazyLock::new(|| {
            let picture = photograph("chelsea.png", 648);
            [jpeg(&picture, |_| {}), jpeg(&picture, Compress::set_progressive_mode)]
        });
        let mut bytes = FILES[usize::from(is_progressive)].clone();
        let span = if is_near_start { 700 } else { bytes.len() };
        for (at, value) in changes {
            bytes[at.index(span)] = value;
        }
        let limits = ImageLimits { pixels_max: 1 << 22 };
        let [whole, scaled] = [JpegScaling::Off, JpegScaling::Coarse]
            .map(|jpeg_scaling| decode(&bytes, ImageSettings { limits, jpeg_scaling }));
        match (whole, scaled) {
            (Err(whole), Err(scaled)) => prop_assert_eq!(scaled, whole),
            (whole, scaled) => prop_assert!(scaled.is_ok(), "{:?}, but {:?}", whole.map(drop), scaled),
        }
    }
}
