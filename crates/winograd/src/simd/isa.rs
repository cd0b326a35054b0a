//! Selects the instruction set that runs a kernel.

use super::Simd;
use super::portable::Portable;
#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2, avx512::Avx512};

/// A piece of work written against [`Simd`].
pub trait Kernel {
    /// True if it calls [`Simd::dot_pairs`], for which VNNI has an instruction. Other kernels are compiled once for
    /// AVX-512 with and without VNNI.
    const DOTS_PAIRS: bool = false;

    /// Does the work. Implementations and all they call are `inline(always)`: a function that is not inlined compiles
    /// without the instruction set's features.
    fn run<S: Simd>(self, simd: S);
}

/// An instruction set that this CPU has.
#[derive(Clone, Copy)]
pub enum Isa {
    /// AVX-512 F, BW and VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(Avx512<true>),
    /// AVX-512 F and BW, as in the first CPUs with AVX-512. Its results have the same bits as VNNI's.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512<false>),
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// Plain Rust.
    Portable,
}

impl Isa {
    /// The best that this CPU has.
    pub fn best() -> Self {
        Self::all()[0]
    }

    /// All that this CPU has, the best first.
    pub fn all() -> Vec<Self> {
        let mut all = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(Avx2::detect().map(Self::Avx2));
            all.extend(Avx512::<false>::detect().map(Self::Avx512));
            all.extend(Avx512::<true>::detect().map(Self::Avx512Vnni));
        }
        all.reverse();
        all
    }

    /// Rows of a product that it computes at a time.
    pub(crate) fn rows(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni(_) | Self::Avx512(_) => Avx512::<false>::ROWS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => Avx2::ROWS,
            Self::Portable => Portable::ROWS,
        }
    }

    /// Vectors of columns of a product that it computes at a time.
    pub(crate) fn panels(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni(_) | Self::Avx512(_) => Avx512::<false>::PANELS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => Avx2::PANELS,
            Self::Portable => Portable::PANELS,
        }
    }

    /// Runs `kernel` with this instruction set.
    pub fn run<K: Kernel>(self, kernel: K) {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the value proves that the CPU has the features that the function enables.
            Self::Avx512Vnni(simd) if const { K::DOTS_PAIRS } => unsafe { run_avx512_vnni(simd, kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Self::Avx512Vnni(simd) => unsafe { run_avx512(simd.without_vnni(), kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Self::Avx512(simd) => unsafe { run_avx512(simd, kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Self::Avx2(simd) => unsafe { run_avx2(simd, kernel) },
            Self::Portable => kernel.run(Portable),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn run_avx512_vnni(simd: Avx512<true>, kernel: impl Kernel) {
    kernel.run(simd);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
fn run_avx512(simd: Avx512<false>, kernel: impl Kernel) {
    kernel.run(simd);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2(simd: Avx2, kernel: impl Kernel) {
    kernel.run(simd);
}

impl std::fmt::Debug for Isa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni(_) => "avx512-vnni",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            Self::Portable => "portable",
        })
    }
}
