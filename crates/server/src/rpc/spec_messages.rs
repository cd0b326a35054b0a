//! Conversions of head specs to and from messages.

use headswap_proto::{
    ChannelOrder, HeadInput, HeadLayer, HeadLayerKind, HeadSpec, OutputKind, PictureSize, Preprocessing, ResizeFilter,
    preprocessing,
};
use headswap_service::ServiceError;
use headswap_spec::{self as spec, CompleteSpec, Output, ValueRange};
use serde_json::{Map, Value, json};
use tonic::Status;

use crate::status::invalid;

/// Returns the spec of a request, which gives it as a message or as JSON.
pub(super) fn requested(message: Option<HeadSpec>, json: Option<String>) -> Result<Option<spec::HeadSpec>, Status> {
    let (field, json) = match (message, json) {
        (Some(message), _) => ("spec", to_json(message)?.to_string()),
        (None, Some(json)) => ("spec_json", json),
        (None, None) => return Ok(None),
    };
    let read = spec::HeadSpec::from_json(&json);
    read.map(Some)
        .map_err(|error| invalid(field, format!("the head's spec is refused: {error}")))
}

/// Returns the JSON that a message stands for. What is not set is left out.
fn to_json(message: HeadSpec) -> Result<Value, Status> {
    let mut json = Map::new();
    let output: OutputKind = known("output", message.output)?;
    if output != OutputKind::Groups && message.groups > 0 {
        let reason = format!(
            "groups: it is {}, and the output is another; leave it out",
            message.groups
        );
        return Err(invalid("spec", reason));
    }
    if let Some(input) = input_name(known("input", message.input)?) {
        json.insert("input".into(), input.into());
    }
    if let Some(preprocessing) = message.preprocessing {
        json.insert("preprocessing".into(), preprocessing_json(preprocessing)?);
    }
    if !message.layers.is_empty() {
        let mut layers = Vec::with_capacity(message.layers.len());
        for (index, layer) in message.layers.into_iter().enumerate() {
            layers.push(layer_json(index, layer)?);
        }
        json.insert("layers".into(), layers.into());
    }
    let output = match output {
        OutputKind::Unspecified => None,
        OutputKind::Softmax => Some(json!("softmax")),
        OutputKind::Sigmoid => Some(json!("sigmoid")),
        OutputKind::Linear => Some(json!("linear")),
        OutputKind::Groups => Some(json!({"groups": message.groups})),
    };
    json.extend(output.map(|output| ("output".to_owned(), output)));
    if !message.labels.is_empty() {
        json.insert("labels".into(), message.labels.into());
    }
    if message.classes > 0 {
        json.insert("classes".into(), message.classes.into());
    }
    Ok(Value::Object(json))
}

/// The longest JSON of a preprocessing, in bytes. Errors repeat parts of it.
const PREPROCESSING_BYTES_MAX: usize = 4 << 10;

/// Returns the preprocessing of a request, which gives it as JSON; none if it is empty.
pub(super) fn preprocessing_of(json: &str) -> Result<Option<spec::Preprocessing>, ServiceError> {
    if json.is_empty() {
        return Ok(None);
    }
    let invalid = |message: String| ServiceError::Invalid {
        field: "preprocessing_json",
        message,
    };
    if json.len() > PREPROCESSING_BYTES_MAX {
        let length = json.len();
        return Err(invalid(format!(
            "preprocessing_json: it has {length} bytes; the limit is {PREPROCESSING_BYTES_MAX}"
        )));
    }
    let read = spec::Preprocessing::from_json(json);
    read.map(Some).map_err(|error| invalid(error.to_string()))
}

