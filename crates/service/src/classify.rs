//! The use case Classify.

use std::sync::Arc;

use headswap_engine::{
    Admitted, Answer, CachedInput, EngineError, HeadSource, Input, PICTURE_COST, REQUEST_COST_MAX, Request, Stage,
    Timing, Wanted, pictures_cost,
};
use headswap_heads::HeadName;
use headswap_model::{Answered, Prediction};
use headswap_spec::{Output, Preprocessing};
use tokio::time::timeout_at;

use super::app_state::AppState;
use super::context::CallContext;
use super::error::ServiceError;
use super::feature_cache::{FeatureCache, Lookup, PendingFeatures};
use super::picture::Picture;
use super::requested_heads::{PinnedVersion, RequestedHeads};

const HEADS_MAX: usize = 64;
const TOP_K_DEFAULT: usize = 5;

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

impl ClassifyQuery {
    /// Returns the names of the heads, the default one if the query has none.
    fn names(&self) -> Result<Vec<String>, ServiceError> {
        match self.heads.len() {
            0 => Ok(vec![HeadName::DEFAULT.to_owned()]),
            1..=HEADS_MAX => Ok(self.heads.clone()),
            got => Err(ServiceError::invalid(
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
pub(super) struct Outputs<'a> {
    pub heads: Option<&'a Arc<RequestedHeads>>,
    pub wanted: Option<Wanted>,
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
        call.check_request_id()?;
        let names = query.names()?;
        let picture = Picture::present(query.picture)?;
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

    /// Computes the outputs of one picture, from cached inputs of its heads if possible.
    pub(super) async fn compute(
        &self,
        call: &CallContext,
        admitted: Admitted,
        picture: Picture,
        outputs: Outputs<'_>,
    ) -> Result<Answer, ServiceError> {
        let preprocessings = outputs.preprocessings();
        check_cost(&preprocessings)?;
        let input = picture.input(&preprocessings)?;
        // Raw pixels give no inputs for heads whose pictures have another size, so the inputs would not be in order.
        let inputs = match preprocessings.iter().all(|preprocessing| picture.fits(preprocessing)) {
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
            // Those of an extreme preprocessing may overflow.
            if computed.iter().all(|value| value.is_finite()) {
                pending.insert(computed.as_slice().into());
            }
        }
        if outputs.wanted.is_none() {
            answer.inputs.clear();
        }
        Ok(answer)
    }
}

/// Looks up the inputs of a picture's heads, one after the other. It waits for inputs that another request computes only
/// while it has none to compute itself, so that no request waits for one that waits itself.
async fn look_up(cache: &FeatureCache, picture: &Picture, inputs: Vec<Wanted>, call: &CallContext) -> Cached {
    let key = cache.key(picture).await;
    let mut cached = Cached::default();
    for of in inputs {
        if !cached.misses.is_empty() {
            cached
                .misses
                .extend(cache.claim(key, &of, call.class).map(|pending| (of, pending)));
            continue;
        }
        match cache.look_up(key, &of, call.class).await {
            Lookup::Hit(values) => cached.hits.push(CachedInput { of, values }),
            Lookup::Miss(pending) => cached.misses.push((of, pending)),
        }
    }
    cached
}

/// Refuses a request that would keep a device for long.
fn check_cost(preprocessings: &[Preprocessing]) -> Result<(), ServiceError> {
    let cost = pictures_cost(preprocessings);
    if cost <= REQUEST_COST_MAX {
        return Ok(());
    }
    let (ways, pictures, limit) = (
        preprocessings.len(),
        cost / PICTURE_COST,
        REQUEST_COST_MAX / PICTURE_COST,
    );
    Err(ServiceError::invalid(
        "heads",
        format!(
            "they prepare the picture in {ways} ways, which cost as much as {pictures} pictures of 224x224; the limit is \
             {limit}; split the request"
        ),
    ))
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
