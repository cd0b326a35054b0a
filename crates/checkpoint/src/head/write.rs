//! Writes a head in normal form.

use std::collections::HashMap;
use std::io::{self, Write};

use headswap_spec::HeadSpec;

use super::normal::{ASSUMED, NormalHead, SPEC};
use crate::{StoredDtype, safetensors_header};

impl NormalHead {
    /// Returns `spec` with everything that this head's file said: input, layers, classes and labels.
    pub fn full_spec(&self, spec: &HeadSpec) -> HeadSpec {
        HeadSpec {
            preprocessing: self.preprocessing.unwrap_or(spec.preprocessing),
            input: Some(self.input),
            layers: Some(self.layers.clone()),
            output: spec.output,
            labels: (!self.labels.is_empty()).then(|| self.labels.clone()),
            classes: Some(self.classes),
        }
    }
}

/// Writes a head as safetensors, f32, with its full spec in the metadata ([`SPEC`]). The file reads back as `normal`.
///
/// # Errors
/// Those of `out`.
pub fn write_head(normal: &NormalHead, spec: &HeadSpec, out: &mut dyn Write) -> io::Result<()> {
    let mut metadata = HashMap::from([
        ("format".to_owned(), "pt".to_owned()),
        (SPEC.to_owned(), normal.full_spec(spec).to_json()),
    ]);
    if !normal.report.assumed.is_empty() {
        let assumed = serde_json::to_string(&normal.report.assumed).unwrap_or_default();
        metadata.insert(ASSUMED.to_owned(), assumed);
    }
    let tensors = normal
        .parameters
        .iter()
        .map(|(name, tensor)| (name.as_str(), &tensor.shape[..]));
    out.write_all(&safetensors_header(tensors, StoredDtype::F32, &metadata))?;
    for tensor in normal.parameters.values() {
        out.write_all(bytemuck::cast_slice(&tensor.values))?;
    }
    Ok(())
}
