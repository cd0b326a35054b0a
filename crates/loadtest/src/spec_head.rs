//! Seeded heads of several layers, and what each must answer.

use std::sync::Arc;

use headswap_checkpoint::{HostTensor, Parameters};
use headswap_client::ClientError;
use headswap_proto::ReplaceHeadRequest;
use headswap_proto::replace_head_request::{HeadSpec, Source};
use headswap_spec::{CompleteSpec, HeadLayer};

use super::random::SplitMix64;

/// A head of Linears and ReLUs that this program made and can recompute.
pub struct SpecHead {
    /// What it computes.
    pub spec: CompleteSpec,
    /// Its tensors.
    pub parameters: Parameters,
}

impl SpecHead {
    /// Generates a head whose Linears have these widths, the first that of its input: different numbers for each `seed`.
    ///
    /// # Panics
    /// If there are not as many widths as Linears and one more.
    pub fn new(spec: CompleteSpec, widths: &[usize], seed: u64) -> Self {
        let mut parameters = Parameters::new();
        let mut linears = widths.windows(2);
        for index in 0..spec.layers.len() {
            let Some([weight, bias]) = spec.parameter_names(index) else {
                continue;
            };
            let widths = linears.next().expect("a width for each Linear");
            let seed = (seed << 8) + 2 * index as u64;
            parameters.insert(weight, tensor(vec![widths[1], widths[0]], seed));
            parameters.insert(bias, tensor(vec![widths[1]], seed + 1));
        }
        Self { spec, parameters }
    }

    /// Returns the size of its tensors.
    pub fn tensor_bytes(&self) -> usize {
        self.parameters.values().map(|tensor| tensor.bytes()).sum()
    }

    /// Returns the request that makes it the head `name`.
    ///
    /// # Errors
    /// [`ClientError::Failed`] if the file cannot be written.
    pub fn request(&self, name: &str) -> Result<ReplaceHeadRequest, ClientError> {
        let tensors = self.parameters.iter().map(|(name, tensor)| (name, &**tensor));
        let file = safetensors::serialize(tensors, None).map_err(|error| ClientError::Failed(error.to_string()))?;
        let spec = self.spec.to_spec(&[]).to_json();
        Ok(ReplaceHeadRequest {
            head: name.to_owned(),
            source: Some(Source::File(file.into())),
            head_spec: Some(HeadSpec::SpecJson(spec)),
            ..ReplaceHeadRequest::default()
        })
    }

    /// Returns the logits of its input, in f64.
    pub fn logits(&self, input: &[f32]) -> Vec<f64> {
        let mut row: Vec<f64> = input.iter().map(|&number| f64::from(number)).collect();
        for (index, layer) in self.spec.layers.iter().enumerate() {
            match self.spec.parameter_names(index) {
                Some([weight, bias]) => row = linear(&self.parameters[&weight], &self.parameters[&bias], &row),
                None => {
                    debug_assert_eq!(*layer, HeadLayer::Relu);
                    row.iter_mut().for_each(|number| *number = number.max(0.0));
                }
            }
        }
        row
    }
}

fn linear(weight: &HostTensor, bias: &HostTensor, input: &[f64]) -> Vec<f64> {
    let mut output = Vec::with_capacity(bias.values.len());
    for (row, bias) in weight.values.chunks_exact(input.len()).zip(&bias.values) {
        let products = row.iter().zip(input).map(|(w, x)| f64::from(*w) * x);
        output.push(products.sum::<f64>() + f64::from(*bias));
    }
    output
}

/// Returns a weight whose bound keeps the magnitude of the signal (He et al., 2015), or a small bias.
fn tensor(shape: Vec<usize>, seed: u64) -> Arc<HostTensor> {
    let bound = match shape[..] {
        [_, inputs] => (6.0 / inputs as f32).sqrt(),
        _ => 0.05,
    };
    let mut random = SplitMix64::new(seed);
    let mut values = Vec::with_capacity(shape.iter().product());
    for _ in 0..values.capacity() {
        values.push((2.0 * random.next_share() as f32 - 1.0) * bound);
    }
    Arc::new(HostTensor::new(shape, values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use headswap_spec::{HeadInput, Output, Preset};

    #[test]
    fn logits_pass_all_layers() {
        let spec = CompleteSpec {
            input: HeadInput::GlobalAverage,
            layers: vec![HeadLayer::Linear, HeadLayer::Relu, HeadLayer::Linear],
            output: Output::Softmax,
            ..CompleteSpec::plain(Preset::Torchvision.preprocessing(), 1)
        };
        let mut head = SpecHead::new(spec, &[2, 2, 1], 7);
        assert_eq!(head.tensor_bytes(), 4 * (4 + 2 + 2 + 1));
        let numbers = [
            ("head.0.weight", vec![2, 2], vec![1.0, 2.0, -1.0, 0.0]),
            ("head.0.bias", vec![2], vec![0.5, 0.0]),
            ("head.2.weight", vec![1, 2], vec![2.0, 100.0]),
            ("head.2.bias", vec![1], vec![-1.0]),
        ];
        for (name, shape, values) in numbers {
            head.parameters
                .insert(name.into(), Arc::new(HostTensor::new(shape, values)));
        }
        assert_eq!(head.logits(&[1.0, 3.0]), [14.0]);
    }
}
