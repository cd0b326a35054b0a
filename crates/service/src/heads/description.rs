//! Descriptions of heads and of the model.

use std::sync::Arc;

use headswap_heads::{Backbones, HeadError, HeadInfo, HeadName, HeadRegistry, HeadVersion, Tier};
use headswap_model::PlacedHead;
use headswap_spec::{Layer, describe_backbone, describe_layers};

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
    /// The name of the backbone that it stands on.
    pub backbone: String,
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
    /// What the server runs.
    pub model: Arc<ModelInfo>,
    /// The index of the backbone that is described.
    pub backbone: usize,
    /// The layers, as PyTorch prints them.
    pub layers: String,
    /// VGG16's parameters that lead to the head, in the network's order; those of layers of the head's own are not among them.
    /// Without a head all of the backbone's.
    pub parameters: Vec<ParameterDescription>,
    /// The head whose overrides are marked, without its labels.
    pub head: Option<HeadDescription>,
}

/// One tensor of the model.
#[derive(Clone, Debug)]
pub struct ParameterDescription {
    /// Its name in torchvision.
    pub name: String,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// True if the head computes with another tensor than the backbone's.
    pub overridden: bool,
    /// The digest of the backbone's tensor; empty for the last Linear, which every head has, and for what the backbone lacks.
    pub digest: String,
}

/// Describes heads: finds the first layer that a head overrides, and the name of its backbone.
pub(super) struct Describer {
    layers: Vec<Layer>,
    backbones: Arc<Backbones>,
}

impl Describer {
    pub fn of(model: &ModelInfo) -> Self {
        Self {
            layers: model.architecture.layers(1),
            backbones: Arc::clone(&model.backbones),
        }
    }

    pub fn split_layer(&self, info: &HeadInfo) -> String {
        if let Some(split) = self.layers.iter().find(|layer| overrides(info, layer)) {
            return split.name.clone();
        }
        // Its own layers take over from here.
        info.spec.input.first_replaced().to_owned()
    }

    pub fn backbone(&self, info: &HeadInfo) -> String {
        self.backbones.get(info.backbone).name.clone()
    }

    /// Describes a version, without its labels.
    pub fn describe(&self, version: &HeadVersion<PlacedHead>, live: bool) -> HeadDescription {
        HeadDescription {
            split_layer: self.split_layer(&version.info),
            backbone: self.backbone(&version.info),
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
        let (registry, describer) = (Arc::clone(&self.registry), Arc::clone(&self.describer));
        let got = self.readers.run(move || get(&registry, &describer, &name, version));
        Ok(got.await??)
    }

    /// Describes a backbone with a live head. An empty `backbone` is that of the head, or the first if `head` is empty, too. An
    /// empty `head` is the default one, if it stands on the backbone, or else none.
    ///
    /// # Errors
    /// [`ServiceError::Head`] if there is no such head or backbone.
    pub fn describe(&self, head: &str, backbone: &str) -> Result<ModelDescription, ServiceError> {
        let chosen = self.limits.backbones.find(backbone)?;
        let version = self.registry.table().resolve(&HeadName::parse(head)?, 0);
        let (index, version) = match head {
            "" => (chosen, version.ok().filter(|version| version.info.backbone == chosen)),
            _ => {
                let version = version?;
                let index = if backbone.is_empty() {
                    version.info.backbone
                } else {
                    chosen
                };
                (index, Some(version))
            }
        };
        let (architecture, has_features) = (self.model.architecture, self.model.backbone(index).has_features);
        let (text, layers) = match &version {
            Some(version) => {
                let spec = &version.info.spec;
                (describe_layers(architecture, spec), spec.passed_layers(architecture))
            }
            None => (
                describe_backbone(architecture, has_features),
                architecture.backbone_layers(has_features),
            ),
        };
        let info = version.as_ref().map(|version| &version.info);
        Ok(ModelDescription {
            model: Arc::clone(&self.model),
            backbone: index,
            layers: text,
            parameters: self.parameters(&layers, index, info),
            head: version.as_ref().map(|version| self.describer.describe(version, true)),
        })
    }

    /// Describes the parameters of layers, of a backbone or as a head overrides them.
    fn parameters(&self, layers: &[Layer], backbone: usize, head: Option<&HeadInfo>) -> Vec<ParameterDescription> {
        let own = &self.model.backbone(backbone).parameters;
        let mut parameters = Vec::new();
        for (name, shape) in layers.iter().flat_map(Layer::parameters) {
            let digest = own.get(&name);
            let overridden = head.is_some_and(|info| {
                info.parameters.contains(&name) || self.model.backbone(info.backbone).parameters.get(&name) != digest
            });
            parameters.push(ParameterDescription {
                overridden,
                digest: digest.map(ToString::to_string).unwrap_or_default(),
                shape,
                name,
            });
        }
        parameters
    }
}

/// Reads one version; blocking. If a swap retires it during the read, it is resolved again: 0 is another version then, and
/// a number is unknown.
fn get(
    registry: &HeadRegistry<PlacedHead>,
    describer: &Describer,
    name: &HeadName,
    version: u64,
) -> Result<GotHead, HeadError> {
    loop {
        let history = registry.table().history(name, version)?;
        let labels = match registry.labels(&history.version) {
            Err(HeadError::Retired { .. }) => continue,
            labels => labels?,
        };
        let head = describer.describe(&history.version, history.live);
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