fn preprocessing_json(message: Preprocessing) -> Result<Value, Status> {
    let mut json = Map::new();
    let filter = known("preprocessing.filter", message.filter)?;
    let channels = known("preprocessing.channels", message.channels)?;
    if !message.preset.is_empty() {
        json.insert("preset".into(), message.preset.into());
    }
    match message.resize {
        Some(preprocessing::Resize::ShortSide(side)) => drop(json.insert("resize".into(), json!({"short_side": side}))),
        Some(preprocessing::Resize::Stretch(size)) => {
            json.insert("resize".into(), json!({"stretch": [size.height, size.width]}));
        }
        Some(preprocessing::Resize::KeepSize(true)) => drop(json.insert("resize".into(), Value::Null)),
        Some(preprocessing::Resize::KeepSize(false)) | None => {}
    }
    if let Some(filter) = filter_name(filter) {
        json.insert("filter".into(), filter.into());
    }
    if let Some(size) = message.crop {
        json.insert("crop".into(), json!([size.height, size.width]));
    }
    if let Some(channels) = channels_name(channels) {
        json.insert("channels".into(), channels.into());
    }
    if !message.scale.is_finite() {
        let reason = format!("preprocessing.scale: {} is not a finite number", message.scale);
        return Err(invalid("spec", reason));
    }
    if message.scale != 0.0 {
        json.insert("scale".into(), message.scale.into());
    }
    for (key, numbers) in [("mean", message.mean), ("std", message.std)] {
        if numbers.iter().any(|number| !number.is_finite()) {
            return Err(invalid("spec", format!("preprocessing.{key}: a number is not finite")));
        }
        if !matches!(numbers.len(), 0 | 3) {
            let reason = format!("preprocessing.{key}: it has {} numbers; give three", numbers.len());
            return Err(invalid("spec", reason));
        }
        if !numbers.is_empty() {
            json.insert(key.into(), numbers.into());
        }
    }
    if message.standardise {
        json.insert("standardise".into(), true.into());
    }
    Ok(Value::Object(json))
}

/// Returns the value of an enum by its number.
fn known<E: TryFrom<i32>>(field: &str, number: i32) -> Result<E, Status> {
    E::try_from(number).map_err(|_| invalid("spec", format!("{field}: this server does not know the value {number}")))
}

fn layer_json(index: usize, layer: HeadLayer) -> Result<Value, Status> {
    if let Some(number) = layer.number.filter(|number| !number.is_finite()) {
        let reason = format!("layers[{index}].number: {number} is not a finite number");
        return Err(invalid("spec", reason));
    }
    let name = match known(&format!("layers[{index}].kind"), layer.kind)? {
        HeadLayerKind::Unspecified => return Err(invalid("spec", format!("layers[{index}]: it has no kind"))),
        HeadLayerKind::Linear => "linear",
        HeadLayerKind::BatchNorm => "batch_norm",
        HeadLayerKind::Affine => "affine",
        HeadLayerKind::Relu => "relu",
        HeadLayerKind::LeakyRelu => "leaky_relu",
        HeadLayerKind::Elu => "elu",
        HeadLayerKind::Gelu => return Ok(json!({"gelu": "exact"})),
        HeadLayerKind::GeluTanh => return Ok(json!({"gelu": "tanh"})),
        HeadLayerKind::Silu => "silu",
        HeadLayerKind::Tanh => "tanh",
        HeadLayerKind::Sigmoid => "sigmoid",
        HeadLayerKind::L2Normalise => "l2_normalise",
    };
    Ok(match layer.number {
        Some(number) => json!({name: number}),
        None => name.into(),
    })
}

fn input_name(input: HeadInput) -> Option<&'static str> {
    Some(match input {
        HeadInput::Unspecified => return None,
        HeadInput::Flatten => "flatten",
        HeadInput::FlattenHwc => "flatten_hwc",
        HeadInput::Adaptive7x7 => "adaptive_7x7",
        HeadInput::GlobalAverage => "global_average",
        HeadInput::GlobalMax => "global_max",
        HeadInput::GlobalMaxAverage => "global_max_average",
        HeadInput::Features => "features",
    })
}

fn filter_name(filter: ResizeFilter) -> Option<&'static str> {
    Some(match filter {
        ResizeFilter::Unspecified => return None,
        ResizeFilter::Nearest => "nearest",
        ResizeFilter::Bilinear => "bilinear",
        ResizeFilter::Bicubic => "bicubic",
        ResizeFilter::Lanczos => "lanczos",
        ResizeFilter::BilinearNoAntialias => "bilinear_no_antialias",
        ResizeFilter::BilinearNoAntialiasRounded => "bilinear_no_antialias_rounded",
    })
}

fn channels_name(channels: ChannelOrder) -> Option<&'static str> {
    Some(match channels {
        ChannelOrder::Unspecified => return None,
        ChannelOrder::Rgb => "rgb",
        ChannelOrder::Bgr => "bgr",
        ChannelOrder::Grey => "grey",
    })
}

