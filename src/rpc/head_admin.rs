//! `headswap.v1.HeadAdminService`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tonic::{Request, Response, Status, Streaming};

use super::head_info::Describer;
use super::listing;
use super::metrics::RpcMetrics;
use super::pb::head_admin_service_server::HeadAdminService;
use super::pb::{
    DescribeModelRequest, DescribeModelResponse, GetHeadRequest, GetHeadResponse, HeadInfo, ListHeadsRequest,
    ListHeadsResponse, Parameter, ReplaceHeadRequest, ReplaceHeadResponse, UploadHeadRequest, UploadHeadResponse,
    replace_head_request,
};
use super::status::{self, invalid};
use super::swap::{Source, Swap, Swapped};
use super::upload::upload;
use crate::heads::{HeadError, HeadName, UPLOAD_BYTES_MAX};
use crate::model::describe_layers;
use crate::service::{Gate, Serving};

/// Where ReplaceHead may read files, and how large they may be.
#[derive(Clone, Debug)]
pub struct AdminSettings {
    /// `--head-source-dir`; none refuses every `uri`.
    pub source_dir: Option<PathBuf>,
    /// A file at a `uri` may have this many bytes.
    pub source_bytes_max: u64,
}

/// Answers administration requests.
#[derive(Clone)]
pub struct HeadAdminRpc {
    gate: Gate,
    metrics: RpcMetrics,
    settings: Arc<AdminSettings>,
}

impl HeadAdminRpc {
    /// Serves what `gate` lets through.
    pub fn new(gate: Gate, metrics: RpcMetrics, settings: AdminSettings) -> Self {
        Self {
            gate,
            metrics,
            settings: Arc::new(settings),
        }
    }

    /// Answers on the blocking pool, as the store may have to be read.
    async fn read<T: Send + 'static>(
        &self,
        method: &'static str,
        answer: impl FnOnce(&Serving) -> Result<T, Status> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let started = Instant::now();
        let answer = async {
            let serving = self.gate.pass().map_err(status::of_service)?;
            let _accepted = self.gate.accept().map_err(status::of_service)?;
            let answer = tokio::task::spawn_blocking(move || answer(&serving)).await;
            answer.map_err(|_| Status::internal("reading heads panicked"))?
        };
        self.metrics.observe(method, started, answer.await.map(Response::new))
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
            let serving = self.gate.pass().map_err(status::of_service)?;
            let accepted = self.gate.accept().map_err(status::of_service)?;
            let (settings, metrics) = (Arc::clone(&self.settings), self.metrics.clone());
            let request = request.into_inner();
            Swap::detached(move || {
                let _until_the_end = accepted;
                replace(&serving, &settings, &metrics, request)
            })
            .await
        };
        let answer = answer.await.map(|swapped| Response::new(swapped.into()));
        self.metrics.observe("ReplaceHead", started, answer)
    }

    async fn upload_head(
        &self,
        request: Request<Streaming<UploadHeadRequest>>,
    ) -> Result<Response<UploadHeadResponse>, Status> {
        let started = Instant::now();
        let answer = async {
            let serving = self.gate.pass().map_err(status::of_service)?;
            upload(&self.gate, serving, self.metrics.clone(), request.into_inner()).await
        };
        let answer = answer.await.map(|swapped| Response::new(swapped.into()));
        self.metrics.observe("UploadHead", started, answer)
    }

    async fn list_heads(&self, request: Request<ListHeadsRequest>) -> Result<Response<ListHeadsResponse>, Status> {
        let request = request.into_inner();
        self.read("ListHeads", move |serving| listing::list(serving, &request))
            .await
    }

    async fn get_head(&self, request: Request<GetHeadRequest>) -> Result<Response<GetHeadResponse>, Status> {
        let request = request.into_inner();
        self.read("GetHead", move |serving| get(serving, &request)).await
    }

    async fn describe_model(
        &self,
        request: Request<DescribeModelRequest>,
    ) -> Result<Response<DescribeModelResponse>, Status> {
        let request = request.into_inner();
        self.read("DescribeModel", move |serving| describe(serving, &request))
            .await
    }
}

