//! The backbones' weights, and the first one's labels.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use headswap_checkpoint::{Digest, Graph, Parameters, compose_preprocessing, labels_from_json};
use headswap_heads::{Backbones, HeadLimits, HeadWeights, KnownBackbone};
use headswap_model::{Backbone, WeightsSource};
use headswap_spec::{Architecture, LAST_BIAS, LAST_WEIGHT, Preprocessing, imagenet_labels};

use crate::ServerError;
use crate::settings::{BackboneArgs, LabelsSource, ModelArgs, ServeArgs};

/// The most classes a head may have.
const CLASSES_MAX: usize = 65_536;

/// What the server knows of the backbones once their parameters are with the backend.
pub(super) struct LoadedBackbones {
    pub architecture: Architecture,
    /// What a head on one of them may be.
    pub head_limits: HeadLimits,
    /// The first backbone's last Linear, which is version 1 of the default head; none if its file lacks it.
    pub default_head: Option<HeadWeights>,
}

impl LoadedBackbones {
    /// Reads the weights. Returns the parameters before the last Linears beside what stays known of them.
    pub fn load(settings: &ServeArgs) -> Result<(Self, Vec<Backbone>), ServerError> {
        let args = &settings.model;
        let backbones = args
            .backbones()
            .map_err(|mistakes| ServerError::Settings(mistakes.join("\n")))?;
        let (mut known, mut parameters): (Vec<KnownBackbone>, Vec<Backbone>) = (Vec::new(), Vec::new());
        let mut default_head = None;
        for backbone in &backbones {
            let (one, mut loaded) = load(backbone, args.arch)?;
            if let Some(same) = known.iter().find(|other| other.digest == one.digest) {
                return Err(ServerError::Settings(format!(
                    "--weights: the backbones {} and {} have the same parameters; leave out one",
                    same.name, one.name
                )));
            }
            let last = loaded.take_last_linear();
            if let Some(classes) = loaded.classes.filter(|_| known.is_empty()) {
                let labels = labels(args, &backbone.weights, classes)?;
                default_head = Some(HeadWeights::new(last, labels, one.preprocessing));
            }
            known.push(one);
            parameters.push(loaded);
        }
        if known.is_empty() {
            return Err(ServerError::Settings("--weights is missing".into()));
        }
        let loaded = Self {
            architecture: args.arch,
            head_limits: HeadLimits {
                classes_max: CLASSES_MAX,
                architecture: args.arch,
                require_spec: settings.heads.require_spec,
                backbones: Backbones::new(known.remove(0), known),
            },
            default_head,
        };
        Ok((loaded, parameters))
    }
}

/// Reads one backbone.
fn load(args: &BackboneArgs, architecture: Architecture) -> Result<(KnownBackbone, Backbone), ServerError> {
    let (name, source) = (&args.name, &args.weights);
    if *source == WeightsSource::Demo {
        tracing::warn!("--weights demo: the backbone is UNTRAINED; its answers mean nothing");
    }
    let preprocessing = args.preprocessing.read().map_err(ServerError::Settings)?;
    let started = Instant::now();
    let backbone = Backbone::load(source, architecture)?;
    let preprocessing = match &backbone.graph {
        Some(graph) => with_own_layers(args, &preprocessing, graph)?,
        None => preprocessing,
    };
    let has_features = backbone.has_features();
    tracing::info!(
        name,
        weights = %source,
        digest = backbone.digest.short(),
        classes = backbone.classes.unwrap_or(0),
        elapsed_ms = started.elapsed().as_millis() as u64,
        "weights read"
    );
    if !has_features {
        tracing::info!(
            name,
            "the backbone has no features, because its file has not VGG16's Linears: heads on it begin with the last pooling's \
             map"
        );
    }
    let known = KnownBackbone {
        name: name.clone(),
        digest: backbone.digest,
        legacy_digest: backbone.legacy_digest,
        source: source.to_string(),
        preprocessing,
        has_features,
        parameters: digests(&backbone.parameters),
    };
    Ok((known, backbone))
}

/// Returns the preprocessing of the pictures that the first convolution gets: what the model was fed, followed by what its
/// file's own first layers compute.
fn with_own_layers(args: &BackboneArgs, fed: &Preprocessing, graph: &Graph) -> Result<Preprocessing, ServerError> {
    let mut assumed = Vec::new();
    let composed = compose_preprocessing(fed, graph, &mut assumed);
    let composed = composed.map_err(|error| ServerError::Settings(format!("--weights {}: {error}", args.weights)))?;
    for line in assumed {
        tracing::info!(name = args.name, "{line}");
    }
    Ok(composed)
}

/// Returns the digests of what heads may override, which the last Linear is not.
fn digests(backbone: &Parameters) -> BTreeMap<String, Digest> {
    let mut digests = BTreeMap::new();
    for (name, tensor) in backbone {
        if ![LAST_WEIGHT, LAST_BIAS].contains(&name.as_str()) {
            digests.insert(name.clone(), tensor.digest());
        }
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
        // A JSON list, or Keras's class_indices.
        Ok(text) => Ok(labels_from_json(&text).unwrap_or_else(|_| text.lines().map(str::to_owned).collect())),
        Err(error) => Err(ServerError::Settings(format!("--labels {}: {error}", path.display()))),
    }
}
