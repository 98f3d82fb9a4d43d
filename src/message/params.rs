//! PURE. What MAIL and RCPT said beside the addresses, as one byte string that is the same in a session's memory and on
//! disk: nothing for the plain mail that most mail is, so that it costs nothing there.
//!
//! In: values the command parser has checked. Out: the same values, read in place by [`Params`]. Lives wherever its
//! envelope lives. It refuses bytes that are not in this form: they are of a later version, and dropping what they ask
//! for could send in the clear what must not be.

use crate::time::Wall;

/// `BODY=` (RFC 6152, RFC 3030).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyType {
    /// Not given, or `7BIT`.
    #[default]
    SevenBit,
    /// `8BITMIME`: octets above 127 in lines.
    EightBit,
    /// `BINARYMIME`: any octets, no lines. Stored as it came, sent by BDAT alone.
    Binary,
}

/// `RET=` (RFC 3461 §4.3): what a failure notification returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ret {
    /// The whole message.
    Full,
    /// Its header section.
    Headers,
}

/// `BY=` (RFC 2852), as a point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliverBy {
    /// The time by which it is to be delivered.
    pub until: Wall,
    /// `R`: what is not delivered by then is returned. Otherwise, `N`: the sender is told, and delivery goes on.
    pub return_late: bool,
    /// `T`: the sender is told if the message passes on to a server without DELIVERBY.
    pub trace: bool,
}

/// `NOTIFY=` of one recipient (RFC 3461 §4.1). All false: not given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notify {
    /// `NEVER`; alone.
    pub never: bool,
    /// `SUCCESS`
    pub success: bool,
    /// `FAILURE`
    pub failure: bool,
    /// `DELAY`
    pub delay: bool,
}

impl Notify {
    /// Whether the command had no `NOTIFY=`.
    pub fn is_default(self) -> bool {
        self == Notify::default()
    }

    /// Whether the sender wants to hear of a failure: also where nothing was said (RFC 3461 §4.1).
    pub fn wants_failure(self) -> bool {
        self.failure || self.is_default()
    }

    /// Whether the sender wants to hear of a delay. Where nothing was said, this server does not tell.
    pub fn wants_delay(self) -> bool {
        self.delay
    }

    fn to_byte(self) -> u8 {
        u8::from(self.never) | u8::from(self.success) << 1 | u8::from(self.failure) << 2 | u8::from(self.delay) << 3
    }

    fn from_byte(byte: u8) -> Option<Notify> {
        let bit = |at: u8| byte & 1 << at != 0;
        (byte < 16).then_some(Notify { never: bit(0), success: bit(1), failure: bit(2), delay: bit(3) })
    }
}

/// What is said of a message as a whole, in fixed size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MailOptions {
    /// `BODY=`
    pub body: BodyType,
    /// `SMTPUTF8` (RFC 6531): addresses and header fields may hold UTF-8.
    pub smtputf8: bool,
    /// `REQUIRETLS` (RFC 8689 §2): never in the clear from here on.
    pub require_tls: bool,
    /// `TLS-Required: No` in the header section (RFC 8689 §3, §4.2.2): delivery goes before TLS policy.
    pub tls_optional: bool,
    /// `RET=`
    pub ret: Option<Ret>,
    /// `HOLDFOR=` or `HOLDUNTIL=` (RFC 4865), as a point in time.
    pub hold_until: Option<Wall>,
    /// `BY=`
    pub deliver_by: Option<DeliverBy>,
    /// `MT-PRIORITY=` (RFC 6710): −9 to 9, 0 if not given.
    pub priority: i8,
}

/// One item of the string: its tag, the length of its value in two octets (little endian), the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    Flags = 1,
    HoldUntil = 2,
    DeliverBy = 3,
    Priority = 4,
    Envid = 5,
    Account = 6,
    /// Recipient (two octets), NOTIFY (one), ORCPT (the rest).
    Recipient = 7,
    /// Recipient (two octets), reverse-path (the rest, one octet at least).
    ReversePath = 8,
    Campaign = 9,
    Pool = 10,
    /// Recipient (two octets).
    Reached = 11,
}

const UTF8: u8 = 1;
const REQUIRE_TLS: u8 = 2;
const TLS_OPTIONAL: u8 = 4;
const RET_FULL: u8 = 8;
const RET_HEADERS: u8 = 16;
const BINARY: u8 = 32;

