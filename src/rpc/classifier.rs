//! `headswap.v1.ClassifierService`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use futures::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};
use tower::ServiceExt as _;
use tracing::Instrument as _;

use super::deadline;
use super::gate::{Gate, Serving};
use super::input::Input;
use super::leases::{Asked, Held, Patience, lease};
use super::metrics::RpcMetrics;
use super::pb::classifier_service_server::ClassifierService;
use super::pb::{
    ClassifyRequest, ClassifyResponse, ClassifyStreamRequest, ClassifyStreamResponse, EmbedRequest, EmbedResponse,
    HeadResult, Prediction, Timing,
};
use super::requests::{End, until_end};
use super::status::{self, invalid};
use crate::engine;
use crate::heads::HeadName;
use crate::model::top_k;

const HEADS_MAX: usize = 64;
const REQUEST_ID_BYTES_MAX: usize = 128;
const TOP_K_DEFAULT: usize = 5;

/// Answers classification requests.
#[derive(Clone)]
pub struct ClassifierRpc {
    gate: Gate,
    metrics: RpcMetrics,
    stream_in_flight_max: usize,
}

impl ClassifierRpc {
    /// `stream_in_flight_max` bounds how many requests of one stream are under way at once.
    pub fn new(gate: Gate, metrics: RpcMetrics, stream_in_flight_max: usize) -> Self {
        Self {
            gate,
            metrics,
            stream_in_flight_max,
        }
    }
}

#[tonic::async_trait]
impl ClassifierService for ClassifierRpc {
    type ClassifyStreamStream = Pin<Box<dyn Stream<Item = Result<ClassifyStreamResponse, Status>> + Send>>;

    async fn classify(&self, request: Request<ClassifyRequest>) -> Result<Response<ClassifyResponse>, Status> {
        let started = Instant::now();
        let deadline = deadline::of(&request);
        let answer = async {
            let serving = self.gate.pass()?;
            let _accepted = self.gate.accept()?;
            classify(&serving, Patience::Refused, request.into_inner(), deadline).await
        };
        self.metrics
            .observe("Classify", started, answer.await.map(Response::new))
    }

    async fn classify_stream(
        &self,
        request: Request<Streaming<ClassifyStreamRequest>>,
    ) -> Result<Response<Self::ClassifyStreamStream>, Status> {
        let serving = self.gate.pass()?;
        let (gate, metrics) = (self.gate.clone(), self.metrics.clone());
        let deadline = deadline::of(&request);
        let answer = move |request: ClassifyStreamRequest| {
            let (serving, metrics) = (Arc::clone(&serving), metrics.clone());
            let accepted = gate.accept();
            async move {
                let started = Instant::now();
                let request = request.request.unwrap_or_default();
                let (request_id, heads) = (request.request_id.clone(), request.heads.clone());
                let answer = match &accepted {
                    Ok(_) => classify(&serving, Patience::Waits, request, deadline).await,
                    Err(status) => Err(status.clone()),
                };
                let answer = metrics.observe("ClassifyStream", started, answer);
                let response = answer.unwrap_or_else(|status| refused(status, request_id, heads));
                Ok(ClassifyStreamResponse {
                    response: Some(response),
                })
            }
        };
        let end = End::default();
        let answers = until_end(request.into_inner(), self.gate.draining(), end.clone())
            .map(answer)
            .buffer_unordered(self.stream_in_flight_max)
            .chain(end.told());
        Ok(Response::new(Box::pin(answers)))
    }

    async fn embed(&self, request: Request<EmbedRequest>) -> Result<Response<EmbedResponse>, Status> {
        let started = Instant::now();
        let deadline = deadline::of(&request);
        let answer = async {
            let serving = self.gate.pass()?;
            let _accepted = self.gate.accept()?;
            embed(&serving, request.into_inner(), deadline).await
        };
        self.metrics.observe("Embed", started, answer.await.map(Response::new))
    }
}

