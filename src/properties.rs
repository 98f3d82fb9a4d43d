//! Tests only: how the property tests run, and the few generators that several of them share.
//!
//! They stand beside what they test, in `property_tests.rs` (or among a module's other tests where they are short). Each
//! run is a function of its seed, as everywhere in this tree: `cargo test` repeats exactly. To search further:
//!
//! ```text
//! PROPERTY_FACTOR=100 PROPTEST_RNG_SEED=7 cargo test --lib propert
//! ```
//!
//! tries a hundred times as many cases, from another seed. Nothing is persisted (no `proptest-regressions` folders): what
//! a run finds becomes a unit test of its own, named after what was wrong.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::env;

/// `count` cases of each property, from a fixed seed.
pub fn cases(count: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    let factor = env::var("PROPERTY_FACTOR").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let rng_seed = match default.rng_seed {
        RngSeed::Random => RngSeed::Fixed(0x5269_6e67_706f_7374),
        fixed => fixed,
    };
    ProptestConfig { cases: count.saturating_mul(factor), failure_persistence: None, rng_seed, ..default }
}

/// Where something is cut, as fractions of its length, so that cuts shrink with it.
pub fn cuts() -> impl Strategy<Value = Vec<u16>> {
    prop_oneof![Just(Vec::new()), prop::collection::vec(any::<u16>(), 1..12)]
}

/// `bytes` cut at `cuts`; with none, octet by octet.
pub fn pieces<'a>(bytes: &'a [u8], cuts: &[u16]) -> Vec<&'a [u8]> {
    if cuts.is_empty() {
        return bytes.chunks(1).collect();
    }
    let mut places: Vec<usize> = cuts.iter().map(|cut| (usize::from(*cut) * (bytes.len() + 1)) >> 16).collect();
    places.sort_unstable();
    let mut from = 0;
    let mut pieces = Vec::new();
    for place in places.into_iter().chain([bytes.len()]) {
        pieces.push(&bytes[from..place]);
        from = place;
    }
    pieces
}

/// What ends or begins something in some grammar.
const ENDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b".",
    b"..",
    b"--",
    b" ",
    b"\t",
    b":",
    b"\0",
    b"(",
    b")",
    b"<",
    b">",
    b"\"",
    b"\\",
    b"\r\n.\r\n",
    b"\r\n\r\n",
    b"=",
    b";",
    b"\xff",
    b"\xc3\xbc",
];

/// Text that tries to end a line, a header, a part or a message, among any other bytes.
pub fn hostile(longest: usize) -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop::sample::select(ENDS).prop_map(<[u8]>::to_vec),
        3 => "[ -~]{1,12}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 1..20),
        1 => (any::<u8>(), 1..longest.max(2)).prop_map(|(byte, count)| vec![byte; count]),
    ];
    prop::collection::vec(piece, 0..12).prop_map(move |pieces| {
        let mut all = pieces.concat();
        all.truncate(longest);
        all
    })
}
