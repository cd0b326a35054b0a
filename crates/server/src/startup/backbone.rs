//! The backbone's weights and labels.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use headswap_checkpoint::{Digest, Parameters};
use headswap_heads::{HeadLimits, HeadWeights};
use headswap_model::{Backbone, WeightsSource};
use headswap_spec::{Architecture, imagenet_labels};

use crate::ServerError;
use crate::settings::{LabelsSource, ModelArgs, ServeArgs};

/// The most classes a head may have.
const CLASSES_MAX: usize = 65_536;

/// What the server knows of the backbone once its parameters are with the backend.
pub(super) struct LoadedBackbone {
    pub source: WeightsSource,
    pub architecture: Architecture,
    pub digest: Digest,
    /// What older releases called it.
    pub legacy_digest: Digest,
    /// What a head on it may be.
    pub head_limits: HeadLimits,
    /// The last Linear, which is version 1 of the default head.
    pub default_head: HeadWeights,
}

impl LoadedBackbone {
    /// Reads the weights. Returns the parameters before the last Linear beside what stays known of them.
    pub fn load(settings: &ServeArgs) -> Result<(Self, Backbone), ServerError> {
        let args = &settings.model;
        let Some(source) = &args.weights else {
            return Err(ServerError::Settings("--weights is missing".into()));
        };
        if *source == WeightsSource::Demo {
            tracing::warn!("--weights demo: the backbone is UNTRAINED; its answers mean nothing");
        }
        let preprocessing = args.preprocessing.read().map_err(ServerError::Settings)?;
        let started = Instant::now();
        let mut backbone = Backbone::load(source, args.arch)?;
        let last = backbone.take_last_linear();
        let loaded = Self {
            source: source.clone(),
            architecture: args.arch,
            digest: backbone.digest,
            legacy_digest: backbone.legacy_digest,
            head_limits: HeadLimits {
                classes_max: CLASSES_MAX,
                architecture: args.arch,
                preprocessing,
                require_spec: settings.heads.require_spec,
                backbone: digests(&backbone.parameters),
            },
            default_head: HeadWeights::new(last, labels(args, source, backbone.classes)?, preprocessing),
        };
        tracing::info!(
            weights = %source,
            digest = loaded.digest.short(),
            classes = backbone.classes,
            elapsed_ms = started.elapsed().as_millis() as u64,
            "weights read"
        );
        Ok((loaded, backbone))
    }
}

/// Returns the digests of what heads may override, besides the last Linear.
fn digests(backbone: &Parameters) -> BTreeMap<String, Digest> {
    let mut digests = BTreeMap::new();
    for (name, tensor) in backbone {
        digests.insert(name.clone(), tensor.digest());
    }
    digests
}

/// The labels of the backbone's classes: as set, else ImageNet's for trained weights of 1000 classes, else none.
fn labels(args: &ModelArgs, source: &WeightsSource, classes: usize) -> Result<Vec<String>, ServerError> {
    let labels = match &args.labels {
        Some(LabelsSource::File(path)) => read_labels(path)?,
        Some(LabelsSource::ImageNet) => imagenet_labels(),
        Some(LabelsSource::None) => return Ok(Vec::new()),
        None if *source != WeightsSource::Demo && classes == imagenet_labels().len() => imagenet_labels(),
        None => return Ok(Vec::new()),
    };
    if labels.len() != classes {
        let (given, count) = (args.labels.as_ref().map(ToString::to_string), labels.len());
        let given = given.unwrap_or_default();
        return Err(ServerError::Settings(format!(
            "--labels {given} has {count} labels, the backbone has {classes} classes; give one label for each class, one on \
             a line"
        )));
    }
    Ok(labels)
}

fn read_labels(path: &Path) -> Result<Vec<String>, ServerError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
        Err(error) => Err(ServerError::Settings(format!("--labels {}: {error}", path.display()))),
    }
}
