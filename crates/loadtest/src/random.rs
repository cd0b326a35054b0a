//! Seeded random numbers, the same in every run and on every machine.

/// By how much the state grows with each number.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// Begins at a seed; those of different seeds have nothing to do with each other.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Begins before number `index` of those of the seed 0.
    pub fn at(index: u64) -> Self {
        Self(index.wrapping_mul(STEP))
    }

    /// The next number, from 0 to 1 without 1, in steps of 2^-53.
    pub fn next_share(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(STEP);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}
