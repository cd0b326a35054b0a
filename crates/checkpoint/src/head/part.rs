//! The tensors of a file, grouped by the module that they belong to.

use std::collections::BTreeMap;

use super::error::HeadFileError;
use super::modules::Modules;
use super::natural;
use super::stored::{Stored, is_computed, stored};
use crate::{Checkpoint, TensorEntry, excerpt};

/// Limit of a name in a message that lists several.
const NAME_CHARACTERS_MAX: usize = 100;

/// A module, as its tensors' names and shapes show it.
#[derive(Clone, Debug)]
pub(super) struct Part<'a> {
    /// The names of its tensors up to their last component; empty if they have one.
    pub path: &'a str,
    pub kind: PartKind,
    pub weight: Option<Stored<'a>>,
    pub bias: Option<Stored<'a>>,
    pub running_mean: Option<&'a TensorEntry>,
    pub running_var: Option<&'a TensorEntry>,
    /// Tensors that no module of these kinds has.
    pub extra: Vec<&'a TensorEntry>,
}

/// What a module computes, by its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PartKind {
    Conv {
        output: usize,
        input: usize,
        kernel: [usize; 2],
    },
    /// A Linear, or a convolution as large as the map that it is computed of (timm's `pre_logits`).
    Linear {
        output: usize,
        input: usize,
    },
    BatchNorm {
        width: usize,
    },
    Affine {
        width: usize,
    },
    Other,
}

impl<'a> Part<'a> {
    /// The name and the shape of its weight, for messages; its path if it has none.
    pub fn describe(&self) -> String {
        match self.weight {
            Some(weight) => format!("{} {:?}", quoted(&weight.entry().file_name), weight.entry().shape),
            None => quoted(self.path),
        }
    }

    /// The name of its weight, for messages.
    pub fn name(&self) -> String {
        excerpt(self.weight.map_or(self.path, |weight| &weight.entry().file_name))
    }

    /// All its tensors' names.
    pub fn names(&self) -> Vec<String> {
        let stored = [self.weight, self.bias].into_iter().flatten().flat_map(Stored::entries);
        let statistics = [self.running_mean, self.running_var].into_iter().flatten();
        let entries = stored.chain(statistics).chain(self.extra.iter().copied());
        entries.map(|entry| excerpt(&entry.file_name)).collect()
    }

    /// Inputs and outputs of a Linear.
    pub fn linear(&self) -> Option<(usize, usize)> {
        match self.kind {
            PartKind::Linear { input, output } => Some((input, output)),
            _ => None,
        }
    }

    /// The values that it takes; 0 for parts that are not a head's.
    pub fn input(&self) -> usize {
        match self.kind {
            PartKind::Linear { input, .. } => input,
            PartKind::BatchNorm { width } | PartKind::Affine { width } => width,
            PartKind::Conv { .. } | PartKind::Other => 0,
        }
    }
}

/// Returns the modules in natural order, or in that of their definition where the file says it.
///
/// # Errors
/// [`HeadFileError`] names what is stored as adapters or quantised, and tensors of one module that contradict each other.
pub(super) fn parts<'a>(checkpoint: &'a Checkpoint, modules: &Modules<'_>) -> Result<Vec<Part<'a>>, HeadFileError> {
    let mut groups: BTreeMap<&'a str, BTreeMap<&str, &'a TensorEntry>> = BTreeMap::new();
    for entry in selected(checkpoint)? {
        check_unaltered(entry)?;
        let (path, leaf) = split(&entry.file_name);
        groups.entry(path).or_default().insert(leaf, entry);
    }
    let mut parts = Vec::with_capacity(groups.len());
    for (path, mut leaves) in groups {
        leaves.remove("num_batches_tracked");
        if !leaves.is_empty() {
            parts.push(part(path, leaves)?);
        }
    }
    parts.sort_by(|first, second| natural::compare(first.path, second.path));
    // The modules of a graph are steps, which may share tensors; other modules may be stored under two names.
    if !modules.is_graph() {
        drop_aliases(&mut parts);
    }
    let order = checkpoint.order();
    if parts.iter().all(|part| order.iter().any(|path| path == part.path)) {
        parts.sort_by_key(|part| order.iter().position(|path| path == part.path));
    }
    sort_as_defined(&mut parts, modules);
    Ok(parts)
}

