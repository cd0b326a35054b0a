//! AVX-512, with VNNI or without.

use std::arch::x86_64::*;

use super::{LANES, Simd};

/// Proof that the CPU has AVX-512 F and BW, and VNNI if `VNNI`. VNNI affects only products of integers.
#[derive(Clone, Copy)]
pub struct Avx512<const VNNI: bool>(());

impl Avx512<false> {
    pub fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
        has.then_some(Self(()))
    }
}

impl Avx512<true> {
    pub fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512vnni");
        Avx512::<false>::detect().filter(|_| has).map(|_| Self(()))
    }

    /// The same without VNNI.
    pub fn without_vnni(self) -> Avx512<false> {
        Avx512(())
    }
}

/// Calls an intrinsic whose features a value of [`Avx512`] proves.
macro_rules! proven {
    ($call:expr) => {{
        // SAFETY: `self` exists only where `detect` found the features that the intrinsic needs; a caller of an unsafe
        // method vouches for its pointer.
        unsafe { $call }
    }};
}

/// `_mm512_dpwssd_epi32` as one instruction: LLVM 21 splits the intrinsic into a product and an addition.
#[target_feature(enable = "avx512f,avx512vnni")]
#[inline]
fn dpwssd(mut sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: the instruction reads and writes these registers alone, and the features enabled include it.
    unsafe {
        std::arch::asm!(
            "vpdpwssd {sum}, {a}, {b}",
            sum = inout(zmm_reg) sum,
            a = in(zmm_reg) a,
            b = in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

impl<const VNNI: bool> Avx512<VNNI> {
    /// In each quarter: partial sums of that quarter of a, b, a, b.
    #[inline(always)]
    fn pairs(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)))
    }

    /// In each quarter: that quarter's sums of the four vectors from `i`.
    #[inline(always)]
    fn fours(self, v: &[__m512; LANES], i: usize) -> __m512 {
        let (a, b) = (self.pairs(v[i], v[i + 1]), self.pairs(v[i + 2], v[i + 3]));
        proven!({
            let (a, b) = (_mm512_castps_pd(a), _mm512_castps_pd(b));
            let (low, high) = (_mm512_unpacklo_pd(a, b), _mm512_unpackhi_pd(a, b));
            _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high))
        })
    }

    /// Quarters 0 + 1 and 2 + 3 of a, then those of b.
    #[inline(always)]
    fn quarters(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_add_ps(
            _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b),
            _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b)
        ))
    }
}

impl<const VNNI: bool> Simd for Avx512<VNNI> {
    type Floats = __m512;
    type Ints = __m512i;
    // 14 x 2 sums, 2 columns and 1 row fill 31 of 32 registers.
    const ROWS: usize = 14;
    const PANELS: usize = 2;

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        proven!(_mm512_set1_ps(value))
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        proven!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn neg_mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        proven!(_mm512_fnmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn sqrt(self, a: __m512) -> __m512 {
        proven!(_mm512_sqrt_ps(a))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_max_ps(a, b))
    }

    /// Halves the number of vectors four times: 15 x (2 shuffles + 1 addition).
    #[inline(always)]
    fn sums(self, v: &[__m512; LANES]) -> __m512 {
        let low = self.quarters(self.fours(v, 0), self.fours(v, 4));
        let high = self.quarters(self.fours(v, 8), self.fours(v, 12));
        self.quarters(low, high)
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        proven!(_mm512_loadu_ps(from))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, value: __m512) {
        proven!(_mm512_storeu_ps(to, value))
    }
    #[inline(always)]
    unsafe fn load_i16(self, from: *const i16) -> __m512 {
        proven!(_mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256(
            from.cast()
        ))))
    }
    #[inline(always)]
    unsafe fn store_i16(self, to: *mut i16, value: __m512) {
        proven!(_mm256_storeu_si256(
            to.cast(),
            _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(value))
        ))
    }

    #[inline(always)]
    fn zero_ints(self) -> __m512i {
        proven!(_mm512_setzero_si512())
    }
    #[inline(always)]
    unsafe fn load_pairs(self, from: *const i16) -> __m512i {
        proven!(_mm512_loadu_si512(from.cast()))
    }
    #[inline(always)]
    unsafe fn splat_pair(self, from: *const i16) -> __m512i {
        proven!(_mm512_set1_epi32(from.cast::<i32>().read_unaligned()))
    }
    #[inline(always)]
    fn dot_pairs(self, sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
        if const { VNNI } {
            proven!(dpwssd(sum, a, b))
        } else {
            // The same sums modulo 2^32.
            proven!(_mm512_add_epi32(sum, _mm512_madd_epi16(a, b)))
        }
    }
    #[inline(always)]
    fn to_floats(self, value: __m512i) -> __m512 {
        proven!(_mm512_cvtepi32_ps(value))
    }
}
