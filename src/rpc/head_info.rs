//! What clients are told of a version.

use super::pb::{HeadInfo, HeadTier};
use crate::heads::{self, Tier};
use crate::model::Layer;
use crate::service::{Serving, Version};

/// Describes versions of one model's heads.
pub(super) struct Describer {
    layers: Vec<Layer>,
}

impl Describer {
    pub fn new(serving: &Serving) -> Self {
        Self {
            layers: serving.model.architecture.layers(1),
        }
    }

    /// What is known of it wherever it is, without its labels.
    pub fn info(&self, info: &heads::HeadInfo) -> HeadInfo {
        HeadInfo {
            head: info.name.to_string(),
            version: info.version,
            digest: info.digest.to_string(),
            classes: info.classes as u32,
            annotations: info.annotations.clone().into_iter().collect(),
            created_unix_us: info.created_unix_us,
            resident_bytes: info.resident_bytes,
            parameters: info.parameters.clone(),
            split_layer: self.split_layer(info),
            ..HeadInfo::default()
        }
    }

    /// That, and where it is.
    pub fn version(&self, version: &Version, live: bool) -> HeadInfo {
        HeadInfo {
            live,
            tier: version.tier().map_or(HeadTier::Unspecified, tier).into(),
            requests: version.answers(),
            ..self.info(&version.info)
        }
    }

    /// The first layer, in the network's order, that a head overrides.
    fn split_layer(&self, info: &heads::HeadInfo) -> String {
        let layer_of = |parameter: &'_ String| parameter.rsplit_once('.').map(|(layer, _)| layer.to_owned());
        let overridden: Vec<String> = info.parameters.iter().filter_map(layer_of).collect();
        let split = self.layers.iter().find(|layer| overridden.contains(&layer.name));
        split.map(|layer| layer.name.clone()).unwrap_or_default()
    }
}

pub(super) fn tier(tier: Tier) -> HeadTier {
    match tier {
        Tier::Hot => HeadTier::Hot,
        Tier::Warm => HeadTier::Warm,
        Tier::Cold => HeadTier::Cold,
    }
}
