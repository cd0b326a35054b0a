//! The use cases Classify and Embed.

use std::sync::Arc;

use bytes::Bytes;
use headswap_engine::{Admitted, Answer, CachedInput, EngineError, HeadSource, Input, Request, Stage, Timing, Wanted};
use headswap_heads::HeadName;
use headswap_image::ImageError;
use headswap_model::{Answered, Prediction};
use headswap_spec::{HeadInput, Output, Preprocessing};
use tokio::time::timeout_at;

use super::app_state::AppState;
use super::context::CallContext;
use super::error::ServiceError;
use super::feature_cache::{FeatureCache, Lookup, PendingFeatures};
use super::requested_heads::{PinnedVersion, RequestedHeads};

const HEADS_MAX: usize = 64;
const REQUEST_ID_BYTES_MAX: usize = 128;
const TOP_K_DEFAULT: usize = 5;

/// A picture as a caller sends it.
#[derive(Clone, Debug)]
pub enum Picture {
    /// JPEG, PNG, WebP, GIF or BMP.
    Encoded(Bytes),
    /// Resized and cropped: height x width x 3 u8.
    Pixels(Bytes),
}

/// A classification request.
#[derive(Clone, Debug, Default)]
pub struct ClassifyQuery {
    /// The picture.
    pub picture: Option<Picture>,
    /// Names of heads; empty means the default one.
    pub heads: Vec<String>,
    /// The version of every head; 0 is the live one.
    pub version: u64,
    /// The number of classes to return; 0 means 5.
    pub top_k: u32,
    /// True to return every class's logit.
    pub include_logits: bool,
}

/// The answers of all heads to one picture.
#[derive(Debug)]
pub struct Classified {
    /// One for each head, in the order of the query.
    pub results: Vec<HeadAnswer>,
    /// How long each stage took.
    pub timing: Timing,
}

/// The answer of one head.
#[derive(Debug)]
pub struct HeadAnswer {
    /// The head's name, as in the query.
    pub head: String,
    /// Its scores, or its error.
    pub outcome: Result<Scores, ServiceError>,
}

/// A head's result for a picture.
#[derive(Debug)]
pub struct Scores {
    /// The version that computed them.
    pub version: u64,
    /// That version's SHA-256, in hexadecimal.
    pub digest: String,
    /// What the outputs mean.
    pub output: Output,
    /// The most probable classes, the most probable first; or values in their order.
    pub predictions: Vec<Scored>,
    /// One logit per class, if requested.
    pub logits: Vec<f32>,
}

/// One class, and what the head says of it.
#[derive(Debug)]
pub struct Scored {
    /// The class.
    pub prediction: Prediction,
    /// Its label; empty if the head has none.
    pub label: String,
}

/// A request for what the backbone computes of a picture.
#[derive(Clone, Debug, Default)]
pub struct EmbedQuery {
    /// The picture.
    pub picture: Option<Picture>,
    /// The head whose preprocessing prepares the picture; empty means the backbone's.
    pub head: String,
    /// The version of that head; 0 is the live one.
    pub version: u64,
    /// What to return.
    pub kind: EmbedKind,
}

/// What the backbone computes of a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EmbedKind {
    /// What enters the last Linear.
    #[default]
    Features,
    /// The last pooling's map, by channel, row and column.
    Pool,
    /// The mean of each of its channels.
    Gap,
}

/// A picture's features.
#[derive(Debug)]
pub struct Embedded {
    /// What was asked for.
    pub features: Vec<f32>,
    /// How long each stage took.
    pub timing: Timing,
}

impl ClassifyQuery {
    /// Returns the names of the heads, the default one if the query has none.
    fn names(&self) -> Result<Vec<String>, ServiceError> {
        match self.heads.len() {
            0 => Ok(vec![HeadName::DEFAULT.to_owned()]),
            1..=HEADS_MAX => Ok(self.heads.clone()),
            got => Err(invalid(
                "heads",
                format!("{got} heads are requested; the limit is {HEADS_MAX}; split the request"),
            )),
        }
    }