/// The whole swap; blocking.
fn replace(
    serving: &Serving,
    settings: &AdminSettings,
    metrics: &RpcMetrics,
    request: ReplaceHeadRequest,
) -> Result<Swapped, Status> {
    let source = match request.source {
        Some(replace_head_request::Source::Safetensors(bytes)) => Source::Bytes(bytes),
        Some(replace_head_request::Source::Uri(uri)) => Source::Path(settings.find(&uri)?),
        None => return Err(invalid("source", "set `safetensors` or `uri`".into())),
    };
    let swap = Swap {
        head: request.head,
        labels: request.labels,
        expected_version: request.expected_version,
        dry_run: request.dry_run,
        annotations: request.annotations,
    };
    swap.run(source, serving, metrics)
}

impl AdminSettings {
    /// The file that a `file://` URI names, if it lies below the source directory, links followed.
    fn find(&self, uri: &str) -> Result<PathBuf, Status> {
        let refused = |message: String| invalid("uri", message);
        let dir = self.source_dir.as_ref().ok_or_else(|| {
            refused("this server reads no files; start it with --head-source-dir or send `safetensors`".into())
        })?;
        let path = uri
            .strip_prefix("file://")
            .filter(|path| path.starts_with('/'))
            .ok_or_else(|| refused(format!("`{uri}` is no file URI; use file:///absolute/path.safetensors")))?;
        let no_such = || refused(format!("there is no file {path} below the server's --head-source-dir"));
        let dir = dir.canonicalize().map_err(|_| no_such())?;
        // What lies outside and what does not exist get the same answer, so that nobody can probe the disk.
        let real = Path::new(path).canonicalize().map_err(|_| no_such())?;
        if !real.starts_with(&dir) || !real.is_file() {
            return Err(no_such());
        }
        let bytes = real.metadata().map_err(|_| no_such())?.len();
        if bytes > self.source_bytes_max {
            return Err(refused(format!(
                "{path} has {bytes} bytes, {} are the most ({UPLOAD_BYTES_MAX})",
                self.source_bytes_max
            )));
        }
        Ok(real)
    }
}

fn get(serving: &Serving, request: &GetHeadRequest) -> Result<GetHeadResponse, Status> {
    let table = serving.registry.table();
    let find = || -> Result<_, HeadError> {
        let name = HeadName::parse(&request.head)?;
        let live = table.resolve(&name, 0)?.info.version;
        let version = table.resolve(&name, request.version)?;
        let labels = serving.registry.labels(&version)?;
        Ok((version, live, labels, table.versions(&name)))
    };
    let (version, live, labels, available_versions) = find().map_err(status::of_head)?;
    let head = HeadInfo {
        labels: labels.to_vec(),
        ..Describer::new(serving).version(&version, version.info.version == live)
    };
    Ok(GetHeadResponse {
        head: Some(head),
        available_versions,
    })
}

fn describe(serving: &Serving, request: &DescribeModelRequest) -> Result<DescribeModelResponse, Status> {
    let name = HeadName::parse(&request.head).map_err(status::of_head)?;
    let version = serving.registry.table().resolve(&name, 0).map_err(status::of_head)?;
    let (model, info, backbone) = (&serving.model, &version.info, &serving.head_limits.deeper);
    let parameters: Vec<Parameter> = model
        .architecture
        .parameters(info.classes)
        .into_iter()
        .map(|(name, shape)| Parameter {
            count: shape.iter().product::<usize>() as u64,
            shape: shape.into_iter().map(|dimension| dimension as u64).collect(),
            overridden: info.parameters.contains(&name),
            digest: backbone
                .get(&name)
                .map(|own| own.digest.to_string())
                .unwrap_or_default(),
            name,
        })
        .collect();
    Ok(DescribeModelResponse {
        layers: describe_layers(model.architecture, info.classes),
        parameter_count: parameters.iter().map(|parameter| parameter.count).sum(),
        parameters,
        backbone_digest: model.backbone_digest.clone(),
        weights: model.weights.clone(),
        device: model.device.clone(),
        precision: model.precision.clone(),
        max_batch: model.max_batch as u32,
        head: Some(Describer::new(serving).version(&version, true)),
    })
}
