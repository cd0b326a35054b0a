//! Heads with specs in a directory: what comes back, what older releases left, and damage.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::PathBuf;

use headswap_checkpoint::{Checkpoint, Digest, Parameters, SPEC, StoredDtype, safetensors_header};
use headswap_heads::{
    Backbones, HeadError, HeadInfo, HeadLimits, HeadName, HeadRequest, HeadStore, HeadWeights, KnownBackbone,
    assumed_without_spec,
};
use headswap_spec::{Architecture, CompleteSpec, HeadLayer, HeadSpec, LAST_BIAS, LAST_WEIGHT, Output, Preset};
use headswap_store::DirStore;
use proptest::prelude::*;
use tempfile::TempDir;

/// The narrow architecture's features and channels.
const FEATURES: usize = 128;
const CHANNELS: usize = 16;

fn limits() -> HeadLimits {
    HeadLimits {
        classes_max: 8,
        architecture: Architecture::Vgg16Narrow,
        require_spec: false,
        backbones: Backbones::new(
            KnownBackbone::of_any_heads("default", backbone(), Preset::Torchvision.preprocessing()),
            [],
        ),
    }
}

fn backbone() -> Digest {
    Digest::of_parameters(&Parameters::new(), &[])
}

/// Tensors of these shapes, in order, of quarters from -1 to 1.
struct Tensors(Vec<(&'static str, Vec<usize>)>);

impl Tensors {
    fn last(rows: usize) -> Self {
        Self(vec![(LAST_WEIGHT, vec![rows, FEATURES]), (LAST_BIAS, vec![rows])])
    }

    fn two_layers() -> Self {
        Self(vec![
            ("head.0.weight", vec![8, CHANNELS]),
            ("head.0.bias", vec![8]),
            ("head.2.weight", vec![3, 8]),
            ("head.2.bias", vec![3]),
        ])
    }

    /// Returns a safetensors file.
    fn file(&self, metadata: &HashMap<String, String>) -> Vec<u8> {
        let tensors = self.0.iter().map(|(name, shape)| (*name, &shape[..]));
        let mut bytes = safetensors_header(tensors, StoredDtype::F32, metadata);
        for (index, (_, shape)) in self.0.iter().enumerate() {
            let count: usize = shape.iter().product();
            for at in 0..count {
                bytes.extend((((at * 5 + index) % 9) as f32 / 4.0 - 1.0).to_le_bytes());
            }
        }
        bytes
    }

    fn read(&self, request: &HeadRequest) -> HeadWeights {
        HeadWeights::from_bytes(self.file(&HashMap::new()).into(), request, &limits()).unwrap()
    }
}

fn request(spec: &str, labels: &[String]) -> HeadRequest {
    HeadRequest {
        labels: labels.to_vec(),
        spec: Some(HeadSpec::from_json(spec).unwrap()),
        ..HeadRequest::default()
    }
}

/// Three labels that a careless writer changes: an empty one, control characters and quotes, and the longest.
fn labels() -> Vec<String> {
    vec![
        String::new(),
        "\0\u{1b}[2J\r\n\t\"\\ \u{2028}".to_owned(),
        "é".repeat(2048),
    ]
}

/// A head of two layers that leaves a slope to PyTorch's default.
fn two_layers() -> HeadWeights {
    let spec = r#"{"preprocessing": {"preset": "keras-caffe"}, "input": "global_average",
        "layers": ["linear", "leaky_relu", "linear"], "output": "sigmoid"}"#;
    Tensors::two_layers().read(&request(spec, &labels()))
}

fn info(version: u64, weights: &HeadWeights) -> HeadInfo {
    let annotations = BTreeMap::from([("run".to_owned(), "7".to_owned())]);
    HeadInfo::of(
        weights,
        HeadName::parse("cats").unwrap(),
        version,
        annotations,
        1_700_000_000_000_001,
    )
}

/// A store in a directory.
struct Bench {
    _dir: TempDir,
    store: DirStore,
    cats: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = DirStore::open(dir.path(), limits().backbones).unwrap();
        let cats = dir.path().join(backbone().short()).join("cats");
        Self { _dir: dir, store, cats }
    }

    fn with(weights: &HeadWeights) -> Self {
        let bench = Self::new();
        bench.store.save(&info(1, weights), weights).unwrap();
        bench
    }

    fn path(&self) -> PathBuf {
        self.cats.join("1.safetensors")
    }

    /// Writes the file of version 1.
    fn write(&self, bytes: &[u8]) {
        fs::create_dir_all(&self.cats).unwrap();
        fs::write(self.path(), bytes).unwrap();
    }

    fn metadata(&self) -> HashMap<String, String> {
        let checkpoint = Checkpoint::open(&self.path()).unwrap();
        let metadata = checkpoint.metadata().iter();
        metadata.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    fn listed(&self) -> Option<HeadInfo> {
        let mut listed = self.store.list().unwrap();
        assert!(listed.len() < 2);
        listed.pop()
    }
}

fn check_survives(saved: &HeadWeights) {
    let bench = Bench::with(saved);
    let listed = bench.listed().unwrap();
    assert_eq!(listed, info(1, saved));
    let loaded = bench.store.load(&listed).unwrap();
    assert_eq!((&loaded.spec, loaded.has_spec), (&saved.spec, saved.has_spec));
    assert_eq!(loaded.labels, saved.labels);
    assert_eq!(loaded.assumed, saved.assumed);
    assert_eq!(loaded.digest, saved.digest);
    assert_eq!(loaded.parameters, saved.parameters);
    assert_eq!(bench.store.labels(&listed).unwrap()[..], saved.labels[..]);
}

#[test]
fn a_head_with_a_spec_survives() {
    let two_layers = two_layers();
    assert_eq!(two_layers.spec.layers[1], HeadLayer::LeakyRelu(Some(0.01)));
    assert_eq!((&two_layers.labels[..], two_layers.assumed.len()), (&labels()[..], 1));
    check_survives(&two_layers);
    let plain = r#"{"preprocessing": {"preset": "torchvision"}, "output": "softmax"}"#;
    check_survives(&Tensors::last(3).read(&request(plain, &labels())));
    check_survives(&Tensors::last(3).read(&request(plain, &[])));
    let binary = r#"{"preprocessing": {"preset": "half"}, "output": "sigmoid", "labels": ["no", "yes"]}"#;
    check_survives(&Tensors::last(1).read(&request(binary, &[])));
    let groups = r#"{"preprocessing": {"preset": "unit"}, "output": {"groups": 2}, "classes": 4, "labels": ["", ""]}"#;
    check_survives(&Tensors::last(5).read(&request(groups, &[])));
}

#[test]
fn a_head_without_a_spec_survives_without_one() {
    let labels = labels();
    let request = HeadRequest {
        labels: labels.clone(),
        spec: None,
        ..HeadRequest::default()
    };
    let plain = Tensors::last(3).read(&request);
    assert!(!plain.has_spec);
    check_survives(&plain);
    assert!(!Bench::with(&plain).metadata().contains_key(SPEC));
}

/// The record as releases without specs wrote it, the first of them without `classes`.
fn older_record(digest: Digest, classes: &str) -> String {
    format!(
        r#"{{"name":"cats","version":1,"digest":"{digest}","created_unix_us":1700000000000001,"annotations":{{"run":"7"}}{classes}}}"#
    )
}

#[test]
fn a_head_of_an_older_release_opens_as_before() {
    for (classes, labels) in [
        (r#","classes":3"#, labels()),
        ("", labels()),
        (r#","classes":3"#, Vec::new()),
    ] {
        let request = HeadRequest {
            labels: labels.clone(),
            spec: None,
            ..HeadRequest::default()
        };
        let weights = Tensors::last(3).read(&request);
        let digest = Digest::of_parameters(&weights.parameters, &labels);
        let mut metadata = HashMap::from([("headswap".to_owned(), older_record(digest, classes))]);
        if !labels.is_empty() {
            metadata.insert("labels".to_owned(), serde_json::to_string(&labels).unwrap());
        }
        let bench = Bench::new();
        bench.write(&Tensors::last(3).file(&metadata));

        let listed = bench.listed().unwrap();
        assert_eq!(listed, info(1, &weights));
        let plain = CompleteSpec::plain(limits().backbones.first().preprocessing, 3);
        assert_eq!((&*listed.spec, listed.has_spec), (&plain, false));
        assert_eq!(listed.assumed, assumed_without_spec());
        let loaded = bench.store.load(&listed).unwrap();
        assert_eq!((&*loaded.spec, loaded.has_spec, loaded.digest), (&plain, false, digest));
        assert_eq!(
            (&loaded.labels[..], &loaded.parameters),
            (&labels[..], &weights.parameters)
        );
        assert_eq!(loaded.assumed, assumed_without_spec());
    }
}

/// One output was accepted then, and a softmax over it is 1.
#[test]
fn one_output_of_an_older_release_opens_as_before() {
    let weights = Tensors::last(1).read(&request(
        r#"{"preprocessing": {"preset": "unit"}, "output": "linear"}"#,
        &[],
    ));
    let digest = Digest::of_parameters(&weights.parameters, &[]);
    let metadata = HashMap::from([("headswap".to_owned(), older_record(digest, r#","classes":1"#))]);
    let bench = Bench::new();
    bench.write(&Tensors::last(1).file(&metadata));
    let listed = bench.listed().unwrap();
    assert_eq!((listed.classes, listed.spec.output), (1, Output::Softmax));
    assert_eq!(bench.store.load(&listed).unwrap().digest, digest);
}

#[test]
fn a_version_whose_spec_is_damaged_is_skipped() {
    let good = Bench::with(&two_layers());
    let spec = good.metadata()[SPEC].clone();
    for damaged in [
        "",
        "{",
        "[]",
        "\u{0}",
        &spec[..spec.len() - 1],
        &spec.replace("0.01", "1e99"),
        &spec.replace("sigmoid", "sigmoids"),
        &spec.replace(r#""classes":3"#, r#""classes":0"#),
        &spec.replace(r#""classes":3"#, r#""classes":-1"#),
        &spec.replace(r#","classes":3"#, ""),
        &spec.replace(r#""input":"global_average","#, ""),
        &spec.replace(r#"{"leaky_relu":0.01}"#, r#""leaky_relu""#),
        &spec.replace(r#"{"leaky_relu":0.01}"#, r#""batch_norm""#),
    ] {
        assert_ne!(damaged, spec);
        let bench = Bench::new();
        let metadata = [(SPEC.to_owned(), damaged.to_owned())];
        let metadata = good.metadata().into_iter().chain(metadata).collect();
        bench.write(&Tensors::two_layers().file(&metadata));
        assert_eq!(bench.listed(), None, "{damaged}");
        assert_eq!(
            bench.store.highest_version(&HeadName::parse("cats").unwrap()).unwrap(),
            1
        );
        assert!(bench.path().exists());
    }
}

fn check_damaged(bench: &Bench, part: &str) {
    let error = bench.store.load(&bench.listed().unwrap()).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, HeadError::Damaged { .. }), "{text}");
    assert!(text.contains(part) && !text.contains('\n'), "{text:?} lacks {part:?}");
}

#[test]
fn a_spec_whose_tensors_are_missing_is_damage() {
    let metadata = Bench::with(&two_layers()).metadata();
    for missing in 0..4 {
        let mut tensors = Tensors::two_layers();
        let (name, _) = tensors.0.remove(missing);
        let bench = Bench::new();
        bench.write(&tensors.file(&metadata));
        check_damaged(&bench, &format!("it lacks {name}"));
    }
}

/// A spec that can be read and is not the acknowledged one is found by the digest.
#[test]
fn another_spec_is_damage() {
    let metadata = Bench::with(&two_layers()).metadata();
    for (from, to) in [
        ("0.01", "0.02"),
        ("sigmoid", "softmax"),
        ("global_average", "global_max"),
        ("103.939", "103.938"),
    ] {
        let mut metadata = metadata.clone();
        let spec = metadata[SPEC].replace(from, to);
        assert_ne!(metadata.insert(SPEC.to_owned(), spec.clone()), Some(spec));
        let bench = Bench::new();
        bench.write(&Tensors::two_layers().file(&metadata));
        check_damaged(&bench, "its digest is");
    }
    let mut without = metadata;
    without.remove(SPEC);
    let bench = Bench::new();
    bench.write(&Tensors::two_layers().file(&without));
    check_damaged(&bench, "it lacks classifier.6.weight");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    /// However a file is damaged, its version is loaded as it was acknowledged or not at all.
    #[test]
    fn damage_never_changes_a_spec(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        in_header in any::<bool>(),
    ) {
        let spec = r#"{"preprocessing": {"preset": "keras-caffe"}, "input": "global_average",
            "layers": ["linear", {"leaky_relu": 0.5}, "linear"], "output": "sigmoid"}"#;
        let saved = Tensors::two_layers().read(&request(spec, &["a".into(), "b".into(), "c".into()]));
        let bench = Bench::with(&saved);
        let mut bytes = fs::read(bench.path()).unwrap();
        let header = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        let end = if in_header { header } else { bytes.len() };
        for (at, value) in changes {
            bytes[at.index(end)] = value;
        }
        fs::write(bench.path(), bytes).unwrap();
        for found in bench.store.list().unwrap() {
            if let Ok(loaded) = bench.store.load(&found) {
                prop_assert_eq!((&found.spec, &loaded.spec), (&saved.spec, &saved.spec));
                prop_assert_eq!((found.digest, &loaded.labels), (saved.digest, &saved.labels));
                prop_assert_eq!(&loaded.parameters, &saved.parameters);
            }
        }
    }
}
