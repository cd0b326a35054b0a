//! Pictures are prepared as Pillow, torchvision and PyTorch do it, for any preprocessing.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use headswap_image::{ImageError, ImageLimits, ImageSettings, JpegScaling, Prepared, decode, open};
use headswap_spec::{ChannelOrder, HeadSpec, Preprocessing, Preset, Resize, ResizeFilter, ValueRange};
use proptest::prelude::*;

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(root().join("tests/fixtures").join(name)).unwrap()
}

/// Returns the preprocessing of a spec's JSON.
fn preprocessing(json: &impl ToString) -> Preprocessing {
    let spec = format!(r#"{{"preprocessing": {}, "output": "softmax"}}"#, json.to_string());
    HeadSpec::from_json(&spec).unwrap().preprocessing
}

fn prepare(bytes: &[u8], wanted: &[&Preprocessing]) -> Result<Vec<Prepared>, ImageError> {
    open(bytes, ImageSettings::default())?.prepare(wanted)
}

/// A preprocessing and what it makes of each picture; `scripts/fixtures/preprocessing.py` writes it.
#[derive(serde::Deserialize)]
struct Case {
    preprocessing: serde_json::Value,
    /// Whether `crc32` is that of our result, too.
    exact: bool,
    inputs: BTreeMap<String, Input>,
}

#[derive(serde::Deserialize)]
struct Input {
    shape: [usize; 3],
    mean: f64,
    values: Vec<(usize, f32)>,
    crc32: u32,
}

impl Input {
    fn check(&self, prepared: &Prepared, preprocessing: &Preprocessing, exact: bool, name: &str) {
        let [_, height, width] = self.shape;
        assert_eq!(prepared.size(), [height, width], "{name}");
        let input = prepared.normalised(preprocessing);
        assert_eq!(input.len(), 3 * height * width, "{name}");
        for &(at, expected) in &self.values {
            let ours = input[at];
            let difference = (ours - expected).abs();
            assert!(
                difference <= 1e-5 * expected.abs().max(1.0),
                "{name}: {ours}, {expected} at {at}"
            );
        }
        let mean = input.iter().copied().map(f64::from).sum::<f64>() / input.len() as f64;
        assert!(
            (mean - self.mean).abs() <= 1e-5 * self.mean.abs().max(1.0),
            "{name}: {mean}, {}",
            self.mean
        );
        let bytes: Vec<u8> = input.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert!(!exact || crc32fast::hash(&bytes) == self.crc32, "{name}: other bits");
    }
}

#[test]
fn inputs_equal_those_of_pillow_torchvision_and_pytorch() {
    let cases: Vec<Case> = serde_json::from_slice(&fixture("preprocessing/expected.json")).unwrap();
    let wanted: Vec<_> = cases.iter().map(|case| preprocessing(&case.preprocessing)).collect();
    assert!(wanted.len() >= 20 && cases[0].inputs.len() == 6);
    for name in cases[0].inputs.keys() {
        let bytes = fixture(&format!("preprocessing/{name}.png"));
        let together = prepare(&bytes, &wanted.iter().collect::<Vec<_>>()).unwrap();
        for ((case, wanted), prepared) in cases.iter().zip(&wanted).zip(&together) {
            let label = format!("{name}: {}", case.preprocessing);
            case.inputs[name].check(prepared, wanted, case.exact, &label);
            let alone = prepare(&bytes, &[wanted]).unwrap();
            assert!(alone[0] == *prepared, "{label}: alone it differs");
        }
    }
}

#[test]
fn only_interpolation_without_antialiasing_returns_floats() {
    let presets = [Preset::TensorflowCaffe, Preset::KerasCaffe].map(Preset::preprocessing);
    let prepared = prepare(&fixture("preprocessing/tiny.png"), &presets.each_ref()).unwrap();
    assert!(matches!(prepared[0], Prepared::Floats { size: [224, 224], .. }));
    assert!(matches!(prepared[1], Prepared::Bytes { size: [224, 224], .. }));
}

#[test]
fn torchvisions_preprocessing_returns_the_pixels_of_decode() {
    let torchvision = Preset::Torchvision.preprocessing();
    let grey = Preprocessing {
        channels: ChannelOrder::Grey,
        ..torchvision
    };
    for name in [
        "jpeg_420.jpg",
        "jpeg_grey.jpg",
        "png_rgba.png",
        "webp_lossy.webp",
        "bmp_rle8.bmp",
    ] {
        let bytes = fixture(&format!("images/{name}"));
        let pixels = decode(&bytes, ImageSettings::default()).unwrap();
        let prepared = prepare(&bytes, &[&grey, &torchvision]).unwrap();
        let expected = Prepared::Bytes {
            size: [224, 224],
            values: pixels.as_bytes().to_vec().into(),
        };
        assert!(prepared[1] == expected, "{name}");
    }
}

/// A JPEG of which a part of the size is enough for torchvision's pictures.
fn large_jpeg() -> Vec<u8> {
    const SIZE: [usize; 2] = [1300, 1000];
    let [width, height] = SIZE;
    let mut pixels = Vec::new();
    for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
        pixels.extend([(x / 6) as u8, (y / 4) as u8, ((x + y) / 9) as u8]);
    }
    let mut settings = mozjpeg::Compress::new(mozjpeg::ColorSpace::JCS_RGB);
    settings.set_fastest_defaults();
    settings.set_size(width, height);
    let mut rows = settings.start_compress(Vec::new()).unwrap();
    rows.write_scanlines(&pixels).unwrap();
    rows.finish().unwrap()
}

