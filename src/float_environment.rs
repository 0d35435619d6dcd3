//! Arithmetic as IEEE 754 has it, whatever the program around it has set.
//!
//! Frameworks can let the processor flush subnormal numbers to zero, for the thread that asks and those
//! that it starts. Predictions and sums would then have other bits than elsewhere.

/// While it lives, its thread computes with subnormal numbers and rounds to nearest.
pub(crate) struct Exact {
    before: Control,
}

#[cfg(target_arch = "x86_64")]
type Control = u32;
#[cfg(target_arch = "aarch64")]
type Control = u64;

/// All exceptions masked, rounding to nearest, nothing flushed.
#[cfg(target_arch = "x86_64")]
const DEFAULT: Control = 0x1f80;
#[cfg(target_arch = "aarch64")]
const DEFAULT: Control = 0;

#[cfg(target_arch = "x86_64")]
fn get() -> Control {
    let mut control = 0u32;
    // SAFETY: the instruction writes four bytes to the address of a variable of four bytes.
    unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut control, options(nostack, preserves_flags)) }
    control
}

#[cfg(target_arch = "x86_64")]
fn set(control: Control) {
    // SAFETY: the value is the default one, or what was read before, so no reserved bit is set.
    unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const control, options(nostack, preserves_flags)) }
}

#[cfg(target_arch = "aarch64")]
fn get() -> Control {
    let control: u64;
    // SAFETY: reading the register has no other effect.
    unsafe { std::arch::asm!("mrs {}, fpcr", out(reg) control, options(nomem, nostack, preserves_flags)) }
    control
}

#[cfg(target_arch = "aarch64")]
fn set(control: Control) {
    // SAFETY: the value is the default one, or what was read before.
    unsafe { std::arch::asm!("msr fpcr, {}", in(reg) control, options(nostack, preserves_flags)) }
}

impl Exact {
    /// Sets the thread's arithmetic.
    pub(crate) fn new() -> Exact {
        let before = get();
        set(DEFAULT);
        Exact { before }
    }
}

impl Default for Exact {
    fn default() -> Exact {
        Exact::new()
    }
}

impl Drop for Exact {
    fn drop(&mut self) {
        set(self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn subnormal_numbers_count_and_the_setting_comes_back() {
        let halve = |v: f32| std::hint::black_box(v) * std::hint::black_box(0.5);
        // Flush to zero, and read subnormals as zero.
        set(DEFAULT | 0x8040);
        assert_eq!(halve(f32::MIN_POSITIVE).to_bits(), 0);
        {
            let _exact = Exact::new();
            assert_eq!(halve(f32::MIN_POSITIVE).to_bits(), 0x0040_0000);
        }
        assert_eq!(halve(f32::MIN_POSITIVE).to_bits(), 0);
        set(DEFAULT);
    }
}
