//! What holds for every backend. A test program includes this module and says at its root which backends it means: `CASES`,
//! and the libtorch that they may use: `TORCH`.

mod backbones;
mod batches;
mod golden;
mod specs;

use std::num::NonZeroUsize;

use headswap_checkpoint::Parameters;
use headswap_image::Prepared;
use headswap_model::{
    Backbone, Backend, BackendChoice, BackendSettings, DeviceChoice, InputRow, PlacedHead, Precision, WantedInput,
    WeightsSource,
};
use headswap_spec::{Architecture, CompleteSpec, HeadInput, LAST_BIAS, PICTURE_SIDE, Preprocessing, Preset};

/// A backend.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub backend: BackendChoice,
    pub precision: Precision,
    /// How much its logits may differ from torchvision's, as a part of the largest.
    pub tolerance: f32,
    /// Results have the same bits in any batch.
    pub repeatable: bool,
    /// A head's parameters take whole blocks of channels.
    pub packs_blocks: bool,
}

/// The demo's backbone on a backend, and its last Linear. No threads means one for each core.
pub fn open(architecture: Architecture, case: Case, threads: usize) -> (Box<dyn Backend>, Parameters) {
    let mut backbone = Backbone::load(&WeightsSource::Demo, architecture).unwrap();
    let last = backbone.take_last_linear();
    let settings = BackendSettings {
        backend: case.backend,
        device: DeviceChoice::Cpu,
        precision: case.precision,
        threads: NonZeroUsize::new(threads),
        pin_threads: false,
    };
    let backend = headswap_model::open_backend(vec![backbone], &settings, crate::TORCH);
    (backend.unwrap(), last)
}

/// The precision that the server would report with these settings, or why they are refused.
pub fn precision(settings: BackendSettings) -> Result<&'static str, String> {
    let mut backbone = Backbone::load(&WeightsSource::Demo, Architecture::Vgg16Narrow).unwrap();
    backbone.take_last_linear();
    match headswap_model::open_backend(vec![backbone], &settings, crate::TORCH) {
        Ok(backend) => Ok(backend.precision()),
        Err(error) => Err(error.to_string()),
    }
}

/// A picture of 224x224 pixels.
pub fn picture(values: Vec<u8>) -> Prepared {
    Prepared::Bytes {
        size: [PICTURE_SIDE; 2],
        values: values.into(),
    }
}

pub fn torchvision() -> Preprocessing {
    Preset::Torchvision.preprocessing()
}

/// The rows of pictures that are prepared as torchvision does.
pub fn rows<'a>(pictures: &'a [Prepared], preprocessing: &'a Preprocessing) -> Vec<InputRow<'a>> {
    let row = |picture| InputRow { picture, preprocessing };
    pictures.iter().map(row).collect()
}

/// The features of these rows.
pub fn features(rows: impl IntoIterator<Item = usize>) -> Vec<WantedInput> {
    let wanted = |row| WantedInput {
        row,
        backbone: 0,
        input: HeadInput::Features,
    };
    rows.into_iter().map(wanted).collect()
}

/// Places a head of torchvision's layers.
pub fn place(network: &dyn Backend, parameters: &Parameters) -> PlacedHead {
    let classes = parameters[LAST_BIAS].values.len();
    let spec = CompleteSpec::plain(torchvision(), classes);
    network.placer().place(parameters, &spec).unwrap()
}
