//! Untrained weights from a seeded generator, the same on every machine.
//!
//! Element `i` (row-major) of parameter `p` (counted from 0 in the layers' order, weights and biases alike) is
//! `(mix((p << 40) + i) >> 40) / 2^23 - 1`, a multiple of 2^-23 in [-1, 1), times the parameter's bound. `mix(n)` is
//! SplitMix64's output function (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014) at
//! counter `seed + (n + 1) * 0x9E3779B97F4A7C15`. A weight's bound is `sqrt(6 / fan_in)` (He et al., 2015: keeps the
//! signal's variance through ReLU), a bias's is 0.05. All in f32: every step is exact or correctly rounded in IEEE 754, so
//! that all machines agree.

use std::sync::Arc;

use headswap_checkpoint::{HostTensor, Parameters};
use headswap_spec::Architecture;

/// The backbone's seed.
const SEED: u64 = 0x4845_4144_5357_4150; // "HEADSWAP"

/// Returns all parameters of a backbone with 1000 classes.
pub fn demo_parameters(architecture: Architecture) -> Parameters {
    let shapes = architecture.parameters(1000);
    shapes
        .into_iter()
        .enumerate()
        .map(|(index, (name, shape))| (name, Arc::new(generate(SEED, index, shape))))
        .collect()
}

/// Returns a last Linear of `classes` outputs, different for each `seed`.
pub fn demo_head(architecture: Architecture, classes: usize, seed: u64) -> Parameters {
    demo_head_from(architecture, "classifier.6", classes, seed)
}

/// Returns every parameter from the layer `split` on, for a head of `classes` outputs. The parameters are counted from the
/// last Linear's weight on, then from the first convolution's.
pub fn demo_head_from(architecture: Architecture, split: &str, classes: usize, seed: u64) -> Parameters {
    let seed = SEED ^ seed.wrapping_add(1).wrapping_mul(0xD134_2543_DE82_EF95);
    let shapes = architecture.parameters(classes);
    let (count, first) = (shapes.len(), format!("{split}.weight"));
    shapes
        .into_iter()
        .enumerate()
        .skip_while(|(_, (name, _))| *name != first)
        .map(|(index, (name, shape))| (name, Arc::new(generate(seed, (index + 2) % count, shape))))
        .collect()
}

fn generate(seed: u64, parameter: usize, shape: Vec<usize>) -> HostTensor {
    let count: usize = shape.iter().product();
    let bound = match shape.len() {
        1 => 0.05,
        _ => (6.0 / shape[1..].iter().product::<usize>() as f32).sqrt(),
    };
    let first = (parameter as u64) << 40;
    let mut values = vec![0f32; count];
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let share = count.div_ceil(threads).max(1 << 16);
    std::thread::scope(|scope| {
        for (part, values) in values.chunks_mut(share).enumerate() {
            scope.spawn(move || {
                for (value, counter) in values.iter_mut().zip(first + (part * share) as u64..) {
                    *value = unit(seed, counter) * bound;
                }
            });
        }
    });
    HostTensor::new(shape, values)
}

/// Returns a multiple of 2^-23 in [-1, 1).
fn unit(seed: u64, counter: u64) -> f32 {
    let mut z = seed.wrapping_add(counter.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    (z >> 40) as f32 / 8_388_608.0 - 1.0
}
