//! libtorch as the backend, on the CPU.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../../model/tests/conformance/mod.rs"]
mod conformance;

use conformance::{Case, precision};
use headswap_model::{BackendChoice, BackendSettings, DeviceChoice, Precision, TorchRuntime};
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