fn coarse() -> ImageSettings {
    ImageSettings {
        jpeg_scaling: JpegScaling::Coarse,
        ..ImageSettings::default()
    }
}

/// Returns true if a large JPEG is decoded to a part of its size for these.
fn is_scaled(wanted: &[&Preprocessing]) -> bool {
    let bytes = large_jpeg();
    let whole = open(&bytes, ImageSettings::default()).unwrap();
    let scaled = open(&bytes, coarse()).unwrap();
    let is_smaller = scaled.memory_to_prepare(wanted) < whole.memory_to_prepare(wanted);
    let differs = scaled.prepare(wanted).unwrap() != whole.prepare(wanted).unwrap();
    assert_eq!(differs, is_smaller, "{wanted:?}");
    differs
}

#[test]
fn a_jpeg_is_scaled_if_all_that_is_wanted_averages_over_its_pixels() {
    let [torchvision, unit, nearest, tensorflow] = [
        Preset::Torchvision,
        Preset::Unit,
        Preset::KerasUnit,
        Preset::TensorflowCaffe,
    ]
    .map(Preset::preprocessing);
    let large = Preprocessing {
        resize: Some(Resize::Stretch([512, 512])),
        ..unit
    };
    assert!(is_scaled(&[&torchvision]) && is_scaled(&[&torchvision, &unit]));
    for other in [nearest, tensorflow, large] {
        assert!(!is_scaled(&[&other]) && !is_scaled(&[&unit, &other]), "{other:?}");
    }
}

#[test]
fn torchvisions_pictures_are_those_of_decode() {
    let bytes = large_jpeg();
    let torchvision = Preset::Torchvision.preprocessing();
    for settings in [coarse(), ImageSettings::default()] {
        let prepared = open(&bytes, settings).unwrap().prepare(&[&torchvision]).unwrap();
        let decoded = open(&bytes, settings).unwrap().decode().unwrap();
        assert!(prepared[0] == decoded.into());
    }
}

#[test]
fn the_memory_grows_with_what_is_wanted() {
    let bytes = fixture("preprocessing/landscape.png");
    let opened = open(&bytes, ImageSettings::default()).unwrap();
    let small = Preset::Unit.preprocessing();
    let large = Preprocessing {
        resize: Some(Resize::Stretch([512, 512])),
        filter: ResizeFilter::BilinearNoAntialias,
        ..small
    };
    let bytes = |wanted: &[&Preprocessing]| opened.memory_to_prepare(wanted);
    assert!(bytes(&[&small]) >= bytes(&[]) + 224 * 224 * 3);
    assert!(bytes(&[&large, &small]) >= bytes(&[&small]) + 512 * 512 * 3 * 4);
    // Rows, weights and the result. A decoded picture would be 1,093,120 more.
    let more = bytes(&[&small]) - bytes(&[]);
    assert!(more < 300_000, "{more}");
}

#[test]
fn nothing_wanted_is_decoded_all_the_same() {
    let mut bytes = fixture("images/jpeg_420.jpg");
    assert!(prepare(&bytes, &[]).unwrap().is_empty());
    bytes.truncate(bytes.len() / 2);
    assert!(matches!(prepare(&bytes, &[]), Err(ImageError::Malformed { .. })));
}

/// One row of pixels, whose nearest pixels would be searched along 2^31 positions up to the crop.
#[test]
fn an_extreme_aspect_ratio_costs_no_more_than_another() {
    let picture = image::GrayImage::from_fn(1 << 20, 1, |x, _| image::Luma([if x < 1 << 19 { 0 } else { 200 }]));
    let mut file = Cursor::new(Vec::new());
    picture.write_to(&mut file, image::ImageFormat::Png).unwrap();
    for filter in [
        ResizeFilter::Nearest,
        ResizeFilter::Bicubic,
        ResizeFilter::BilinearNoAntialias,
    ] {
        let wanted = Preprocessing {
            resize: Some(Resize::ShortSide(4096)),
            filter,
            ..Preset::Torchvision.preprocessing()
        };
        let prepared = prepare(file.get_ref(), &[&wanted]).unwrap();
        assert_eq!(prepared[0].size(), [224, 224]);
    }
}

