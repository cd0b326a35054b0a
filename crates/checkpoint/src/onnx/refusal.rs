//! The refusals of ONNX files.

use crate::text::excerpt;
use crate::{CheckpointError, CheckpointFormat};

use super::model::Node;

/// What to do with a network that is not a VGG16 with a head.
pub(super) const EXPORT: &str = "export a fine-tuned VGG16 in inference mode, without further steps";
/// What to do with a file that another program rewrote.
const PLAIN: &str = "give the file as it was exported, before it was optimised for a runtime";
const QUANTISED: &str = "export the model before it is quantised";

/// The error for a file that contradicts itself.
pub(super) fn damaged(reason: &str) -> CheckpointError {
    CheckpointError::Damaged {
        format: CheckpointFormat::Onnx,
        reason: reason.to_owned(),
    }
}

/// The error for a network that is not read.
pub(super) fn refused(what: impl Into<String>, remedy: &str) -> CheckpointError {
    CheckpointError::Graph {
        what: what.into(),
        remedy: remedy.to_owned(),
    }
}

impl Node {
    /// The operator with the names of the node and of its first result, for messages.
    pub fn describe(&self) -> String {
        let mut text = match self.domain.as_str() {
            "" | "ai.onnx" => excerpt(&self.operator),
            domain => format!("{}.{}", excerpt(domain), excerpt(&self.operator)),
        };
        if !self.name.is_empty() {
            text.push_str(&format!(" `{}`", short(&self.name)));
        }
        match self.outputs.first() {
            Some(output) => format!("{text} (output `{}`)", short(output)),
            None => text,
        }
    }

    /// Refuses this node for what it does.
    pub fn refused(&self, reason: &str) -> CheckpointError {
        refused(format!("{} {reason}", self.describe()), EXPORT)
    }

    /// Refuses an operator that no VGG16 with a head has.
    pub fn unknown(&self) -> CheckpointError {
        let lower = self.operator.to_ascii_lowercase();
        let is_quantised = ["quantize", "qlinear", "qgemm", "integer"]
            .iter()
            .any(|mark| lower.contains(mark));
        let (what, remedy) = if is_quantised {
            ("computes with quantised numbers", QUANTISED)
        } else if !matches!(self.domain.as_str(), "" | "ai.onnx") {
            ("is not an operator of ONNX itself", PLAIN)
        } else if matches!(self.operator.as_str(), "If" | "Loop" | "Scan") {
            ("runs a graph of its own, which is not read", EXPORT)
        } else {
            ("is not a step of a VGG16 or its head", EXPORT)
        };
        refused(format!("{} {what}", self.describe()), remedy)
    }
}

/// A name of which several may stand in one message.
pub(super) fn short(name: &str) -> String {
    const CHARACTERS_MAX: usize = 80;
    let name = excerpt(name);
    match name.char_indices().nth(CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name,
    }
}
