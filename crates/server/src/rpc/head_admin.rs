//! `headswap.v1.HeadAdminService`: calls [`HeadAdmin`].

use std::sync::Arc;

use headswap_heads::HeadRequest;
use headswap_proto::head_admin_service_server::HeadAdminService;
use headswap_proto::{
    DescribeModelRequest, DescribeModelResponse, GetHeadRequest, GetHeadResponse, HeadTier, ListHeadsRequest,
    ListHeadsResponse, ReplaceHeadRequest, ReplaceHeadResponse, UploadHeadRequest, UploadHeadResponse,
    replace_head_request,
};
use headswap_service::heads::{HeadQuery, Source, Swap, Swapped};
use headswap_service::{Accepted, HeadAdmin, Lifecycle};
use tonic::{Request, Response, Status, Streaming};

use super::head_messages::{got_head, head_page, model_description, replaced, tier};
use super::metrics::RpcMetrics;
use super::spec_messages::requested;
use super::upload::upload;
use crate::edge::arrival::Peer;
use crate::edge::deadline;
use crate::status::{self, invalid};

/// The administration service.
#[derive(Clone)]
pub struct HeadAdminRpc {
    lifecycle: Lifecycle,
    metrics: RpcMetrics,
}

impl HeadAdminRpc {
    /// Serves requests while `lifecycle` is open.
    pub fn new(lifecycle: Lifecycle, metrics: RpcMetrics) -> Self {
        Self { lifecycle, metrics }
    }

    fn heads(&self) -> Result<Arc<HeadAdmin>, Status> {
        let state = self.lifecycle.pass().map_err(status::from_service)?;
        Ok(Arc::clone(&state.heads))
    }

    /// Counts a request whose whole message has arrived as accepted.
    fn accept(&self) -> Result<(Accepted, Arc<HeadAdmin>), Status> {
        let accepted = self.lifecycle.accept().map_err(status::from_service)?;
        Ok((accepted, self.heads()?))
    }
}

#[tonic::async_trait]
impl HeadAdminService for HeadAdminRpc {
    async fn replace_head(
        &self,
        request: Request<ReplaceHeadRequest>,
    ) -> Result<Response<ReplaceHeadResponse>, Status> {
        let mut observed = self.metrics.begin("ReplaceHead", &peer(&request));
        let result = async {
            let deadline = deadline::from_request(&request);
            let request = request.into_inner();
            observed.head.clone_from(&request.head);
            let (_accepted, heads) = self.accept()?;
            let swapped = replace(&heads, request, deadline).await?;
            Ok(Response::new(replaced(swapped)))
        }
        .await;
        observed.end(result)
    }

    async fn upload_head(
        &self,
        request: Request<Streaming<UploadHeadRequest>>,
    ) -> Result<Response<UploadHeadResponse>, Status> {
        let observed = self.metrics.begin("UploadHead", &peer(&request));
        let result = async {
            let deadline = deadline::from_request(&request);
            let swapped = upload(&self.lifecycle, &self.heads()?, request.into_inner(), deadline).await?;
            Ok(Response::new(replaced(swapped).into()))
        }
        .await;
        observed.end(result)
    }

    async fn list_heads(&self, request: Request<ListHeadsRequest>) -> Result<Response<ListHeadsResponse>, Status> {
        let observed = self.metrics.begin("ListHeads", &peer(&request));
        let result = async {
            let query = query(request.into_inner())?;
            let (_accepted, heads) = self.accept()?;
            let page = heads.list(query).await.map_err(status::from_service)?;
            Ok(Response::new(head_page(page)))
        }
        .await;
        observed.end(result)
    }

    async fn get_head(&self, request: Request<GetHeadRequest>) -> Result<Response<GetHeadResponse>, Status> {
        let mut observed = self.metrics.begin("GetHead", &peer(&request));
        let result = async {
            let GetHeadRequest { head, version } = request.into_inner();
            observed.head.clone_from(&head);
            let (_accepted, heads) = self.accept()?;
            let got = heads.get(&head, version).await.map_err(status::from_service)?;
            Ok(Response::new(got_head(got)))
        }
        .await;
        observed.end(result)
    }

    async fn describe_model(
        &self,
        request: Request<DescribeModelRequest>,
    ) -> Result<Response<DescribeModelResponse>, Status> {
        let mut observed = self.metrics.begin("DescribeModel", &peer(&request));
        observed.head.clone_from(&request.get_ref().head);
        let described = self.accept().and_then(|(_accepted, heads)| {
            let DescribeModelRequest { head, backbone } = request.get_ref();
            let described = heads.describe(head, backbone);
            described.map_err(status::from_service)
        });
        let result = described.map(|description| Response::new(model_description(description)));
        observed.end(result)
    }
}

async fn replace(
    heads: &HeadAdmin,
    request: ReplaceHeadRequest,
    deadline: Option<tokio::time::Instant>,
) -> Result<Swapped, Status> {
    let source = match request.source {
        Some(replace_head_request::Source::Safetensors(bytes) | replace_head_request::Source::File(bytes)) => {
            Source::Bytes(bytes)
        }
        Some(replace_head_request::Source::Uri(uri)) => Source::Uri(uri),
        None => return Err(invalid("source", "set `file` or `uri`".into())),
    };
    let (message, json) = match request.head_spec {
        Some(replace_head_request::HeadSpec::Spec(spec)) => (Some(spec), None),
        Some(replace_head_request::HeadSpec::SpecJson(json)) => (None, Some(json)),
        None => (None, None),
    };
    let swap = Swap {
        head: request.head,
        request: HeadRequest {
            labels: request.labels,
            backbone: request.backbone,
            spec: requested(message, json)?,
        },
        expected_version: request.expected_version,
        dry_run: request.dry_run,
        annotations: request.annotations.into_iter().collect(),
    };
    heads
        .replace(swap, source, deadline)
        .await
        .map_err(status::from_service)
}

fn query(request: ListHeadsRequest) -> Result<HeadQuery, Status> {
    let number = request.tier;
    let tier = HeadTier::try_from(number).map_err(|_| {
        invalid(
            "tier",
            format!("{number} is not a tier; use HOT, WARM or COLD, or leave the field empty"),
        )
    })?;
    Ok(HeadQuery {
        include_labels: request.include_labels,
        page_size: request.page_size as usize,
        page_token: request.page_token,
        name_prefix: request.name_prefix,
        tier: self::tier(tier),
    })
}

/// Returns the address of the request's client.
fn peer<T>(request: &Request<T>) -> String {
    let peer = request.extensions().get::<Peer>();
    peer.map_or_else(String::new, |peer| peer.address.clone())
}