fn resize() -> impl Strategy<Value = Option<Resize>> {
    let side = prop_oneof![0..4_u32, 30..300_u32];
    prop_oneof![
        Just(None),
        side.clone().prop_map(|side| Some(Resize::ShortSide(side))),
        (side.clone(), side).prop_map(|(height, width)| Some(Resize::Stretch([height, width]))),
    ]
}

prop_compose! {
    fn any_preprocessing()(
        resize in resize(),
        filter in prop::sample::select(vec![
            ResizeFilter::Nearest, ResizeFilter::Bilinear, ResizeFilter::Bicubic, ResizeFilter::Lanczos,
            ResizeFilter::BilinearNoAntialias, ResizeFilter::BilinearNoAntialiasRounded,
        ]),
        crop in prop::option::of([0..300_u32, 0..300]),
        channels in prop::sample::select(vec![ChannelOrder::Rgb, ChannelOrder::Bgr, ChannelOrder::Grey]),
        is_standardised in any::<bool>(),
    ) -> Preprocessing {
        let unit = Preset::Unit.preprocessing().normalisation;
        let normalisation = if is_standardised { ValueRange::Standardised } else { unit };
        Preprocessing { resize, filter, crop, channels, normalisation }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn damaged_files_do_not_panic(
        which in any::<prop::sample::Index>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        wanted in proptest::collection::vec(any_preprocessing(), 0..4),
    ) {
        let names = [
            "jpeg_420.jpg", "jpeg_422_progressive.jpg", "jpeg_grey.jpg", "jpeg_cmyk.jpg", "png_grey1.png", "png_wide.png",
            "png_palette_transparent.png", "gif_offset_transparent.gif", "gif_frame_beyond_screen.gif", "bmp_rle8.bmp",
            "bmp_565.bmp", "webp_lossy.webp", "webp_animated_alpha.webp",
        ];
        let mut bytes = fixture(&format!("images/{}", names[which.index(names.len())]));
        let span = bytes.len().min(200);
        for &(at, value) in &changes {
            bytes[at.index(span)] = value;
        }
        let limits = ImageLimits { pixels_max: 1 << 16 };
        let settings = ImageSettings { limits, ..ImageSettings::default() };
        let wanted: Vec<_> = wanted.iter().collect();
        if let Ok(prepared) = open(&bytes, settings).and_then(|opened| opened.prepare(&wanted)) {
            prop_assert_eq!(prepared.len(), wanted.len());
            for (prepared, wanted) in prepared.iter().zip(wanted) {
                let [height, width] = prepared.size();
                prop_assert_eq!(prepared.normalised(wanted).len(), 3 * height * width);
                let crop = wanted.crop.map(|sides| sides.map(|side| side.max(1) as usize));
                prop_assert_eq!(crop.unwrap_or([height, width]), [height, width]);
            }
        }
    }
}

/// Any preprocessing of small pictures, of which many pairs have the same picture.
fn related_preprocessing() -> impl Strategy<Value = Preprocessing> {
    let resize = prop::sample::select(vec![None, Some(Resize::ShortSide(40)), Some(Resize::Stretch([40, 44]))]);
    let filter = prop::sample::select(vec![
        ResizeFilter::Bilinear,
        ResizeFilter::Nearest,
        ResizeFilter::BilinearNoAntialias,
    ]);
    let crop = prop::sample::select(vec![[32, 32], [36, 32]]);
    let channels = prop::sample::select(vec![ChannelOrder::Rgb, ChannelOrder::Bgr, ChannelOrder::Grey]);
    let normalisation = prop::sample::select(vec![
        ValueRange::Standardised,
        Preset::Half.preprocessing().normalisation,
        Preset::KerasCaffe.preprocessing().normalisation,
    ]);
    (resize, filter, crop, channels, normalisation).prop_map(|(resize, filter, crop, channels, normalisation)| {
        Preprocessing {
            resize,
            filter,
            crop: Some(crop),
            channels,
            normalisation,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    /// A picture that is shared is the one that each preprocessing makes alone; preprocessings whose pictures are not shared
    /// differ in their size, filter or grey.
    #[test]
    fn what_has_the_same_picture_prepares_the_same(one in related_preprocessing(), two in related_preprocessing()) {
        let bytes = fixture("preprocessing/tiny.png");
        let prepared = [&one, &two].map(|wanted| prepare(&bytes, &[wanted]).unwrap().remove(0));
        let is_same = one.has_same_picture(&two);
        prop_assert_eq!(is_same, two.has_same_picture(&one));
        prop_assert!(one.has_same_picture(&one));
        if is_same {
            prop_assert!(prepared[0] == prepared[1]);
        }
        let with_the_numbers_of_one = Preprocessing { normalisation: one.normalisation, channels: one.channels, ..two };
        let same_size = (one.resize, one.crop, one.filter) == (two.resize, two.crop, two.filter);
        prop_assert_eq!(one.has_same_picture(&with_the_numbers_of_one), same_size);
    }
}
