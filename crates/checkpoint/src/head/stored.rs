//! How a parameter is stored: as it is, or as the tensors that it is computed of.

use std::collections::BTreeMap;

use crate::TensorEntry;

/// How a parameter is stored.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stored<'a> {
    Plain(&'a TensorEntry),
    /// `torch.nn.utils.prune`: the values, and ones and zeros.
    Masked {
        values: &'a TensorEntry,
        mask: &'a TensorEntry,
    },
    /// `torch.nn.utils.weight_norm`: the direction of each row, and its length.
    Normed {
        direction: &'a TensorEntry,
        length: &'a TensorEntry,
    },
}

impl<'a> Stored<'a> {
    /// The tensor that has the parameter's shape.
    pub fn entry(self) -> &'a TensorEntry {
        match self {
            Self::Plain(entry) | Self::Masked { values: entry, .. } | Self::Normed { direction: entry, .. } => entry,
        }
    }

    pub fn entries(self) -> Vec<&'a TensorEntry> {
        match self {
            Self::Plain(entry) => vec![entry],
            Self::Masked { values, mask } => vec![values, mask],
            Self::Normed { direction, length } => vec![direction, length],
        }
    }
}

/// True for the leftovers of a weight that is computed from other tensors, in a way that is not read.
pub(super) fn is_computed(name: &str) -> bool {
    name.contains("parametrizations.") || name.rsplit('.').next() == Some("weight_orig")
}

/// Takes a parameter's tensors out of a module's.
pub(super) fn stored<'a>(leaves: &mut BTreeMap<&str, &'a TensorEntry>, name: &str) -> Option<Stored<'a>> {
    let pairs = [
        (format!("{name}_orig"), format!("{name}_mask")),
        (format!("{name}_v"), format!("{name}_g")),
        (
            format!("parametrizations.{name}.original1"),
            format!("parametrizations.{name}.original0"),
        ),
    ];
    for (index, (first, second)) in pairs.iter().enumerate() {
        if leaves.contains_key(first.as_str()) && leaves.contains_key(second.as_str()) {
            let (values, other) = (leaves.remove(first.as_str())?, leaves.remove(second.as_str())?);
            return Some(match index {
                0 => Stored::Masked { values, mask: other },
                _ => Stored::Normed {
                    direction: values,
                    length: other,
                },
            });
        }
    }
    leaves.remove(name).map(Stored::Plain)
}