/// Returns the message of a complete spec, without labels.
pub(super) fn spec_message(spec: &CompleteSpec) -> HeadSpec {
    let (output, groups) = match spec.output {
        Output::Softmax => (OutputKind::Softmax, 0),
        Output::Sigmoid => (OutputKind::Sigmoid, 0),
        Output::Linear => (OutputKind::Linear, 0),
        Output::Groups(groups) => (OutputKind::Groups, groups as u32),
    };
    let input = match spec.input {
        spec::HeadInput::Flatten => HeadInput::Flatten,
        spec::HeadInput::FlattenHwc => HeadInput::FlattenHwc,
        spec::HeadInput::Adaptive7x7 => HeadInput::Adaptive7x7,
        spec::HeadInput::GlobalAverage => HeadInput::GlobalAverage,
        spec::HeadInput::GlobalMax => HeadInput::GlobalMax,
        spec::HeadInput::GlobalMaxAverage => HeadInput::GlobalMaxAverage,
        spec::HeadInput::Features => HeadInput::Features,
    };
    HeadSpec {
        preprocessing: Some(preprocessing_message(&spec.preprocessing)),
        input: input.into(),
        layers: spec.layers.iter().map(layer_message).collect(),
        output: output.into(),
        groups,
        labels: Vec::new(),
        classes: spec.classes as u32,
    }
}

/// Returns what an answer's numbers mean.
pub(super) fn output_kind(output: Output) -> OutputKind {
    match output {
        Output::Softmax => OutputKind::Softmax,
        Output::Sigmoid => OutputKind::Sigmoid,
        Output::Linear => OutputKind::Linear,
        Output::Groups(_) => OutputKind::Groups,
    }
}

fn layer_message(layer: &spec::HeadLayer) -> HeadLayer {
    let (kind, number) = match *layer {
        spec::HeadLayer::Linear => (HeadLayerKind::Linear, None),
        spec::HeadLayer::BatchNorm(eps) => (HeadLayerKind::BatchNorm, eps),
        spec::HeadLayer::Affine => (HeadLayerKind::Affine, None),
        spec::HeadLayer::Relu => (HeadLayerKind::Relu, None),
        spec::HeadLayer::LeakyRelu(slope) => (HeadLayerKind::LeakyRelu, slope),
        spec::HeadLayer::Elu(alpha) => (HeadLayerKind::Elu, alpha),
        spec::HeadLayer::Gelu(Some(spec::GeluKind::Tanh)) => (HeadLayerKind::GeluTanh, None),
        spec::HeadLayer::Gelu(_) => (HeadLayerKind::Gelu, None),
        spec::HeadLayer::Silu => (HeadLayerKind::Silu, None),
        spec::HeadLayer::Tanh => (HeadLayerKind::Tanh, None),
        spec::HeadLayer::Sigmoid => (HeadLayerKind::Sigmoid, None),
        spec::HeadLayer::L2Normalise => (HeadLayerKind::L2Normalise, None),
    };
    HeadLayer {
        kind: kind.into(),
        number,
    }
}

/// Returns the message of a preprocessing.
pub(super) fn preprocessing_message(preprocessing: &spec::Preprocessing) -> Preprocessing {
    let filter = match preprocessing.filter {
        spec::ResizeFilter::Nearest => ResizeFilter::Nearest,
        spec::ResizeFilter::Bilinear => ResizeFilter::Bilinear,
        spec::ResizeFilter::Bicubic => ResizeFilter::Bicubic,
        spec::ResizeFilter::Lanczos => ResizeFilter::Lanczos,
        spec::ResizeFilter::BilinearNoAntialias => ResizeFilter::BilinearNoAntialias,
        spec::ResizeFilter::BilinearNoAntialiasRounded => ResizeFilter::BilinearNoAntialiasRounded,
    };
    let channels = match preprocessing.channels {
        spec::ChannelOrder::Rgb => ChannelOrder::Rgb,
        spec::ChannelOrder::Bgr => ChannelOrder::Bgr,
        spec::ChannelOrder::Grey => ChannelOrder::Grey,
    };
    let mut message = Preprocessing {
        resize: Some(match preprocessing.resize {
            None => preprocessing::Resize::KeepSize(true),
            Some(spec::Resize::ShortSide(side)) => preprocessing::Resize::ShortSide(side),
            Some(spec::Resize::Stretch(sides)) => preprocessing::Resize::Stretch(size(sides)),
        }),
        filter: filter.into(),
        crop: preprocessing.crop.map(size),
        channels: channels.into(),
        ..Preprocessing::default()
    };
    match preprocessing.normalisation {
        ValueRange::Scaled { scale, mean, std } => {
            message.scale = scale;
            message.mean = mean.to_vec();
            message.std = std.to_vec();
        }
        ValueRange::Standardised => message.standardise = true,
    }
    message
}

