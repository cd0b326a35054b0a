//! The innermost loop of a matrix product, for each number type.

use crate::buffer::Number;
use crate::simd::Simd;

/// The number types of a product, and its innermost step.
pub trait Multiply {
    /// Activations.
    type Row: Number;
    /// Weights.
    type Column: Number;
    /// Numbers of a row that a step consumes.
    const DEPTH: usize;
    /// See [`Kernel::DOTS_PAIRS`](crate::simd::Kernel::DOTS_PAIRS).
    const DOTS_PAIRS: bool = false;
    /// Sixteen sums, to which a step adds.
    type Sum<S: Simd>: Copy;
    /// One row's share of a step, in all lanes.
    type Left<S: Simd>: Copy;
    /// Sixteen columns' share of a step.
    type Right<S: Simd>: Copy;

    /// Sums of zero.
    fn zero<S: Simd>(s: S) -> Self::Sum<S>;
    /// Reads a row's share.
    ///
    /// # Safety
    /// `from` is valid for reading `DEPTH` numbers.
    unsafe fn left<S: Simd>(s: S, from: *const Self::Row) -> Self::Left<S>;
    /// Reads sixteen columns' share.
    ///
    /// # Safety
    /// `from` is valid for reading 16 x `DEPTH` numbers.
    unsafe fn right<S: Simd>(s: S, from: *const Self::Column) -> Self::Right<S>;
    /// sum + left * right
    fn step<S: Simd>(s: S, sum: Self::Sum<S>, left: Self::Left<S>, right: Self::Right<S>) -> Self::Sum<S>;
    /// The sum as f32.
    fn finish<S: Simd>(s: S, sum: Self::Sum<S>) -> S::Floats;
}

/// f32 times f32.
#[derive(Clone, Copy, Debug)]
pub struct Float;

/// i16 times i16, summed exactly in i32 (modulo 2^32).
#[derive(Clone, Copy, Debug)]
pub struct Integer;

/// f32 times i16, summed in f32.
#[derive(Clone, Copy, Debug)]
pub struct Mixed;

impl Multiply for Float {
    type Row = f32;
    type Column = f32;
    const DEPTH: usize = 1;
    type Sum<S: Simd> = S::Floats;
    type Left<S: Simd> = S::Floats;
    type Right<S: Simd> = S::Floats;

    #[inline(always)]
    fn zero<S: Simd>(s: S) -> S::Floats {
        s.splat(0.0)
    }
    #[inline(always)]
    unsafe fn left<S: Simd>(s: S, from: *const f32) -> S::Floats {
        // SAFETY: the caller vouches for one number.
        s.splat(unsafe { *from })
    }
    #[inline(always)]
    unsafe fn right<S: Simd>(s: S, from: *const f32) -> S::Floats {
        // SAFETY: the caller vouches for sixteen numbers.
        unsafe { s.load(from) }
    }
    #[inline(always)]
    fn step<S: Simd>(s: S, sum: S::Floats, left: S::Floats, right: S::Floats) -> S::Floats {
        s.mul_add(left, right, sum)
    }
    #[inline(always)]
    fn finish<S: Simd>(_: S, sum: S::Floats) -> S::Floats {
        sum
    }
}

impl Multiply for Integer {
    type Row = i16;
    type Column = i16;
    const DEPTH: usize = 2;
    const DOTS_PAIRS: bool = true;
    type Sum<S: Simd> = S::Ints;
    type Left<S: Simd> = S::Ints;
    type Right<S: Simd> = S::Ints;

    #[inline(always)]
    fn zero<S: Simd>(s: S) -> S::Ints {
        s.zero_ints()
    }
    #[inline(always)]
    unsafe fn left<S: Simd>(s: S, from: *const i16) -> S::Ints {
        // SAFETY: the caller vouches for two numbers.
        unsafe { s.splat_pair(from) }
    }
    #[inline(always)]
    unsafe fn right<S: Simd>(s: S, from: *const i16) -> S::Ints {
        // SAFETY: the caller vouches for 32 numbers.
        unsafe { s.load_pairs(from) }
    }
    #[inline(always)]
    fn step<S: Simd>(s: S, sum: S::Ints, left: S::Ints, right: S::Ints) -> S::Ints {
        s.dot_pairs(sum, left, right)
    }
    #[inline(always)]
    fn finish<S: Simd>(s: S, sum: S::Ints) -> S::Floats {
        s.to_floats(sum)
    }
}

impl Multiply for Mixed {
    type Row = f32;
    type Column = i16;
    const DEPTH: usize = 1;
    type Sum<S: Simd> = S::Floats;
    type Left<S: Simd> = S::Floats;
    type Right<S: Simd> = S::Floats;

    #[inline(always)]
    fn zero<S: Simd>(s: S) -> S::Floats {
        s.splat(0.0)
    }
    #[inline(always)]
    unsafe fn left<S: Simd>(s: S, from: *const f32) -> S::Floats {
        // SAFETY: the caller vouches for one number.
        s.splat(unsafe { *from })
    }
    #[inline(always)]
    unsafe fn right<S: Simd>(s: S, from: *const i16) -> S::Floats {
        // SAFETY: the caller vouches for sixteen numbers.
        unsafe { s.load_i16(from) }
    }
    #[inline(always)]
    fn step<S: Simd>(s: S, sum: S::Floats, left: S::Floats, right: S::Floats) -> S::Floats {
        s.mul_add(left, right, sum)
    }
    #[inline(always)]
    fn finish<S: Simd>(_: S, sum: S::Floats) -> S::Floats {
        sum
    }
}
