//! The use cases Classify and Embed.

use std::sync::Arc;

use bytes::Bytes;
use headswap_engine::{Admitted, Answer, EngineError, HeadSource, Input, Request, Stage, Timing};
use headswap_heads::HeadName;
use headswap_image::Pixels;
use headswap_model::top_k;
use tokio::time::timeout_at;

use super::app_state::AppState;
use super::context::CallContext;
use super::error::ServiceError;
use super::feature_cache::Lookup;
use super::requested_heads::{PinnedVersion, RequestedHeads};

const HEADS_MAX: usize = 64;
const REQUEST_ID_BYTES_MAX: usize = 128;
const TOP_K_DEFAULT: usize = 5;

/// A picture as a caller sends it.
#[derive(Clone, Debug)]
pub enum Picture {
    /// JPEG, PNG, WebP, GIF or BMP.
    Encoded(Bytes),
    /// 224 x 224 x 3 u8, see [`Pixels`].
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
    /// The most probable classes, the most probable first.
    pub predictions: Vec<Prediction>,
    /// One logit per class, if requested.
    pub logits: Vec<f32>,
}

/// One class and its probability.
#[derive(Debug)]
pub struct Prediction {
    /// The class, from 0.
    pub index: usize,
    /// Its label; empty if the head has none.
    pub label: String,
    /// Its softmax over all classes.
    pub probability: f32,
}

/// A picture's features.
#[derive(Debug)]
pub struct Embedded {
    /// The input of the last Linear.
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
    features: bool,
}

impl Outputs<'_> {
    fn request(self, call: &CallContext, input: Input) -> Request {
        Request {
            input,
            heads: self.heads.map(|heads| Arc::clone(heads) as Arc<dyn HeadSource>),
            features: self.features,
            deadline: call.deadline,
            flow: call.flow,
        }
    }
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
            features: false,
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
    pub async fn embed(&self, call: &CallContext, picture: Option<Picture>) -> Result<Embedded, ServiceError> {
        check_request_id(&call.request_id)?;
        let picture = present(picture)?;
        let admitted = self.admit(call).await?;
        let outputs = Outputs {
            heads: None,
            features: true,
        };
        let answer = self.compute(call, admitted, picture, outputs).await?;
        Ok(Embedded {
            features: answer.features.unwrap_or_default(),
            timing: answer.timing,
        })
    }

    /// Computes the outputs of one picture, from cached features if possible.
    async fn compute(
        &self,
        call: &CallContext,
        admitted: Admitted,
        picture: Picture,
        outputs: Outputs<'_>,
    ) -> Result<Answer, ServiceError> {
        let Outputs { heads, features } = outputs;
        let cache = self.cache.as_ref();
        let cache = cache.filter(|_| heads.is_none_or(|heads| heads.share_features()));
        let Some(cache) = cache else {
            let request = outputs.request(call, input(picture)?);
            return Ok(self.engine.run(admitted, request).await?);
        };
        let lookup = cache.look_up(&picture, call.class);
        let lookup = match call.deadline {
            None => lookup.await,
            Some(deadline) => timeout_at(deadline, lookup)
                .await
                .map_err(|_| EngineError::Expired(Stage::Waiting))?,
        };
        match lookup {
            Lookup::Hit(cached) if heads.is_none() => Ok(Answer {
                features: Some(cached.to_vec()),
                ..Answer::default()
            }),
            Lookup::Hit(cached) => {
                let outputs = Outputs {
                    features: false,
                    ..outputs
                };
                let request = outputs.request(call, Input::Features(cached));
                Ok(self.engine.run(admitted, request).await?)
            }
            Lookup::Miss(pending) => {
                let outputs = Outputs {
                    features: true,
                    ..outputs
                };
                let request = outputs.request(call, input(picture)?);
                let mut answer = self.engine.run(admitted, request).await?;
                if let Some(computed) = &answer.features {
                    pending.insert(computed.as_slice().into());
                }
                answer.features = answer.features.filter(|_| features);
                Ok(answer)
            }
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
        let (info, logits) = (&head.version.info, logits?);
        head.version.answered();
        let k = match self.top_k {
            0 => TOP_K_DEFAULT,
            k => k as usize,
        };
        let mut predictions = Vec::new();
        for prediction in top_k(&logits, k) {
            predictions.push(Prediction {
                index: prediction.index,
                label: head.pinned.labels.get(prediction.index).cloned().unwrap_or_default(),
                probability: prediction.probability,
            });
        }
        Ok(Scores {
            version: info.version,
            digest: info.digest.to_string(),
            predictions,
            logits: if self.logits { logits } else { Vec::new() },
        })
    }
}

fn input(picture: Picture) -> Result<Input, ServiceError> {
    Ok(match picture {
        Picture::Encoded(bytes) => Input::Image(bytes),
        Picture::Pixels(bytes) => Input::Pixels(Pixels::from_bytes(bytes)?),
    })
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
