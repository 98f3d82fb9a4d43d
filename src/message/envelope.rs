//! PURE. The envelope of one transaction: reverse-path, forward-paths and the parameters of MAIL and RCPT.

use super::params::{self, BodyType, MailOptions, Notify, Params};

/// An envelope as the SMTP server machine collects it and the client machine sends it. Addresses are kept without
/// angle brackets and source routes, one after the other in a single buffer that is reused from transaction to
/// transaction, so that a command costs no allocation of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    text: Vec<u8>,
    sender_len: u32,
    /// End of each recipient's address in `text`, and where its domain begins.
    recipients: Vec<(u32, u32)>,
    /// What has no fixed size, in the form of [`params`].
    extra: Vec<u8>,
    /// The parameters of MAIL of fixed size.
    pub options: MailOptions,
    /// `SIZE=` as declared (RFC 1870), in octets; 0 if it was not.
    pub declared_size: u64,
}

/// One forward-path of an [`Envelope`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipient<'a> {
    /// `local-part@domain`, as given, without angle brackets or source route.
    pub address: &'a [u8],
    /// The part behind the last `@`, as given (any case), or an address literal with its brackets. Empty for the bare
    /// `Postmaster` of RFC 5321 §4.1.1.3.
    pub domain: &'a [u8],
}

/// One address that an alias or a list leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// `local-part@domain`
    pub address: &'a [u8],
    /// Where its domain begins.
    pub domain_at: usize,
    /// The list's own reverse-path, if it has one.
    pub reverse_path: Option<&'a [u8]>,
}

impl Envelope {
    /// Forgets the transaction, keeps the memory.
    pub fn clear(&mut self) {
        self.text.clear();
        self.recipients.clear();
        self.sender_len = 0;
        self.extra.clear();
        self.options = MailOptions::default();
        self.declared_size = 0;
    }

    /// Begins a transaction; `sender` is empty for the null reverse-path.
    pub fn set_sender(&mut self, sender: &[u8]) {
        self.clear();
        self.text.extend_from_slice(sender);
        self.sender_len = u32::try_from(sender.len()).expect("limits.rs bounds a path to 256 octets");
    }

    /// Adds a forward-path whose domain begins at `domain_at` within `address`.
    pub fn add_recipient(&mut self, address: &[u8], domain_at: usize) {
        let start = self.text.len();
        self.text.extend_from_slice(address);
        let end = u32::try_from(self.text.len()).expect("limits.rs bounds recipients and paths well below 4 GiB");
        self.recipients.push((end, u32::try_from(start + domain_at).expect("not larger than the end")));
    }

    /// Takes back the recipient added last, and what was said of it.
    ///
    /// # Panics
    /// Without a recipient.
    pub fn remove_last_recipient(&mut self) {
        self.recipients.pop().expect("a recipient was added");
        let index = u16::try_from(self.recipients.len()).expect("limits.rs bounds recipients");
        self.text.truncate(self.recipients.last().map_or(self.sender_len, |(end, _)| *end) as usize);
        params::drop_recipient(&mut self.extra, index);
    }