    /// Returns `error` as the answer of each head, for a stream whose query failed as a whole.
    pub fn refused(heads: &[String], error: &ServiceError) -> Vec<HeadAnswer> {
        let default = [HeadName::DEFAULT.to_owned()];
        let heads = if heads.is_empty() { &default } else { heads };
        let mut answers = Vec::new();
        for head in heads.iter().take(HEADS_MAX) {
            answers.push(HeadAnswer {
                head: head.clone(),
                outcome: Err(error.clone()),
            });
        }
        answers
    }
}

/// What a request computes.
#[derive(Clone, Copy)]
struct Outputs<'a> {
    heads: Option<&'a Arc<RequestedHeads>>,
    wanted: Option<Wanted>,
}

impl Outputs<'_> {
    fn request(self, call: &CallContext, input: Input, wanted: Vec<Wanted>) -> Request {
        Request {
            input,
            heads: self.heads.map(|heads| Arc::clone(heads) as Arc<dyn HeadSource>),
            wanted,
            deadline: call.deadline,
            flow: call.flow,
        }
    }

    /// Returns how pictures are prepared.
    fn preprocessings(self) -> Vec<Preprocessing> {
        match (self.heads, self.wanted) {
            (Some(heads), _) => heads.preprocessings(),
            (None, wanted) => wanted.into_iter().map(|wanted| wanted.preprocessing).collect(),
        }
    }

    /// Returns the inputs from which all of it can be computed; none if there are no such inputs.
    fn inputs(self) -> Option<Vec<Wanted>> {
        match self.heads {
            Some(heads) => heads.shared_inputs(),
            None => Some(self.wanted.into_iter().collect()),
        }
    }
}

/// What a cache has of a request's inputs.
#[derive(Default)]
struct Cached {
    hits: Vec<CachedInput>,
    /// Inputs to compute, and where they go.
    misses: Vec<(Wanted, PendingFeatures)>,
}

impl AppState {
    /// Admits a request of this call: an interactive one at once or not at all, a bulk one before its deadline. A caller
    /// that reads requests from a stream calls this before it reads the next one.
    ///
    /// # Errors
    /// [`ServiceError::Engine`].
    pub async fn admit(&self, call: &CallContext) -> Result<Admitted, ServiceError> {
        Ok(self.engine.admit(call.class, call.deadline).await?)
    }

    /// Runs one picture through the backbone and every requested head.
    ///
    /// # Errors
    /// [`ServiceError`] if the request or every head fails; if only some heads fail, their outcomes say so.
    pub async fn classify(
        &self,
        call: &CallContext,
        admitted: Admitted,
        query: ClassifyQuery,
    ) -> Result<Classified, ServiceError> {
        check_request_id(&call.request_id)?;
        let names = query.names()?;
        let picture = present(query.picture)?;
        let heads = RequestedHeads::resolve(&self.registry, &names, query.version, call.class);
        if let Some(error) = heads.error_of_all() {
            return Err(ServiceError::Head(error));
        }
        let outputs = Outputs {
            heads: Some(&heads),
            wanted: None,
        };
        let answer = self.compute(call, admitted, picture, outputs).await;
        let answer = answer.map_err(|error| match (&error, heads.error_of_all()) {
            (ServiceError::Engine(EngineError::NoHeads), Some(error)) => ServiceError::Head(error),
            _ => error,
        })?;

        let options = ScoreOptions {
            top_k: query.top_k,
            logits: query.include_logits,
        };
        let mut logits = answer.logits.into_iter();
        let mut results = Vec::with_capacity(names.len());
        for (head, pinned) in names.into_iter().zip(heads.take()) {
            let outcome = match pinned {
                Ok(pinned) => options.scores(&pinned, logits.next().unwrap_or(Err(EngineError::Stopped))),
                Err(error) => Err(ServiceError::Head(error)),
            };
            results.push(HeadAnswer { head, outcome });
        }
        // If every head failed, the call fails with the first one's error.
        if let Some(Err(error)) = results.first().map(|result| &result.outcome)
            && results.iter().all(|result| result.outcome.is_err())
        {
            return Err(error.clone());
        }
        Ok(Classified {
            results,
            timing: answer.timing,
        })
    }

