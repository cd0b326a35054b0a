//! Classify end to end without a network: what each kind of output answers, raw pixels, and the feature cache.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use headswap_checkpoint::{Digest, StoredDtype, Throttle, safetensors_header};
use headswap_engine::{
    BatchLimits, Class, CostTable, EngineError, EngineMetrics, EngineSettings, PictureDecoder, SystemClock,
};
use headswap_heads::{
    Backbones, Commit, HeadLimits, HeadMetrics, HeadName, HeadPlacer, HeadRegistry, HeadRequest, HeadWeights,
    KnownBackbone, PlaceError, RegistryLimits, RegistryParts, Replacement, Reservation, ResidencyLimits,
};
use headswap_image::{ImageError, ImageSettings};
use headswap_model::{
    Backend, BackendError, Device, HeadRows, InputRow, Outputs, PlacedHead, Placer, StillWanted, WantedInput,
};
use headswap_service::heads::SourceSettings;
use headswap_service::{
    AppState, CacheMetrics, CallContext, Classified, ClassifyQuery, FeatureCache, HeadAdmin, HeadAdminParts, ModelInfo,
    Picture, Scores, ServiceError,
};
use headswap_spec::{Architecture, HeadSpec, LAST_BIAS, LAST_WEIGHT, Output, Preset};
use headswap_store::DirStore;

/// The narrow architecture's features.
const FEATURES: usize = 128;

/// A backend whose first logit is the height of the picture over 448, and 1 more if its levels go from -1 to 1, and whose
/// others are 1, 2, 3, …
struct Heights(Arc<Counts>);

/// How often each path of the backend ran.
#[derive(Default)]
struct Counts {
    pictures: Mutex<usize>,
    inputs: Mutex<usize>,
}

fn logits(first: f32, classes: usize) -> Vec<f32> {
    let mut logits: Vec<f32> = (0..classes).map(|class| class as f32).collect();
    logits[0] = first;
    logits
}

fn first_logit(row: &InputRow<'_>) -> f32 {
    let is_half = row.preprocessing.normalisation == Preset::Half.preprocessing().normalisation;
    row.picture.size()[0] as f32 / 448.0 + f32::from(u8::from(is_half))
}

impl Backend for Heights {
    fn into_lanes(self: Box<Self>) -> Vec<Vec<Box<dyn Backend>>> {
        vec![vec![self]]
    }

