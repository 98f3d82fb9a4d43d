//! Properties of the routing of recipients. (The values of the hash itself are pinned in `hash.rs`.)

use super::*;
use crate::properties::{cases, hostile};
use proptest::prelude::*;

/// Few names, spelled in many ways, and now and then what is none.
fn domain() -> impl Strategy<Value = Vec<u8>> {
    let spelled = (0..12u8, any::<u32>(), any::<bool>()).prop_map(|(which, upper, dot)| {
        let name = ["a.example", "b.example", "ab.example", "x", "[192.0.2.1]", "[IPv6:2001:db8::a]"];
        let name = name.get(usize::from(which)).map_or_else(|| format!("d{which}.example"), |n| (*n).to_owned());
        let mut name: Vec<u8> = name.into_bytes();
        for (i, byte) in name.iter_mut().enumerate() {
            if upper >> (i % 32) & 1 == 1 {
                *byte = byte.to_ascii_uppercase();
            }
        }
        name.extend(dot.then_some(b'.'));
        name
    });
    prop_oneof![8 => spelled, 1 => hostile(300)]
}

/// Routes as a list of pairs would.
fn naive(envelope: &[Vec<u8>]) -> Vec<(String, Vec<u16>)> {
    let mut groups: Vec<(String, Vec<u16>)> = Vec::new();
    for (index, domain) in (0..).zip(envelope) {
        let labels = || Domain::new(domain).as_str().to_owned();
        let plain: String = if !domain.is_ascii() {
            labels()
        } else {
            domain
                .strip_suffix(b".")
                .unwrap_or(domain)
                .iter()
                .take(DOMAIN_BYTES)
                .map(|b| char::from(b.to_ascii_lowercase()))
                .collect()
        };
        match groups.iter_mut().find(|(name, _)| *name == plain) {
            Some((_, indices)) => indices.push(index),
            None => groups.push((plain, vec![index])),
        }
    }
    groups
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn property_the_splitter_gives_each_recipient_to_one_group_by_its_domain_in_any_spelling(
        envelopes in prop::collection::vec(prop::collection::vec(domain(), 0..40), 1..4),
        smart_host in any::<bool>(),
    ) {
        let smart = Routes::SmartHost("relay.example:25".parse().expect("a smart host"));
        let mut splitter = Splitter::default();
        for envelope in envelopes {
            let mut groups = Vec::new();
            let domains = envelope.iter().map(Vec::as_slice);
            let routes = if smart_host { &smart } else { &Routes::Mx };
            routes.split(&mut splitter, domains, |name, indices| groups.push((name.to_owned(), indices.to_vec())));
            let expected = match (smart_host, envelope.is_empty()) {
                (true, false) => vec![("relay.example:25".to_owned(), (0..).take(envelope.len()).collect())],
                _ => naive(&envelope),
            };
            prop_assert_eq!(groups, expected);
        }
    }

    #[test]
    fn property_a_destinations_name_is_its_own_spelling(domain in domain()) {
        let once = Domain::new(&domain);
        // A dot stands for the root once only: what had two is no name, and stays none.
        prop_assume!(!once.as_str().ends_with('.'));
        let twice = Domain::new(once.as_str().as_bytes());
        prop_assert_eq!(twice.as_str(), once.as_str());
    }

    #[test]
    fn property_every_hash_has_one_owner_and_leaves_it_only_for_a_new_shard(hash in any::<u64>(), shards in 1..1023u16) {
        let before = shard_of(hash, shards);
        prop_assert!(before < shards);
        let after = shard_of(hash, shards + 1);
        prop_assert!(after == before || after == shards);
    }
}