    /// Runs one picture through the backbone alone.
    ///
    /// # Errors
    /// [`ServiceError`].
    pub async fn embed(&self, call: &CallContext, query: EmbedQuery) -> Result<Embedded, ServiceError> {
        check_request_id(&call.request_id)?;
        let picture = present(query.picture)?;
        let preprocessing = if query.head.is_empty() {
            self.model.preprocessing
        } else {
            let name = HeadName::parse(&query.head)?;
            self.registry
                .table()
                .resolve(&name, query.version)?
                .info
                .spec
                .preprocessing
        };
        let admitted = self.admit(call).await?;
        let outputs = Outputs {
            heads: None,
            wanted: Some(Wanted {
                preprocessing,
                input: query.kind.into(),
            }),
        };
        let mut answer = self.compute(call, admitted, picture, outputs).await?;
        Ok(Embedded {
            features: answer.inputs.pop().unwrap_or_default(),
            timing: answer.timing,
        })
    }

    /// Computes the outputs of one picture, from cached inputs of its heads if possible.
    async fn compute(
        &self,
        call: &CallContext,
        admitted: Admitted,
        picture: Picture,
        outputs: Outputs<'_>,
    ) -> Result<Answer, ServiceError> {
        let preprocessings = outputs.preprocessings();
        let input = input(&picture, &preprocessings)?;
        // Raw pixels give no inputs for heads whose pictures have another size, so the inputs would not be in order.
        let inputs = match preprocessings.iter().all(|preprocessing| fits(&picture, preprocessing)) {
            true => outputs.inputs(),
            false => None,
        };
        let (Some(cache), Some(inputs)) = (&self.cache, inputs) else {
            let request = outputs.request(call, input, outputs.wanted.into_iter().collect());
            return Ok(self.engine.run(admitted, request).await?);
        };
        let lookup = look_up(cache, &picture, inputs, call);
        let cached = match call.deadline {
            None => lookup.await,
            Some(deadline) => timeout_at(deadline, lookup)
                .await
                .map_err(|_| EngineError::Expired(Stage::Waiting))?,
        };
        if cached.misses.is_empty() && outputs.heads.is_none() {
            let mut answer = Answer::default();
            answer.inputs.extend(cached.hits.iter().map(|hit| hit.values.to_vec()));
            return Ok(answer);
        }
        if cached.misses.is_empty() {
            let request = outputs.request(call, Input::HeadInputs(cached.hits), Vec::new());
            return Ok(self.engine.run(admitted, request).await?);
        }
        let (wanted, pending): (Vec<Wanted>, Vec<PendingFeatures>) = cached.misses.into_iter().unzip();
        let mut answer = self.engine.run(admitted, outputs.request(call, input, wanted)).await?;
        for (pending, computed) in pending.into_iter().zip(&answer.inputs) {
            pending.insert(computed.as_slice().into());
        }
        if outputs.wanted.is_none() {
            answer.inputs.clear();
        }
        Ok(answer)
    }
}

/// Looks up the inputs of a picture's heads, one after the other.
async fn look_up(cache: &FeatureCache, picture: &Picture, inputs: Vec<Wanted>, call: &CallContext) -> Cached {
    let key = cache.key(picture).await;
    let mut cached = Cached::default();
    for of in FeatureCache::in_order(key, inputs) {
        match cache.look_up(key, &of, call.class).await {
            Lookup::Hit(values) => cached.hits.push(CachedInput { of, values }),
            Lookup::Miss(pending) => cached.misses.push((of, pending)),
        }
    }
    cached
}

impl From<EmbedKind> for HeadInput {
    fn from(kind: EmbedKind) -> Self {
        match kind {
            EmbedKind::Features => Self::Features,
            EmbedKind::Pool => Self::Flatten,
            EmbedKind::Gap => Self::GlobalAverage,
        }
    }
}

