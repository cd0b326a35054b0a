//! Conversions of head and model descriptions to messages.

use super::spec_messages::{preprocessing_message, spec_message};
use headswap_heads::{KnownBackbone, Tier};
use headswap_proto::{
    Backbone, DescribeModelResponse, GetHeadResponse, HeadInfo, HeadTier, ListHeadsResponse, Parameter,
    ReplaceHeadResponse,
};
use headswap_service::heads::{GotHead, HeadDescription, HeadPage, ModelDescription, ParameterDescription, Swapped};
use headswap_spec::Architecture;

pub(super) fn head_info(head: HeadDescription) -> HeadInfo {
    let info = head.info;
    HeadInfo {
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
        tier: head.tier.map_or(HeadTier::Unspecified, tier_message).into(),
        requests: head.requests,
        spec: Some(spec_message(&info.spec)),
        spec_json: info.spec.to_spec(&[]).to_json(),
        assumed: info.assumed.to_vec(),
        backbone: head.backbone,
    }
}

pub(super) fn replaced(swapped: Swapped) -> ReplaceHeadResponse {
    ReplaceHeadResponse {
        head: Some(head_info(swapped.head)),
        previous_version: swapped.previous_version,
        validate_us: swapped.validate.as_micros() as u64,
        place_us: swapped.place.as_micros() as u64,
        store_us: swapped.store.as_micros() as u64,
        sync_us: swapped.sync.as_micros() as u64,
        prefixes: swapped.report.prefixes.clone(),
        left_out: swapped.report.left_out.clone(),
        labels_left_out: swapped.report.labels_left_out.clone(),
    }
}

pub(super) fn got_head(got: GotHead) -> GetHeadResponse {
    GetHeadResponse {
        head: Some(head_info(got.head)),
        available_versions: got.available_versions,
    }
}

pub(super) fn head_page(page: HeadPage) -> ListHeadsResponse {
    ListHeadsResponse {
        heads: page.heads.into_iter().map(head_info).collect(),
        next_page_token: page.next_page_token,
        total_size: page.total as u64,
    }
}

pub(super) fn model_description(description: ModelDescription) -> DescribeModelResponse {
    let parameters: Vec<Parameter> = description.parameters.into_iter().map(parameter).collect();
    let model = &description.model;
    let described = model.backbone(description.backbone);
    let mut backbones = Vec::new();
    for backbone in model.backbones.all() {
        backbones.push(self::backbone(model.architecture, backbone));
    }
    DescribeModelResponse {
        layers: description.layers,
        parameter_count: parameters.iter().map(|parameter| parameter.count).sum(),
        parameters,
        backbone_digest: described.digest.to_string(),
        weights: described.source.clone(),
        device: model.device.clone(),
        precision: model.precision.clone(),
        max_batch: model.max_batch as u32,
        head: description.head.map(head_info),
        preprocessing: Some(preprocessing_message(&described.preprocessing)),
        backbone: described.name.clone(),
        backbones,
    }
}

fn backbone(architecture: Architecture, backbone: &KnownBackbone) -> Backbone {
    let mut parameters = Vec::new();
    for (name, shape) in architecture.parameters(1) {
        if let Some(digest) = backbone.parameters.get(&name) {
            parameters.push(parameter(ParameterDescription {
                overridden: false,
                digest: digest.to_string(),
                shape,
                name,
            }));
        }
    }
    Backbone {
        name: backbone.name.clone(),
        digest: backbone.digest.to_string(),
        weights: backbone.source.clone(),
        preprocessing: Some(preprocessing_message(&backbone.preprocessing)),
        has_features: backbone.has_features,
        parameters,
    }
}

fn parameter(parameter: ParameterDescription) -> Parameter {
    Parameter {
        count: parameter.shape.iter().product::<usize>() as u64,
        shape: parameter.shape.iter().map(|dimension| *dimension as u64).collect(),
        name: parameter.name,
        overridden: parameter.overridden,
        digest: parameter.digest,
    }
}

fn tier_message(tier: Tier) -> HeadTier {
    match tier {
        Tier::Hot => HeadTier::Hot,
        Tier::Warm => HeadTier::Warm,
        Tier::Cold => HeadTier::Cold,
    }
}

/// Returns the tier of a filter, or None for all tiers.
pub(super) fn tier(tier: HeadTier) -> Option<Tier> {
    match tier {
        HeadTier::Unspecified => None,
        HeadTier::Hot => Some(Tier::Hot),
        HeadTier::Warm => Some(Tier::Warm),
        HeadTier::Cold => Some(Tier::Cold),
    }
}
