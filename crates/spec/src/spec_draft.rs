//! A head spec that is put together from several sources.

use serde_json::{Map, Value, json};

use crate::SPEC_BYTES_MAX;
use crate::error::SpecError;
use crate::head_spec::HeadSpec;
use crate::partial_spec::PartialSpec;

/// Keys of a spec, in the form of its JSON, some of which may be missing: those of a spec's own file, or those that timm's or
/// Hugging Face's `config.json` and `preprocessor_config.json` stand for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpecDraft(Map<String, Value>);

impl SpecDraft {
    /// Reads a spec's JSON, or a configuration of timm's or Hugging Face's.
    ///
    /// # Errors
    /// [`SpecError`] if it is not a JSON object, or a configuration whose pictures no spec describes.
    pub fn from_json(text: &str) -> Result<Self, SpecError> {
        let refused = |reason: String| SpecError::new("spec", reason);
        if text.len() > SPEC_BYTES_MAX {
            return Err(refused(format!("it is longer than {SPEC_BYTES_MAX} bytes")));
        }
        let value: Value = serde_json::from_str(text).map_err(|error| refused(error.to_string()))?;
        let Value::Object(object) = value else {
            return Err(refused("it is not a JSON object".into()));
        };
        if is_timm(&object) {
            return timm(&object);
        }
        if is_hugging_face(&object) {
            return hugging_face(&object);
        }
        HeadSpec::check_keys(text)?;
        Ok(Self(object))
    }

    /// Takes the keys of `other` in place of its own.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Sets a key.
    pub fn set(&mut self, key: &str, value: Value) {
        self.0.insert(key.to_owned(), value);
    }

    /// Returns true if it has the key.
    pub fn has(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|value| !value.is_null())
    }

    /// Returns true if it has no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the keys that say how a head's file is read.
    ///
    /// # Errors
    /// As [`HeadSpec::from_json`], except for keys that are missing.
    pub fn partial(&self) -> Result<PartialSpec, SpecError> {
        let mut whole = self.clone();
        // What depends on the number of classes is checked once it is known.
        whole.0.remove("labels");
        whole.0.remove("classes");
        if !self.has("preprocessing") {
            whole.set("preprocessing", json!({"preset": "torchvision"}));
        }
        if !self.has("output") {
            whole.set("output", json!("linear"));
        }
        let read = PartialSpec::from(&whole.finish()?);
        Ok(PartialSpec {
            preprocessing: read.preprocessing.filter(|_| self.has("preprocessing")),
            output: read.output.filter(|_| self.has("output")),
            ..read
        })
    }

    /// Returns the spec.
    ///
    /// # Errors
    /// As [`HeadSpec::from_json`].
    pub fn finish(&self) -> Result<HeadSpec, SpecError> {
        HeadSpec::from_json(&Value::Object(self.0.clone()).to_string())
    }
}

impl From<&HeadSpec> for SpecDraft {
    fn from(spec: &HeadSpec) -> Self {
        match serde_json::to_value(spec) {
            Ok(Value::Object(object)) => Self(object),
            _ => Self::default(),
        }
    }
}

/// timm's `config.json` on the hub, or its `pretrained_cfg` alone.
fn is_timm(object: &Map<String, Value>) -> bool {
    object.contains_key("pretrained_cfg") || (object.contains_key("crop_pct") && object.contains_key("input_size"))
}

/// Hugging Face's `preprocessor_config.json` or `config.json`.
fn is_hugging_face(object: &Map<String, Value>) -> bool {
    const KEYS: [&str; 8] = [
        "image_mean",
        "do_resize",
        "do_normalize",
        "do_rescale",
        "image_processor_type",
        "feature_extractor_type",
        "id2label",
        "problem_type",
    ];
    KEYS.iter().any(|key| object.contains_key(*key))
}

fn refused(key: &str, reason: impl Into<String>) -> SpecError {
    SpecError::new(key, reason)
}

/// timm's evaluation transform (`timm/data/transforms_factory.py`): a resize to the size divided by `crop_pct`, rounded
/// down, and the middle.
fn timm(config: &Map<String, Value>) -> Result<SpecDraft, SpecError> {
    let mut draft = Map::new();
    let data = config
        .get("pretrained_cfg")
        .and_then(Value::as_object)
        .unwrap_or(config);
    let size = data.get("input_size").and_then(numbers).unwrap_or_default();
    let [_, height, width] = size[..] else {
        return Err(refused("input_size", "it is not [channels, height, width]"));
    };
    let crop_pct = data.get("crop_pct").and_then(Value::as_f64).unwrap_or(0.875);
    let side = |side: f64| (side / crop_pct).floor() as u64;
    let mode = data.get("crop_mode").and_then(Value::as_str).unwrap_or("center");
    let resize = match mode {
        "squash" => json!({"stretch": [side(height), side(width)]}),
        "center" if height == width => json!({"short_side": side(height)}),
        "center" => {
            return Err(refused(
                "crop_mode",
                "center of a picture that is not square is not supported",
            ));
        }
        other => {
            return Err(refused(
                "crop_mode",
                format!("{other:?} is not supported; use center or squash"),
            ));
        }
    };
    let filter = match data.get("interpolation").and_then(Value::as_str).unwrap_or("bilinear") {
        filter @ ("nearest" | "bilinear" | "bicubic" | "lanczos") => filter,
        other => return Err(refused("interpolation", format!("{other:?} is not supported"))),
    };
    let mut preprocessing = Map::from_iter([
        ("resize".to_owned(), resize),
        ("filter".to_owned(), filter.into()),
        ("crop".to_owned(), json!([height as u64, width as u64])),
        ("scale".to_owned(), json!(1.0 / 255.0)),
    ]);
    for key in ["mean", "std"] {
        if let Some(numbers) = data.get(key) {
            preprocessing.insert(key.to_owned(), numbers.clone());
        }
    }
    draft.insert("preprocessing".into(), preprocessing.into());
    for (key, owner) in [("label_names", config), ("label_names", data)] {
        if let Some(labels) = owner.get(key).filter(|labels| labels.is_array()) {
            draft.insert("labels".into(), labels.clone());
        }
    }
    Ok(SpecDraft(draft))
}