fn item(out: &mut Vec<u8>, tag: Tag, parts: [&[u8]; 2]) {
    out.push(tag as u8);
    let length = u16::try_from(parts[0].len() + parts[1].len()).expect("limits.rs bounds a command line");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(parts[0]);
    out.extend_from_slice(parts[1]);
}

/// Appends what `options` says beyond the default. Whether the body is declared 8BITMIME stands elsewhere in a record.
pub fn write_options(out: &mut Vec<u8>, options: &MailOptions) {
    let flag = |on: bool, bit: u8| if on { bit } else { 0 };
    let flags = flag(options.smtputf8, UTF8)
        | flag(options.require_tls, REQUIRE_TLS)
        | flag(options.tls_optional, TLS_OPTIONAL)
        | flag(options.ret == Some(Ret::Full), RET_FULL)
        | flag(options.ret == Some(Ret::Headers), RET_HEADERS)
        | flag(options.body == BodyType::Binary, BINARY);
    if flags != 0 {
        item(out, Tag::Flags, [&[flags], &[]]);
    }
    if let Some(until) = options.hold_until {
        item(out, Tag::HoldUntil, [&until.0.to_le_bytes(), &[]]);
    }
    if let Some(by) = options.deliver_by {
        let flags = u8::from(by.return_late) | u8::from(by.trace) << 1;
        item(out, Tag::DeliverBy, [&by.until.0.to_le_bytes(), &[flags]]);
    }
    if options.priority != 0 {
        item(out, Tag::Priority, [&options.priority.to_le_bytes(), &[]]);
    }
}

/// Appends `ENVID=` (RFC 3461 §4.4), in xtext as it came.
pub fn write_envid(out: &mut Vec<u8>, envid: &[u8]) {
    item(out, Tag::Envid, [envid, &[]]);
}

/// Appends the account that submitted the message.
pub fn write_account(out: &mut Vec<u8>, account: &[u8]) {
    item(out, Tag::Account, [account, &[]]);
}

/// Appends the name of the pool of sources that the message's header asks for.
pub fn write_pool(out: &mut Vec<u8>, pool: &[u8]) {
    item(out, Tag::Pool, [pool, &[]]);
}

/// Appends the campaign that the message is of.
pub fn write_campaign(out: &mut Vec<u8>, campaign: &[u8]) {
    item(out, Tag::Campaign, [campaign, &[]]);
}

/// Appends what RCPT said of recipient number `index` (from 0): `NOTIFY=` and `ORCPT=` (as it came, empty if it did not).
pub fn write_recipient(out: &mut Vec<u8>, index: u16, notify: Notify, orcpt: &[u8]) {
    let [low, high] = index.to_le_bytes();
    item(out, Tag::Recipient, [&[low, high, notify.to_byte()], orcpt]);
}

/// Appends the reverse-path of recipient number `index`, who has it by a list: errors are for who keeps the list, not for
/// who wrote to it (RFC 5321 §3.9.2).
pub fn write_reverse_path(out: &mut Vec<u8>, index: u16, path: &[u8]) {
    item(out, Tag::ReversePath, [&index.to_le_bytes(), path]);
}

/// Appends that recipient number `index` is a list, which the message has reached: nobody is sent it for that, and the sender
/// wants to hear of it (RFC 3461 §5.2.7).
pub fn write_reached(out: &mut Vec<u8>, index: u16) {
    item(out, Tag::Reached, [&index.to_le_bytes(), &[]]);
}

/// Takes back what [`write_recipient`] has appended last, if it was of recipient number `index`.
pub fn drop_recipient(out: &mut Vec<u8>, index: u16) {
    let mut items = Items(out);
    let mut last = None;
    loop {
        let at = out.len() - items.0.len();
        let Some(item) = items.next() else { break };
        last = Some((at, item));
    }
    if let Some((at, (Tag::Recipient, [low, high, ..]))) = last
        && [*low, *high] == index.to_le_bytes()
    {
        out.truncate(at);
    }
}

/// The parameters, read in place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Params<'a>(&'a [u8]);

