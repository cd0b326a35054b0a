//! libtorch as the backend, on the CPU.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../../model/tests/conformance/mod.rs"]
mod conformance;

use conformance::Case;
use headswap_model::{
    Backbone, BackendChoice, BackendSettings, DeviceChoice, Precision, TorchRuntime, WeightsSource, open_backend,
};
use headswap_spec::Architecture;
use headswap_torch::LIBTORCH;

const TORCH: Option<&dyn TorchRuntime> = Some(LIBTORCH);

const CASES: [Case; 1] = [Case {
    backend: BackendChoice::Torch,
    precision: Precision::F32,
    tolerance: 1e-4,
    repeatable: false,
    packs_blocks: false,
}];

const SETTINGS: BackendSettings = BackendSettings {
    backend: BackendChoice::Torch,
    device: DeviceChoice::Cpu,
    precision: Precision::Auto,
    threads: None,
    pin_threads: false,
};

fn precision(settings: BackendSettings) -> Result<&'static str, String> {
    let mut backbone = Backbone::load(&WeightsSource::Demo, Architecture::Vgg16Narrow).unwrap();
    backbone.take_last_linear();
    match open_backend(backbone, &settings, TORCH) {
        Ok(backend) => Ok(backend.precision()),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let auto = BackendSettings {
        backend: BackendChoice::Auto,
        ..SETTINGS
    };
    assert_eq!(precision(SETTINGS).unwrap(), "f32");
    assert_eq!(
        precision(BackendSettings {
            precision: Precision::Bf16,
            ..auto
        })
        .unwrap(),
        "bf16"
    );
    let refused = precision(BackendSettings {
        pin_threads: true,
        ..SETTINGS
    })
    .unwrap_err();
    assert!(refused.contains("--pin-threads"), "{refused}");
    let refused = precision(BackendSettings {
        precision: Precision::Int16,
        ..SETTINGS
    })
    .unwrap_err();
    assert!(refused.contains("--backend native"), "{refused}");
    let gpu = DeviceChoice::Cuda(Some(99));
    let refused = precision(BackendSettings { device: gpu, ..auto }).unwrap_err();
    assert!(refused.contains("--device cuda:99"), "{refused}");
}
