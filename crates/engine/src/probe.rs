//! Batches of grey pictures, by which the engine measures and checks the backbones.

use headswap_image::Prepared;
use headswap_model::{Backend, BackendError, InputRow, WantedInput};
use headswap_spec::{HeadInput, PICTURE_BYTES, PICTURE_SIDE, Preprocessing, Preset};

/// A grey picture as torchvision prepares it.
pub(super) struct Probe {
    picture: Prepared,
    preprocessing: Preprocessing,
}

impl Probe {
    pub fn new() -> Self {
        Self {
            picture: Prepared::Bytes {
                size: [PICTURE_SIDE; 2],
                values: vec![127; PICTURE_BYTES].into(),
            },
            preprocessing: Preset::Torchvision.preprocessing(),
        }
    }

    /// Computes all that the first backbone has of a batch of `count` pictures.
    ///
    /// # Errors
    /// As [`Backend::forward`].
    pub fn forward(&self, network: &mut dyn Backend, count: usize) -> Result<(), BackendError> {
        self.forward_on(network, 0, count)
    }

    /// Computes all that a backbone has of a batch of `count` pictures.
    ///
    /// # Errors
    /// As [`Backend::forward`].
    pub fn forward_on(&self, network: &mut dyn Backend, backbone: usize, count: usize) -> Result<(), BackendError> {
        let last = network.last_inputs().get(backbone).copied();
        let input = last.unwrap_or(HeadInput::Features);
        let row = InputRow {
            picture: &self.picture,
            preprocessing: &self.preprocessing,
        };
        let mut wanted = Vec::with_capacity(count);
        for row in 0..count {
            wanted.push(WantedInput { row, backbone, input });
        }
        network.forward(&vec![row; count], &[], &wanted).map(drop)
    }
}
