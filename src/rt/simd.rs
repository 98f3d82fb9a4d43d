//! The one loop of Ringpost that is written in vector instructions: the check of message data. Everything received
//! passes through it, and compilers make code of half the speed from the portable version. A pure function of bytes; it
//! stands in `rt` because its loads are `unsafe`.
#![allow(unsafe_code)]

/// Bytes that are judged together, first: the more, the less the test at the end costs.
const BLOCK: usize = 256;
/// Bytes that are judged together behind the last clean block, so that little is left for the caller's exact path.
const FINE: usize = 32;

/// Length of a prefix of `input` in which every CR is followed by LF, every LF but one at the very start is preceded by
/// CR, no byte is zero, and no byte behind a LF is a dot. The byte behind the prefix has been judged as far as the last
/// byte inside asks for it: if that is a CR, a LF follows; if it is a LF, no dot follows. Not always the longest such
/// prefix: at least the last two bytes of `input` are never in it.
#[inline]
pub fn clean_data_prefix(input: &[u8]) -> usize {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2, just asked (a cached look-up).
        return unsafe { avx2::clean_data_prefix(input) };
    }
    portable_prefix(input)
}

fn portable_prefix(input: &[u8]) -> usize {
    let mut at = 0;
    while input.get(at..at + BLOCK + 2).is_some_and(is_clean::<BLOCK>) {
        at += BLOCK;
    }
    while input.get(at..at + FINE + 2).is_some_and(is_clean::<FINE>) {
        at += FINE;
    }
    at
}

/// Judges the first `N` of `N + 2` bytes. Without a branch inside, so that it becomes vector code.
fn is_clean<const N: usize>(block: &[u8]) -> bool {
    let (first, second, third) = (&block[..N], &block[1..N + 1], &block[2..N + 2]);
    let wrong = |a: u8, b: u8, c: u8| {
        let (cr, lf) = (a == b'\r', b == b'\n');
        u8::from((cr ^ lf) | (lf & (c == b'.')) | (a == 0))
    };
    first.iter().zip(second).zip(third).fold(0u8, |any, ((a, b), c)| any | wrong(*a, *b, *c)) == 0
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{BLOCK, FINE};
    use std::arch::x86_64::*;

    /// As the function outside, with the same blocks.
    #[target_feature(enable = "avx2")]
    pub(super) fn clean_data_prefix(input: &[u8]) -> usize {
        let mut at = 0;
        while input.len() - at >= BLOCK + 2 && is_clean::<BLOCK>(&input[at..]) {
            at += BLOCK;
        }
        while input.len() - at >= FINE + 2 && is_clean::<FINE>(&input[at..]) {
            at += FINE;
        }
        at
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn is_clean<const N: usize>(block: &[u8]) -> bool {
        const { assert!(N.is_multiple_of(32), "whole vectors") };
        assert!(block.len() >= N + 2, "the loads stay inside");
        let (cr, lf, dot) = (_mm256_set1_epi8(13), _mm256_set1_epi8(10), _mm256_set1_epi8(46));
        let mut unpaired = _mm256_setzero_si256();
        let mut dot_lines = _mm256_setzero_si256();
        let mut least = _mm256_set1_epi8(-1);
        let mut at = 0;
        while at < N {
            let load = |offset: usize| {
                // SAFETY: reads 32 bytes from at + offset, where at <= N - 32 and offset <= 2; N + 2 bytes are there.
                unsafe { _mm256_loadu_si256(block.as_ptr().add(at + offset).cast()) }
            };
            let first = load(0);
            let second_is_lf = _mm256_cmpeq_epi8(load(1), lf);
            let third_is_dot = _mm256_cmpeq_epi8(load(2), dot);
            let first_is_cr = _mm256_cmpeq_epi8(first, cr);
            unpaired = _mm256_or_si256(unpaired, _mm256_xor_si256(first_is_cr, second_is_lf));
            dot_lines = _mm256_or_si256(dot_lines, _mm256_and_si256(second_is_lf, third_is_dot));
            least = _mm256_min_epu8(least, first);
            at += 32;
        }
        let zeros = _mm256_cmpeq_epi8(least, _mm256_setzero_si256());
        let wrong = _mm256_or_si256(_mm256_or_si256(unpaired, dot_lines), zeros);
        _mm256_testz_si256(wrong, wrong) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_find_the_same_prefix() {
        let clean: Vec<u8> = [&[b'x'; 76][..], b"\r\n"].concat().repeat(9);
        for length in (0..clean.len()).step_by(7) {
            assert_eq!(clean_data_prefix(&clean[..length]), portable_prefix(&clean[..length]));
        }
        for spoil in [&b"\r"[..], b"\n", b"\0", b"\r\n.", b".", b"\r\n", b"\r\r\n", b"\xff", b"\x8d\x8a\xae"] {
            for at in 0..600 {
                let mut bytes = clean.clone();
                bytes[at..at + spoil.len()].copy_from_slice(spoil);
                let prefix = clean_data_prefix(&bytes);
                assert_eq!(prefix, portable_prefix(&bytes), "{spoil:?} at {at}");
                let faulty = (0..prefix).any(|i| {
                    let (a, b, c) = (bytes[i], bytes[i + 1], bytes[i + 2]);
                    a == 0 || (a == b'\r') != (b == b'\n') || b == b'\n' && c == b'.'
                });
                assert!(!faulty && prefix + 2 <= bytes.len());
            }
        }
        assert!(clean_data_prefix(&clean) > clean.len() - FINE - 2);
    }
}
