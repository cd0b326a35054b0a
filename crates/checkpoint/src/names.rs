//! Maps the names in files to torchvision's.

use super::entry::TensorEntry;

/// The naming scheme of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Naming {
    /// The names are timm's rather than torchvision's.
    pub timm: bool,
    /// The prefixes that wrappers add to the names, for example `module.`; each prefix once.
    pub prefixes: Vec<String>,
    /// The path of the dictionary of tensors in what was saved, for example `state_dict`; empty for the top level.
    pub container: String,
}

/// The prefixes of DataParallel, Lightning modules, models with a backbone, and torch.compile.
const PREFIXES: [&str; 4] = ["module.", "model.", "backbone.", "_orig_mod."];

/// timm's layers and torchvision's. timm has the first two as convolutions of 7x7 and 1x1, with the numbers of the
/// Linears in the same order.
const TIMM: [(&str, &str); 3] = [
    ("pre_logits.fc1.", "classifier.0."),
    ("pre_logits.fc2.", "classifier.3."),
    ("head.fc.", "classifier.6."),
];

/// Gives an entry torchvision's name and shape; an unknown name is kept, without its prefixes.
pub(super) fn canonicalize(entry: &mut TensorEntry) {
    let bare = without_prefix(&entry.file_name);
    let timm = TIMM
        .iter()
        .find_map(|(theirs, ours)| Some((ours, bare.strip_prefix(theirs)?)));
    // A bias that was saved as a column.
    if bare.ends_with("bias")
        && let [outputs, 1] = entry.shape[..]
    {
        entry.shape = vec![outputs];
    }
    entry.name = match timm {
        Some((layer, kind)) => {
            // [out, in, height, width] becomes [out, in * height * width].
            if let [outputs, inner @ ..] = &entry.shape[..]
                && inner.len() == 3
            {
                entry.shape = vec![*outputs, inner.iter().product()];
            }
            format!("{layer}{kind}")
        }
        // PyTorch's ImageNet example wraps only VGG's convolutions in DataParallel.
        None => match bare.strip_prefix("features.module.") {
            Some(rest) => format!("features.{rest}"),
            None => bare.to_owned(),
        },
    };
}

/// Returns the prefix that wrappers added to a name in the file; empty if there is none.
pub(super) fn prefix(file_name: &str) -> &str {
    &file_name[..file_name.len() - without_prefix(file_name).len()]
}

fn without_prefix(name: &str) -> &str {
    let mut name = name;
    while let Some(rest) = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)) {
        name = rest;
    }
    name
}

/// Returns true if this name in a file is timm's.
pub(super) fn is_timm(file_name: &str) -> bool {
    let bare = without_prefix(file_name);
    TIMM.iter().any(|(theirs, _)| bare.starts_with(theirs))
}