/// What to return of a head's logits.
struct ScoreOptions {
    top_k: u32,
    logits: bool,
}

impl ScoreOptions {
    fn scores(&self, head: &PinnedVersion, logits: Result<Vec<f32>, EngineError>) -> Result<Scores, ServiceError> {
        let (info, mut logits) = (&head.version.info, logits?);
        head.version.answered();
        let (spec, labels) = (&info.spec, &head.pinned.labels);
        let answered = Answered {
            output: spec.output,
            classes: spec.classes,
            is_binary: spec.output == Output::Sigmoid && spec.classes == 1 && labels.len() == 2,
            top_k: match (self.top_k, spec.output) {
                (0, Output::Linear) => spec.classes,
                (0, _) => TOP_K_DEFAULT,
                (k, _) => k as usize,
            },
        };
        let mut predictions = Vec::new();
        for prediction in answered.predictions(&logits) {
            let label = match labels.len() {
                0 => None,
                // Those of groups may be one for each class of a group.
                count => labels.get(prediction.index % count),
            };
            predictions.push(Scored {
                prediction,
                label: label.cloned().unwrap_or_default(),
            });
        }
        logits.truncate(spec.classes);
        Ok(Scores {
            version: info.version,
            digest: info.digest.to_string(),
            output: spec.output,
            predictions,
            logits: if self.logits { logits } else { Vec::new() },
        })
    }
}

/// Returns the engine's input. Raw pixels must be those of one of the preprocessings at least.
fn input(picture: &Picture, preprocessings: &[Preprocessing]) -> Result<Input, ServiceError> {
    let bytes = match picture {
        Picture::Encoded(bytes) => return Ok(Input::Image(bytes.clone())),
        Picture::Pixels(bytes) => bytes,
    };
    if preprocessings.iter().any(|preprocessing| fits(picture, preprocessing)) {
        return Ok(Input::Pixels(bytes.clone()));
    }
    let [height, width] = preprocessings.first().map_or([0; 2], size);
    let got = bytes.len();
    Err(ServiceError::Image(ImageError::PixelsLength { got, height, width }))
}

/// Returns true unless it is raw pixels of another size.
fn fits(picture: &Picture, preprocessing: &Preprocessing) -> bool {
    match picture {
        Picture::Encoded(_) => true,
        Picture::Pixels(bytes) => bytes.len() == size(preprocessing).iter().product::<usize>() * 3,
    }
}

/// Returns height and width of prepared pictures.
fn size(preprocessing: &Preprocessing) -> [usize; 2] {
    preprocessing.size().unwrap_or_default().map(|side| side as usize)
}

fn present(picture: Option<Picture>) -> Result<Picture, ServiceError> {
    picture.ok_or_else(|| invalid("input", "set `image` or `pixels`".into()))
}

fn check_request_id(request_id: &str) -> Result<(), ServiceError> {
    if request_id.len() <= REQUEST_ID_BYTES_MAX {
        return Ok(());
    }
    let got = request_id.len();
    Err(invalid(
        "request_id",
        format!("it has {got} bytes; the limit is {REQUEST_ID_BYTES_MAX}"),
    ))
}

