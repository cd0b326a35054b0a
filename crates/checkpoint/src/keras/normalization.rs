//! The numbers of a `Normalization` layer.

use serde_json::Value as Json;

use super::config::Layer;
use super::network::File;
use super::picture::numbers;
use super::variables::Scope;
use crate::CheckpointError;
use crate::throttle::Throttle;

/// Returns the mean and the variance: those of its configuration, or what it learned from pictures. `None` if they are not one for
/// all channels or one for each.
///
/// # Errors
/// [`CheckpointError`] if what it learned is not in the file.
pub(super) fn statistics(
    layer: &Layer,
    scope: &Scope,
    file: File<'_>,
) -> Result<Option<[Vec<f64>; 2]>, CheckpointError> {
    let config = &layer.config;
    let is_inverted = config.get("invert") == Some(&Json::Bool(true));
    let axis = config.get("axis").map(|axis| numbers(axis).unwrap_or_default());
    let is_last = matches!(axis.as_deref(), None | Some([] | [-1.0 | 3.0]));
    if is_inverted || !is_last {
        return Ok(None);
    }
    let given = ["mean", "variance"].map(|key| config.get(key).and_then(numbers));
    if let [Some(mean), Some(variance)] = given {
        return Ok(Some([mean, variance]));
    }
    let mut learned = Vec::new();
    for dataset in file.variables.of(scope, &layer.name, &["mean", "variance", "count"])? {
        let entry = dataset.entry(&dataset.path)?;
        if entry.elements() <= 3 && learned.len() < 2 {
            let read = entry.read(file.source, &Throttle::off())?;
            learned.push(read.values.iter().map(|value| f64::from(*value)).collect());
        }
    }
    Ok(learned.try_into().ok())
}
