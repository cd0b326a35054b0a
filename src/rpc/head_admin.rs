//! `headswap.v1.HeadAdminService`: messages to calls of [`HeadAdmin`], results to messages.

use std::sync::Arc;
use std::time::Instant;

use tonic::{Request, Response, Status, Streaming};

use super::deadline;
use super::gate::Gate;
use super::head_info;
use super::metrics::RpcMetrics;
use super::pb::head_admin_service_server::HeadAdminService;
use super::pb::{
    DescribeModelRequest, DescribeModelResponse, GetHeadRequest, GetHeadResponse, HeadTier, ListHeadsRequest,
    ListHeadsResponse, ReplaceHeadRequest, ReplaceHeadResponse, UploadHeadRequest, UploadHeadResponse,
    replace_head_request,
};
use super::status::{self, invalid};
use super::upload::upload;
use crate::service::HeadAdmin;
use crate::service::heads::{HeadQuery, Source, Swap, Swapped};

/// Answers administration requests.
#[derive(Clone)]
pub struct HeadAdminRpc {
    gate: Gate,
    metrics: RpcMetrics,
}

impl HeadAdminRpc {
    /// Serves what `gate` lets through.
    pub fn new(gate: Gate, metrics: RpcMetrics) -> Self {
        Self { gate, metrics }
    }

    fn heads(&self) -> Result<Arc<HeadAdmin>, Status> {
        Ok(Arc::clone(&self.gate.pass()?.heads))
    }
}

#[tonic::async_trait]
impl HeadAdminService for HeadAdminRpc {
    async fn replace_head(
        &self,
        request: Request<ReplaceHeadRequest>,
    ) -> Result<Response<ReplaceHeadResponse>, Status> {
        let started = Instant::now();
        let answer = async {
            let deadline = deadline::of(request.metadata());
            let heads = self.heads()?;
            let swapped = replace(&heads, request.into_inner(), deadline).await?;
            Ok(Response::new(swapped.into()))
        };
        self.metrics.observe("ReplaceHead", started, answer.await)
    }

    async fn upload_head(
        &self,
        request: Request<Streaming<UploadHeadRequest>>,
    ) -> Result<Response<UploadHeadResponse>, Status> {
        let started = Instant::now();
        let answer = async {
            let deadline = deadline::of(request.metadata());
            let swapped = upload(&self.heads()?, request.into_inner(), deadline).await?;
            Ok(Response::new(ReplaceHeadResponse::from(swapped).into()))
        };
        self.metrics.observe("UploadHead", started, answer.await)
    }

    async fn list_heads(&self, request: Request<ListHeadsRequest>) -> Result<Response<ListHeadsResponse>, Status> {
        let started = Instant::now();
        let answer = async {
            let query = query(request.into_inner())?;
            let page = self.heads()?.list(query).await.map_err(status::of_service)?;
            Ok(Response::new(page.into()))
        };
        self.metrics.observe("ListHeads", started, answer.await)
    }

    async fn get_head(&self, request: Request<GetHeadRequest>) -> Result<Response<GetHeadResponse>, Status> {
        let started = Instant::now();
        let answer = async {
            let GetHeadRequest { head, version } = request.into_inner();
            let got = self.heads()?.get(&head, version).await.map_err(status::of_service)?;
            Ok(Response::new(got.into()))
        };
        self.metrics.observe("GetHead", started, answer.await)
    }

    async fn describe_model(
        &self,
        request: Request<DescribeModelRequest>,
    ) -> Result<Response<DescribeModelResponse>, Status> {
        let started = Instant::now();
        let described = self.heads().and_then(|heads| {
            let described = heads.describe(&request.get_ref().head);
            described.map_err(status::of_service)
        });
        let answer = described.map(|description| Response::new(description.into()));
        self.metrics.observe("DescribeModel", started, answer)
    }
}

async fn replace(
    heads: &HeadAdmin,
    request: ReplaceHeadRequest,
    deadline: Option<tokio::time::Instant>,
) -> Result<Swapped, Status> {
    let source = match request.source {
        Some(replace_head_request::Source::Safetensors(bytes)) => Source::Bytes(bytes),
        Some(replace_head_request::Source::Uri(uri)) => Source::Uri(uri),
        None => return Err(invalid("source", "set `safetensors` or `uri`".into())),
    };
    let swap = Swap {
        head: request.head,
        labels: request.labels,
        expected_version: request.expected_version,
        dry_run: request.dry_run,
        annotations: request.annotations.into_iter().collect(),
    };
    heads.replace(swap, source, deadline).await.map_err(status::of_service)
}

fn query(request: ListHeadsRequest) -> Result<HeadQuery, Status> {
    let number = request.tier;
    let tier = HeadTier::try_from(number)
        .map_err(|_| invalid("tier", format!("{number} is no tier; use HOT, WARM, COLD or none")))?;
    Ok(HeadQuery {
        include_labels: request.include_labels,
        page_size: request.page_size as usize,
        page_token: request.page_token,
        name_prefix: request.name_prefix,
        tier: head_info::tier(tier),
    })
}
