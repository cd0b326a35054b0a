//! The native backend.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod conformance;

use conformance::{Case, precision};
use headswap_model::{BackendChoice, BackendSettings, DeviceChoice, Precision, TorchRuntime};

const TORCH: Option<&dyn TorchRuntime> = None;

const CASES: [Case; 2] = [
    Case {
        backend: BackendChoice::Native,
        precision: Precision::F32,
        tolerance: 1e-4,
        repeatable: true,
        packs_blocks: true,
    },
    Case {
        backend: BackendChoice::Native,
        precision: Precision::Int16,
        tolerance: 1e-2,
        repeatable: true,
        packs_blocks: true,
    },
];

const SETTINGS: BackendSettings = BackendSettings {
    backend: BackendChoice::Native,
    device: DeviceChoice::Cpu,
    precision: Precision::Auto,
    threads: None,
    pin_threads: false,
};

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let bf16 = Precision::Bf16;
    assert_eq!(precision(SETTINGS).unwrap(), "f32");
    let int16 = Precision::Int16;
    assert_eq!(
        precision(BackendSettings {
            precision: int16,
            ..SETTINGS
        })
        .unwrap(),
        "int16"
    );
    assert_eq!(
        precision(BackendSettings {
            pin_threads: true,
            ..SETTINGS
        })
        .unwrap(),
        "f32"
    );
    let refused = precision(BackendSettings {
        precision: bf16,
        ..SETTINGS
    })
    .unwrap_err();
    assert!(refused.contains("change --precision"), "{refused}");
    let gpu = DeviceChoice::Cuda(Some(99));
    let refused = precision(BackendSettings {
        device: gpu,
        ..SETTINGS
    })
    .unwrap_err();
    assert!(refused.contains("--device cpu"), "{refused}");
}

#[test]
fn what_needs_libtorch_says_so_without_it() {
    let auto = BackendSettings {
        backend: BackendChoice::Auto,
        ..SETTINGS
    };
    for settings in [
        BackendSettings {
            backend: BackendChoice::Torch,
            ..SETTINGS
        },
        BackendSettings {
            precision: Precision::Bf16,
            ..auto
        },
        BackendSettings {
            device: DeviceChoice::Cuda(None),
            ..auto
        },
    ] {
        let refused = precision(settings).unwrap_err();
        assert!(refused.contains("libtorch"), "{refused}");
    }
}
