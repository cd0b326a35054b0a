//! Bounds what is read of a head by the length of its file.

use super::error::HeadFileError;
use super::part::Part;
use super::stored::Stored;
use crate::{Checkpoint, TensorEntry};

/// Elements that may be read for each byte of the file. A plain element has at least two bytes; views that repeat a storage,
/// sparse tensors and compressed archives have more elements than their bytes.
const ELEMENTS_PER_BYTE: u64 = 4;
/// Elements that may be read of any file, 16 MiB in f32: a small file may have a bias that repeats one number.
const ELEMENTS_MIN: u64 = 4 << 20;

/// Checks that the tensors of these parts, and those alone, are not much larger than the file. In f32 they take four bytes for
/// each element.
///
/// # Errors
/// [`HeadFileError::TooLarge`] with the numbers.
pub(super) fn check<'p>(
    checkpoint: &Checkpoint,
    parts: impl Iterator<Item = &'p Part<'p>>,
    alone: impl Iterator<Item = &'p TensorEntry>,
) -> Result<(), HeadFileError> {
    let mut elements = 0u64;
    for part in parts {
        let stored = [part.weight, part.bias].into_iter().flatten().flat_map(Stored::entries);
        let statistics = [part.running_mean, part.running_var].into_iter().flatten();
        for entry in stored.chain(statistics) {
            elements = elements.saturating_add(entry.elements() as u64);
        }
    }
    for entry in alone {
        elements = elements.saturating_add(entry.elements() as u64);
    }
    let bytes = checkpoint.file_bytes();
    let elements_max = bytes.saturating_mul(ELEMENTS_PER_BYTE).saturating_add(ELEMENTS_MIN);
    if elements <= elements_max {
        return Ok(());
    }
    Err(HeadFileError::TooLarge {
        elements,
        bytes,
        elements_max,
    })
}
