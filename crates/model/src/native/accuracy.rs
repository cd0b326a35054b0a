//! The error of 16-bit integers against f32 with these weights, measured at start on one picture, since weights differ.

use std::sync::Arc;

use headswap_checkpoint::Parameters;
use headswap_image::Prepared;
use headswap_spec::{HeadInput, PICTURE_BYTES, PICTURE_SIDE, Preset, Step};
use winograd::Bias;

use super::pass::NativePass;
use super::rows::Rows;
use super::weight::{NativeStack, Weight};
use super::workspace::Workspace;
use crate::backend::{BackendError, InputRow};
use crate::stack::{Stack, StepParameters};
use crate::walk::Stepper as _;

/// The largest relative difference of the features for which int16 is accepted. Weights trained on ImageNet differ by
/// 1e-3 (`benches/README.md`); beyond this, answers may change.
const DIFFERENCE_MAX: f32 = 0.02;

/// What a backbone computes of the test picture in f32: its features or, without Linears, the last pooling's map.
pub(super) struct Reference {
    picture: Prepared,
    features: Vec<f32>,
}

impl Reference {
    /// Computes the features in f32. Needs the memory of another copy of the convolutions' weights.
    pub fn of(steps: &[Step], parameters: &Parameters, workspace: &mut Workspace) -> Result<Self, BackendError> {
        let mut backbone = Vec::with_capacity(steps.len());
        for step in steps.iter().filter(|step| parameters.contains_key(&step.weight())) {
            backbone.push(StepParameters {
                weight: Arc::new(Weight::small(step, &parameters[&step.weight()])),
                bias: Arc::new(Bias::new(&parameters[&step.bias()].values)),
            });
        }
        let stack = Stack::new(steps.to_vec(), vec![backbone]);
        let picture = test_picture();
        let features = features(&stack, 0, workspace, &picture)?;
        Ok(Self { picture, features })
    }

    /// Compares the features with those of a backbone of `stack`, and logs the difference.
    ///
    /// # Errors
    /// [`BackendError::Settings`] if the features differ by more than [`DIFFERENCE_MAX`].
    pub fn check(&self, stack: &NativeStack, backbone: usize, workspace: &mut Workspace) -> Result<(), BackendError> {
        let difference = relative_difference(&features(stack, backbone, workspace, &self.picture)?, &self.features);
        tracing::info!(backbone, difference, "int16 compared with f32 on one picture");
        // NaN is refused, too.
        if difference <= DIFFERENCE_MAX {
            return Ok(());
        }
        Err(BackendError::Settings(format!(
            "with these weights, features in int16 differ from f32's by {difference:.3} of their length; the limit is \
             {DIFFERENCE_MAX}: use --precision f32"
        )))
    }
}

fn features(
    stack: &NativeStack,
    backbone: usize,
    workspace: &mut Workspace,
    picture: &Prepared,
) -> Result<Vec<f32>, BackendError> {
    let mut pass = NativePass {
        workspace,
        rows: &[InputRow {
            picture,
            preprocessing: &Preset::Torchvision.preprocessing(),
        }],
    };
    let size = [PICTURE_SIDE as u32; 2];
    let program = [HeadInput::Features, HeadInput::Adaptive7x7]
        .into_iter()
        .find_map(|input| stack.backbone_program(backbone, input, size))
        .ok_or_else(|| BackendError::Misfit(format!("there is no backbone {backbone}")))?;
    let rows = pass.run(0..program.steps(), &Rows::Pictures(vec![0]), program)?;
    Ok(rows.as_vectors().row(0).to_vec())
}

/// |a - b| / |b|, in the Euclidean norm.
fn relative_difference(a: &[f32], b: &[f32]) -> f32 {
    let (mut difference, mut length) = (0f64, 0f64);
    for (&a, &b) in a.iter().zip(b) {
        difference += f64::from(a - b).powi(2);
        length += f64::from(b).powi(2);
    }
    (difference / length.max(f64::MIN_POSITIVE)).sqrt() as f32
}

/// Shades, edges and some noise in each colour, as photographs have them.
fn test_picture() -> Prepared {
    let mut picture = Vec::with_capacity(PICTURE_BYTES);
    let mut noise = 1u32;
    for y in 0..PICTURE_SIDE {
        for x in 0..PICTURE_SIDE {
            for channel in 0..3 {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let shade = 70 + (x + channel * 20) * 60 / PICTURE_SIDE + y * 50 / PICTURE_SIDE;
                let edge = if (x / 37 + y / 53 + channel).is_multiple_of(3) {
                    50
                } else {
                    0
                };
                picture.push((shade + edge + (noise >> 28) as usize) as u8);
            }
        }
    }
    Prepared::Bytes {
        size: [PICTURE_SIDE; 2],
        values: picture.into(),
    }
}

#[cfg(test)]
mod tests {
    use headswap_spec::Architecture;
    use winograd::{Engine, Precision};

    use super::*;
    use crate::demo_parameters;
    use crate::native::weight::pack;

    #[test]
    fn int16_is_refused_where_its_features_differ() {
        let parameters = demo_parameters(Architecture::Vgg16Narrow);
        let steps = Architecture::Vgg16Narrow.steps();
        let mut workspace = Workspace::new(Engine::new(1));
        let mut reference = Reference::of(&steps, &parameters, &mut workspace).unwrap();
        let stack = pack(steps, vec![parameters], Precision::Integer);
        reference.check(&stack, 0, &mut workspace).unwrap();
        for feature in &mut reference.features {
            *feature *= 1.0 + 2.0 * DIFFERENCE_MAX;
        }
        let refused = reference.check(&stack, 0, &mut workspace).unwrap_err();
        assert!(refused.to_string().contains("--precision f32"), "{refused}");
        reference.features.fill(f32::NAN);
        reference.check(&stack, 0, &mut workspace).unwrap_err();
    }
}
