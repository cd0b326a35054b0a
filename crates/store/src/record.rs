//! The metadata in a stored version's file, which can be read without its tensors.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use headswap_checkpoint::{Checkpoint, Digest, LABELS, SPEC, excerpt};
use headswap_heads::{
    HeadError, HeadInfo, HeadName, HeadWeights, KnownBackbone, SharedTensor, assumed_without_spec, open_checkpoint,
};
use headswap_spec::{CompleteSpec, HeadSpec, LAST_BIAS};
use serde::{Deserialize, Serialize};

/// The key of the file's metadata that holds a [`Record`] as JSON.
const RECORD: &str = "headswap";

/// What cannot be derived from the tensors.
#[derive(Serialize, Deserialize)]
struct Record {
    name: String,
    version: u64,
    digest: String,
    created_unix_us: u64,
    annotations: BTreeMap<String, String>,
    /// The digest of its backbone. Files of older releases lack it; they belong to the backbone of their directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    backbone: Option<String>,
    /// Files of older releases lack it; their last bias has this length.
    classes: Option<usize>,
    /// The digests of tensors that other versions may have, too, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    shared: BTreeMap<String, String>,
    /// What of the spec was assumed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    assumed: Vec<String>,
}

/// Returns the metadata of a version's file.
pub(super) fn metadata(
    info: &HeadInfo,
    weights: &HeadWeights,
    backbone: &KnownBackbone,
) -> Result<HashMap<String, String>, serde_json::Error> {
    let record = Record {
        name: info.name.to_string(),
        version: info.version,
        digest: info.digest.to_string(),
        created_unix_us: info.created_unix_us,
        annotations: info.annotations.clone(),
        backbone: Some(backbone.digest.to_string()),
        classes: Some(info.classes),
        shared: digests(&info.shared),
        assumed: info.assumed.to_vec(),
    };
    let mut metadata = HashMap::from([(RECORD.to_owned(), serde_json::to_string(&record)?)]);
    if info.has_spec {
        // The labels have a key of their own, so that they need not be read with the spec.
        metadata.insert(SPEC.to_owned(), info.spec.to_spec(&[]).to_json());
    }
    if !weights.labels.is_empty() {
        metadata.insert(LABELS.to_owned(), serde_json::to_string(&weights.labels[..])?);
    }
    Ok(metadata)
}

/// Reads the metadata of the version at `path`, of a head on the backbone of this index, from the file's header. The error says
/// what is wrong with the file.
pub(super) fn read(path: &Path, index: usize, backbone: &KnownBackbone) -> Result<HeadInfo, String> {
    let file = Checkpoint::open(path).map_err(|error| error.to_string())?;
    let record = file
        .metadata()
        .get(RECORD)
        .ok_or("its metadata lacks the head's record")?;
    let record: Record = serde_json::from_str(record).map_err(|error| error.to_string())?;
    let name = HeadName::parse(&record.name).map_err(|error| error.to_string())?;
    let expected_path = Path::new(name.as_str()).join(format!("{}.safetensors", record.version));
    if !path.ends_with(&expected_path) {
        return Err(format!("it belongs at {}", expected_path.display()));
    }
    let names = [backbone.digest, backbone.legacy_digest].map(|digest| digest.to_string());
    if let Some(own) = record.backbone.filter(|own| !names.contains(own)) {
        return Err(format!("it belongs to the backbone {own}"));
    }
    let classes = record.classes.or_else(|| last_bias_len(&file));
    let classes = classes.ok_or("its record lacks the number of classes")?;
    let spec = spec(&file)?;
    let has_spec = spec.is_some();
    let spec = spec.unwrap_or_else(|| CompleteSpec::plain(backbone.preprocessing, classes));
    let mut parameters: Vec<String> = file.tensors().map(|entry| entry.name.clone()).collect();
    parameters.sort();
    Ok(HeadInfo {
        name,
        version: record.version,
        digest: Digest::parse(&record.digest).ok_or("its record's digest is not a SHA-256")?,
        classes,
        backbone: index,
        spec: Arc::new(spec),
        has_spec,
        assumed: if has_spec {
            record.assumed.into()
        } else {
            assumed_without_spec()
        },
        annotations: record.annotations,
        created_unix_us: record.created_unix_us,
        resident_bytes: file
            .tensors()
            .map(|entry| (entry.elements() * size_of::<f32>()) as u64)
            .sum(),
        shared: shared(&file, &record.shared)?,
        parameters,
    })
}

fn digests(shared: &[SharedTensor]) -> BTreeMap<String, String> {
    let mut digests = BTreeMap::new();
    for tensor in shared {
        digests.insert(tensor.name.to_string(), tensor.digest.to_string());
    }
    digests
}

/// Returns the tensors that other versions may have, too. Their digests are verified when they are read.
fn shared(file: &Checkpoint, digests: &BTreeMap<String, String>) -> Result<Arc<[SharedTensor]>, String> {
    let mut shared = Vec::with_capacity(digests.len());
    for (name, digest) in digests {
        let entry = file.tensors().find(|entry| entry.name == *name);
        let (Some(entry), Some(digest)) = (entry, Digest::parse(digest)) else {
            return Err(format!("its record names {}, which it does not hold", excerpt(name)));
        };
        shared.push(SharedTensor {
            name: name.as_str().into(),
            digest,
            bytes: (entry.elements() * size_of::<f32>()) as u64,
        });
    }
    Ok(shared.into())
}

/// Returns the stored spec; none for a head without one.
fn spec(file: &Checkpoint) -> Result<Option<CompleteSpec>, String> {
    let Some(json) = file.metadata().get(SPEC) else {
        return Ok(None);
    };
    let spec = HeadSpec::from_json(json).map_err(|error| error.to_string())?;
    let complete = CompleteSpec::try_from(spec).map_err(|open| format!("its spec leaves {open} open"))?;
    Ok(Some(complete))
}

fn last_bias_len(file: &Checkpoint) -> Option<usize> {
    let entry = file.tensors().find(|entry| entry.name == LAST_BIAS)?;
    entry.shape.first().copied()
}

/// Reads a version's labels from its file's header.
pub(super) fn labels(path: &Path) -> Result<Vec<String>, HeadError> {
    open_checkpoint(path)?.labels().map_err(|error| HeadError::Labels {
        reason: error.to_string(),
    })
}