impl<'a> Params<'a> {
    /// The string `bytes`; `None` if any of it is not in the form that this version writes.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut items = Items(bytes);
        for (tag, value) in &mut items {
            match (tag, value) {
                (Tag::Flags, [flags]) if *flags < 64 && flags & (RET_FULL | RET_HEADERS) != RET_FULL | RET_HEADERS => {}
                (Tag::DeliverBy, [_, _, _, _, _, _, _, _, flags]) if *flags < 4 => {}
                (Tag::Priority, [priority]) if (-9..=9).contains(&priority.cast_signed()) => {}
                (Tag::Recipient, [_, _, notify, ..]) if *notify < 16 => {}
                (Tag::ReversePath, [_, _, _, ..]) | (Tag::Reached, [_, _]) => {}
                (Tag::HoldUntil, [_, _, _, _, _, _, _, _]) => {}
                (Tag::Envid | Tag::Account | Tag::Campaign | Tag::Pool, _) => {}
                _ => return None,
            }
        }
        items.0.is_empty().then_some(Params(bytes))
    }

    /// What is said of the message as a whole; `body` is Binary or SevenBit here.
    pub fn options(self) -> MailOptions {
        let mut options = MailOptions::default();
        for (tag, value) in Items(self.0) {
            let wall = || value.first_chunk().map(|bytes| Wall(u64::from_le_bytes(*bytes)));
            match tag {
                Tag::Flags => {
                    let has = |bit| value[0] & bit != 0;
                    options.smtputf8 = has(UTF8);
                    options.require_tls = has(REQUIRE_TLS);
                    options.tls_optional = has(TLS_OPTIONAL);
                    options.ret = match (has(RET_FULL), has(RET_HEADERS)) {
                        (true, _) => Some(Ret::Full),
                        (_, true) => Some(Ret::Headers),
                        _ => None,
                    };
                    if has(BINARY) {
                        options.body = BodyType::Binary;
                    }
                }
                Tag::HoldUntil => options.hold_until = wall(),
                Tag::DeliverBy => {
                    let flags = value[8];
                    options.deliver_by =
                        wall().map(|until| DeliverBy { until, return_late: flags & 1 != 0, trace: flags & 2 != 0 });
                }
                Tag::Priority => options.priority = value[0].cast_signed(),
                Tag::Envid | Tag::Account | Tag::Campaign | Tag::Pool => {}
                Tag::Recipient | Tag::ReversePath | Tag::Reached => {}
            }
        }
        options
    }

    /// `ENVID=`, in xtext; empty if there was none.
    pub fn envid(self) -> &'a [u8] {
        self.text(Tag::Envid)
    }

    /// The campaign that the message is of; empty if it is of none, or nobody asked.
    pub fn campaign(self) -> &'a [u8] {
        self.text(Tag::Campaign)
    }

    /// The pool of sources that its header asks for; empty if it asks for none that there was.
    pub fn pool(self) -> &'a [u8] {
        self.text(Tag::Pool)
    }

    /// The account that submitted the message; empty if nobody authenticated.
    pub fn account(self) -> &'a [u8] {
        self.text(Tag::Account)
    }

    fn text(self, wanted: Tag) -> &'a [u8] {
        Items(self.0).find(|(tag, _)| *tag == wanted).map_or(&[], |(_, value)| value)
    }

    /// `NOTIFY=` and `ORCPT=` of those recipients that have any, in the order of the envelope.
    pub fn recipients(self) -> impl Iterator<Item = (u16, Notify, &'a [u8])> {
        Items(self.0).filter(|(tag, _)| *tag == Tag::Recipient).filter_map(|(_, value)| {
            let [low, high, notify, orcpt @ ..] = value else { return None };
            Some((u16::from_le_bytes([*low, *high]), Notify::from_byte(*notify)?, orcpt))
        })
    }

    /// `NOTIFY=` and `ORCPT=` of recipient number `index`.
    pub fn recipient(self, index: u16) -> (Notify, &'a [u8]) {
        self.recipients().find(|(at, ..)| *at == index).map_or((Notify::default(), &[]), |(_, n, o)| (n, o))
    }

    /// Those recipients that have a reverse-path of their own, in the order of the envelope, and that path.
    pub fn reverse_paths(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        Items(self.0).filter(|(tag, _)| *tag == Tag::ReversePath).filter_map(|(_, value)| {
            let [low, high, path @ ..] = value else { return None };
            Some((u16::from_le_bytes([*low, *high]), path))
        })
    }

    /// The reverse-path that recipient number `index` has instead of the sender; `None` for most.
    pub fn reverse_path(self, index: u16) -> Option<&'a [u8]> {
        self.reverse_paths().find(|(at, _)| *at == index).map(|(_, path)| path)
    }

    /// Those recipients that are lists which the message has reached already, in the order of the envelope.
    pub fn reached(self) -> impl Iterator<Item = u16> {
        Items(self.0).filter(|(tag, _)| *tag == Tag::Reached).filter_map(|(_, value)| {
            let [low, high] = value else { return None };
            Some(u16::from_le_bytes([*low, *high]))
        })
    }

    /// Whether nothing was said at all.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

