//! PURE. Random variations of inputs, from a seed: what `cargo test` tries without instrumentation.

/// splitmix64.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `n`; 0 if `n` is.
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.bits() >> 16).map_or(0, |r| r % n.max(1))
    }
}

/// Changes `data` a little, a few times; `other` is another input to take from.
pub fn mutate(data: &mut Vec<u8>, other: &[u8], words: &[&[u8]], max_bytes: usize, random: &mut Random) {
    for _ in 0..1 + random.below(6) {
        let at = random.below(data.len() + 1);
        let end = (at + 1 + random.below(16)).min(data.len());
        match random.below(9) {
            0 if at < data.len() => data[at] ^= 1 << random.below(8),
            1 if at < data.len() => data[at] = random.bits() as u8,
            2 => data.insert(at, random.bits() as u8),
            3 => drop(data.drain(at..end)),
            4 => {
                let copy = data[at..end].to_vec();
                let to = random.below(data.len() + 1);
                data.splice(to..to, copy);
            }
            5 if !words.is_empty() => {
                let word = words[random.below(words.len())];
                data.splice(at..at, word.iter().copied());
            }
            6 => {
                let from = random.below(other.len() + 1);
                let to = (from + 1 + random.below(64)).min(other.len());
                data.splice(at..at, other[from..to].iter().copied());
            }
            7 => data.truncate(at),
            8 if at < data.len() => data[at] = b"\0\r\n. \xff@:<>"[random.below(10)],
            _ => {}
        }
    }
    data.truncate(max_bytes);
}
