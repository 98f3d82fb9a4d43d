//! PURE. From a name to the shard that owns it, the same in every build, on every machine, for ever: a spool written by
//! one version is read by the next, and processes that share work must agree.
//!
//! The hash is FNV-1a with 64 bits (draft-eastlake-fnv-21, offset basis 0xcbf29ce484222325, prime 0x100000001b3) over
//! the octets of the name, its bits then mixed by the 64-bit finaliser of MurmurHash3, because FNV alone leaves the high
//! bits of short names poorly mixed. The shard is chosen by jump consistent hash (Lamping and Veach, "A Fast, Minimal
//! Memory, Consistent Hash Algorithm", 2014), so that with one more shard only the destinations that it takes over move.

/// The hash of a destination's name, which is in lower case already.
pub fn hash(name: &[u8]) -> u64 {
    let fnv = name.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
    mix(fnv)
}

/// `fmix64` of MurmurHash3.
fn mix(mut h: u64) -> u64 {
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ h >> 33
}

/// The shard, 0 to `shards` - 1, that a hash belongs to. No shards at all count as one.
pub fn shard_of(mut hash: u64, shards: u16) -> u16 {
    let mut shard = 0;
    loop {
        hash = hash.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        // Doubles, as in the paper: both operands and their quotient are exact or correctly rounded by IEEE 754, so
        // every machine gets the same.
        #[allow(clippy::cast_precision_loss)]
        let next = f64::from(shard + 1) * ((1u64 << 31) as f64 / ((hash >> 33) + 1) as f64);
        if next >= f64::from(shards) {
            return u16::try_from(shard).expect("it was below the number of shards");
        }
        shard = next as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_published_vectors_of_its_parts() {
        // draft-eastlake-fnv-21, appendix C: FNV-1a 64 of "", "a", "foobar"; here seen through the finaliser.
        assert_eq!(hash(b""), mix(0xcbf2_9ce4_8422_2325));
        assert_eq!(hash(b"a"), mix(0xaf63_dc4c_8601_ec8c));
        assert_eq!(hash(b"foobar"), mix(0x8594_4171_f739_67e8));
        // The finaliser is a bijection that keeps 0.
        assert_eq!(mix(0), 0);
    }

    /// A change of these numbers is a change of the owner of every destination of every installation.
    #[test]
    fn never_changes() {
        let expected: [(&str, u64, [u16; 5]); 5] = [
            ("", 0xefd0_1f60_ba99_2926, [0, 1, 1, 59, 499]),
            ("example.org", 0xcd3b_846c_b925_6ccf, [0, 0, 6, 6, 1012]),
            ("d7.test", 0xc08c_e0ae_e60b_dc26, [0, 0, 3, 62, 544]),
            ("[192.0.2.1]", 0xee47_83af_15ac_8eba, [0, 1, 2, 39, 139]),
            ("mail.sub.example.co.uk", 0x4781_6b82_51ab_d46e, [0, 0, 4, 21, 495]),
        ];
        for (name, value, owners) in expected {
            assert_eq!(hash(name.as_bytes()), value, "{name}: {:#x}", hash(name.as_bytes()));
            assert_eq!([1, 2, 8, 64, 1023].map(|n| shard_of(value, n)), owners, "{name}");
        }
    }

    #[test]
    fn one_more_shard_moves_only_what_it_takes_over() {
        for n in 1..100 {
            let mut moved = 0;
            for i in 0..2000 {
                let h = hash(format!("d{i}.example").as_bytes());
                let (before, after) = (shard_of(h, n), shard_of(h, n + 1));
                assert!(before == after || after == n);
                moved += usize::from(before != after);
            }
            let fair = 2000 / (n as usize + 1);
            assert!(moved < fair * 2 + 20 && moved * 2 + 20 > fair, "{n}: {moved} of {fair}");
        }
    }

    #[test]
    fn spreads_a_hundred_test_domains_over_the_cores() {
        for shards in [2u16, 4, 8] {
            let mut load = vec![0; shards as usize];
            for i in 0..1000 {
                load[shard_of(hash(format!("d{i}.test").as_bytes()), shards) as usize] += 1;
            }
            let fair = 1000 / load.len();
            assert!(load.iter().all(|n| n * 5 > fair * 4 && n * 4 < fair * 5), "{load:?}");
        }
        assert_eq!(shard_of(7, 0), 0);
        assert_eq!(shard_of(u64::MAX, 1), 0);
    }
}
