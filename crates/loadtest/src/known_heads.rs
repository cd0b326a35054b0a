//! Seeded heads to swap in, and what each must answer.

use headswap_checkpoint::{Digest, Parameters};
use headswap_client::ClientError;
use headswap_model::demo_head;
use headswap_proto::HeadResult;
use headswap_spec::{Architecture, LAST_BIAS, LAST_WEIGHT};

use super::server_process::ServerProcess;

/// The largest difference to a recomputed logit, relative to the largest logit, that rounding explains: in 16-bit floats
/// the features, the head and the logits are all rounded, and batches of different sizes round differently.
pub async fn tolerance(server: &ServerProcess) -> Result<f64, ClientError> {
    Ok(match server.model().await?.precision.as_str() {
        "bf16" => 0.05,
        "f16" => 0.01,
        _ => 1e-4,
    })
}

/// A head that this program made and can recompute.
pub struct KnownHead {
    /// As the server prints it.
    pub digest: String,
    /// How many logits it has.
    pub classes: usize,
    parameters: Parameters,
}

impl KnownHead {
    /// A last Linear.
    pub fn new(architecture: Architecture, classes: usize, seed: u64) -> Self {
        demo_head(architecture, classes, seed).into()
    }

    /// The file that ReplaceHead takes.
    pub fn safetensors(&self) -> Result<Vec<u8>, ClientError> {
        let tensors = self.parameters.iter().map(|(name, tensor)| (name, &**tensor));
        safetensors::serialize(tensors, None).map_err(|error| ClientError::Failed(error.to_string()))
    }

    /// The logits of a row of features, in f64.
    pub fn logits(&self, features: &[f32]) -> Vec<f64> {
        let (weight, bias) = (&self.parameters[LAST_WEIGHT].values, &self.parameters[LAST_BIAS].values);
        let mut logits = Vec::with_capacity(bias.len());
        for (row, bias) in weight.chunks(features.len()).zip(bias) {
            let products = row.iter().zip(features).map(|(w, x)| f64::from(*w) * f64::from(*x));
            logits.push(products.sum::<f64>() + f64::from(*bias));
        }
        logits
    }
}

impl From<Parameters> for KnownHead {
    fn from(parameters: Parameters) -> Self {
        Self {
            digest: Digest::of_parameters(&parameters, &[]).to_string(),
            classes: parameters[LAST_BIAS].values.len(),
            parameters,
        }
    }
}

/// What is wrong with a result that should hold these logits, if anything.
pub fn difference(result: &HeadResult, expected: &[f64], tolerance: f64) -> Option<String> {
    if result.logits.len() != expected.len() {
        return Some(format!(
            "{} logits, {} are expected",
            result.logits.len(),
            expected.len()
        ));
    }
    let scale = expected
        .iter()
        .fold(f64::MIN_POSITIVE, |largest, logit| largest.max(logit.abs()));
    let worst = result
        .logits
        .iter()
        .zip(expected)
        .map(|(got, want)| (f64::from(*got) - want).abs())
        .fold(0.0, f64::max);
    let wrong = worst.is_nan() || worst > tolerance * scale;
    wrong.then(|| format!("a logit is off by {:.1e} of the largest", worst / scale))
}
