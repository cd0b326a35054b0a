//! Plain Rust, for CPUs without AVX2. The compiler vectorises it as far as the target's baseline allows.

use super::{LANES, Simd};

/// Needs nothing of the CPU.
#[derive(Clone, Copy)]
pub struct Portable;

#[inline(always)]
fn zip(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Portable {
    type Floats = [f32; LANES];
    type Ints = [i32; LANES];
    const ROWS: usize = 2;
    const PANELS: usize = 1;

    #[inline(always)]
    fn splat(self, value: f32) -> [f32; LANES] {
        [value; LANES]
    }
    #[inline(always)]
    fn add(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| a * b)
    }
    // Rounds twice: `f32::mul_add` without FMA is a call into the mathematical library.
    #[inline(always)]
    fn mul_add(self, a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn neg_mul_add(self, a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| c[i] - a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn sqrt(self, a: [f32; LANES]) -> [f32; LANES] {
        a.map(f32::sqrt)
    }
    #[inline(always)]
    fn max(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn sums(self, vectors: &[[f32; LANES]; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| vectors[i].iter().sum())
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> [f32; LANES] {
        // SAFETY: the caller vouches for sixteen f32.
        unsafe { from.cast::<[f32; LANES]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, value: [f32; LANES]) {
        // SAFETY: the caller vouches for sixteen f32.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(value) }
    }
    #[inline(always)]
    unsafe fn load_i16(self, from: *const i16) -> [f32; LANES] {
        // SAFETY: the caller vouches for sixteen i16.
        let values = unsafe { from.cast::<[i16; LANES]>().read_unaligned() };
        values.map(f32::from)
    }
    #[inline(always)]
    unsafe fn store_i16(self, to: *mut i16, value: [f32; LANES]) {
        let values = value.map(|value| value.round_ties_even() as i16);
        // SAFETY: the caller vouches for sixteen i16.
        unsafe { to.cast::<[i16; LANES]>().write_unaligned(values) }
    }

    #[inline(always)]
    fn zero_ints(self) -> [i32; LANES] {
        [0; LANES]
    }
    #[inline(always)]
    unsafe fn load_pairs(self, from: *const i16) -> [i32; LANES] {
        // SAFETY: the caller vouches for 32 i16, which are as many bytes as sixteen i32.
        unsafe { from.cast::<[i32; LANES]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn splat_pair(self, from: *const i16) -> [i32; LANES] {
        // SAFETY: the caller vouches for two i16, which are as many bytes as one i32.
        [unsafe { from.cast::<i32>().read_unaligned() }; LANES]
    }
    #[inline(always)]
    fn dot_pairs(self, sum: [i32; LANES], a: [i32; LANES], b: [i32; LANES]) -> [i32; LANES] {
        // Each part of a pair is multiplied by the same part of the other, in either byte order.
        let (low, high) = (|x: i32| i32::from(x as i16), |x: i32| x >> 16);
        std::array::from_fn(|i| {
            sum[i]
                .wrapping_add(low(a[i]).wrapping_mul(low(b[i])))
                .wrapping_add(high(a[i]).wrapping_mul(high(b[i])))
        })
    }
    #[inline(always)]
    fn to_floats(self, value: [i32; LANES]) -> [f32; LANES] {
        value.map(|value| value as f32)
    }
}