/// Hugging Face's image processors (`transformers/image_processing_utils.py`): resize, crop in the middle, rescale,
/// normalise, each only if its `do_` is true.
fn hugging_face(config: &Map<String, Value>) -> Result<SpecDraft, SpecError> {
    let mut draft = Map::new();
    if let Some(labels) = config.get("id2label").and_then(Value::as_object) {
        draft.insert("labels".into(), by_index(labels)?.into());
    }
    match config.get("problem_type").and_then(Value::as_str) {
        Some("single_label_classification") => drop(draft.insert("output".into(), "softmax".into())),
        Some("multi_label_classification") => drop(draft.insert("output".into(), "sigmoid".into())),
        Some("regression") => drop(draft.insert("output".into(), "linear".into())),
        _ => {}
    }
    const OF_PICTURES: [&str; 5] = ["image_mean", "do_resize", "do_normalize", "do_rescale", "size"];
    if OF_PICTURES.iter().any(|key| config.contains_key(*key)) {
        draft.insert("preprocessing".into(), processor(config)?.into());
    }
    Ok(SpecDraft(draft))
}

fn processor(config: &Map<String, Value>) -> Result<Map<String, Value>, SpecError> {
    let does = |key: &str| config.get(key).and_then(Value::as_bool).unwrap_or(true);
    let mut preprocessing = Map::from_iter([("resize".to_owned(), Value::Null)]);
    if does("do_resize") {
        let resize = match config.get("size") {
            Some(Value::Object(size)) if size.contains_key("shortest_edge") && !size.contains_key("longest_edge") => {
                json!({"short_side": size["shortest_edge"]})
            }
            Some(Value::Object(size)) if size.contains_key("height") => {
                json!({"stretch": [size["height"], size["width"]]})
            }
            Some(side @ Value::Number(_)) => json!({"stretch": [side, side]}),
            _ => return Err(refused("size", "it has neither height and width nor shortest_edge")),
        };
        preprocessing.insert("resize".into(), resize);
        let filter = match config.get("resample").and_then(Value::as_u64).unwrap_or(2) {
            0 => "nearest",
            1 => "lanczos",
            2 => "bilinear",
            3 => "bicubic",
            other => return Err(refused("resample", format!("{other} is not supported; 0 to 3 are"))),
        };
        preprocessing.insert("filter".into(), filter.into());
    }
    if config.get("do_center_crop").and_then(Value::as_bool) == Some(true) {
        let crop = match config.get("crop_size") {
            Some(Value::Object(size)) => json!([size.get("height"), size.get("width")]),
            Some(side @ Value::Number(_)) => json!([side, side]),
            _ => return Err(refused("crop_size", "it is missing")),
        };
        preprocessing.insert("crop".into(), crop);
    }
    let scale = if does("do_rescale") {
        config.get("rescale_factor").cloned().unwrap_or(json!(1.0 / 255.0))
    } else {
        json!(1)
    };
    preprocessing.insert("scale".into(), scale);
    if does("do_normalize") {
        for (theirs, ours) in [("image_mean", "mean"), ("image_std", "std")] {
            let numbers = config.get(theirs).cloned();
            preprocessing.insert(ours.into(), numbers.ok_or_else(|| refused(theirs, "it is missing"))?);
        }
    }
    Ok(preprocessing)
}

/// Returns the labels of `{"0": label, ...}` in the order of their indices.
fn by_index(labels: &Map<String, Value>) -> Result<Vec<String>, SpecError> {
    let mut ordered = Vec::with_capacity(labels.len());
    for index in 0..labels.len() {
        let label = labels.get(&index.to_string()).and_then(Value::as_str);
        ordered.push(
            label
                .ok_or_else(|| refused("id2label", format!("it lacks {index}")))?
                .to_owned(),
        );
    }
    Ok(ordered)
}

fn numbers(value: &Value) -> Option<Vec<f64>> {
    value.as_array()?.iter().map(Value::as_f64).collect()
}
