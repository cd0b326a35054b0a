//! Checks classes and labels against the rows of a head.

use headswap_spec::{HeadSpec, LABEL_BYTES_MAX, Output};

use super::error::HeadFileError;
use crate::Checkpoint;

/// The labels that were chosen, and those that were left out with the reason.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    pub labels: Vec<String>,
    pub left_out: Vec<String>,
}

/// Returns the caller's labels, else those of the spec, else those of the file that fit.
///
/// # Errors
/// [`HeadFileError`] with the numbers if classes, groups, or the labels of the spec or of a safetensors file do not fit.
pub(super) fn choose(
    checkpoint: &Checkpoint,
    given_labels: &[String],
    spec: Option<&HeadSpec>,
    output: Output,
    rows: usize,
) -> Result<Chosen, HeadFileError> {
    let classes = spec.and_then(|spec| spec.classes).unwrap_or(rows);
    if classes > rows {
        return Err(HeadFileError::Classes { classes, rows });
    }
    if let Output::Groups(groups) = output
        && (groups == 0 || !classes.is_multiple_of(groups))
    {
        return Err(HeadFileError::Groups { classes, groups });
    }
    if !given_labels.is_empty() {
        return given(given_labels.to_vec(), output, classes);
    }
    if let Some(labels) = spec.and_then(|spec| spec.labels.as_ref()) {
        return given(labels.clone(), output, classes);
    }
    let metadata = checkpoint.labels()?;
    if let Some(label) = metadata.iter().find(|label| label.len() > LABEL_BYTES_MAX) {
        return Err(HeadFileError::LabelBytes { bytes: label.len() });
    }
    if !metadata.is_empty() {
        return given(metadata, output, classes);
    }
    let mut chosen = Chosen::default();
    for (key, labels) in checkpoint.label_lists() {
        let is_short = labels.iter().all(|label| label.len() <= LABEL_BYTES_MAX);
        if !output.labels_fit(labels.len(), classes) || !is_short {
            let counts = format!("{key}: {} labels for {classes} classes", labels.len());
            chosen.left_out.push(counts);
        } else if chosen.labels.is_empty() {
            chosen.labels = labels;
        } else if chosen.labels != labels {
            chosen
                .left_out
                .push(format!("{key}: other labels come first in the file"));
        }
    }
    Ok(chosen)
}

fn given(labels: Vec<String>, output: Output, classes: usize) -> Result<Chosen, HeadFileError> {
    if !output.labels_fit(labels.len(), classes) {
        return Err(HeadFileError::Labels {
            labels: labels.len(),
            classes,
        });
    }
    Ok(Chosen {
        labels,
        ..Chosen::default()
    })
}