fn invalid(field: &'static str, message: String) -> ServiceError {
    ServiceError::Invalid { field, message }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use headswap_checkpoint::{Digest, Parameters};
    use headswap_engine::Class;
    use headswap_spec::Preset;

    use super::*;
    use crate::CacheMetrics;

    fn with_crop(crop: [u32; 2]) -> Preprocessing {
        Preprocessing {
            crop: Some(crop),
            ..Preset::Torchvision.preprocessing()
        }
    }

    fn pixels(bytes: usize) -> Picture {
        Picture::Pixels(vec![0; bytes].into())
    }

    #[test]
    fn pixels_of_a_size_that_no_head_takes_are_refused() {
        let [small, large] = [[32, 64], [224, 224]].map(with_crop);
        for (bytes, preprocessings) in [
            (32 * 64 * 3, &[small][..]),
            (32 * 64 * 3, &[large, small]),
            (224 * 224 * 3, &[small, large]),
        ] {
            assert!(matches!(input(&pixels(bytes), preprocessings), Ok(Input::Pixels(_))));
        }
        for (got, preprocessings, [height, width]) in [
            (0, &[small][..], [32, 64]),
            (32 * 64 * 3 - 1, &[small, large], [32, 64]),
            (32 * 64 * 3 + 1, &[large, small], [224, 224]),
            (32 * 64 * 3, &[large], [224, 224]),
        ] {
            match input(&pixels(got), preprocessings) {
                Err(ServiceError::Image(error)) => {
                    assert_eq!(error, ImageError::PixelsLength { got, height, width });
                }
                other => panic!("{got}: {other:?}"),
            }
        }
        let image = Picture::Encoded(Bytes::new());
        assert!(matches!(input(&image, &[small]), Ok(Input::Image(_))));
    }

    fn cache() -> FeatureCache {
        let backbone = Digest::of_parameters(&Parameters::new(), &[]);
        FeatureCache::new(backbone, 1 << 20, 16, CacheMetrics::default()).unwrap()
    }

    fn call() -> CallContext {
        CallContext {
            deadline: None,
            class: Class::Interactive,
            flow: 0,
            request_id: String::new(),
            peer: String::new(),
        }
    }

    /// A lookup of several inputs, polled by hand.
    struct Lookups<'a> {
        running: Option<Pin<Box<dyn Future<Output = Cached> + 'a>>>,
        hits: usize,
    }

    impl<'a> Lookups<'a> {
        fn new(cache: &'a FeatureCache, picture: &'a Picture, inputs: Vec<Wanted>, call: &'a CallContext) -> Self {
            Self {
                running: Some(Box::pin(look_up(cache, picture, inputs, call))),
                hits: 0,
            }
        }

        /// Runs until it waits or ends; then it inserts what it missed.
        fn poll(&mut self) {
            let Some(running) = &mut self.running else { return };
            let Poll::Ready(cached) = running.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
                return;
            };
            self.hits = cached.hits.len();
            for (_, pending) in cached.misses {
                pending.insert([0.5; 16].as_slice().into());
            }
            self.running = None;
        }
    }

    /// Two requests look up three inputs in any order while another request computes one of them and then fails.
    #[test]
    fn lookups_of_several_inputs_never_wait_for_each_other() {
        let [a, b, c] = [HeadInput::Features, HeadInput::Flatten, HeadInput::GlobalMax].map(|input| Wanted {
            preprocessing: Preset::Torchvision.preprocessing(),
            input,
        });
        let orders = [[a, b, c], [a, c, b], [b, a, c], [b, c, a], [c, a, b], [c, b, a]];
        let (picture, call) = (Picture::Encoded("a picture".into()), call());
        for (first, second) in orders.iter().flat_map(|one| orders.iter().map(move |two| (one, two))) {
            for held in [a, b, c] {
                let cache = cache();
                let mut other = Box::pin(look_up(&cache, &picture, vec![held], &call));
                let Poll::Ready(held) = other.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
                    panic!("a lookup of an empty cache waits");
                };
                let mut lookups = [first, second].map(|order| Lookups::new(&cache, &picture, order.to_vec(), &call));
                lookups.iter_mut().for_each(Lookups::poll);
                assert!(lookups.iter().all(|lookup| lookup.running.is_some()));
                drop(held);
                // One gets to the end at once, and then the other.
                for _ in 0..2 {
                    lookups.iter_mut().for_each(Lookups::poll);
                }
                assert!(
                    lookups.iter().all(|lookup| lookup.running.is_none()),
                    "{first:?} {second:?}"
                );
                assert_eq!(lookups.iter().map(|lookup| lookup.hits).sum::<usize>(), 3);
            }
        }
    }
}
