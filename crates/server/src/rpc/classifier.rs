//! `headswap.v1.ClassifierService`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use headswap_engine::{self, Class};
use headswap_proto::classifier_service_server::ClassifierService;
use headswap_proto::{
    ClassifyRequest, ClassifyResponse, ClassifyStreamRequest, EmbedKind, EmbedRequest, EmbedResponse, HeadResult,
    Prediction, Timing, classify_request, embed_request,
};
use headswap_service::{Classified, ClassifyQuery, EmbedQuery, HeadAnswer, Lifecycle, Picture, Scored, ServiceError};
use tonic::{Request, Response, Status, Streaming};

use super::classify_stream::{ClassifyStream, ResponseStream, StreamLimits};
use super::context;
use super::metrics::RpcMetrics;
use super::spec_messages::{output_kind, preprocessing_of};
use crate::status;

/// The classification service.
#[derive(Clone)]
pub struct ClassifierRpc {
    lifecycle: Lifecycle,
    metrics: RpcMetrics,
    limits: StreamLimits,
    /// The number of streams so far; each stream is a flow of its own.
    streams: Arc<AtomicU64>,
}

impl ClassifierRpc {
    /// Limits each stream to `in_flight_max` requests in flight, including unread responses, and closes a stream that makes no
    /// progress for `idle_max`.
    pub fn new(lifecycle: Lifecycle, metrics: RpcMetrics, in_flight_max: usize, idle_max: Duration) -> Self {
        Self {
            lifecycle,
            metrics,
            limits: StreamLimits {
                in_flight_max,
                idle_max,
            },
            streams: Arc::default(),
        }
    }
}

#[tonic::async_trait]
impl ClassifierService for ClassifierRpc {
    type ClassifyStreamStream = ResponseStream;

    async fn classify(&self, request: Request<ClassifyRequest>) -> Result<Response<ClassifyResponse>, Status> {
        let mut call = context::from_request(&request, Class::Interactive);
        let mut observed = self.metrics.begin("Classify", &call.peer);
        let result = async {
            let _accepted = self.lifecycle.accept()?;
            let state = self.lifecycle.pass()?;
            let request = request.into_inner();
            call.request_id.clone_from(&request.request_id);
            observed.request_id.clone_from(&request.request_id);
            observed.head = request.heads.join(",");
            let admitted = state.admit(&call).await?;
            let classified = state.classify(&call, admitted, query(request)).await?;
            Ok(response(classified, std::mem::take(&mut call.request_id)))
        }
        .await;
        observed.end(result.map(Response::new).map_err(status::from_service))
    }

    async fn classify_stream(
        &self,
        request: Request<Streaming<ClassifyStreamRequest>>,
    ) -> Result<Response<ResponseStream>, Status> {
        let state = self.lifecycle.pass().map_err(status::from_service)?;
        let mut call = context::from_request(&request, Class::Bulk);
        call.flow = self.streams.fetch_add(1, Ordering::Relaxed);
        let stream = ClassifyStream {
            call,
            state,
            lifecycle: self.lifecycle.clone(),
            metrics: self.metrics.clone(),
            limits: self.limits,
        };
        Ok(Response::new(stream.start(request.into_inner())))
    }

    async fn embed(&self, request: Request<EmbedRequest>) -> Result<Response<EmbedResponse>, Status> {
        let mut call = context::from_request(&request, Class::Interactive);
        let mut observed = self.metrics.begin("Embed", &call.peer);
        let result = async {
            let _accepted = self.lifecycle.accept()?;
            let state = self.lifecycle.pass()?;
            let request = request.into_inner();
            let kind = embed_kind(request.kind)?;
            call.request_id = request.request_id;
            observed.request_id.clone_from(&call.request_id);
            let picture = request.input.map(|input| match input {
                embed_request::Input::Image(bytes) => Picture::Encoded(bytes),
                embed_request::Input::Pixels(bytes) => Picture::Pixels(bytes),
            });
            let preprocessing = preprocessing_of(&request.preprocessing_json)?;
            let query = EmbedQuery {
                picture,
                backbone: request.backbone,
                head: request.head,
                version: request.head_version,
                preprocessing,
                kind,
            };
            let embedded = state.embed(&call, query).await?;
            Ok(EmbedResponse {
                features: embedded.features,
                request_id: std::mem::take(&mut call.request_id),
                timing: Some(timing(embedded.timing)),
                backbone_digest: embedded.backbone_digest,
            })
        }
        .await;
        observed.end(result.map(Response::new).map_err(status::from_service))
    }
}

fn embed_kind(kind: i32) -> Result<headswap_service::EmbedKind, ServiceError> {
    match EmbedKind::try_from(kind) {
        Ok(EmbedKind::Unspecified | EmbedKind::Features) => Ok(headswap_service::EmbedKind::Features),
        Ok(EmbedKind::Pool) => Ok(headswap_service::EmbedKind::Pool),
        Ok(EmbedKind::Gap) => Ok(headswap_service::EmbedKind::Gap),
        Err(_) => Err(ServiceError::Invalid {
            field: "kind",
            message: format!("kind: this server does not know the value {kind}"),
        }),
    }
}

/// Converts a request to a query.
pub(super) fn query(request: ClassifyRequest) -> ClassifyQuery {
    ClassifyQuery {
        picture: request.input.map(|input| match input {
            classify_request::Input::Image(bytes) => Picture::Encoded(bytes),
            classify_request::Input::Pixels(bytes) => Picture::Pixels(bytes),
        }),
        heads: request.heads,
        version: request.head_version,
        top_k: request.top_k,
        include_logits: request.include_logits,
    }
}

/// Converts the results to a response.
pub(super) fn response(classified: Classified, request_id: String) -> ClassifyResponse {
    ClassifyResponse {
        results: classified.results.into_iter().map(result).collect(),
        request_id,
        timing: Some(timing(classified.timing)),
    }
}

/// Converts one head's result.
pub(super) fn result(answer: HeadAnswer) -> HeadResult {
    let scores = match answer.outcome {
        Ok(scores) => scores,
        Err(error) => {
            return HeadResult {
                head: answer.head,
                error: Some(status::to_message(&status::from_service(error))),
                ..HeadResult::default()
            };
        }
    };
    let mut predictions = Vec::with_capacity(scores.predictions.len());
    for prediction in scores.predictions {
        let Scored { prediction, label } = prediction;
        predictions.push(Prediction {
            index: prediction.index as u32,
            label,
            probability: prediction.probability,
            kind: output_kind(scores.output).into(),
            value: prediction.value,
            group: prediction.group as u32,
        });
    }
    HeadResult {
        head: answer.head,
        version: scores.version,
        digest: scores.digest,
        predictions,
        logits: scores.logits,
        error: None,
    }
}

fn timing(timing: headswap_engine::Timing) -> Timing {
    Timing {
        decode_us: timing.decode.as_micros() as u64,
        queue_us: timing.queue.as_micros() as u64,
        compute_us: timing.compute.as_micros() as u64,
        batch_size: timing.batch_size as u32,
    }
}