    /// Puts `members` in the place of the recipient added last, those left out that are recipients already.
    ///
    /// What was said of it holds for each of them, but not for those of a list with a reverse-path of its own: there the
    /// sender's part ends (RFC 3461 §5.2.7): who wants to hear of success hears that the list has it, so the list stays a
    /// recipient beside them. A message that nobody may be told of keeps the null reverse-path.
    ///
    /// # Panics
    /// Without a recipient.
    pub fn expand_last_recipient(&mut self, members: &[Member<'_>]) {
        let index = self.recipients.len().checked_sub(1).expect("a recipient was added");
        let index = u16::try_from(index).expect("limits.rs bounds recipients");
        let said = Params::parse(&self.extra).unwrap_or_default().recipients().find(|(at, ..)| *at == index);
        let said = said.map(|(_, notify, orcpt)| (notify, orcpt.to_vec()));
        let is_known = |envelope: &Envelope, address: &[u8]| envelope.recipients().any(|r| r.address == address);
        let wants_success = said.as_ref().is_some_and(|(notify, _)| notify.success);
        let is_list = self.sender_len > 0 && members.iter().any(|member| member.reverse_path.is_some());
        let list = self.recipients().last().filter(|_| is_list && wants_success);
        let list = list.map(|list| (list.address.to_vec(), list.address.len() - list.domain.len()));
        self.remove_last_recipient();
        if let (Some((address, domain_at)), Some((notify, orcpt))) = (list, &said)
            && !is_known(self, &address)
        {
            self.add_recipient(&address, domain_at);
            params::write_recipient(&mut self.extra, index, *notify, orcpt);
            params::write_reached(&mut self.extra, index);
        }
        for member in members {
            if is_known(self, member.address) {
                continue;
            }
            let index = u16::try_from(self.recipients.len()).expect("limits.rs bounds recipients");
            self.add_recipient(member.address, member.domain_at);
            match (member.reverse_path, &said) {
                (Some(path), _) if self.sender_len > 0 => params::write_reverse_path(&mut self.extra, index, path),
                (_, Some((notify, orcpt))) => params::write_recipient(&mut self.extra, index, *notify, orcpt),
                (_, None) => {}
            }
        }
    }

    /// Keeps what RCPT said of the recipient added last.
    ///
    /// # Panics
    /// Without a recipient.
    pub fn set_recipient_options(&mut self, notify: Notify, orcpt: &[u8]) {
        let index = self.recipients.len().checked_sub(1).expect("a recipient was added");
        let index = u16::try_from(index).expect("limits.rs bounds recipients");
        params::write_recipient(&mut self.extra, index, notify, orcpt);
    }

    /// Keeps `ENVID=` of MAIL, in xtext as it came.
    pub fn set_envid(&mut self, envid: &[u8]) {
        params::write_envid(&mut self.extra, envid);
    }

    /// Keeps the campaign that the message is of.
    pub fn set_campaign(&mut self, campaign: &[u8]) {
        params::write_campaign(&mut self.extra, campaign);
    }

    /// Keeps the name of the pool of sources that the message's header asks for.
    pub fn set_pool(&mut self, pool: &[u8]) {
        params::write_pool(&mut self.extra, pool);
    }

    /// Keeps the account that submits the message.
    pub fn set_account(&mut self, account: &[u8]) {
        params::write_account(&mut self.extra, account);
    }

    /// `BODY=8BITMIME` was given (RFC 6152).
    pub fn is_eight_bit(&self) -> bool {
        self.options.body == BodyType::EightBit
    }

    /// Appends all parameters but `SIZE=` and `BODY=8BITMIME` in the form of [`params`]; nothing for plain mail.
    pub fn write_params(&self, out: &mut Vec<u8>) {
        params::write_options(out, &self.options);
        out.extend_from_slice(&self.extra);
    }

    /// The reverse-path; empty for the null sender.
    pub fn sender(&self) -> &[u8] {
        &self.text[..self.sender_len as usize]
    }

    /// The number of forward-paths.
    pub fn recipient_count(&self) -> usize {
        self.recipients.len()
    }

    /// The forward-path number `index` (from 0).
    pub fn recipient(&self, index: usize) -> Recipient<'_> {
        let start = if index == 0 { self.sender_len } else { self.recipients[index - 1].0 } as usize;
        let (end, domain_at) = self.recipients[index];
        Recipient { address: &self.text[start..end as usize], domain: &self.text[domain_at as usize..end as usize] }
    }

