//! One door to vector instructions beyond the baseline of the target: the body is ordinary safe code, compiled twice.
#![allow(unsafe_code)]

/// Calls `work` compiled for AVX2 where the CPU has it (one cached look-up), for the baseline elsewhere. `work` must be
/// `#[inline(always)]` down to its loops, or it is compiled for the baseline only: correct, but slower.
#[inline]
pub fn widest<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn avx2<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has AVX2, just asked.
            return unsafe { avx2(work) };
        }
    }
    work()
}
