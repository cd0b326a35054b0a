//! Specs from the configurations of timm and Hugging Face.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use headswap_spec::{HeadInput, HeadLayer, Output, Preset, Resize, ResizeFilter, SpecDraft, ValueRange};

/// timm/vgg16.tv_in1k, shortened.
const TIMM: &str = r#"{
  "architecture": "vgg16", "num_classes": 2, "num_features": 4096,
  "pretrained_cfg": {
    "tag": "tv_in1k", "input_size": [3, 224, 224], "fixed_input_size": false, "interpolation": "bilinear",
    "crop_pct": 0.875, "crop_mode": "center", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
    "num_classes": 2, "pool_size": [7, 7], "first_conv": "features.0", "classifier": "head.fc"
  },
  "label_names": ["cat", "dog"]
}"#;

#[test]
fn timms_config_is_torchvisions_preprocessing() {
    let mut draft = SpecDraft::from_json(TIMM).unwrap();
    assert!(draft.has("preprocessing") && draft.has("labels") && !draft.has("output"));
    assert!(draft.finish().unwrap_err().to_string().contains("output"));
    draft.set("output", "softmax".into());
    let spec = draft.finish().unwrap();
    assert_eq!(spec.preprocessing, Preset::Torchvision.preprocessing());
    assert_eq!(spec.labels.unwrap(), ["cat", "dog"]);
}

#[test]
fn hugging_faces_two_files_are_one_spec() {
    let mut draft = SpecDraft::from_json(
        r#"{"architectures": ["VGG"], "id2label": {"0": "no", "1": "yes"}, "problem_type": "multi_label_classification"}"#,
    )
    .unwrap();
    let processor = r#"{"do_resize": true, "size": {"shortest_edge": 256}, "resample": 3, "do_center_crop": true,
        "crop_size": {"height": 224, "width": 224}, "do_rescale": true, "rescale_factor": 0.00392156862745098,
        "do_normalize": false, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
        "image_processor_type": "ConvNextImageProcessor"}"#;
    draft.extend(SpecDraft::from_json(processor).unwrap());
    let spec = draft.finish().unwrap();
    assert_eq!(spec.output, Output::Sigmoid);
    assert_eq!(spec.labels.unwrap(), ["no", "yes"]);
    assert_eq!(spec.preprocessing.resize, Some(Resize::ShortSide(256)));
    assert_eq!(spec.preprocessing.filter, ResizeFilter::Bicubic);
    let unit = Preset::Unit.preprocessing().normalisation;
    assert_eq!(spec.preprocessing.normalisation, unit);
}

#[test]
fn an_older_processor_stretches_to_a_number() {
    let old = r#"{"do_resize": true, "size": 224, "resample": 2, "do_normalize": true, "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5], "feature_extractor_type": "ViTFeatureExtractor"}"#;
    let mut draft = SpecDraft::from_json(old).unwrap();
    draft.set("output", "softmax".into());
    assert_eq!(draft.finish().unwrap().preprocessing, Preset::Half.preprocessing());
}

#[test]
fn a_spec_of_our_own_stays_as_it_is() {
    let mut draft = SpecDraft::from_json(r#"{"preprocessing": {"preset": "half"}, "output": "linear"}"#).unwrap();
    draft.set("classes", 3.into());
    let spec = draft.finish().unwrap();
    assert!(matches!(spec.preprocessing.normalisation, ValueRange::Scaled { .. }));
    assert_eq!(SpecDraft::from(&spec).finish().unwrap(), spec);
    for (json, part) in [
        (r#"{"preparation": {}}"#, "preparation"),
        (r#"{"classes": 2, "classes": 3}"#, "duplicate field `classes`"),
    ] {
        let error = SpecDraft::from_json(json).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn what_no_spec_describes_is_refused_by_its_key() {
    for (json, part) in [
        (TIMM.replace("center", "border"), "crop_mode"),
        (TIMM.replace("bilinear", "hamming"), "interpolation"),
        (
            r#"{"do_resize": true, "size": {"longest_edge": 5}, "image_mean": [0, 0, 0]}"#.into(),
            "size",
        ),
        (r#"{"id2label": {"0": "a", "2": "b"}}"#.into(), "id2label"),
        ("[]".into(), "object"),
        ("{".into(), "spec"),
    ] {
        let error = SpecDraft::from_json(&json).unwrap_err().to_string();
        assert!(error.contains(part) && error.len() < 300, "{error}");
    }
}

#[test]
fn a_draft_says_how_a_file_is_read_before_it_is_whole() {
    let read = |json: &str| SpecDraft::from_json(json).unwrap().partial();
    let flags =
        read(r#"{"input": "global_average", "layers": ["linear"], "labels": ["no", "yes"], "classes": 1}"#).unwrap();
    assert_eq!(flags.input, Some(HeadInput::GlobalAverage));
    assert_eq!(flags.layers, Some(vec![HeadLayer::Linear]));
    assert_eq!((flags.preprocessing, flags.output), (None, None));
    let whole = read(r#"{"preprocessing": {"preset": "unit"}, "output": "sigmoid"}"#).unwrap();
    assert_eq!(whole.preprocessing, Some(Preset::Unit.preprocessing()));
    assert_eq!((whole.output, whole.input), (Some(Output::Sigmoid), None));
    assert_eq!(flags.or(whole).output, Some(Output::Sigmoid));
    assert!(read(r#"{"layers": ["relu"]}"#).is_err());
}
