//! What callers are told of heads and of the model.

use std::sync::Arc;

use headswap_heads::{HeadError, HeadInfo, HeadName, HeadVersion, Tier};
use headswap_model::PlacedHead;
use headswap_spec::{Architecture, Layer, describe_layers};

use super::HeadAdmin;
use crate::{ModelInfo, ServiceError};

/// One version of a head.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadDescription {
    /// What never changes.
    pub info: HeadInfo,
    /// K labels, or none; none, too, where they are not asked for.
    pub labels: Arc<[String]>,
    /// Whether requests that name no version get it.
    pub live: bool,
    /// Where it is; none if no request may name it.
    pub tier: Option<Tier>,
    /// How many requests it answered since the server started.
    pub requests: u64,
    /// The first layer, in the network's order, that it overrides.
    pub split_layer: String,
}

/// A version of a head and its others.
#[derive(Clone, Debug)]
pub struct GotHead {
    /// The version that was asked for.
    pub head: HeadDescription,
    /// Those that can be asked for, oldest first.
    pub available_versions: Vec<u64>,
}

/// The model as it is served.
#[derive(Clone, Debug)]
pub struct ModelDescription {
    /// The backbone.
    pub model: Arc<ModelInfo>,
    /// The layers, as PyTorch prints them.
    pub layers: String,
    /// Every parameter, in the network's order.
    pub parameters: Vec<ParameterDescription>,
    /// The head whose overrides are marked, without its labels.
    pub head: HeadDescription,
}

/// One tensor of the model.
#[derive(Clone, Debug)]
pub struct ParameterDescription {
    /// As torchvision calls it.
    pub name: String,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// Whether the head overrides it.
    pub overridden: bool,
    /// Of the backbone's own; empty for the last Linear, which is a head's.
    pub digest: String,
}

/// Finds the first layer that a head overrides.
pub(super) struct SplitLayers(Vec<Layer>);

impl SplitLayers {
    pub fn of(architecture: Architecture) -> Self {
        Self(architecture.layers(1))
    }

    pub fn of_head(&self, info: &HeadInfo) -> String {
        let overrides = |layer: &&Layer| {
            let mut parameters = info.parameters.iter();
            parameters.any(|parameter| parameter.rsplit_once('.').is_some_and(|(own, _)| own == layer.name))
        };
        let split = self.0.iter().find(overrides);
        split.map(|layer| layer.name.clone()).unwrap_or_default()
    }

    /// What is told of a version but for its labels.
    pub fn describe(&self, version: &HeadVersion<PlacedHead>, live: bool) -> HeadDescription {
        HeadDescription {
            split_layer: self.of_head(&version.info),
            info: version.info.clone(),
            labels: Arc::default(),
            live,
            tier: version.tier(),
            requests: version.answers(),
        }
    }
}

impl HeadAdmin {
    /// Describes one version of a head; 0 is the live one.
    ///
    /// # Errors
    /// [`ServiceError::Head`] if it is not there or its labels cannot be read.
    pub async fn get(&self, head: &str, version: u64) -> Result<GotHead, ServiceError> {
        let name = HeadName::parse(head)?;
        let (registry, split_layers) = (Arc::clone(&self.registry), Arc::clone(&self.split_layers));
        // Again if a swap let the version go meanwhile: the live one is another then, and one asked for by its number is not
        // there.
        let get = move || loop {
            let history = registry.table().history(&name, version)?;
            let labels = match registry.labels(&history.version) {
                Err(HeadError::Retired { .. }) => continue,
                labels => labels?,
            };
            let head = split_layers.describe(&history.version, history.live);
            if head.tier.is_some() {
                return Ok::<_, ServiceError>(GotHead {
                    head: HeadDescription { labels, ..head },
                    available_versions: history.available,
                });
            }
        };
        self.readers.run(get).await?
    }

    /// Describes the model with a live head over it.
    ///
    /// # Errors
    /// [`ServiceError::Head`] if there is no such head.
    pub fn describe(&self, head: &str) -> Result<ModelDescription, ServiceError> {
        let version = self.registry.table().resolve(&HeadName::parse(head)?, 0)?;
        let (architecture, info) = (self.model.architecture, &version.info);
        let mut parameters = Vec::new();
        for (name, shape) in architecture.parameters(info.classes) {
            let own = self.limits.deeper.get(&name);
            parameters.push(ParameterDescription {
                overridden: info.parameters.contains(&name),
                digest: own.map(|own| own.digest.to_string()).unwrap_or_default(),
                shape,
                name,
            });
        }
        Ok(ModelDescription {
            model: Arc::clone(&self.model),
            layers: describe_layers(architecture, info.classes),
            parameters,
            head: self.split_layers.describe(&version, true),
        })
    }
}
