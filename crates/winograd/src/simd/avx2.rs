//! AVX2 with FMA: two registers make a vector.

use std::arch::x86_64::*;

use super::{LANES, Simd};

/// Proof that the CPU has AVX2 and FMA.
#[derive(Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    pub fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        has.then_some(Self(()))
    }
}

/// Calls intrinsics whose features a value of [`Avx2`] proves.
macro_rules! proven {
    ($call:expr) => {{
        // SAFETY: `self` exists only where `detect` found AVX2 and FMA; a caller of an unsafe method vouches for its
        // pointer.
        unsafe { $call }
    }};
}

impl Avx2 {
    /// In each half: that half's sums of the four vectors from `i`, after their two registers are added.
    #[inline(always)]
    fn fours(self, v: &[[__m256; 2]; LANES], i: usize) -> __m256 {
        proven!({
            let (a, b) = (_mm256_add_ps(v[i][0], v[i][1]), _mm256_add_ps(v[i + 1][0], v[i + 1][1]));
            let (c, d) = (
                _mm256_add_ps(v[i + 2][0], v[i + 2][1]),
                _mm256_add_ps(v[i + 3][0], v[i + 3][1]),
            );
            _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d))
        })
    }

    /// The sums of the eight vectors from `i`.
    #[inline(always)]
    fn eights(self, v: &[[__m256; 2]; LANES], i: usize) -> __m256 {
        let (low, high) = (self.fours(v, i), self.fours(v, i + 4));
        proven!(_mm256_add_ps(
            _mm256_permute2f128_ps::<0x20>(low, high),
            _mm256_permute2f128_ps::<0x31>(low, high)
        ))
    }
}

impl Simd for Avx2 {
    type Floats = [__m256; 2];
    type Ints = [__m256i; 2];
    // 6 x 2 sums, 2 columns and 1 row fill 15 of 16 registers.
    const ROWS: usize = 6;
    const PANELS: usize = 1;
    const STEPS: usize = 2;

    #[inline(always)]
    fn splat(self, value: f32) -> [__m256; 2] {
        [proven!(_mm256_set1_ps(value)); 2]
    }
    #[inline(always)]
    fn add(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        proven!([_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn sub(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        proven!([_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn mul(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        proven!([_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn mul_add(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        proven!([_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])])
    }
    #[inline(always)]
    fn neg_mul_add(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        proven!([_mm256_fnmadd_ps(a[0], b[0], c[0]), _mm256_fnmadd_ps(a[1], b[1], c[1])])
    }
    #[inline(always)]
    fn div(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        proven!([_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn sqrt(self, a: [__m256; 2]) -> [__m256; 2] {
        proven!([_mm256_sqrt_ps(a[0]), _mm256_sqrt_ps(a[1])])
    }
    #[inline(always)]
    fn max(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        proven!([_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn sums(self, v: &[[__m256; 2]; LANES]) -> [__m256; 2] {
        [self.eights(v, 0), self.eights(v, 8)]
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> [__m256; 2] {
        proven!([_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))])
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, value: [__m256; 2]) {
        proven!({
            _mm256_storeu_ps(to, value[0]);
            _mm256_storeu_ps(to.add(8), value[1]);
        })
    }
    #[inline(always)]
    unsafe fn load_i16(self, from: *const i16) -> [__m256; 2] {
        proven!({
            let (low, high) = (_mm_loadu_si128(from.cast()), _mm_loadu_si128(from.add(8).cast()));
            [
                _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(low)),
                _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(high)),
            ]
        })
    }
    #[inline(always)]
    unsafe fn store_i16(self, to: *mut i16, value: [__m256; 2]) {
        proven!({
            // The packing works within halves of 128 bits: quarters come out as 0, 2, 1, 3.
            let packed = _mm256_packs_epi32(_mm256_cvtps_epi32(value[0]), _mm256_cvtps_epi32(value[1]));
            _mm256_storeu_si256(to.cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(packed));
        })
    }

    #[inline(always)]
    fn zero_ints(self) -> [__m256i; 2] {
        [proven!(_mm256_setzero_si256()); 2]
    }
    #[inline(always)]
    unsafe fn load_pairs(self, from: *const i16) -> [__m256i; 2] {
        proven!([
            _mm256_loadu_si256(from.cast()),
            _mm256_loadu_si256(from.add(LANES).cast())
        ])
    }
    #[inline(always)]
    unsafe fn splat_pair(self, from: *const i16) -> [__m256i; 2] {
        [proven!(_mm256_set1_epi32(from.cast::<i32>().read_unaligned())); 2]
    }
    #[inline(always)]
    fn dot_pairs(self, sum: [__m256i; 2], a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        proven!([
            _mm256_add_epi32(sum[0], _mm256_madd_epi16(a[0], b[0])),
            _mm256_add_epi32(sum[1], _mm256_madd_epi16(a[1], b[1])),
        ])
    }
    #[inline(always)]
    fn to_floats(self, value: [__m256i; 2]) -> [__m256; 2] {
        proven!([_mm256_cvtepi32_ps(value[0]), _mm256_cvtepi32_ps(value[1])])
    }
}