/// One request from its message to its answer. Its heads stay on the device until then.
async fn classify(
    serving: &Serving,
    patience: Patience,
    request: ClassifyRequest,
    deadline: Option<tokio::time::Instant>,
) -> Result<ClassifyResponse, Status> {
    check_request_id(&request.request_id)?;
    let input = request
        .input
        .ok_or_else(|| invalid("input", "set `image` or `pixels`".into()))?;
    let names = names(request.heads)?;
    let asked = Asked {
        version: request.head_version,
        deadline,
        patience,
    };
    let leases = lease(serving, &names, asked).await?;
    if let Some(Err(status)) = leases.first()
        && leases.iter().all(Result::is_err)
    {
        // Every head failed; the first one's error speaks for the call.
        return Err(status.clone());
    }

    let heads = leases.iter().flatten().map(|held| Arc::clone(&held.lease.resident));
    let job = engine::Request {
        input: Input::from(input),
        heads: heads.collect(),
        features: false,
        deadline,
    };
    let pipeline = match patience {
        Patience::Refused => &serving.pipeline,
        Patience::Waits => &serving.patient_pipeline,
    };
    let span = tracing::debug_span!("classify", request_id = %request.request_id);
    let answer = pipeline
        .clone()
        .oneshot(job)
        .instrument(span)
        .await
        .map_err(status::of_pipeline)?;

    let wanted = Wanted {
        top_k: request.top_k,
        logits: request.include_logits,
    };
    let mut logits = answer.logits.into_iter();
    let results = names.into_iter().zip(leases).map(|(name, held)| match held {
        Ok(held) => wanted.result(&held, logits.next().unwrap_or_default()),
        Err(status) => failed(name, status),
    });
    Ok(ClassifyResponse {
        results: results.collect(),
        request_id: request.request_id,
        timing: Some(timing(answer.timing)),
    })
}

/// The heads that are asked for; none means the default one.
fn names(heads: Vec<String>) -> Result<Vec<String>, Status> {
    match heads.len() {
        0 => Ok(vec![HeadName::DEFAULT.to_owned()]),
        1..=HEADS_MAX => Ok(heads),
        got => Err(invalid(
            "heads",
            format!("{got} heads are asked for, {HEADS_MAX} are the most; split the request"),
        )),
    }
}

async fn embed(
    serving: &Serving,
    request: EmbedRequest,
    deadline: Option<tokio::time::Instant>,
) -> Result<EmbedResponse, Status> {
    check_request_id(&request.request_id)?;
    let input = request
        .input
        .ok_or_else(|| invalid("input", "set `image` or `pixels`".into()))?;
    let job = engine::Request {
        input: Input::from(input),
        heads: Vec::new(),
        features: true,
        deadline,
    };
    let answer = serving
        .pipeline
        .clone()
        .oneshot(job)
        .await
        .map_err(status::of_pipeline)?;
    Ok(EmbedResponse {
        features: answer.features.unwrap_or_default(),
        request_id: request.request_id,
        timing: Some(timing(answer.timing)),
        backbone_digest: serving.model.backbone_digest.clone(),
    })
}

/// What a client wants to see of a head's logits.
struct Wanted {
    top_k: u32,
    logits: bool,
}

impl Wanted {
    fn result(&self, held: &Held, logits: Vec<f32>) -> HeadResult {
        let info = &held.version.info;
        held.version.answered();
        let k = if self.top_k == 0 {
            TOP_K_DEFAULT
        } else {
            self.top_k as usize
        };
        let prediction = |p: crate::model::Prediction| Prediction {
            index: p.index as u32,
            label: held.lease.labels.get(p.index).cloned().unwrap_or_default(),
            probability: p.probability,
        };
        HeadResult {
            head: info.name.to_string(),
            version: info.version,
            digest: info.digest.to_string(),
            predictions: top_k(&logits, k).into_iter().map(prediction).collect(),
            logits: if self.logits { logits } else { Vec::new() },
            error: None,
        }
    }
}

fn check_request_id(request_id: &str) -> Result<(), Status> {
    if request_id.len() <= REQUEST_ID_BYTES_MAX {
        return Ok(());
    }
    let got = request_id.len();
    Err(invalid(
        "request_id",
        format!("it has {got} bytes, {REQUEST_ID_BYTES_MAX} are the most"),
    ))
}

/// A stream's answer to a request that failed as a whole: every head it asked for gets the error.
fn refused(status: Status, request_id: String, heads: Vec<String>) -> ClassifyResponse {
    let heads = if heads.is_empty() {
        vec![HeadName::DEFAULT.to_owned()]
    } else {
        heads
    };
    let results = heads
        .into_iter()
        .take(HEADS_MAX)
        .map(|head| failed(head, status.clone()))
        .collect();
    ClassifyResponse {
        results,
        request_id,
        timing: None,
    }
}

fn failed(head: String, status: Status) -> HeadResult {
    HeadResult {
        head,
        error: Some(status::message(&status)),
        ..HeadResult::default()
    }
}

fn timing(timing: engine::Timing) -> Timing {
    Timing {
        decode_us: timing.decode.as_micros() as u64,
        queue_us: timing.queue.as_micros() as u64,
        compute_us: timing.compute.as_micros() as u64,
        batch_size: timing.batch_size as u32,
    }
}