/// Reads items until the end, or up to what is none.
struct Items<'a>(&'a [u8]);

impl<'a> Iterator for Items<'a> {
    type Item = (Tag, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (&[tag, low, high], rest) = self.0.split_first_chunk()?;
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([low, high])))?;
        let tag = match tag {
            1 => Tag::Flags,
            2 => Tag::HoldUntil,
            3 => Tag::DeliverBy,
            4 => Tag::Priority,
            5 => Tag::Envid,
            6 => Tag::Account,
            7 => Tag::Recipient,
            8 => Tag::ReversePath,
            9 => Tag::Campaign,
            10 => Tag::Pool,
            11 => Tag::Reached,
            _ => return None,
        };
        self.0 = rest;
        Some((tag, value))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn any_options() -> impl Strategy<Value = MailOptions> {
        let ret = prop_oneof![Just(None), Just(Some(Ret::Full)), Just(Some(Ret::Headers))];
        let by = proptest::option::of((any::<u64>(), any::<bool>(), any::<bool>()));
        let hold = proptest::option::of(any::<u64>());
        (any::<[bool; 4]>(), ret, hold, by, -9i8..=9).prop_map(|(flags, ret, hold, by, priority)| MailOptions {
            body: if flags[0] { BodyType::Binary } else { BodyType::SevenBit },
            smtputf8: flags[1],
            require_tls: flags[2],
            tls_optional: flags[3],
            ret,
            hold_until: hold.map(Wall),
            deliver_by: by.map(|(until, return_late, trace)| DeliverBy { until: Wall(until), return_late, trace }),
            priority,
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            options in any_options(),
            envid in proptest::option::of(proptest::collection::vec(1u8.., 1..100)),
            recipients in proptest::collection::vec((0u8..16, proptest::collection::vec(any::<u8>(), 0..500)), 0..5),
        ) {
            let mut bytes = Vec::new();
            write_options(&mut bytes, &options);
            if let Some(envid) = &envid { write_envid(&mut bytes, envid) }
            for (i, (notify, orcpt)) in recipients.iter().enumerate() {
                write_recipient(&mut bytes, i as u16, Notify::from_byte(*notify).unwrap(), orcpt);
            }
            write_account(&mut bytes, b"someone");
            write_campaign(&mut bytes, b"spring");
            write_pool(&mut bytes, b"bulk");
            write_reverse_path(&mut bytes, 3, b"owner-list@here.example");
            write_reached(&mut bytes, 2);
            let params = Params::parse(&bytes).unwrap();
            prop_assert_eq!(params.options(), options);
            prop_assert_eq!(params.envid(), envid.as_deref().unwrap_or_default());
            prop_assert_eq!((params.account(), params.campaign()), (&b"someone"[..], &b"spring"[..]));
            prop_assert_eq!(params.pool(), &b"bulk"[..]);
            prop_assert_eq!(params.reached().collect::<Vec<_>>(), [2]);
            prop_assert_eq!((params.reverse_path(3), params.reverse_path(2)), (Some(&b"owner-list@here.example"[..]), None));
            for (i, (notify, orcpt)) in recipients.iter().enumerate() {
                let (n, o) = params.recipient(i as u16);
                prop_assert_eq!((n.to_byte(), o), (*notify, &orcpt[..]));
            }
            // No shorter string passes for a whole one, but at the end of an item.
            for cut in 1..bytes.len() {
                if let Some(part) = Params::parse(&bytes[..cut]) {
                    prop_assert!(part.options() == options || part.envid().is_empty());
                }
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(params) = Params::parse(&bytes) {
                let _ = (params.options(), params.envid(), params.account(), params.recipients().count(), params.reverse_path(1), params.reached().count());
            }
        }
    }

    #[test]
    fn plain_mail_has_none() {
        let mut bytes = Vec::new();
        write_options(&mut bytes, &MailOptions::default());
        assert!(bytes.is_empty());
        assert_eq!(Params::parse(&bytes), Some(Params::default()));
        assert_eq!(Params::parse(&[12, 0, 0]), None, "a tag of a later version");
        assert_eq!(Params::parse(&[1, 1, 0, 64]), None, "a flag of a later version");
        assert_eq!(Params::parse(&[4, 1, 0, 10]), None, "no such priority");
        assert_eq!(Params::parse(&[8, 2, 0, 0, 0]), None, "the null reverse-path is no list's");
    }
}
