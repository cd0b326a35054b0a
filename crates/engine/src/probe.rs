//! Batches of grey pictures, by which the engine measures and checks the backbone.

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

    /// Computes the features of a batch of `count` pictures.
    ///
    /// # Errors
    /// As [`Backend::forward`].
    pub fn forward(&self, network: &mut dyn Backend, count: usize) -> Result<(), BackendError> {
        let row = InputRow {
            picture: &self.picture,
            preprocessing: &self.preprocessing,
        };
        let mut wanted = Vec::with_capacity(count);
        for row in 0..count {
            let input = HeadInput::Features;
            wanted.push(WantedInput { row, input });
        }
        network.forward(&vec![row; count], &[], &wanted).map(drop)
    }
}
