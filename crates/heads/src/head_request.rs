//! What a caller says about a new head's weights.

use headswap_spec::{CompleteSpec, HeadSpec, LABEL_BYTES_MAX};

use super::error::HeadError;

/// The limit for a file's header is 4 MiB; the annotations, the record and the list of tensors need the rest.
const STORED_LABELS_BYTES_MAX: usize = 3 * 1024 * 1024;

/// The labels and the spec that come with a file of weights.
#[derive(Clone, Debug, Default)]
pub struct HeadRequest {
    /// The labels; empty means those of the spec, or else of the file.
    pub labels: Vec<String>,
    /// The name of the backbone that the head stands on; empty means the one with which it shares most, which is the first for a
    /// head that shares nothing with any.
    pub backbone: String,
    /// The spec; without one that of the file counts, or else the backbone's preprocessing and softmax.
    pub spec: Option<HeadSpec>,
}

impl HeadRequest {
    /// Returns the spec with the labels.
    ///
    /// # Errors
    /// [`HeadError::Labels`] if both have some, and they differ.
    pub(super) fn spec_with_labels(&self) -> Result<Option<HeadSpec>, HeadError> {
        let Some(mut spec) = self.spec.clone() else {
            return Ok(None);
        };
        if self.labels.is_empty() {
            return Ok(Some(spec));
        }
        match &spec.labels {
            Some(labels) if *labels != self.labels => Err(HeadError::Labels {
                reason: "the request and the spec have different ones; leave out one of them".into(),
            }),
            _ => {
                spec.labels = Some(self.labels.clone());
                Ok(Some(spec))
            }
        }
    }
}

/// Checks labels against the classes and against what a file's header can hold.
pub(super) fn check_labels(labels: &[String], spec: &CompleteSpec) -> Result<(), HeadError> {
    let bytes = stored_bytes(labels);
    let reason = if !labels.is_empty() && !spec.labels_fit(labels.len()) {
        let classes = spec.classes;
        format!(
            "there are {} for {classes} classes; give one for each or none",
            labels.len()
        )
    } else if bytes > STORED_LABELS_BYTES_MAX {
        format!("they take {bytes} bytes of a file's header; the limit is {STORED_LABELS_BYTES_MAX}")
    } else if let Some(index) = labels.iter().position(|label| label.len() > LABEL_BYTES_MAX) {
        let bytes = labels[index].len();
        format!("label {index} has {bytes} bytes; the limit is {LABEL_BYTES_MAX}")
    } else {
        return Ok(());
    };
    Err(HeadError::Labels { reason })
}

/// Returns the size of the labels in a file's header: a JSON list inside a JSON string.
fn stored_bytes(labels: &[String]) -> usize {
    let nested = serde_json::to_string(labels).and_then(|list| serde_json::to_string(&list));
    nested.map_or(usize::MAX, |text| text.len())
}
