//! Heads' files of the narrow architecture, made in memory.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::collections::HashMap;

use bytes::Bytes;
use headswap_checkpoint::{
    Checkpoint, HeadFileError, HeadOptions, NormalHead, StoredDtype, Throttle, read_head, safetensors_header,
};
use headswap_spec::{Architecture, HeadSpec, LayerKind};

/// Channels of the narrow architecture's last map, and its features.
pub const CHANNELS: usize = 16;
pub const FEATURES: usize = 128;
/// The inputs of `classifier.0`.
pub const MAP: usize = CHANNELS * 49;

/// Tensors and metadata of a file.
#[derive(Clone, Default)]
pub struct File {
    pub tensors: Vec<(String, Vec<usize>, Vec<f32>)>,
    pub metadata: HashMap<String, String>,
}

impl File {
    pub fn new() -> Self {
        Self::default()
    }

    /// VGG16 with a last Linear of so many classes, under torchvision's names.
    pub fn vgg16(classes: usize) -> Self {
        let mut file = Self::new();
        for (name, shape) in Architecture::Vgg16Narrow.parameters(classes) {
            file = file.with(&name, &shape);
        }
        file
    }

    /// VGG16's convolutions under torchvision's names.
    pub fn convolutions() -> Self {
        let mut file = Self::vgg16(1);
        file.tensors.retain(|(name, ..)| name.starts_with("features."));
        file
    }

    /// Adds a tensor of numbers that follow from its place and size.
    pub fn with(self, name: &str, shape: &[usize]) -> Self {
        let count: usize = shape.iter().product();
        let seed = self.tensors.len() as u32 + 1;
        let values = (0..count as u32).map(|index| number(seed, index)).collect();
        self.with_values(name, shape, values)
    }

    pub fn with_values(mut self, name: &str, shape: &[usize], values: Vec<f32>) -> Self {
        self.tensors.push((name.to_owned(), shape.to_vec(), values));
        self
    }

    /// Adds a Linear with a bias.
    pub fn linear(self, path: &str, output: usize, input: usize) -> Self {
        self.with(&join(path, "weight"), &[output, input])
            .with(&join(path, "bias"), &[output])
    }

    /// Adds a batch norm, with PyTorch's four vectors and its counter.
    pub fn batch_norm(self, path: &str, width: usize) -> Self {
        let variance = (0..width as u32).map(|index| 1.0 + number(7, index).abs()).collect();
        self.with(&join(path, "weight"), &[width])
            .with(&join(path, "bias"), &[width])
            .with(&join(path, "running_mean"), &[width])
            .with_values(&join(path, "running_var"), &[width], variance)
            .with(&join(path, "num_batches_tracked"), &[])
    }

    /// Renames every tensor.
    pub fn renamed(mut self, rename: impl Fn(&str) -> String) -> Self {
        for (name, ..) in &mut self.tensors {
            *name = rename(name);
        }
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.tensors.retain(|(other, ..)| other != name);
        self
    }

    pub fn metadata(mut self, key: &str, value: &str) -> Self {
        self.metadata.insert(key.to_owned(), value.to_owned());
        self
    }

    pub fn values(&self, name: &str) -> Vec<f32> {
        let found = self.tensors.iter().find(|(other, ..)| other == name);
        found.unwrap_or_else(|| panic!("{name}")).2.clone()
    }

    pub fn checkpoint(&self) -> Checkpoint {
        let tensors = self.tensors.iter().map(|(name, shape, _)| (name.as_str(), &shape[..]));
        let mut bytes = safetensors_header(tensors, StoredDtype::F32, &self.metadata);
        for (.., values) in &self.tensors {
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        Checkpoint::from_bytes(Bytes::from(bytes)).unwrap()
    }

    pub fn read(&self, spec: Option<&HeadSpec>) -> Result<NormalHead, HeadFileError> {
        let throttle = Throttle::off();
        let options = HeadOptions {
            architecture: Architecture::Vgg16Narrow,
            spec,
            labels: &[],
            throttle: &throttle,
        };
        read_head(&self.checkpoint(), &options)
    }
}

/// A spec of torchvision's preprocessing and softmax with these further keys, as JSON.
pub fn spec(keys: &str) -> HeadSpec {
    let separator = if keys.is_empty() { "" } else { ", " };
    let output = if keys.contains("\"output\"") {
        ""
    } else {
        ", \"output\": \"softmax\""
    };
    let json = format!("{{\"preprocessing\": {{\"preset\": \"torchvision\"}}{output}{separator}{keys}}}");
    HeadSpec::from_json(&json).unwrap()
}

/// The index in torchvision's `features` of each convolution, with its channels.
pub fn convolutions() -> Vec<(usize, usize, usize)> {
    let mut convolutions = Vec::new();
    for step in Architecture::Vgg16Narrow.steps() {
        if let LayerKind::Conv { input, output } = step.kind {
            let index = step.name.strip_prefix("features.").unwrap().parse().unwrap();
            convolutions.push((index, input, output));
        }
    }
    convolutions
}

/// The names and shapes of the parameters that are not convolutions'.
pub fn own(head: &NormalHead) -> Vec<(String, Vec<usize>)> {
    let own = head
        .parameters
        .iter()
        .filter(|(name, _)| !name.starts_with("features."));
    own.map(|(name, tensor)| (name.clone(), tensor.shape.clone())).collect()
}

/// Checks that a file is refused with a message of one line that holds all `parts`.
pub fn refused(file: &File, keys: Option<&str>, parts: &[&str]) {
    let spec = keys.map(spec);
    let error = match file.read(spec.as_ref()) {
        Ok(head) => panic!("accepted as {:?} {:?}", head.input, own(&head)),
        Err(error) => error.to_string(),
    };
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
    assert_eq!(error.lines().count(), 1, "{error}");
}

fn join(path: &str, leaf: &str) -> String {
    if path.is_empty() {
        leaf.to_owned()
    } else {
        format!("{path}.{leaf}")
    }
}

/// A number between -0.5 and 0.5.
fn number(seed: u32, index: u32) -> f32 {
    let mixed = (seed.wrapping_mul(0x9e37_79b9) ^ index.wrapping_mul(0x85eb_ca6b)).wrapping_mul(0xc2b2_ae35);
    (mixed >> 8) as f32 / (1u32 << 24) as f32 - 0.5
}
