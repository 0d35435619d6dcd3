//! Lanes of binary64 side by side, as wide as an instruction set has them.
//!
//! Owns the arithmetic on them, an operation an instruction, so that what a compiler makes of the sums does
//! not hang on what it finds in loops over arrays. What is summed is not known here.

use std::ops::{Add, Mul, Sub};

/// A number, or several side by side. Each operation rounds once, as IEEE 754 says.
pub(crate) trait Number: Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> {
    /// The same value everywhere.
    fn splat(value: f64) -> Self;
    /// `self * b + c`, rounded once.
    fn mul_add(self, b: Self, c: Self) -> Self;
    /// Without its sign.
    fn abs(self) -> Self;
}

impl Number for f64 {
    #[inline(always)]
    fn splat(value: f64) -> f64 {
        value
    }
    #[inline(always)]
    fn mul_add(self, b: f64, c: f64) -> f64 {
        f64::mul_add(self, b, c)
    }
    #[inline(always)]
    fn abs(self) -> f64 {
        f64::abs(self)
    }
}

// Loops over arrays, from which the compiler was to find the instructions by itself, gave the same bits at
// a fifth of the speed with AVX-512, and nothing said so.
/// `W` numbers that are loaded and stored together.
pub(crate) trait Vector<const W: usize>: Number {
    /// Whether this processor has the instructions. Where it does not, nothing else may be done with them.
    fn is_available() -> bool;
    /// Takes float32 numbers, exactly.
    fn widen(from: &[f32; W]) -> Self;
    /// Takes numbers.
    fn load(from: &[f64; W]) -> Self;
    /// Gives them back.
    fn store(self, to: &mut [f64; W]);
}

/// Asks for elements to be brought near the processor.
#[inline(always)]
pub(crate) fn prefetch(values: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in values.chunks(16) {
        // SAFETY: nothing is read; the hint is part of the baseline.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.as_ptr().cast())
        };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}

/// Several numbers or vectors, so that enough operations are under way at a time.
#[derive(Clone, Copy)]
pub(crate) struct Several<V, const N: usize>(pub(crate) [V; N]);

/// Implements operators one after the other of several.
macro_rules! operators {
    ($($trait:ident $method:ident),*) => {
        $(
            impl<V: Number, const N: usize> $trait for Several<V, N> {
                type Output = Self;
                #[inline(always)]
                fn $method(self, other: Self) -> Self {
                    Several(std::array::from_fn(|n| self.0[n].$method(other.0[n])))
                }
            }
        )*
    };
}

operators!(Add add, Sub sub, Mul mul);

impl<V: Number, const N: usize> Number for Several<V, N> {
    #[inline(always)]
    fn splat(value: f64) -> Self {
        Several([V::splat(value); N])
    }
    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        Several(std::array::from_fn(|n| self.0[n].mul_add(b.0[n], c.0[n])))
    }
    #[inline(always)]
    fn abs(self) -> Self {
        Several(self.0.map(V::abs))
    }
}

/// Lanes in an array, for instruction sets that are not written out: the compiler finds its vectors.
pub(crate) type Array = Several<f64, 4>;

impl Vector<4> for Array {
    #[inline(always)]
    fn is_available() -> bool {
        true
    }
    #[inline(always)]
    fn widen(from: &[f32; 4]) -> Self {
        Several(from.map(f64::from))
    }
    #[inline(always)]
    fn load(from: &[f64; 4]) -> Self {
        Several(*from)
    }
    #[inline(always)]
    fn store(self, to: &mut [f64; 4]) {
        *to = self.0;
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use crate::reduce::simd::{Add, Mul, Number, Sub, Vector};

    /// Implements a vector by the instructions of a set.
    macro_rules! vector {
        ($name:ident, $w:literal, $available:expr, [$($trait:ident $method:ident $operate:ident),*],
         $splat:ident, $fma:ident, $abs:expr, $load:ident $widen:ident, $load64:ident $store:ident) => {
            $(
                impl $trait for $name {
                    type Output = $name;
                    #[inline(always)]
                    fn $method(self, other: $name) -> $name {
                        // SAFETY: who uses these vectors has asked whether the processor has them.
                        $name(unsafe { $operate(self.0, other.0) })
                    }
                }
            )*

            impl Number for $name {
                #[inline(always)]
                fn splat(value: f64) -> $name {
                    // SAFETY: as above.
                    $name(unsafe { $splat(value) })
                }
                #[inline(always)]
                fn mul_add(self, b: $name, c: $name) -> $name {
                    // SAFETY: as above.
                    $name(unsafe { $fma(self.0, b.0, c.0) })
                }
                #[inline(always)]
                fn abs(self) -> $name {
                    // SAFETY: as above.
                    $name(unsafe { $abs(self.0) })
                }
            }

            impl Vector<$w> for $name {
                #[inline(always)]
                fn is_available() -> bool {
                    $available
                }
                #[inline(always)]
                fn widen(from: &[f32; $w]) -> $name {
                    // SAFETY: as above, and all that is read lies in the array.
                    $name(unsafe { $widen($load(from.as_ptr())) })
                }
                #[inline(always)]
                fn load(from: &[f64; $w]) -> $name {
                    // SAFETY: as above.
                    $name(unsafe { $load64(from.as_ptr()) })
                }
                #[inline(always)]
                fn store(self, to: &mut [f64; $w]) {
                    // SAFETY: as above, and all that is written lies in the array.
                    unsafe { $store(to.as_mut_ptr(), self.0) }
                }
            }
        };
    }

    /// Four lanes.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2(__m256d);

    vector! {
        Avx2, 4, is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
        [Add add _mm256_add_pd, Sub sub _mm256_sub_pd, Mul mul _mm256_mul_pd],
        _mm256_set1_pd, _mm256_fmadd_pd, |v| _mm256_andnot_pd(_mm256_set1_pd(-0.0), v),
        _mm_loadu_ps _mm256_cvtps_pd, _mm256_loadu_pd _mm256_storeu_pd
    }

    /// Eight lanes.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512(__m512d);

    vector! {
        Avx512, 8, is_x86_feature_detected!("avx512f"),
        [Add add _mm512_add_pd, Sub sub _mm512_sub_pd, Mul mul _mm512_mul_pd],
        _mm512_set1_pd, _mm512_fmadd_pd, |v| _mm512_abs_pd(v),
        _mm256_loadu_ps _mm512_cvtps_pd, _mm512_loadu_pd _mm512_storeu_pd
    }
}
