//! The flags that say about a head what its file does not say.

use std::path::{Path, PathBuf};

use clap::Args;
use headswap_client::{ClientError, GivenSpec, read_labels};
use headswap_spec::{Preset, SPEC_BYTES_MAX, SpecDraft};
use serde_json::{Value, json};

use crate::commands::error::CliError;
use crate::commands::output::note;

/// What the file does not say.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Spec")]
pub(crate) struct SpecArgs {
    /// A JSON file with the head's spec (docs/head-specs.md), or a config.json or preprocessor_config.json of timm's or Hugging
    /// Face's; may be given several times
    #[arg(long, value_name = "FILE")]
    spec: Vec<PathBuf>,
    /// How its pictures were prepared for training
    #[arg(long, value_name = "PRESET", value_enum)]
    preprocessing: Option<Preset>,
    /// What its output means: softmax (one of the classes), sigmoid (each class for itself), linear (values), or groups:N (one
    /// class of each of N groups)
    #[arg(long, value_name = "KIND", value_parser = output)]
    output: Option<Value>,
    /// What its first layer takes: features (what enters classifier.6), flatten, flatten_hwc, adaptive_7x7, global_average,
    /// global_max or global_max_average
    #[arg(long, value_name = "KIND")]
    input: Option<String>,
    /// Its layers from there on, for example linear,relu,linear or batch_norm,linear,leaky_relu:0.1,linear
    #[arg(long, value_name = "LIST", value_parser = layers)]
    layers: Option<Value>,
    /// The number of classes, if the last Linear has unused rows after them
    #[arg(long, value_name = "K")]
    classes: Option<usize>,
    /// The class labels: UTF-8 text with a label on each line, a JSON list, Keras's class_indices as JSON, or the directory of
    /// the training pictures, with a directory for each class [default: those in the file]
    #[arg(long, value_name = "FILE|DIR")]
    labels: Option<PathBuf>,
    /// Which of several networks in the file is the head: a key of its dictionary, such as model_ema, or a prefix of names, such
    /// as student
    #[arg(long, value_name = "KEY")]
    tensors: Option<String>,
}

impl SpecArgs {
    /// Reads the files that the flags name, and puts them and the other flags together. A flag counts more than a file.
    pub fn given(&self) -> Result<GivenSpec, CliError> {
        let mut keys = SpecDraft::default();
        for path in &self.spec {
            keys.extend(read_draft(path)?);
        }
        if let Some(preset) = self.preprocessing {
            keys.set("preprocessing", json!(preset.preprocessing()));
        }
        let values = [
            ("output", self.output.clone()),
            ("input", self.input.clone().map(Value::from)),
            ("layers", self.layers.clone()),
            ("classes", self.classes.map(Value::from)),
        ];
        for (key, value) in values {
            if let Some(value) = value {
                keys.set(key, value);
            }
        }
        if let Some(path) = &self.labels {
            let read = read_labels(path)?;
            if let Some(text) = read.note {
                note(text);
            }
            keys.set("labels", json!(read.labels));
        }
        Ok(GivenSpec {
            keys,
            tensors: self.tensors.clone(),
        })
    }
}

fn read_draft(path: &Path) -> Result<SpecDraft, CliError> {
    let refused = |reason: String| ClientError::Head {
        path: path.to_owned(),
        reason,
    };
    let metadata = std::fs::metadata(path).map_err(|error| ClientError::unreadable(path, error))?;
    if metadata.len() > SPEC_BYTES_MAX as u64 {
        return Err(refused(format!("it is longer than {SPEC_BYTES_MAX} bytes")).into());
    }
    let text = std::fs::read_to_string(path).map_err(|error| ClientError::unreadable(path, error))?;
    SpecDraft::from_json(&text).map_err(|error| refused(format!("it is not a head spec: {error}")).into())
}

fn output(text: &str) -> Result<Value, String> {
    match text.split_once(':') {
        None if matches!(text, "softmax" | "sigmoid" | "linear") => Ok(text.into()),
        Some(("groups", count)) if count.parse::<usize>().is_ok_and(|count| count > 0) => {
            Ok(json!({"groups": count.parse::<usize>().unwrap_or(1)}))
        }
        _ => Err("use softmax, sigmoid, linear or groups:N".into()),
    }
}

/// Reads `linear,leaky_relu:0.1,gelu:tanh`; the names are checked with the spec.
fn layers(text: &str) -> Result<Value, String> {
    let mut layers = Vec::new();
    for layer in text.split(',') {
        layers.push(match layer.trim().split_once(':') {
            None => layer.trim().into(),
            Some((name, number)) => {
                let number = match number.parse::<f64>() {
                    Ok(number) => json!(number),
                    Err(_) => number.into(),
                };
                json!({name: number})
            }
        });
    }
    Ok(layers.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_and_outputs_become_json() {
        assert_eq!(
            layers("batch_norm:0.001, linear,leaky_relu:0.1,gelu:tanh,linear").unwrap(),
            json!([{"batch_norm": 0.001}, "linear", {"leaky_relu": 0.1}, {"gelu": "tanh"}, "linear"])
        );
        assert_eq!(output("groups:3").unwrap(), json!({"groups": 3}));
        assert!(output("groups:0").is_err() && output("sofmax").is_err());
    }
}
