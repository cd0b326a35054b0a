//! Descriptions of heads and of the model as messages.

use super::pb::{DescribeModelResponse, GetHeadResponse, HeadInfo, HeadTier, ListHeadsResponse, Parameter};
use super::pb::{ReplaceHeadResponse, UploadHeadResponse};
use crate::heads::Tier;
use crate::service::heads::{GotHead, HeadDescription, HeadPage, ModelDescription, ParameterDescription, Swapped};

impl From<HeadDescription> for HeadInfo {
    fn from(head: HeadDescription) -> Self {
        let info = head.info;
        Self {
            head: info.name.to_string(),
            version: info.version,
            digest: info.digest.to_string(),
            classes: info.classes as u32,
            labels: head.labels.to_vec(),
            annotations: info.annotations.into_iter().collect(),
            created_unix_us: info.created_unix_us,
            resident_bytes: info.resident_bytes,
            parameters: info.parameters,
            live: head.live,
            split_layer: head.split_layer,
            tier: head.tier.map_or(HeadTier::Unspecified, of_tier).into(),
            requests: head.requests,
        }
    }
}

impl From<Swapped> for ReplaceHeadResponse {
    fn from(swapped: Swapped) -> Self {
        Self {
            head: Some(swapped.head.into()),
            previous_version: swapped.previous_version,
            validate_us: swapped.validate.as_micros() as u64,
            place_us: swapped.place.as_micros() as u64,
            store_us: swapped.store.as_micros() as u64,
            sync_us: swapped.sync.as_micros() as u64,
        }
    }
}

impl From<ReplaceHeadResponse> for UploadHeadResponse {
    fn from(replaced: ReplaceHeadResponse) -> Self {
        Self {
            head: replaced.head,
            previous_version: replaced.previous_version,
            validate_us: replaced.validate_us,
            place_us: replaced.place_us,
            store_us: replaced.store_us,
            sync_us: replaced.sync_us,
        }
    }
}

impl From<UploadHeadResponse> for ReplaceHeadResponse {
    fn from(uploaded: UploadHeadResponse) -> Self {
        Self {
            head: uploaded.head,
            previous_version: uploaded.previous_version,
            validate_us: uploaded.validate_us,
            place_us: uploaded.place_us,
            store_us: uploaded.store_us,
            sync_us: uploaded.sync_us,
        }
    }
}

impl From<GotHead> for GetHeadResponse {
    fn from(got: GotHead) -> Self {
        Self {
            head: Some(got.head.into()),
            available_versions: got.available_versions,
        }
    }
}

impl From<HeadPage> for ListHeadsResponse {
    fn from(page: HeadPage) -> Self {
        Self {
            heads: page.heads.into_iter().map(HeadInfo::from).collect(),
            next_page_token: page.next_page_token,
            total_size: page.total as u64,
        }
    }
}

impl From<ModelDescription> for DescribeModelResponse {
    fn from(description: ModelDescription) -> Self {
        let parameters: Vec<Parameter> = description.parameters.into_iter().map(Parameter::from).collect();
        let model = &description.model;
        Self {
            layers: description.layers,
            parameter_count: parameters.iter().map(|parameter| parameter.count).sum(),
            parameters,
            backbone_digest: model.backbone_digest.clone(),
            weights: model.weights.clone(),
            device: model.device.clone(),
            precision: model.precision.clone(),
            max_batch: model.max_batch as u32,
            head: Some(description.head.into()),
        }
    }
}

impl From<ParameterDescription> for Parameter {
    fn from(parameter: ParameterDescription) -> Self {
        Self {
            count: parameter.shape.iter().product::<usize>() as u64,
            shape: parameter.shape.iter().map(|dimension| *dimension as u64).collect(),
            name: parameter.name,
            overridden: parameter.overridden,
            digest: parameter.digest,
        }
    }
}

fn of_tier(tier: Tier) -> HeadTier {
    match tier {
        Tier::Hot => HeadTier::Hot,
        Tier::Warm => HeadTier::Warm,
        Tier::Cold => HeadTier::Cold,
    }
}

/// The tier that a filter names; none for all.
pub(super) fn tier(tier: HeadTier) -> Option<Tier> {
    match tier {
        HeadTier::Unspecified => None,
        HeadTier::Hot => Some(Tier::Hot),
        HeadTier::Warm => Some(Tier::Warm),
        HeadTier::Cold => Some(Tier::Cold),
    }
}
