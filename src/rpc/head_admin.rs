//! `headswap.v1.HeadAdminService`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tonic::{Request, Response, Status};

use super::gate::{Gate, Serving};
use super::metrics::RpcMetrics;
use super::pb::head_admin_service_server::HeadAdminService;
use super::pb::{
    DescribeModelRequest, DescribeModelResponse, GetHeadRequest, GetHeadResponse, HeadInfo, ListHeadsRequest,
    ListHeadsResponse, Parameter, ReplaceHeadRequest, ReplaceHeadResponse, replace_head_request,
};
use super::status::{self, invalid};
use crate::heads::{self, HeadError, HeadName, HeadVersion, HeadWeights, Replacement};
use crate::model::{PlacedHead, describe_layers};

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
}

#[tonic::async_trait]
impl HeadAdminService for HeadAdminRpc {
    async fn replace_head(
        &self,
        request: Request<ReplaceHeadRequest>,
    ) -> Result<Response<ReplaceHeadResponse>, Status> {
        let started = Instant::now();
        let answer = async {
            let serving = self.gate.pass()?;
            let (settings, metrics) = (Arc::clone(&self.settings), self.metrics.clone());
            // Detached: once begun, a swap ends, whether or not its caller still waits.
            let swap =
                tokio::task::spawn_blocking(move || replace(&serving, &settings, &metrics, request.into_inner()));
            swap.await
                .map_err(|_| Status::internal("the swap panicked; the live head is unchanged"))?
        };
        self.metrics
            .observe("ReplaceHead", started, answer.await.map(Response::new))
    }

    async fn list_heads(&self, request: Request<ListHeadsRequest>) -> Result<Response<ListHeadsResponse>, Status> {
        let started = Instant::now();
        let include_labels = request.into_inner().include_labels;
        let list = |serving: Arc<Serving>| {
            let labels = |version: &HeadVersion<_>| match include_labels {
                true => serving.registry.labels(version).unwrap_or_default(),
                false => Arc::default(),
            };
            let info = |version: Arc<HeadVersion<PlacedHead>>| head_info(&version.info, true, &labels(&version));
            Response::new(ListHeadsResponse {
                heads: serving.registry.table().list().into_iter().map(info).collect(),
            })
        };
        self.metrics.observe("ListHeads", started, self.gate.pass().map(list))
    }

    async fn get_head(&self, request: Request<GetHeadRequest>) -> Result<Response<GetHeadResponse>, Status> {
        let started = Instant::now();
        let answer = self.gate.pass().and_then(|serving| get(&serving, request.into_inner()));
        self.metrics.observe("GetHead", started, answer.map(Response::new))
    }

    async fn describe_model(
        &self,
        request: Request<DescribeModelRequest>,
    ) -> Result<Response<DescribeModelResponse>, Status> {
        let started = Instant::now();
        let answer = self
            .gate
            .pass()
            .and_then(|serving| describe(&serving, request.into_inner()));
        self.metrics
            .observe("DescribeModel", started, answer.map(Response::new))
    }
}

/// The whole swap; blocking.
fn replace(
    serving: &Serving,
    settings: &AdminSettings,
    metrics: &RpcMetrics,
    request: ReplaceHeadRequest,
) -> Result<ReplaceHeadResponse, Status> {
    let started = Instant::now();
    let name = HeadName::parse(&request.head).map_err(status::of_head)?;
    let bytes = match request.source {
        Some(replace_head_request::Source::Safetensors(bytes)) => bytes,
        Some(replace_head_request::Source::Uri(uri)) => settings.read(&uri)?.into(),
        None => return Err(invalid("source", "set `safetensors` or `uri`".into())),
    };
    let weights =
        HeadWeights::from_safetensors(&bytes, request.labels, &serving.head_limits).map_err(status::of_head)?;
    drop(bytes);
    let validate = started.elapsed();

    let replacement = Replacement {
        name,
        weights,
        expected_version: request.expected_version,
        dry_run: request.dry_run,
        annotations: request.annotations.into_iter().collect(),
    };
    let replaced = serving.registry.replace(replacement).map_err(status::of_head)?;
    let info = &replaced.info;
    if !request.dry_run {
        metrics.swapped(info.name.as_str(), info.version);
        tracing::info!(head = %info.name, version = info.version, digest = info.digest.short(), classes = info.classes,
            previous_version = replaced.previous_version, "head replaced");
    }
    Ok(ReplaceHeadResponse {
        head: Some(head_info(info, !request.dry_run, &replaced.labels)),
        previous_version: replaced.previous_version,
        validate_us: validate.as_micros() as u64,
        place_us: replaced.place.as_micros() as u64,
        store_us: replaced.store.as_micros() as u64,
    })
}

impl AdminSettings {
    /// Reads the file that a `file://` URI names, if it lies below the source directory, links followed.
    fn read(&self, uri: &str) -> Result<Vec<u8>, Status> {
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
                "{path} has {bytes} bytes, {} are the most (--admin-message-bytes-max)",
                self.source_bytes_max
            )));
        }
        std::fs::read(&real).map_err(|error| refused(format!("cannot read {path}: {error}")))
    }
}

fn get(serving: &Serving, request: GetHeadRequest) -> Result<GetHeadResponse, Status> {
    let table = serving.registry.table();
    let find = || -> Result<_, HeadError> {
        let name = HeadName::parse(&request.head)?;
        let live = table.resolve(&name, 0)?.info.version;
        Ok((table.resolve(&name, request.version)?, live, table.versions(&name)))
    };
    let (version, live, available_versions) = find().map_err(status::of_head)?;
    let labels = serving.registry.labels(&version).map_err(status::of_head)?;
    let head = head_info(&version.info, version.info.version == live, &labels);
    Ok(GetHeadResponse {
        head: Some(head),
        available_versions,
    })
}

fn describe(serving: &Serving, request: DescribeModelRequest) -> Result<DescribeModelResponse, Status> {
    let name = HeadName::parse(&request.head).map_err(status::of_head)?;
    let version = serving.registry.table().resolve(&name, 0).map_err(status::of_head)?;
    let (model, info) = (&serving.model, &version.info);
    let parameters: Vec<Parameter> = model
        .architecture
        .parameters(info.classes)
        .into_iter()
        .map(|(name, shape)| Parameter {
            count: shape.iter().product::<usize>() as u64,
            shape: shape.into_iter().map(|dimension| dimension as u64).collect(),
            overridden: info.parameters.contains(&name),
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
        head: Some(head_info(info, true, &[])),
    })
}

fn head_info(info: &heads::HeadInfo, live: bool, labels: &[String]) -> HeadInfo {
    HeadInfo {
        head: info.name.to_string(),
        version: info.version,
        digest: info.digest.to_string(),
        classes: info.classes as u32,
        labels: labels.to_vec(),
        annotations: info.annotations.clone().into_iter().collect(),
        created_unix_us: info.created_unix_us,
        resident_bytes: info.resident_bytes,
        parameters: info.parameters.clone(),
        live,
    }
}