    /// All forward-paths in the order given.
    pub fn recipients(&self) -> impl Iterator<Item = Recipient<'_>> {
        (0..self.recipients.len()).map(|i| self.recipient(i))
    }

    /// Memory held, in bytes, for the session's budget.
    pub fn capacity(&self) -> usize {
        self.text.capacity() + self.extra.capacity() + self.recipients.capacity() * size_of::<(u32, u32)>()
    }

    /// Gives back memory above `text_bytes`, after an unusually large transaction.
    pub fn shrink(&mut self, text_bytes: usize) {
        self.text.shrink_to(text_bytes);
        self.extra.shrink_to(0);
        self.recipients.shrink_to(16);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collects_addresses_in_order() {
        let mut e = Envelope::default();
        e.set_sender(b"a@b.example");
        e.add_recipient(b"x@y.example", 2);
        e.add_recipient(b"postmaster", 10);
        assert_eq!(e.sender(), b"a@b.example");
        let all: Vec<_> = e.recipients().map(|r| (r.address, r.domain)).collect();
        assert_eq!(all, [(&b"x@y.example"[..], &b"y.example"[..]), (b"postmaster", b"")]);
        e.set_sender(b"");
        assert_eq!((e.sender(), e.recipient_count()), (&b""[..], 0));
    }

    #[test]
    fn a_list_stays_for_who_wants_to_hear_that_it_was_reached() {
        let notify = Notify { success: true, failure: true, ..Notify::default() };
        let member = Member { address: b"e@f", domain_at: 2, reverse_path: Some(b"owner-l@h") };
        let sent = |sender: &[u8], notify, member| {
            let mut e = Envelope::default();
            e.set_sender(sender);
            for _ in 0..2 {
                e.add_recipient(b"l@h", 2);
                e.set_recipient_options(notify, b"rfc822;l@h");
                e.expand_last_recipient(&[member]);
            }
            e
        };
        let e = sent(b"s@x", notify, member);
        let all: Vec<_> = e.recipients().map(|r| (r.address, r.domain)).collect();
        assert_eq!(all, [(&b"l@h"[..], &b"h"[..]), (b"e@f", b"f")], "once, though it was named twice");
        let mut bytes = Vec::new();
        e.write_params(&mut bytes);
        let params = Params::parse(&bytes).unwrap_or_default();
        assert_eq!(params.reached().collect::<Vec<_>>(), [0]);
        assert_eq!((params.recipient(0), params.reverse_path(0)), ((notify, &b"rfc822;l@h"[..]), None));
        assert_eq!((params.recipient(1).0.is_default(), params.reverse_path(1)), (true, member.reverse_path));
        // Nobody could be told, nobody asked, or it is an alias, whose members tell.
        let failure = Notify { success: false, ..notify };
        let plain = Member { reverse_path: None, ..member };
        for e in [sent(b"", notify, member), sent(b"s@x", failure, member), sent(b"s@x", notify, plain)] {
            assert_eq!(e.recipients().map(|r| r.address).collect::<Vec<_>>(), [b"e@f"]);
        }
    }

    #[test]
    fn members_take_the_place_of_their_list() {
        let notify = Notify { failure: true, ..Notify::default() };
        let member =
            |address: &'static [u8], reverse_path| Member { address, domain_at: address.len() - 1, reverse_path };
        for (sender, told) in [(&b"s@x"[..], Some(&b"owner-l@h"[..])), (b"", None)] {
            let mut e = Envelope::default();
            e.set_sender(sender);
            e.add_recipient(b"a@b", 2);
            e.add_recipient(b"l@h", 2);
            e.set_recipient_options(notify, b"rfc822;l@h");
            e.expand_last_recipient(&[member(b"a@b", None), member(b"c@d", None), member(b"e@f", Some(b"owner-l@h"))]);
            e.add_recipient(b"z@z", 2);
            let all: Vec<_> = e.recipients().map(|r| r.address).collect();
            assert_eq!(all, [b"a@b", b"c@d", b"e@f", b"z@z"]);
            let mut bytes = Vec::new();
            e.write_params(&mut bytes);
            let params = Params::parse(&bytes).unwrap_or_default();
            assert_eq!(params.recipient(1), (notify, &b"rfc822;l@h"[..]));
            assert_eq!(params.reverse_path(2), told);
            assert_eq!(params.recipient(2).0.is_default(), told.is_some(), "a list ends the sender's wish");
            assert_eq!((params.recipient(0).1, params.recipient(3).1), (&b""[..], &b""[..]));
        }
    }
}