fn size([height, width]: [u32; 2]) -> PictureSize {
    PictureSize { height, width }
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt as _;

    use super::*;

    /// What a response says can be sent back.
    #[test]
    fn a_message_stands_for_the_spec_that_it_was_made_of() {
        let specs = [
            r#"{"preprocessing": {"preset": "torchvision"}, "input": "features", "layers": ["linear"],
                "output": "softmax", "classes": 3}"#,
            r#"{"preprocessing": {"resize": null, "crop": [150, 97], "filter": "nearest", "channels": "grey",
                "standardise": true}, "input": "global_max_average", "output": {"groups": 2}, "classes": 4,
                "layers": ["affine", {"leaky_relu": 0.1}, "linear", {"elu": 1}, {"gelu": "tanh"}, {"gelu": "exact"}, "silu",
                "tanh", "sigmoid", "l2_normalise", "linear"]}"#,
            r#"{"preprocessing": {"resize": {"stretch": [64, 32]}, "filter": "bilinear_no_antialias", "channels": "bgr",
                "scale": 1, "mean": [1, 2, 3], "std": [4, 5, 6]}, "input": "flatten_hwc", "layers": ["linear"],
                "output": "sigmoid", "classes": 1}"#,
        ];
        for json in specs {
            let spec = spec::HeadSpec::from_json(json).unwrap();
            let complete = CompleteSpec::try_from(spec.clone()).unwrap();
            assert_eq!(
                requested(Some(spec_message(&complete)), None).unwrap(),
                Some(spec.clone())
            );
            assert_eq!(requested(None, Some(spec.to_json())).unwrap(), Some(spec));
        }
        assert_eq!(requested(None, None).unwrap(), None);
    }

    fn check_refused(message: HeadSpec, part: &str) {
        let status = requested(Some(message), None).unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().contains(part), "{:?} lacks {part:?}", status.message());
        assert_eq!(
            status.get_details_bad_request().unwrap().field_violations[0].field,
            "spec"
        );
    }

    #[test]
    fn values_that_a_message_cannot_mean_are_refused_by_their_field() {
        let json = r#"{"preprocessing": {"resize": {"stretch": [64, 32]}, "scale": 1}, "output": "softmax", "classes": 2,
            "input": "features", "layers": ["linear"]}"#;
        let spec = spec::HeadSpec::from_json(json).unwrap();
        let message = || spec_message(&CompleteSpec::try_from(spec.clone()).unwrap());
        let changed = |change: fn(&mut HeadSpec)| {
            let mut message = message();
            change(&mut message);
            message
        };
        let prepared = |change: fn(&mut Preprocessing)| {
            let mut message = message();
            change(message.preprocessing.as_mut().unwrap());
            message
        };
        check_refused(
            changed(|spec| spec.output = 99),
            "output: this server does not know the value 99",
        );
        check_refused(
            changed(|spec| spec.input = -1),
            "input: this server does not know the value -1",
        );
        check_refused(
            changed(|spec| spec.groups = 2),
            "groups: it is 2, and the output is another",
        );
        check_refused(
            changed(|spec| spec.layers[0].kind = 99),
            "layers[0].kind: this server does not know",
        );
        check_refused(changed(|spec| spec.layers[0].kind = 0), "layers[0]: it has no kind");
        check_refused(
            changed(|spec| spec.layers[0].number = Some(f32::NAN)),
            "layers[0].number: NaN is not a finite number",
        );
        check_refused(
            prepared(|it| it.filter = 99),
            "preprocessing.filter: this server does not know",
        );
        check_refused(
            prepared(|it| it.channels = 99),
            "preprocessing.channels: this server does not know",
        );
        check_refused(
            prepared(|it| it.scale = f32::NAN),
            "preprocessing.scale: NaN is not a finite number",
        );
        check_refused(
            prepared(|it| it.mean = vec![1.0; 2]),
            "preprocessing.mean: it has 2 numbers; give three",
        );
    }

    #[test]
    fn a_refused_spec_names_its_field() {
        let status = requested(Some(HeadSpec::default()), None).unwrap_err();
        assert!(
            status.message().contains("preprocessing: it is missing"),
            "{}",
            status.message()
        );
        let status = requested(None, Some("{}".into())).unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
    }
}
