//! A stored version as one safetensors file: the tensors, and everything else in its metadata.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::{Deserialize, Serialize};

use super::name::HeadName;
use super::store::StoredHead;
use super::version::HeadInfo;
use super::weights::{HeadLimits, HeadWeights};
use crate::model::Checkpoint;

/// Under this key the metadata holds a [`Record`] as JSON.
const RECORD: &str = "headswap";

/// What the tensors do not tell.
#[derive(Serialize, Deserialize)]
struct Record {
    name: String,
    version: u64,
    digest: String,
    created_unix_us: u64,
    annotations: BTreeMap<String, String>,
}

/// The file's bytes.
pub(super) fn encode(info: &HeadInfo, weights: &HeadWeights) -> Result<Vec<u8>, String> {
    let record = Record {
        name: info.name.to_string(),
        version: info.version,
        digest: info.digest.to_string(),
        created_unix_us: info.created_unix_us,
        annotations: info.annotations.clone(),
    };
    let json = |value: Result<String, serde_json::Error>| value.map_err(|error| error.to_string());
    let mut metadata = HashMap::from([(RECORD.to_owned(), json(serde_json::to_string(&record))?)]);
    if !weights.labels.is_empty() {
        metadata.insert("labels".into(), json(serde_json::to_string(&weights.labels[..]))?);
    }
    let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = weights
        .parameters
        .iter()
        .map(|(name, tensor)| {
            (
                name,
                &tensor.shape,
                tensor.values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            )
        })
        .collect();
    let views: Vec<(&String, TensorView<'_>)> = bytes
        .iter()
        .map(|(name, shape, bytes)| Ok((*name, TensorView::new(Dtype::F32, (*shape).clone(), bytes)?)))
        .collect::<Result<_, safetensors::SafeTensorError>>()
        .map_err(|error| error.to_string())?;
    safetensors::serialize(views, Some(metadata)).map_err(|error| error.to_string())
}

/// Reads a file back and checks that it is what was acknowledged.
pub(super) fn decode(bytes: &[u8], path: &Path, limits: &HeadLimits) -> Result<StoredHead, String> {
    let checkpoint = Checkpoint::from_bytes(bytes.to_vec().into()).map_err(|error| error.to_string())?;
    let weights = HeadWeights::from_checkpoint(&checkpoint, Vec::new(), limits).map_err(|error| error.to_string())?;
    let record = checkpoint
        .metadata()
        .get(RECORD)
        .ok_or("its metadata lacks the head's record")?;
    let record: Record = serde_json::from_str(record).map_err(|error| error.to_string())?;
    if weights.digest.to_string() != record.digest {
        return Err(format!(
            "its digest is {}, {} was acknowledged",
            weights.digest, record.digest
        ));
    }
    let name = HeadName::parse(&record.name).map_err(|error| error.to_string())?;
    let place = Path::new(name.as_str()).join(format!("{}.safetensors", record.version));
    if !path.ends_with(&place) {
        return Err(format!("it belongs at {}", place.display()));
    }
    let info = HeadInfo {
        name,
        version: record.version,
        digest: weights.digest,
        classes: weights.classes,
        labels: weights.labels.clone(),
        annotations: record.annotations,
        created_unix_us: record.created_unix_us,
        parameters: weights.parameters.keys().cloned().collect(),
        resident_bytes: weights.bytes(),
    };
    Ok(StoredHead { info, weights })
}
