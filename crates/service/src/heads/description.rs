//! Descriptions of heads and of the model.

use std::sync::Arc;

use headswap_heads::{HeadError, HeadInfo, HeadName, HeadRegistry, HeadVersion, Tier};
use headswap_model::PlacedHead;
use headswap_spec::{Architecture, Layer, describe_layers};

use super::HeadAdmin;
use crate::{ModelInfo, ServiceError};

/// One version of a head.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadDescription {
    /// Its metadata.
    pub info: HeadInfo,
    /// K labels; empty if it has none or they were not requested.
    pub labels: Arc<[String]>,
    /// True if requests that name no version get it.
    pub live: bool,
    /// Its tier; none if it is retired or, after a dry run, not published.
    pub tier: Option<Tier>,
    /// The number of requests that it answered since the server started.
    pub requests: u64,
    /// The first layer, in the network's order, that it overrides.
    pub split_layer: String,
}

/// A version of a head, and the numbers of all its versions.
#[derive(Clone, Debug)]
pub struct GotHead {
    /// The requested version.
    pub head: HeadDescription,
    /// The versions that requests may name, oldest first.
    pub available_versions: Vec<u64>,
}

/// The served model.
#[derive(Clone, Debug)]
pub struct ModelDescription {
    /// The backbone.
    pub model: Arc<ModelInfo>,
    /// The layers, as PyTorch prints them.
    pub layers: String,
    /// VGG16's parameters that lead to the head, in the network's order; those of layers of the head's own are not among them.
    pub parameters: Vec<ParameterDescription>,
    /// The head whose overrides are marked, without its labels.
    pub head: HeadDescription,
}

/// One tensor of the model.
#[derive(Clone, Debug)]
pub struct ParameterDescription {
    /// Its name in torchvision.
    pub name: String,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// True if the head overrides it.
    pub overridden: bool,
    /// The digest of the backbone's tensor; empty for the last Linear, which every head has.
    pub digest: String,
}

/// Finds the first layer that a head overrides.
pub(super) struct SplitLayers(Vec<Layer>);

impl SplitLayers {
    pub fn of(architecture: Architecture) -> Self {
        Self(architecture.layers(1))
    }

    pub fn of_head(&self, info: &HeadInfo) -> String {
        if let Some(split) = self.0.iter().find(|layer| overrides(info, layer)) {
            return split.name.clone();
        }
        // Its own layers take over from here.
        info.spec.input.first_replaced().to_owned()
    }

    /// Describes a version, without its labels.
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
    /// [`ServiceError::Head`] if it does not exist or its labels cannot be read.
    pub async fn get(&self, head: &str, version: u64) -> Result<GotHead, ServiceError> {
        let name = HeadName::parse(head)?;
        let (registry, split_layers) = (Arc::clone(&self.registry), Arc::clone(&self.split_layers));
        let got = self.readers.run(move || get(&registry, &split_layers, &name, version));
        Ok(got.await??)
    }

    /// Describes the model with a live head.
    ///
    /// # Errors
    /// [`ServiceError::Head`] if there is no such head.
    pub fn describe(&self, head: &str) -> Result<ModelDescription, ServiceError> {
        let version = self.registry.table().resolve(&HeadName::parse(head)?, 0)?;
        let (architecture, info) = (self.model.architecture, &version.info);
        let mut parameters = Vec::new();
        let layers = info.spec.passed_layers(architecture);
        for (name, shape) in layers.iter().flat_map(Layer::parameters) {
            let own = self.limits.backbone.get(&name);
            parameters.push(ParameterDescription {
                overridden: info.parameters.contains(&name),
                digest: own.map(ToString::to_string).unwrap_or_default(),
                shape,
                name,
            });
        }
        Ok(ModelDescription {
            model: Arc::clone(&self.model),
            layers: describe_layers(architecture, &info.spec),
            parameters,
            head: self.split_layers.describe(&version, true),
        })
    }
}

/// Reads one version; blocking. If a swap retires it during the read, it is resolved again: 0 is another version then, and
/// a number is unknown.
fn get(
    registry: &HeadRegistry<PlacedHead>,
    split_layers: &SplitLayers,
    name: &HeadName,
    version: u64,
) -> Result<GotHead, HeadError> {
    loop {
        let history = registry.table().history(name, version)?;
        let labels = match registry.labels(&history.version) {
            Err(HeadError::Retired { .. }) => continue,
            labels => labels?,
        };
        let head = split_layers.describe(&history.version, history.live);
        if head.tier.is_some() {
            return Ok(GotHead {
                head: HeadDescription { labels, ..head },
                available_versions: history.available,
            });
        }
    }
}

fn overrides(info: &HeadInfo, layer: &Layer) -> bool {
    let mut parameters = info.parameters.iter();
    parameters.any(|parameter| parameter.rsplit_once('.').is_some_and(|(own, _)| own == layer.name))
}