    fn forward_if(
        &mut self,
        rows: &[InputRow<'_>],
        groups: &[HeadRows<'_>],
        wanted: &[WantedInput],
        _: &mut dyn StillWanted,
    ) -> Result<Outputs, BackendError> {
        *self.0.pictures.lock().unwrap() += 1;
        let mut outputs = Outputs::default();
        for group in groups {
            let rows = group.rows.iter().map(|&row| first_logit(&rows[row]));
            let of_group = rows.flat_map(|first| logits(first, group.head.classes));
            outputs.logits.push(of_group.collect());
        }
        for wanted in wanted {
            outputs.inputs.push(vec![first_logit(&rows[wanted.row]); 16]);
        }
        Ok(outputs)
    }

    fn logits(&mut self, inputs: &[&[f32]], groups: &[HeadRows<'_>]) -> Result<Vec<Vec<f32>>, BackendError> {
        *self.0.inputs.lock().unwrap() += 1;
        let mut all = Vec::new();
        for group in groups {
            let rows = group.rows.iter().map(|&row| inputs[row][0]);
            all.push(rows.flat_map(|first| logits(first, group.head.classes)).collect());
        }
        Ok(all)
    }

    fn placer(&self) -> Arc<dyn Placer> {
        unreachable!("the test places heads itself")
    }

    fn steps(&self) -> Vec<String> {
        Vec::new()
    }

    fn devices(&self) -> Vec<Device> {
        vec![Device::Null]
    }

    fn precision(&self) -> &'static str {
        "f32"
    }
}

struct TestPlacer;

impl HeadPlacer<PlacedHead> for TestPlacer {
    fn place(&self, weights: &HeadWeights, reservation: Reservation) -> Result<PlacedHead, PlaceError> {
        let rows = weights.parameters[LAST_BIAS].values.len();
        Ok(PlacedHead::new(&weights.spec, rows, 0, Box::new(())).keeping(reservation))
    }
}

fn limits() -> HeadLimits {
    HeadLimits {
        classes_max: 8,
        architecture: Architecture::Vgg16Narrow,
        require_spec: false,
        backbones: Backbones::new(
            KnownBackbone::of_any_heads("default", Digest::of_backbone([]), Preset::Torchvision.preprocessing()),
            [],
        ),
    }
}

/// Returns a last Linear of so many rows with this spec; with an empty one, without a spec.
fn weights(rows: usize, spec: &str) -> HeadWeights {
    let shapes = [(LAST_WEIGHT, vec![rows, FEATURES]), (LAST_BIAS, vec![rows])];
    let tensors = shapes.iter().map(|(name, shape)| (*name, &shape[..]));
    let mut bytes = safetensors_header(tensors, StoredDtype::F32, &HashMap::new());
    bytes.resize(bytes.len() + (rows * FEATURES + rows) * 4, 0);
    let request = HeadRequest {
        labels: Vec::new(),
        spec: (!spec.is_empty()).then(|| HeadSpec::from_json(spec).unwrap()),
        ..HeadRequest::default()
    };
    HeadWeights::from_bytes(bytes.into(), &request, &limits()).unwrap()
}

/// A server without a network.
struct Bench {
    state: AppState,
    counts: Arc<Counts>,
    metrics: prometheus_client::registry::Registry,
    _dir: tempfile::TempDir,
}

impl Bench {
    /// Starts one with these heads, each with its rows and its spec.
    async fn new(heads: &[(&str, usize, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut metrics = prometheus_client::registry::Registry::default();
        let store = DirStore::open(dir.path(), limits().backbones).unwrap();
        let uploads = store.uploads(1 << 20).unwrap();
        let head_metrics = HeadMetrics::register(&mut metrics);
        let parts = RegistryParts {
            store: Arc::new(store),
            placer: Box::new(TestPlacer),
            metrics: head_metrics.clone(),
        };
        let registry_limits = RegistryLimits {
            heads_max: 100,
            versions_kept: 1,
            bytes_max: 1 << 20,
            eager: false,
            residency: ResidencyLimits {
                resident_bytes_max: 1 << 20,
                warm_bytes_max: 0,
                loads_max: 1,
            },
        };
        let registry = Arc::new(HeadRegistry::open(parts, registry_limits, Some(&weights(2, ""))).unwrap());
        for (name, rows, spec) in heads {
            let replacement = Replacement {
                name: HeadName::parse(name).unwrap(),
                weights: weights(*rows, spec),
                expected_version: None,
                dry_run: false,
                annotations: BTreeMap::new(),
            };
            registry
                .replace(replacement, &Commit::default(), &Throttle::off())
                .unwrap();
        }
        let counts = Arc::<Counts>::default();
        let settings = EngineSettings {
            batches: BatchLimits {
                max_batch: 1,
                wait_max: Duration::ZERO,
            },
            in_flight_max: 100,
            bulk_percent: 10,
            decode_slots: 1,
            decode_bytes_max: 1 << 28,
            decode: Arc::new(PictureDecoder(ImageSettings::default())),
            cost: CostTable::default(),
            clock: Arc::new(SystemClock),
        };
        let engine_metrics = EngineMetrics::register(&mut metrics);
        let backend = Box::new(Heights(Arc::clone(&counts)));
        let (engine, _) = headswap_engine::start(backend, settings, engine_metrics).await.unwrap();
        let model = ModelInfo {
            architecture: Architecture::Vgg16Narrow,
            backbones: Arc::new(limits().backbones),
            device: String::new(),
            precision: String::new(),
            max_batch: 1,
        };
        let admin = HeadAdmin::new(HeadAdminParts {
            registry: Arc::clone(&registry),
            limits: limits(),
            uploads,
            uploads_max: 1,
            trial_bytes_max: 1 << 20,
            sources: SourceSettings {
                dir: None,
                bytes_max: 0,
            },
            model: model.clone(),
            in_flight: engine.in_flight().clone(),
            metrics: head_metrics,
        });
        let cache_metrics = CacheMetrics::register(&mut metrics);
        let state = AppState {
            engine,
            cache: FeatureCache::new(&limits().backbones, 1 << 20, 16, cache_metrics),
            registry,
            heads: Arc::new(admin),
            model,
        };
        // The start itself ran probes.
        *counts.pictures.lock().unwrap() = 0;
        Self {
            state,
            counts,
            metrics,
            _dir: dir,
        }
    }

    async fn classify(&self, query: ClassifyQuery) -> Result<Classified, ServiceError> {
        let call = CallContext {
            deadline: None,
            class: Class::Interactive,
            flow: 0,
            request_id: String::new(),
            peer: String::new(),
        };
        let admitted = self.state.admit(&call).await?;
        self.state.classify(&call, admitted, query).await
    }

    async fn scores(&self, query: ClassifyQuery) -> Scores {
        let mut results = self.classify(query).await.unwrap().results;
        results.pop().unwrap().outcome.unwrap()
    }

    fn hits(&self) -> usize {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.metrics).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("feature_cache_hits_total "));
        line.unwrap().parse().unwrap()
    }

    /// The number of batches of pictures and of batches of cached inputs.
    fn batches(&self) -> (usize, usize) {
        (
            *self.counts.pictures.lock().unwrap(),
            *self.counts.inputs.lock().unwrap(),
        )
    }
}

fn pixels(height: usize, width: usize) -> Option<Picture> {
    Some(Picture::Pixels(vec![7; height * width * 3].into()))
}

fn query(heads: &[&str]) -> ClassifyQuery {
    ClassifyQuery {
        picture: pixels(224, 224),
        heads: heads.iter().map(|head| (*head).to_owned()).collect(),
        ..ClassifyQuery::default()
    }
}

/// The logits of pictures of 224 pixels.
const LOGITS: [f64; 4] = [0.5, 1.0, 2.0, 3.0];

/// Returns a softmax over these logits.
fn softmax<const N: usize>(logits: [f64; N]) -> [f64; N] {
    let total: f64 = logits.iter().map(|logit| logit.exp()).sum();
    logits.map(|logit| logit.exp() / total)
}

/// What a test expects of one class: its index, label, probability, value and group.
type Expected<'a> = (usize, &'a str, f64, f32, usize);

/// Classifies with one head, from pixels and then from the cache.
async fn check(rows: usize, spec: &str, top_k: u32, output: Output, expected: &[Expected<'_>]) {
    let bench = Bench::new(&[("cats", rows, spec)]).await;
    for _ in 0..2 {
        let scores = bench
            .scores(ClassifyQuery {
                top_k,
                include_logits: true,
                ..query(&["cats"])
            })
            .await;
        assert_eq!(scores.output, output, "{spec}");
        assert_eq!(scores.predictions.len(), expected.len(), "{spec}");
        for (scored, (index, label, probability, value, group)) in scores.predictions.iter().zip(expected) {
            let prediction = &scored.prediction;
            assert_eq!((prediction.index, &scored.label[..]), (*index, *label), "{spec}");
            assert_eq!((prediction.value, prediction.group), (*value, *group), "{spec}");
            let difference = f64::from(prediction.probability) - probability;
            assert!(difference.abs() < 1e-6, "{spec}: {prediction:?}, {probability}");
        }
        let classes = HeadSpec::from_json(spec).unwrap().classes.unwrap_or(rows);
        assert_eq!(
            scores.logits,
            LOGITS[..classes].iter().map(|&logit| logit as f32).collect::<Vec<_>>()
        );
    }
    assert_eq!(bench.batches(), (1, 1));
}

#[tokio::test]
async fn softmax_is_over_all_rows_and_answers_the_classes() {
    let spec =
        r#"{"preprocessing": {"preset": "torchvision"}, "output": "softmax", "labels": ["a", "b"], "classes": 2}"#;
    let [a, b, ..] = softmax(LOGITS);
    check(4, spec, 0, Output::Softmax, &[(1, "b", b, 0.0, 0), (0, "a", a, 0.0, 0)]).await;
    check(4, spec, 1, Output::Softmax, &[(1, "b", b, 0.0, 0)]).await;
}

#[tokio::test]
async fn one_sigmoid_with_two_labels_answers_no_and_yes() {
    let yes = 1.0 / (1.0 + (-0.5_f64).exp());
    let spec = r#"{"preprocessing": {"preset": "torchvision"}, "output": "sigmoid", "labels": ["no", "yes"]}"#;
    let both = [(1, "yes", yes, 0.0, 0), (0, "no", 1.0 - yes, 0.0, 0)];
    check(1, spec, 0, Output::Sigmoid, &both).await;
    check(1, spec, 1, Output::Sigmoid, &both[..1]).await;
    let one = r#"{"preprocessing": {"preset": "torchvision"}, "output": "sigmoid", "labels": ["yes"]}"#;
    check(1, one, 0, Output::Sigmoid, &[(0, "yes", yes, 0.0, 0)]).await;
    let none = r#"{"preprocessing": {"preset": "torchvision"}, "output": "sigmoid"}"#;
    check(1, none, 0, Output::Sigmoid, &[(0, "", yes, 0.0, 0)]).await;
}

#[tokio::test]
async fn linear_answers_values_in_their_order() {
    let spec = r#"{"preprocessing": {"preset": "torchvision"}, "output": "linear", "labels": ["x", "y", "z"]}"#;
    let all = [(0, "x", 0.0, 0.5, 0), (1, "y", 0.0, 1.0, 0), (2, "z", 0.0, 2.0, 0)];
    check(3, spec, 0, Output::Linear, &all).await;
    check(3, spec, 2, Output::Linear, &all[..2]).await;
}

#[tokio::test]
async fn groups_answer_the_top_of_each() {
    let [[a, b], [c, d]] = [softmax([0.5, 1.0]), softmax([2.0, 3.0])];
    let spec = r#"{"preprocessing": {"preset": "torchvision"}, "output": {"groups": 2}, "labels": ["no", "yes"]}"#;
    let all = [
        (1, "yes", b, 0.0, 0),
        (0, "no", a, 0.0, 0),
        (3, "yes", d, 0.0, 1),
        (2, "no", c, 0.0, 1),
    ];
    check(4, spec, 0, Output::Groups(2), &all).await;
    check(4, spec, 1, Output::Groups(2), &[all[0], all[2]]).await;
}

const SMALL: &str = r#"{"preprocessing": {"resize": {"stretch": [112, 224]}, "scale": 1}, "output": "softmax"}"#;
const HALF: &str = r#"{"preprocessing": {"preset": "half"}, "output": "softmax"}"#;
const SAME: &str = r#"{"preprocessing": {"preset": "torchvision"}, "output": "linear"}"#;

#[tokio::test]
async fn pixels_of_a_size_that_no_head_takes_are_refused_at_once() {
    let bench = Bench::new(&[("small", 2, SMALL)]).await;
    let error = bench
        .classify(ClassifyQuery {
            picture: pixels(224, 112),
            ..query(&["default"])
        })
        .await
        .unwrap_err();
    let expected = ImageError::PixelsLength {
        got: 224 * 112 * 3,
        height: 224,
        width: 224,
    };
    assert!(
        matches!(&error, ServiceError::Image(error) if *error == expected),
        "{error}"
    );
    assert_eq!(bench.batches(), (0, 0));
}

/// The other head's error does not depend on what was computed before, nor does its error leave anything in the cache.
#[tokio::test]
async fn pixels_of_one_heads_size_fail_only_the_other() {
    let bench = Bench::new(&[("small", 2, SMALL), ("same", 2, SAME)]).await;
    for heads in [
        ["small", "default"],
        ["default", "small"],
        ["small", "same"],
        ["same", "small"],
    ] {
        for _ in 0..2 {
            let classified = bench
                .classify(ClassifyQuery {
                    include_logits: true,
                    ..query(&heads)
                })
                .await
                .unwrap();
            for result in classified.results {
                match (result.head.as_str(), result.outcome) {
                    (
                        "small",
                        Err(ServiceError::Engine(EngineError::PixelsOfAnotherSize {
                            height: 112,
                            width: 224,
                        })),
                    ) => {}
                    ("default" | "same", Ok(scores)) => assert_eq!(scores.logits, [0.5, 1.0]),
                    (head, outcome) => panic!("{head}: {outcome:?}"),
                }
            }
        }
    }
    let small = bench
        .scores(ClassifyQuery {
            picture: pixels(112, 224),
            include_logits: true,
            ..query(&["small"])
        })
        .await;
    assert_eq!(small.logits, [0.25, 1.0]);
}

#[tokio::test]
async fn heads_share_cached_inputs_if_their_preprocessing_has_the_same_numbers() {
    let bench = Bench::new(&[("same", 2, SAME), ("half", 2, HALF)]).await;
    bench.scores(query(&["default"])).await;
    assert_eq!((bench.batches(), bench.hits()), ((1, 0), 0));
    bench.scores(query(&["same"])).await;
    assert_eq!((bench.batches(), bench.hits()), ((1, 1), 1));
    bench.scores(query(&["half"])).await;
    assert_eq!((bench.batches(), bench.hits()), ((2, 1), 1));
    // Now the inputs of all three are there.
    let classified = bench.classify(query(&["half", "default", "same"])).await.unwrap();
    assert!(classified.results.iter().all(|result| result.outcome.is_ok()));
    assert_eq!((bench.batches(), bench.hits()), ((2, 2), 3));
}

/// Returns the first logit of each head.
async fn first_logits(bench: &Bench, heads: &[&str]) -> Vec<f32> {
    let asked = ClassifyQuery {
        include_logits: true,
        ..query(heads)
    };
    let results = bench.classify(asked).await.unwrap().results;
    results
        .into_iter()
        .map(|result| result.outcome.unwrap().logits[0])
        .collect()
}

/// Each head gets its own input, whichever of them are cached.
#[tokio::test]
async fn cached_and_computed_inputs_reach_their_own_heads() {
    for cached in ["default", "half"] {
        let bench = Bench::new(&[("same", 2, SAME), ("half", 2, HALF)]).await;
        first_logits(&bench, &[cached]).await;
        // One is cached, the other is not; then both are.
        for _ in 0..2 {
            assert_eq!(
                first_logits(&bench, &["half", "same", "default"]).await,
                [1.5, 0.5, 0.5],
                "{cached}"
            );
            assert_eq!(first_logits(&bench, &["default", "half"]).await, [0.5, 1.5], "{cached}");
        }
        // A batch of at most one picture has a part for each of two.
        assert_eq!(bench.batches(), (3, 3));
    }
}

#[tokio::test]
async fn a_request_that_costs_too_much_is_refused_with_what_to_do() {
    let spec = |side: usize| {
        format!(r#"{{"preprocessing": {{"resize": {{"stretch": [512, {side}]}}, "scale": 1}}, "output": "softmax"}}"#)
    };
    let specs: Vec<(String, String)> = (0..7).map(|head| (format!("head{head}"), spec(512 - head))).collect();
    let heads: Vec<(&str, usize, &str)> = specs.iter().map(|(name, spec)| (&**name, 2, &**spec)).collect();
    let bench = Bench::new(&heads).await;
    let picture = || Some(Picture::Encoded(bytes::Bytes::from_static(b"no picture")));
    let asked = |count: usize| ClassifyQuery {
        picture: picture(),
        heads: specs[..count].iter().map(|(name, _)| name.clone()).collect(),
        ..ClassifyQuery::default()
    };
    let error = bench.classify(asked(7)).await.unwrap_err();
    assert!(matches!(error, ServiceError::Invalid { field: "heads", .. }), "{error}");
    assert!(
        error.to_string().contains("the limit is 32; split the request"),
        "{error}"
    );
    // Six cost less, so the picture is looked at.
    assert!(!matches!(
        bench.classify(asked(6)).await.unwrap_err(),
        ServiceError::Invalid { .. }
    ));
}
