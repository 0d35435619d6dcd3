//! Which instruction set the hot loops run with.
//!
//! An [`Isa`] is a proof: it can only be made for what this processor has, so the `unsafe` calls
//! that `multi_isa!` generates are sound. Every variant computes the same bits; `docs/numerics.md`
//! says why.

use crate::error::Usage;

/// An instruction set that this processor is known to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Kind);

/// The variants behind [`Isa`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The definition itself, one element at a time. Slow; what the others are tested against.
    Scalar,
    /// The vector body compiled for the baseline of the target.
    Portable,
    /// The vector body with AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// The vector body with AVX-512 (F, BW, DQ, VL).
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// Every instruction set that this processor has, slowest first.
    pub fn available() -> Vec<Isa> {
        let mut all = vec![Isa(Kind::Scalar), Isa(Kind::Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            // Shifts by a variable are slow without BMI2, which every processor with AVX2 has.
            if is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("bmi2")
            {
                all.push(Isa(Kind::Avx2));
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                {
                    all.push(Isa(Kind::Avx512));
                }
            }
        }
        all
    }

    /// The fastest instruction set of this processor.
    pub fn detect() -> Isa {
        Isa::available().pop().unwrap_or(Isa(Kind::Portable))
    }

    /// The instruction set that `LPA_ISA` names, else the fastest.
    ///
    /// # Errors
    /// The name is unknown or the processor lacks it.
    pub fn from_env() -> Result<Isa, Usage> {
        let Some(asked) = std::env::var_os("LPA_ISA") else {
            return Ok(Isa::detect());
        };
        let asked = asked.to_string_lossy().into_owned();
        let all = Isa::available();
        match all.iter().find(|isa| isa.name() == asked) {
            Some(isa) => Ok(*isa),
            None => {
                let offered: Vec<&str> = all.iter().map(|isa| isa.name()).collect();
                Err(Usage(format!("LPA_ISA={asked}: this processor offers {}", offered.join(", "))))
            }
        }
    }

    /// The name that `LPA_ISA` takes.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Scalar => "scalar",
            Kind::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
        }
    }

    /// The variant, to match on.
    #[doc(hidden)]
    pub fn kind(self) -> Kind {
        self.0
    }
}

/// Asks for some elements to be in the cache soon. They are what they are whether they come or not.
#[inline(always)]
pub(crate) fn prefetch(elements: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in elements.chunks(64 / size_of::<f32>()) {
        // SAFETY: SSE is a part of x86-64, and a prefetch reads nothing that a program could see.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.as_ptr().cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = elements;
}

/// Defines `fn $name(isa, args..)` that runs the `#[inline(always)]` function `$body` compiled for
/// the baseline, for AVX2+FMA and for AVX-512. Each variant may pass its own const generics, and
/// the function may be generic over one type.
macro_rules! multi_isa {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $(<$t:ident: $bound:path>)? ($($arg:ident : $ty:ty),* $(,)?)
     $(-> $ret:ty)? => portable $base:expr, avx2 $avx2:expr, avx512 $avx512:expr) => {
        $(#[$meta])*
        $vis fn $name $(<$t: $bound>)? (isa: $crate::isa::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,bmi2")]
            fn with_avx2 $(<$t: $bound>)? ($($arg: $ty),*) $(-> $ret)? { $avx2($($arg),*) }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2")]
            fn with_avx512 $(<$t: $bound>)? ($($arg: $ty),*) $(-> $ret)? { $avx512($($arg),*) }
            match isa.kind() {
                $crate::isa::Kind::Scalar | $crate::isa::Kind::Portable => $base($($arg),*),
                #[cfg(target_arch = "x86_64")]
                // SAFETY: an `Isa` of this kind exists only where the features were detected.
                $crate::isa::Kind::Avx2 => unsafe { with_avx2($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                $crate::isa::Kind::Avx512 => unsafe { with_avx512($($arg),*) },
            }
        }
    };
}
pub(crate) use multi_isa;
