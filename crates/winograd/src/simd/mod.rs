//! Sixteen numbers at a time, by AVX-512, AVX2 or plain Rust: kernels are written once against [`Simd`].

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod isa;
mod portable;

pub use isa::{Isa, Kernel};

/// Numbers in a vector, and channels in a block of [`crate::Maps`].
pub const LANES: usize = 16;

/// The operations of one instruction set. A value of the type proves that the CPU has it.
///
/// Methods are `inline(always)`, so that they compile with the features of the kernel's entry (see [`Isa::run`]).
pub trait Simd: Copy + Send + Sync {
    /// Sixteen f32.
    type Floats: Copy;
    /// Sixteen i32, or sixteen pairs of i16.
    type Ints: Copy;
    /// Rows of a product that fit in the registers beside [`Self::PANELS`] vectors of columns.
    const ROWS: usize;
    /// Vectors of columns of a product that fit in the registers.
    const PANELS: usize;
    /// Steps of a product, 1 or 2, per iteration of its innermost loop. A loop of one may be so short that its time
    /// depends on its alignment to cache lines, by 8 % in AVX2.
    const STEPS: usize = 1;

    /// All lanes `value`.
    fn splat(self, value: f32) -> Self::Floats;
    /// a + b
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// a - b
    fn sub(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// a * b
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// a * b + c
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// c - a * b
    fn neg_mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// a / b
    fn div(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// √a
    fn sqrt(self, a: Self::Floats) -> Self::Floats;
    /// The larger of both; b where either is NaN.
    fn max(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// Lane i is the sum of the lanes of `vectors[i]`.
    fn sums(self, vectors: &[Self::Floats; LANES]) -> Self::Floats;

    /// Prefetches the cache line at `address`, which need not be valid, to L1.
    #[inline(always)]
    fn prefetch(self, address: *const f32) {
        #[cfg(not(target_arch = "x86_64"))]
        let _ = address;
        #[cfg(target_arch = "x86_64")]
        // SAFETY: SSE is part of x86-64, and a prefetch of any address is harmless.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
        }
    }

    /// Prefetches the cache line at `address`, which need not be valid, to L2.
    #[inline(always)]
    fn prefetch_l2(self, address: *const u8) {
        #[cfg(not(target_arch = "x86_64"))]
        let _ = address;
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(address.cast());
        }
    }

    /// Reads sixteen f32.
    ///
    /// # Safety
    /// `from` is valid for reading sixteen f32.
    unsafe fn load(self, from: *const f32) -> Self::Floats;
    /// Writes sixteen f32.
    ///
    /// # Safety
    /// `to` is valid for writing sixteen f32.
    unsafe fn store(self, to: *mut f32, value: Self::Floats);
    /// Reads sixteen i16 as f32.
    ///
    /// # Safety
    /// `from` is valid for reading sixteen i16.
    unsafe fn load_i16(self, from: *const i16) -> Self::Floats;
    /// Rounds to the nearest integer (ties to even) and writes sixteen i16. The values must lie within i16's range; for
    /// others, and NaN, the number is unspecified.
    ///
    /// # Safety
    /// `to` is valid for writing sixteen i16.
    unsafe fn store_i16(self, to: *mut i16, value: Self::Floats);

    /// All lanes zero.
    fn zero_ints(self) -> Self::Ints;
    /// Reads sixteen pairs of i16.
    ///
    /// # Safety
    /// `from` is valid for reading 32 i16.
    unsafe fn load_pairs(self, from: *const i16) -> Self::Ints;
    /// Reads one pair of i16 into all lanes.
    ///
    /// # Safety
    /// `from` is valid for reading two i16.
    unsafe fn splat_pair(self, from: *const i16) -> Self::Ints;
    /// sum + a.0 * b.0 + a.1 * b.1 in each lane, modulo 2^32.
    fn dot_pairs(self, sum: Self::Ints, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// i32 to f32.
    fn to_floats(self, value: Self::Ints) -> Self::Floats;
}
