//! Properties of ids, envelopes, status codes and the trace header.
#![allow(clippy::unwrap_used)]

use super::id::IdSource;
use super::params::BodyType;
use super::trace::{DATE_BYTES, DateCache, Received};
use super::{Envelope, MessageId, Status};
use crate::limits::RECEIVED_HEADER_BYTES;
use crate::properties::{cases, hostile};
use crate::time::Wall;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn property_an_envelope_gives_back_what_was_put_in(
        transactions in prop::collection::vec(
            (hostile(40), prop::collection::vec((hostile(40), any::<u16>()), 0..12), any::<bool>(), any::<bool>()),
            1..4,
        ),
    ) {
        // The memory is reused: nothing of one transaction is seen in the next.
        let mut envelope = Envelope::default();
        for (sender, recipients, eight_bit, shrinks) in transactions {
            envelope.set_sender(&sender);
            envelope.options.body = if eight_bit { BodyType::EightBit } else { BodyType::SevenBit };
            let recipients: Vec<_> =
                recipients.into_iter().map(|(address, at)| (usize::from(at) % (address.len() + 1), address)).collect();
            for (domain_at, address) in &recipients {
                envelope.add_recipient(address, *domain_at);
            }
            let copy = envelope.clone();
            prop_assert_eq!((copy.sender(), copy.recipient_count()), (&sender[..], recipients.len()));
            for (recipient, (domain_at, address)) in copy.recipients().zip(&recipients) {
                prop_assert_eq!((recipient.address, recipient.domain), (&address[..], &address[*domain_at..]));
            }
            envelope.clear();
            prop_assert_eq!(&envelope, &Envelope::default());
            if shrinks {
                envelope.shrink(8);
            }
        }
    }

    #[test]
    fn property_ids_are_unique_and_grow_whatever_the_clocks_of_the_shards_do(
        steps in prop::collection::vec((0..4u16, prop_oneof![Just(0u64), 0..3u64, 0..4_000_000_000_000u64], any::<bool>()), 1..200),
    ) {
        let mut sources: Vec<IdSource> = (0..4).map(|shard| IdSource::new(shard, MessageId(0))).collect();
        let mut last = [MessageId(0); 4];
        let mut all = BTreeSet::new();
        for (shard, millis, restarts) in steps {
            let (newest, at) = (last.into_iter().max().unwrap(), usize::from(shard));
            if restarts {
                sources[at] = IdSource::new(shard, newest);
            }
            let id = sources[at].next(Wall(1_700_000_000_000 + millis));
            prop_assert!(id > last[at] && (!restarts || id > newest), "{} after {}", id, last[at]);
            prop_assert!(all.insert(id));
            prop_assert_eq!(id.0 & 1023, u64::from(shard));
            last[at] = id;
        }
        // Text order is time order.
        let texts: Vec<String> = all.iter().map(ToString::to_string).collect();
        prop_assert!(texts.is_sorted());
    }

    #[test]
    fn property_only_what_an_id_prints_is_an_id(value in any::<u64>(), text in "[0-9a-wA-V]{13}|[ -~]{0,14}") {
        let id = MessageId(value);
        prop_assert_eq!(id.to_string().parse::<MessageId>(), Ok(id));
        if let Ok(id) = text.parse::<MessageId>() {
            prop_assert_eq!(id.to_string(), text);
        }
    }

    #[test]
    fn property_only_what_a_status_prints_is_a_status(
        (class, subject, detail) in (prop::sample::select(vec![2u8, 4, 5]), 0..1000u16, 0..1000u16),
        text in r"[0-9]{1,2}(\.[0-9]{1,4}){1,3}",
        behind in "( [ -~]{0,9})?",
    ) {
        let status = Status::new(class, subject, detail);
        assert_eq!(Status::parse(format!("{status}{behind}").as_bytes()), Some(status));
        if let Some(status) = Status::parse(format!("{text}{behind}").as_bytes()) {
            prop_assert_eq!(status.to_string(), text);
        }
    }

    #[test]
    fn property_a_trace_header_is_one_well_formed_field(
        helo in prop_oneof![hostile(600), "[a-z.]{0,300}".prop_map(String::into_bytes)],
        peer in prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<Ipv6Addr>().prop_map(IpAddr::V6)],
        host in "[a-z.]{1,255}",
        extended in any::<bool>(),
        id in any::<u64>(),
        priority in -9..=9i8,
        wall in any::<u64>(),
    ) {
        let mut dates = DateCache::default();
        let date = *dates.text(Wall(wall));
        let mut out = b"before".to_vec();
        let protocol = if extended { "ESMTP" } else { "SMTP" };
        let id = MessageId(id);
        Received { helo: &helo, peer, host: &host, protocol, id, priority, date: &date }.write(&mut out);
        let text = std::str::from_utf8(out.strip_prefix(b"before").unwrap()).unwrap();
        prop_assert!(text.len() <= RECEIVED_HEADER_BYTES);
        let lines: Vec<&str> = text.strip_suffix("\r\n").unwrap().split("\r\n").collect();
        prop_assert!(lines[0].starts_with("Received: from ") && lines[1..].iter().all(|l| l.starts_with('\t')));
        for line in &lines {
            prop_assert!(line.len() <= 998 && line.trim().len() > 1);
            prop_assert!(line.bytes().all(|b| matches!(b, b'\t' | b' '..=b'~')), "{:?}", line);
        }
        // Nobody else opens or ends a comment, or the field's clause with the date.
        assert_eq!((text.matches('(').count(), text.matches(')').count(), text.matches(';').count()), (2, 2, 1));
        // Unfolded: from NAME (ADDRESS) by NAME (Ringpost) with PROTOCOL id ID [PRIORITY N]; DATE
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let literal = match peer.to_canonical() {
            IpAddr::V4(v4) => format!("([{v4}])"),
            IpAddr::V6(v6) => format!("([IPv6:{v6}])"),
        };
        assert_eq!((words[0], words[1], words[3]), ("Received:", "from", literal.as_str()));
        prop_assert_eq!(&words[4..9], &["by", &host, "(Ringpost)", "with", protocol][..]);
        let clause = if priority == 0 { String::new() } else { format!(" PRIORITY {priority}") };
        let (clauses, date) = words[9..].split_at(words.len() - 9 - 6);
        prop_assert_eq!(clauses.join(" "), format!("id {id}{clause};"));
        prop_assert_eq!(date.join(" ").len(), DATE_BYTES);
    }

    #[test]
    fn property_dates_do_not_depend_on_those_before(walls in prop::collection::vec(any::<u64>(), 1..8)) {
        let mut dates = DateCache::default();
        for wall in walls {
            assert_eq!(dates.text(Wall(wall)), DateCache::default().text(Wall(wall)));
        }
    }
}
