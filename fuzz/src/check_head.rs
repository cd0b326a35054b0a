//! What holds for a file with any names and shapes read as a head: no panic, bounded memory, and a normal form that reads back
//! as itself.

use std::collections::BTreeMap;

use bytes::Bytes;
use headswap_checkpoint::{
    Checkpoint, HeadOptions, NormalHead, StoredDtype, Throttle, inspect_head, read_head, safetensors_header, write_head,
};
use headswap_spec::{Architecture, HeadSpec};

use crate::allocator::measure;

/// Limit of the memory beyond four times the file, in bytes.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// Limit of the tensors of a file.
const TENSORS_MAX: usize = 80;

const ARCHITECTURE: Architecture = Architecture::Vgg16Narrow;

/// Parts of names, which bytes choose.
const PREFIXES: [&str; 8] = [
    "",
    "module.",
    "model.",
    "vgg16.",
    "student.",
    "teacher.",
    "0.",
    "classifier.",
];
const PATHS: [&str; 20] = [
    "fc",
    "fc1",
    "fc2",
    "head",
    "classifier",
    "classifier.0",
    "classifier.3",
    "classifier.6",
    "classifier.6.0",
    "classifier.6.3",
    "1.2",
    "1.4",
    "1.6",
    "1.8",
    "head.0",
    "head.2",
    "head.fc",
    "criterion",
    "aux",
    "features.1",
];
const LEAVES: [&str; 12] = [
    "weight",
    "bias",
    "running_mean",
    "running_var",
    "num_batches_tracked",
    "weight_orig",
    "weight_mask",
    "weight_g",
    "weight_v",
    "lora_A",
    "scale",
    "extra",
];
const SHAPES: [&[usize]; 20] = [
    &[],
    &[0],
    &[1],
    &[2],
    &[3],
    &[16],
    &[32],
    &[128],
    &[2, 128],
    &[128, 784],
    &[128, 128],
    &[3, 16],
    &[3, 32],
    &[16, 784],
    &[128, 2],
    &[784, 128],
    &[32, 16],
    &[2, 1],
    &[2, 3, 3, 3],
    &[128, 16, 7, 7],
];
/// The spec's keys beside preprocessing, which a byte chooses; the first is for none.
const SPECS: [&str; 10] = [
    "",
    r#""output": "softmax""#,
    r#""output": "sigmoid", "classes": 1"#,
    r#""output": {"groups": 2}, "labels": ["a", "b"]"#,
    r#""output": "linear", "layers": ["linear", "relu", "linear"]"#,
    r#""output": "linear", "layers": ["batch_norm", "linear", "relu", "batch_norm", "linear"]"#,
    r#""output": "softmax", "input": "global_average", "layers": ["affine", "linear"]"#,
    r#""output": "softmax", "input": "flatten", "layers": ["linear", "tanh", "linear", "sigmoid"]"#,
    r#""output": "softmax", "input": "global_max_average""#,
    r#""output": "softmax", "input": "features", "layers": ["linear", {"gelu": "tanh"}, "linear"]"#,
];

/// Reads a file that the bytes describe as a head. Returns true if it is one.
pub fn check_head(bytes: &[u8]) -> bool {
    let Some((&choice, rest)) = bytes.split_first() else {
        return false;
    };
    let spec = spec(choice / 4);
    let file = Bytes::from(file(choice % 4, rest));
    let Ok(checkpoint) = Checkpoint::from_bytes(file.clone()) else {
        return false;
    };
    check_message(inspect_head(&checkpoint, Some(ARCHITECTURE)).map(drop));
    check_message(inspect_head(&checkpoint, None).map(drop));
    let (peak, read) = measure(|| read(&checkpoint, spec.as_ref()));
    assert!(peak <= BYTES_MAX + 4 * file.len(), "{} bytes took {peak}", file.len());
    let Some(head) = read else { return false };
    let spec = spec.unwrap_or_else(|| self::spec(1).unwrap_or_else(|| unreachable!("the first spec is one")));
    let mut written = Vec::new();
    write_head(&head, &spec, &mut written).unwrap_or_else(|error| unreachable!("memory takes all: {error}"));
    let again = Checkpoint::from_bytes(written.into()).unwrap_or_else(|error| panic!("{error}"));
    let again = self::read(&again, None).unwrap_or_else(|| panic!("the normal form is refused"));
    assert_eq!(
        (again.parameters, again.layers, again.input),
        (head.parameters, head.layers, head.input)
    );
    true
}