/// Drops modules that are another one under a second name, as of a class that keeps `self.vgg` and
/// `self.features = self.vgg.features`.
fn drop_aliases<'a>(parts: &mut Vec<Part<'a>>) {
    let mut kept: Vec<[Option<&'a TensorEntry>; 2]> = Vec::new();
    parts.retain(|part| {
        let tensors = [part.weight, part.bias].map(|stored| stored.map(Stored::entry));
        let is_alias = tensors[0].is_some() && kept.iter().any(|other| are_aliases(&tensors, other));
        kept.push(tensors);
        !is_alias
    });
}

fn are_aliases(tensors: &[Option<&TensorEntry>; 2], others: &[Option<&TensorEntry>; 2]) -> bool {
    tensors.iter().zip(others).all(|pair| match pair {
        (Some(tensor), Some(other)) => tensor.elements() > 0 && tensor.is_alias(other),
        (None, None) => true,
        _ => false,
    })
}

/// The tensors that `--tensors` left.
fn selected(checkpoint: &Checkpoint) -> Result<Vec<&TensorEntry>, HeadFileError> {
    let Some(key) = checkpoint.selected() else {
        return Ok(checkpoint.tensors().collect());
    };
    let prefix = key.trim_end_matches('.');
    let mut chosen = Vec::new();
    for entry in checkpoint.tensors() {
        if is_within(&entry.file_name, prefix) {
            chosen.push(entry);
        }
    }
    if chosen.is_empty() {
        return Err(HeadFileError::NoSuchKey { key: excerpt(key) });
    }
    Ok(chosen)
}

/// A name of which several may stand in one message.
pub(super) fn quoted(name: &str) -> String {
    let name = excerpt(name);
    match name.char_indices().nth(NAME_CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name,
    }
}

/// Returns true if `name` is `path` or begins with it and a dot; every name is within the empty path.
pub(super) fn is_within(name: &str, path: &str) -> bool {
    path.is_empty()
        || name
            .strip_prefix(path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Returns the module's path and the tensor's name in it.
fn split(name: &str) -> (&str, &str) {
    if let Some(at) = name.find("parametrizations.") {
        return (name[..at].trim_end_matches('.'), &name[at..]);
    }
    name.rsplit_once('.').unwrap_or(("", name))
}

fn check_unaltered(entry: &TensorEntry) -> Result<(), HeadFileError> {
    let name = entry.file_name.as_str();
    let (kind, remedy) = if name.split('.').any(|component| component.starts_with("lora_")) {
        (
            "a LoRA adapter (PEFT)",
            "merge it with `model = model.merge_and_unload()` and save the model's state_dict()",
        )
    } else if ["_packed_params", "zero_point", "absmax", "quant_map", "SCB"]
        .iter()
        .any(|leaf| name.split('.').any(|component| component == *leaf))
    {
        (
            "a quantised layer",
            "save the model's state_dict() before it is quantised",
        )
    } else {
        return Ok(());
    };
    Err(HeadFileError::Altered {
        name: excerpt(name),
        kind,
        remedy,
    })
}

fn part<'a>(path: &'a str, mut leaves: BTreeMap<&str, &'a TensorEntry>) -> Result<Part<'a>, HeadFileError> {
    let mut part = Part {
        path,
        kind: PartKind::Other,
        weight: stored(&mut leaves, "weight"),
        bias: stored(&mut leaves, "bias"),
        running_mean: leaves.remove("running_mean"),
        running_var: leaves.remove("running_var"),
        extra: leaves.into_values().collect(),
    };
    if let Some(original) = part.extra.iter().find(|entry| is_computed(&entry.file_name)) {
        return Err(HeadFileError::Altered {
            name: excerpt(&original.file_name),
            kind: "a layer whose weight is computed from others (spectral_norm or a parametrization)",
            remedy: "remove it with torch.nn.utils.remove_spectral_norm or parametrize.remove_parametrizations, then save again",
        });
    }
    part.kind = kind(&part);
    check(&part)?;
    Ok(part)
}

fn kind(part: &Part<'_>) -> PartKind {
    let statistics = part.running_mean.is_some() && part.running_var.is_some();
    let Some(weight) = part.weight else {
        return match part.running_mean.map(|mean| &mean.shape[..]) {
            Some(&[width]) if statistics => PartKind::BatchNorm { width },
            _ => PartKind::Other,
        };
    };
    match weight.entry().shape[..] {
        _ if weight.entry().elements() == 0 => PartKind::Other,
        [output, input, 7, 7] if input > 3 => PartKind::Linear {
            output,
            input: input * 49,
        },
        [output, input, 1, 1] => PartKind::Linear { output, input },
        [output, input, height, width] => PartKind::Conv {
            output,
            input,
            kernel: [height, width],
        },
        [output, input] => PartKind::Linear { output, input },
        [width] if statistics => PartKind::BatchNorm { width },
        [width] if part.bias.is_some() => PartKind::Affine { width },
        _ => PartKind::Other,
    }
}

/// Checks the shapes of one module's tensors against each other.
fn check(part: &Part<'_>) -> Result<(), HeadFileError> {
    let rows = match part.kind {
        PartKind::Conv { output, .. } | PartKind::Linear { output, .. } => output,
        PartKind::BatchNorm { width } | PartKind::Affine { width } => width,
        PartKind::Other => return Ok(()),
    };
    if let Some(bias) = part.bias.map(Stored::entry)
        && !is_vector(bias, rows)
    {
        if let (Some((input, _)), Some(weight)) = (part.linear(), part.weight)
            && is_vector(bias, input)
        {
            return Err(transposed(weight.entry()));
        }
        return Err(misshapen(bias, rows));
    }
    for statistic in [part.running_mean, part.running_var].into_iter().flatten() {
        if !is_vector(statistic, rows) {
            return Err(misshapen(statistic, rows));
        }
    }
    match part.weight {
        Some(Stored::Masked { values, mask }) if values.shape != mask.shape => Err(HeadFileError::Shape {
            name: excerpt(&mask.file_name),
            got: mask.shape.clone(),
            expected: values.shape.clone(),
        }),
        // A length for each column, or one for all rows, has as many elements as rows in a square weight.
        Some(Stored::Normed { length, .. }) if length.elements() != rows || length.shape.first() != Some(&rows) => {
            Err(HeadFileError::Altered {
                name: excerpt(&length.file_name),
                kind: "a weight_norm whose `dim` is not 0",
                remedy: "remove it with torch.nn.utils.remove_weight_norm or parametrize.remove_parametrizations, then save again",
            })
        }
        _ => Ok(()),
    }
}

/// Returns true for `[n]`, and for a row or a column of `n`.
fn is_vector(entry: &TensorEntry, n: usize) -> bool {
    entry.elements() == n && entry.shape.iter().filter(|size| **size != 1).count() <= 1
}

fn misshapen(entry: &TensorEntry, rows: usize) -> HeadFileError {
    HeadFileError::Shape {
        name: excerpt(&entry.file_name),
        got: entry.shape.clone(),
        expected: vec![rows],
    }
}

pub(super) fn transposed(weight: &TensorEntry) -> HeadFileError {
    HeadFileError::Transposed {
        name: excerpt(&weight.file_name),
        got: weight.shape.clone(),
    }
}

/// Puts the parts in the order in which the file's modules are defined, if it has them all.
fn sort_as_defined(parts: &mut [Part<'_>], modules: &Modules<'_>) {
    let mut known = parts.iter().filter(|part| part.kind != PartKind::Other);
    if known.all(|part| modules.place(part.path).is_some()) {
        parts.sort_by_key(|part| modules.place(part.path).unwrap_or(usize::MAX));
    }
}
