//! From the names that files use to torchvision's.

use super::entry::TensorEntry;

/// Whose names a checkpoint uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Naming {
    /// The names are timm's rather than torchvision's.
    pub timm: bool,
    /// What wrappers put in front of the names, as `module.`; each prefix once.
    pub prefixes: Vec<String>,
    /// The keys that lead to the tensors in what was saved, as `state_dict`; empty if they are at the top.
    pub container: String,
}

/// What wrappers put in front: DataParallel, Lightning modules, torch.compile, models with a backbone.
const PREFIXES: [&str; 4] = ["module.", "model.", "backbone.", "_orig_mod."];

/// timm's layers and torchvision's. The first two are convolutions of 7x7 and 1x1 there, with the same numbers in the
/// same order as the Linears.
const TIMM: [(&str, &str); 3] = [
    ("pre_logits.fc1.", "classifier.0."),
    ("pre_logits.fc2.", "classifier.3."),
    ("head.fc.", "classifier.6."),
];

/// Gives an entry torchvision's name and shape; what is not known keeps its own.
pub(super) fn canonicalize(entry: &mut TensorEntry) {
    let bare = without_prefix(&entry.file_name);
    let timm = TIMM
        .iter()
        .find_map(|(theirs, ours)| Some((ours, bare.strip_prefix(theirs)?)));
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
        // DataParallel around the convolutions alone, as PyTorch's ImageNet example wraps VGG.
        None => match bare.strip_prefix("features.module.") {
            Some(rest) => format!("features.{rest}"),
            None => bare.to_owned(),
        },
    };
}

/// What wrappers put in front of a name in the file, if anything.
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

/// Whether the file uses timm's names.
pub(super) fn is_timm(file_name: &str) -> bool {
    let bare = without_prefix(file_name);
    TIMM.iter().any(|(theirs, _)| bare.starts_with(theirs))
}