fn read(checkpoint: &Checkpoint, spec: Option<&HeadSpec>) -> Option<NormalHead> {
    let options = HeadOptions {
        architecture: ARCHITECTURE,
        spec,
        labels: &[],
        throttle: &Throttle::off(),
    };
    match read_head(checkpoint, &options) {
        Ok(head) => Some(head),
        Err(error) => {
            check_message(Err(error));
            None
        }
    }
}

fn check_message(result: Result<(), headswap_checkpoint::HeadFileError>) {
    if let Err(error) = result {
        let message = error.to_string();
        assert!(
            message.len() < 4000 && !message.contains(char::is_control),
            "{message:?}"
        );
    }
}

fn spec(choice: u8) -> Option<HeadSpec> {
    let keys = SPECS[usize::from(choice) % SPECS.len()];
    let json = format!(r#"{{"preprocessing": {{"preset": "torchvision"}}, {keys}}}"#);
    HeadSpec::from_json(&json).ok()
}

/// Returns a safetensors file: `start` says which of VGG16's own tensors it has, and three bytes describe each further one.
fn file(start: u8, bytes: &[u8]) -> Vec<u8> {
    let mut tensors: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (name, shape) in ARCHITECTURE.parameters(3) {
        let is_there = match start {
            0 => false,
            1 => name.starts_with("features."),
            2 => !name.starts_with("classifier.6"),
            _ => true,
        };
        if is_there {
            tensors.insert(name, shape);
        }
    }
    for chunk in bytes.as_chunks::<3>().0.iter().take(TENSORS_MAX) {
        let [name, leaf, shape] = chunk.map(usize::from);
        let prefix = PREFIXES[(leaf / LEAVES.len()) % PREFIXES.len()];
        let path = PATHS[name % PATHS.len()];
        let leaf = LEAVES[leaf % LEAVES.len()];
        // Some names take the place of VGG16's own.
        let name = format!("{prefix}{path}.{leaf}");
        tensors.insert(name, SHAPES[shape % SHAPES.len()].to_vec());
    }
    let header = tensors.iter().map(|(name, shape)| (name.as_str(), &shape[..]));
    let mut file = safetensors_header(header, StoredDtype::F32, &Default::default());
    for (index, shape) in tensors.values().enumerate() {
        let value = 0.25_f32 + index as f32 / 64.0;
        file.extend(value.to_le_bytes().repeat(shape.iter().product()));
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(list: &[&str], wanted: &str) -> u8 {
        list.iter().position(|part| *part == wanted).unwrap() as u8
    }

    fn tensor(path: &str, leaf: &str, shape: &[usize]) -> [u8; 3] {
        let shape = SHAPES.iter().position(|known| *known == shape).unwrap() as u8;
        [chosen(&PATHS, path), chosen(&LEAVES, leaf), shape]
    }

    #[test]
    fn heads_are_reached() {
        // VGG16 as it is; a last Linear; a stack with a batch norm.
        assert!(check_head(&[4 + 3]));
        let last = tensor("classifier.6", "weight", &[2, 128]);
        assert!(check_head(&[&[4 + 2], &last[..]].concat()));
        let mut stack = vec![4 * 4];
        stack.extend(tensor("fc1", "weight", &[128, 784]));
        stack.extend(tensor("fc2", "weight", &[2, 128]));
        assert!(check_head(&stack));
        let mut norm = vec![4 * 6];
        norm.extend(tensor("head.0", "weight", &[16]));
        norm.extend(tensor("head.0", "bias", &[16]));
        norm.extend(tensor("head.2", "weight", &[3, 16]));
        assert!(check_head(&norm));
    }
}
