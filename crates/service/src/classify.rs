//! What is on a picture: the use cases Classify and Embed.

use std::sync::Arc;

use bytes::Bytes;
use headswap_engine::{Admitted, Answer, EngineError, HeadSource, Input, Request, Stage, Timing};
use headswap_heads::HeadName;
use headswap_image::Pixels;
use headswap_model::top_k;
use tokio::time::timeout_at;

use super::app_state::AppState;
use super::asked_heads::{AskedHeads, Held};
use super::context::CallContext;
use super::error::ServiceError;
use super::feature_cache::Found;

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

/// What a caller asks of a picture.
#[derive(Clone, Debug, Default)]
pub struct ClassifyQuery {
    /// The picture.
    pub picture: Option<Picture>,
    /// Names of heads; none means the default one.
    pub heads: Vec<String>,
    /// The version of every head; 0 is the live one.
    pub version: u64,
    /// How many classes to return; 0 means 5.
    pub top_k: u32,
    /// Whether every class's logit is wanted.
    pub include_logits: bool,
}

/// What each head says of a picture.
#[derive(Debug)]
pub struct Classified {
    /// One for each head, in the order of the query.
    pub results: Vec<HeadAnswer>,
    /// Where the time went.
    pub timing: Timing,
}

/// What one head says of a picture.
#[derive(Debug)]
pub struct HeadAnswer {
    /// The head's name, as it was asked for.
    pub head: String,
    /// What it says, or why it cannot.
    pub outcome: Result<Scores, ServiceError>,
}

/// A head's numbers.
#[derive(Debug)]
pub struct Scores {
    /// The version that computed them.
    pub version: u64,
    /// That version's SHA-256, in hexadecimal.
    pub digest: String,
    /// The most probable classes, the most probable first.
    pub predictions: Vec<Prediction>,
    /// One logit per class, if they were asked for.
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
    /// What enters the last Linear.
    pub features: Vec<f32>,
    /// Where the time went.
    pub timing: Timing,
}

impl ClassifyQuery {
    /// The names of the heads; none means the default one.
    fn names(&self) -> Result<Vec<String>, ServiceError> {
        match self.heads.len() {
            0 => Ok(vec![HeadName::DEFAULT.to_owned()]),
            1..=HEADS_MAX => Ok(self.heads.clone()),
            got => Err(invalid(
                "heads",
                format!("{got} heads are asked for; the limit is {HEADS_MAX}; split the request"),
            )),
        }
    }

    /// The answer to a query that failed as a whole, for callers that are told by each head.
    pub fn refused(heads: &[String], error: &ServiceError) -> Vec<HeadAnswer> {
        let default = [HeadName::DEFAULT.to_owned()];
        let heads = if heads.is_empty() { &default } else { heads };
        let refused = |head: &String| HeadAnswer {
            head: head.clone(),
            outcome: Err(error.clone()),
        };
        heads.iter().take(HEADS_MAX).map(refused).collect()
    }
}

impl AppState {
    /// A place for a request of this call: at once or not at all for an interactive one, within its deadline for a bulk
    /// one. A caller that reads requests from a stream takes a request's place before it reads the next.
    ///
    /// # Errors
    /// [`ServiceError::Engine`].
    pub async fn admit(&self, call: &CallContext) -> Result<Admitted, ServiceError> {
        Ok(self.engine.admit(call.class, call.deadline).await?)
    }

    /// Runs one picture through the backbone and every head asked for.
    ///
    /// # Errors
    /// [`ServiceError`]; a head that fails beside others is that head's outcome.
    pub async fn classify(
        &self,
        call: &CallContext,
        admitted: Admitted,
        query: ClassifyQuery,
    ) -> Result<Classified, ServiceError> {
        check_request_id(&call.request_id)?;
        let names = query.names()?;
        let picture = present(query.picture)?;
        let asked = AskedHeads::resolve(&self.registry, &names, query.version, call.class);
        if let Some(error) = asked.error_of_all() {
            return Err(ServiceError::Head(error));
        }
        let answer = self.compute(call, admitted, picture, Some(&asked), false).await;
        let answer = answer.map_err(|error| match (&error, asked.error_of_all()) {
            (ServiceError::Engine(EngineError::NoHeads), Some(error)) => ServiceError::Head(error),
            _ => error,
        })?;

        let wanted = Wanted {
            top_k: query.top_k,
            logits: query.include_logits,
        };
        let mut logits = answer.logits.into_iter();
        let mut results = Vec::with_capacity(names.len());
        for (head, held) in names.into_iter().zip(asked.take()) {
            let outcome = match held {
                Ok(held) => wanted.scores(&held, logits.next().unwrap_or(Err(EngineError::Stopped))),
                Err(error) => Err(ServiceError::Head(error)),
            };
            results.push(HeadAnswer { head, outcome });
        }
        // Every head failed; the first one's error speaks for the call.
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
        let answer = self.compute(call, admitted, picture, None, true).await?;
        Ok(Embedded {
            features: answer.features.unwrap_or_default(),
            timing: answer.timing,
        })
    }

    /// The numbers of one picture, from known features if there are any.
    async fn compute(
        &self,
        call: &CallContext,
        admitted: Admitted,
        picture: Picture,
        heads: Option<&Arc<AskedHeads>>,
        features: bool,
    ) -> Result<Answer, ServiceError> {
        let request = |input, features| Request {
            input,
            heads: heads.map(|heads| Arc::clone(heads) as Arc<dyn HeadSource>),
            features,
            deadline: call.deadline,
            flow: call.flow,
        };
        let cache = self.cache.as_ref();
        let cache = cache.filter(|_| heads.is_none_or(|heads| heads.share_features()));
        let Some(cache) = cache else {
            let request = request(input(picture)?, features);
            return Ok(self.engine.run(admitted, request).await?);
        };
        let find = cache.find(&picture, call.class);
        let found = match call.deadline {
            None => find.await,
            Some(deadline) => {
                let expired = |_| EngineError::Expired(Stage::Waiting);
                timeout_at(deadline, find).await.map_err(expired)?
            }
        };
        match found {
            Found::Known(known) if heads.is_none() => Ok(Answer {
                features: Some(known.to_vec()),
                ..Answer::default()
            }),
            Found::Known(known) => Ok(self
                .engine
                .run(admitted, request(Input::Features(known), false))
                .await?),
            Found::Unknown(place) => {
                let mut answer = self.engine.run(admitted, request(input(picture)?, true)).await?;
                if let Some(known) = &answer.features {
                    place.fill(known.as_slice().into());
                }
                answer.features = answer.features.filter(|_| features);
                Ok(answer)
            }
        }
    }
}

/// What a caller wants to see of a head's logits.
struct Wanted {
    top_k: u32,
    logits: bool,
}

impl Wanted {
    fn scores(&self, held: &Held, logits: Result<Vec<f32>, EngineError>) -> Result<Scores, ServiceError> {
        let (info, logits) = (&held.version.info, logits?);
        held.version.answered();
        let k = match self.top_k {
            0 => TOP_K_DEFAULT,
            k => k as usize,
        };
        let mut predictions = Vec::new();
        for prediction in top_k(&logits, k) {
            predictions.push(Prediction {
                index: prediction.index,
                label: held.pinned.labels.get(prediction.index).cloned().unwrap_or_default(),
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
