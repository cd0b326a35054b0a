//! `headswap.v1.HeadAdminService`: messages to calls of [`HeadAdmin`], results to messages.

use std::sync::Arc;

use headswap_proto::head_admin_service_server::HeadAdminService;
use headswap_proto::{
    DescribeModelRequest, DescribeModelResponse, GetHeadRequest, GetHeadResponse, HeadTier, ListHeadsRequest,
    ListHeadsResponse, ReplaceHeadRequest, ReplaceHeadResponse, UploadHeadRequest, UploadHeadResponse,
    replace_head_request,
};
use headswap_service::heads::{HeadQuery, Source, Swap, Swapped};
use headswap_service::{Accepted, Gate, HeadAdmin};
use tonic::{Request, Response, Status, Streaming};

use super::deadline;
use super::head_messages::{got_head, head_page, model_description, replaced, tier};
use super::metrics::RpcMetrics;
use super::status::{self, invalid};
use super::upload::upload;

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
        let serving = self.gate.pass().map_err(status::of_service)?;
        Ok(Arc::clone(&serving.heads))
    }

    /// The same for a request whose whole message has arrived.
    fn accept(&self) -> Result<(Accepted, Arc<HeadAdmin>), Status> {
        let accepted = self.gate.accept().map_err(status::of_service)?;
        Ok((accepted, self.heads()?))
    }
}

#[tonic::async_trait]
impl HeadAdminService for HeadAdminRpc {
    async fn replace_head(
        &self,
        request: Request<ReplaceHeadRequest>,
    ) -> Result<Response<ReplaceHeadResponse>, Status> {
        let observed = self.metrics.begin("ReplaceHead");
        let answer = async {
            let deadline = deadline::of(&request);
            let (_accepted, heads) = self.accept()?;
            let swapped = replace(&heads, request.into_inner(), deadline).await?;
            Ok(Response::new(replaced(swapped)))
        };
        observed.end(answer.await)
    }

    async fn upload_head(
        &self,
        request: Request<Streaming<UploadHeadRequest>>,
    ) -> Result<Response<UploadHeadResponse>, Status> {
        let observed = self.metrics.begin("UploadHead");
        let answer = async {
            let deadline = deadline::of(&request);
            let swapped = upload(&self.gate, &self.heads()?, request.into_inner(), deadline).await?;
            Ok(Response::new(replaced(swapped).into()))
        };
        observed.end(answer.await)
    }

    async fn list_heads(&self, request: Request<ListHeadsRequest>) -> Result<Response<ListHeadsResponse>, Status> {
        let observed = self.metrics.begin("ListHeads");
        let answer = async {
            let query = query(request.into_inner())?;
            let (_accepted, heads) = self.accept()?;
            let page = heads.list(query).await.map_err(status::of_service)?;
            Ok(Response::new(head_page(page)))
        };
        observed.end(answer.await)
    }

    async fn get_head(&self, request: Request<GetHeadRequest>) -> Result<Response<GetHeadResponse>, Status> {
        let observed = self.metrics.begin("GetHead");
        let answer = async {
            let GetHeadRequest { head, version } = request.into_inner();
            let (_accepted, heads) = self.accept()?;
            let got = heads.get(&head, version).await.map_err(status::of_service)?;
            Ok(Response::new(got_head(got)))
        };
        observed.end(answer.await)
    }

    async fn describe_model(
        &self,
        request: Request<DescribeModelRequest>,
    ) -> Result<Response<DescribeModelResponse>, Status> {
        let observed = self.metrics.begin("DescribeModel");
        let described = self.accept().and_then(|(_accepted, heads)| {
            let described = heads.describe(&request.get_ref().head);
            described.map_err(status::of_service)
        });
        let answer = described.map(|description| Response::new(model_description(description)));
        observed.end(answer)
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
        tier: self::tier(tier),
    })
}
