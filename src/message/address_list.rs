//! PURE. The addresses in a structured header field: address lists of RFC 5322 §3.4 with the obsolete forms of §4.4,
//! UTF-8 (RFC 6532) and groups (RFC 6854), and much of what people write in their place.
//!
//! **Inputs**: the unfolded value of a field. **Outputs**: every address that a reader could take it to name, display
//! names left out. **Core**: any. It is made to answer "may this account write this?", so where readers might disagree it
//! either gives all addresses they might see (`a@x <b@y>` is both) or **refuses** the whole value: an open quote, comment
//! or bracket, words in front of a local part, two `@` in a row, an address without a domain in angle brackets. A library that recovers what it can from
//! broken text, as mail-parser does, leaves out the rest; that is right for reading mail, and wrong for this.

/// What a list names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressList {
    /// `local-part@domain` each, without comments, white space and source route. The local part is quoted only if it must
    /// be: `"a"@x` is `a@x` (RFC 5322 §3.4.1).
    pub mailboxes: Vec<Vec<u8>>,
    /// There is a group, perhaps an empty one (`Undisclosed recipients:;`).
    pub has_group: bool,
}

/// Readers of this text could disagree about its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;

/// Reads the value of From, Sender and the like.
pub fn parse(text: &[u8]) -> Result<AddressList, Unreadable> {
    let mut scanner = Scanner { text, at: 0 };
    let mut list = AddressList::default();
    // The words that are a local part if an @ comes next.
    let mut local: Option<Vec<u8>> = None;
    let mut behind_dot = false;
    // A dot before them that joins nothing: fine in a display name, no local part.
    let mut stray_dot = false;
    // There is a word or an address before them, which a reader might take for a part of the local part.
    let mut crowded = false;
    // There is an address without brackets before them, whose domain they might seem to go on.
    let mut bare = false;
    let mut angle = Angle::None;
    loop {
        let token = scanner.next()?;
        if angle == Angle::Full && token != Token::Special(b'>') {
            return Err(Unreadable);
        }
        match token {
            Token::Word(word) => match (&mut local, behind_dot) {
                (Some(local), true) => {
                    local.push(b'.');
                    local.extend_from_slice(&word);
                }
                (Some(_), false) if angle != Angle::None => return Err(Unreadable),
                _ if bare && angle == Angle::None => return Err(Unreadable),
                _ => {
                    crowded |= local.is_some();
                    local = Some(word);
                    stray_dot &= behind_dot;
                }
            },
            // "J. R. Public" in a display name, and within local parts.
            Token::Special(b'.') => {
                if local.is_none() && crowded {
                    return Err(Unreadable);
                }
                stray_dot |= local.is_none() || behind_dot;
                behind_dot = true;
                continue;
            }
            Token::Special(b'@') => match local.take() {
                Some(local) if !(behind_dot || stray_dot || (crowded && angle == Angle::None)) => {
                    let address = join(&local, &scanner.domain()?);
                    // An encoded word, which must not be in an address (RFC 2047 §5): some decode it there, and see another.
                    if memchr::memmem::find(&address, b"=?").is_some() {
                        return Err(Unreadable);
                    }
                    list.mailboxes.push(address);
                    crowded = true;
                    bare = angle == Angle::None;
                    if angle != Angle::None {
                        angle = Angle::Full;
                    }
                }
                None if angle == Angle::Open && !stray_dot => {
                    scanner.route()?;
                    angle = Angle::Routed;
                }
                _ => return Err(Unreadable),
            },
            Token::Special(b'<') if angle == Angle::None => {
                (local, stray_dot) = (None, false);
                angle = Angle::Open;
            }
            Token::Special(b'>') if matches!(angle, Angle::Open | Angle::Full) && local.is_none() && !stray_dot => {
                angle = Angle::None
            }
            Token::Special(b',' | b';') if angle == Angle::None => {
                (local, stray_dot, crowded, bare) = (None, false, false, false);
            }
            Token::Special(b':') if angle == Angle::None => {
                list.has_group = true;
                (local, stray_dot, crowded, bare) = (None, false, false, false);
            }
            Token::End if angle == Angle::None => return Ok(list),
            Token::Special(_) | Token::End => return Err(Unreadable),
        }
        behind_dot = false;
    }
}

/// `text` in the form of [`AddressList::mailboxes`], if it is one address and nothing else.
pub fn address(text: &[u8]) -> Option<Vec<u8>> {
    let list = parse(text).ok().filter(|list| !list.has_group)?;
    let [address] = <[Vec<u8>; 1]>::try_from(list.mailboxes).ok()?;
    // Nothing around it: display name, brackets.
    let plain = !text.iter().any(|b| matches!(b, b'<' | b'>' | b'(' | b',' | b';'));
    (plain || text.starts_with(b"\"")).then_some(address)
}

/// Where the scan is between angle brackets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Angle {
    None,
    /// Behind `<`.
    Open,
    /// Behind a source route: an address must come.
    Routed,
    /// Behind the address in it: `>` must come.
    Full,
}

#[derive(PartialEq, Eq)]
enum Token {
    /// An atom, or the content of a quoted string.
    Word(Vec<u8>),
    Special(u8),
    End,
}

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

/// Not part of an atom, besides controls and white space (RFC 5322 §3.2.3).
const SPECIALS: &[u8; 13] = b"()<>[]:;@\\,.\"";

fn is_atext(byte: u8) -> bool {
    byte > b' ' && byte != 0x7f && !SPECIALS.contains(&byte)
}

impl Scanner<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Result<Token, Unreadable> {
        self.skip_blank()?;
        match self.peek() {
            None => Ok(Token::End),
            Some(b'"') => self.quoted_string().map(Token::Word),
            Some(byte) if is_atext(byte) => Ok(Token::Word(self.atom().to_vec())),
            Some(byte @ (b'.' | b'@' | b'<' | b'>' | b',' | b';' | b':')) => {
                self.at += 1;
                Ok(Token::Special(byte))
            }
            Some(_) => Err(Unreadable),
        }
    }

    /// White space and comments, nested to any depth.
    fn skip_blank(&mut self) -> Result<(), Unreadable> {
        let mut depth = 0usize;
        loop {
            match self.peek() {
                Some(b' ' | b'\t') => {}
                Some(b'(') => depth += 1,
                Some(b')') if depth > 0 => depth -= 1,
                Some(b'\\') if depth > 0 => self.at += 1,
                Some(_) if depth > 0 => {}
                None if depth > 0 => return Err(Unreadable),
                _ => return Ok(()),
            }
            self.at += 1;
        }
    }

    fn atom(&mut self) -> &[u8] {
        let start = self.at;
        while self.peek().is_some_and(is_atext) {
            self.at += 1;
        }
        &self.text[start..self.at]
    }

    fn quoted_string(&mut self) -> Result<Vec<u8>, Unreadable> {
        let mut content = Vec::new();
        loop {
            self.at += 1;
            match self.peek().ok_or(Unreadable)? {
                b'"' => break,
                b'\\' => {
                    self.at += 1;
                    content.push(self.peek().ok_or(Unreadable)?);
                }
                byte => content.push(byte),
            }
        }
        self.at += 1;
        if content.iter().any(|b| (*b < b' ' && *b != b'\t') || *b == 0x7f) {
            return Err(Unreadable);
        }
        Ok(content)
    }

    /// A dot-atom with white space and comments around its dots (§4.4), or a literal.
    fn domain(&mut self) -> Result<Vec<u8>, Unreadable> {
        self.skip_blank()?;
        if self.peek() == Some(b'[') {
            let rest = &self.text[self.at..];
            let end = rest.iter().position(|b| *b == b']').ok_or(Unreadable)? + 1;
            if rest[1..end - 1].iter().any(|b| !matches!(b, b'!'..=b'Z' | b'^'..=b'~' | 0x80..)) {
                return Err(Unreadable);
            }
            self.at += end;
            return self.ends_word().then(|| rest[..end].to_vec()).ok_or(Unreadable);
        }
        let mut domain = Vec::new();
        loop {
            let atom = self.atom();
            if atom.is_empty() {
                return Err(Unreadable);
            }
            domain.extend_from_slice(atom);
            if !self.ends_word() {
                return Err(Unreadable);
            }
            self.skip_blank()?;
            if self.peek() != Some(b'.') {
                return Ok(domain);
            }
            self.at += 1;
            domain.push(b'.');
            self.skip_blank()?;
        }
    }

    /// Whether no other word begins right here, without a blank.
    fn ends_word(&self) -> bool {
        self.peek().is_none_or(|byte| !is_atext(byte) && !matches!(byte, b'"' | b'[' | b']'))
    }

    /// The rest of a source route behind its first `@`, up to its colon (§4.4).
    fn route(&mut self) -> Result<(), Unreadable> {
        loop {
            self.domain()?;
            self.skip_blank()?;
            let mut byte = self.peek();
            while byte == Some(b',') {
                self.at += 1;
                self.skip_blank()?;
                byte = self.peek();
            }
            self.at += 1;
            match byte {
                Some(b'@') => {}
                Some(b':') => return Ok(()),
                _ => return Err(Unreadable),
            }
        }
    }
}

/// `local-part@domain` from a local part without quotes or escapes: it is quoted if it must be.
pub fn join(local: &[u8], domain: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(local.len() + domain.len() + 3);
    let plain = local.split(|b| *b == b'.').all(|word| !word.is_empty() && word.iter().all(|b| is_atext(*b)));
    if plain {
        text.extend_from_slice(local);
    } else {
        text.push(b'"');
        for byte in local {
            if matches!(byte, b'"' | b'\\') {
                text.push(b'\\');
            }
            text.push(*byte);
        }
        text.push(b'"');
    }
    text.push(b'@');
    text.extend_from_slice(domain);
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::properties::{cases, hostile};
    use proptest::prelude::*;

    fn read(text: &str) -> Option<Vec<String>> {
        let list = parse(text.as_bytes()).ok()?;
        Some(list.mailboxes.into_iter().map(|a| String::from_utf8(a).unwrap()).collect())
    }

    #[test]
    fn reads_what_people_write() {
        for (text, addresses) in [
            ("a@b.example", &["a@b.example"][..]),
            (" Alice <a@b> ", &["a@b"]),
            ("\"Doe, John\" <a@b>, =?utf-8?Q?J=C3=BCrgen?= <c@d>", &["a@b", "c@d"]),
            ("a@b (Alice (of <x@y>) \\) here)", &["a@b"]),
            ("John Q. Public <a@b>, Doe, Jane <c@d>", &["a@b", "c@d"]),
            ("Team: a@b, Bob <c@d>;, e@f", &["a@b", "c@d", "e@f"]),
            ("Nobody:;", &[]),
            ("<@r.example,@s:a@b>", &["a@b"]),
            ("\"a b\"@c, \"plain\"@c, \"x\".\"y\" . z @ c . d", &["\"a b\"@c", "plain@c", "x.y.z@c.d"]),
            ("a@[192.0.2.1], <b@[IPv6:::1]>", &["a@[192.0.2.1]", "b@[IPv6:::1]"]),
            ("j\u{fc}rgen@b\u{fc}cher.example", &["j\u{fc}rgen@b\u{fc}cher.example"]),
            (",, a@b ,;", &["a@b"]),
            ("\"\\\"\\\\\"@x", &["\"\\\"\\\\\"@x"]),
            ("Dr... No <d@e>, .net <f@g>", &["d@e", "f@g"]),
            // Whichever of them a reader takes.
            ("ceo@x.example <me@y.example>", &["ceo@x.example", "me@y.example"]),
            ("<a@b> <c@d>", &["a@b", "c@d"]),
            ("Scanner", &[]),
            ("Scanner <>", &[]),
            ("", &[]),
        ] {
            assert_eq!(read(text), Some(addresses.iter().map(|a| (*a).to_owned()).collect()), "{text}");
        }
    }

    #[test]
    fn refuses_what_readers_would_disagree_about() {
        for text in [
            "\"a@b",
            "a@b (",
            "<a@b",
            "a@b>",
            "a@b@c",
            "a@",
            "@b",
            "<@b>",
            "<@b:>",
            "<a>",
            "<a b@c>",
            "<a@b c>",
            "<a@b, c@d>",
            "<<a@b>>",
            "a@b\\",
            "a@[1",
            "a@[a b]",
            "a.@b",
            "<.a@b>",
            "a@b.",
            "a@.b",
            "a)b@c",
            "\"a\"b@c",
            "a b@c",
            "a@[1]b@c",
            "a@[1]b",
            "a@b c",
            "a@[1].",
            "a@b\"c\"",
            "<a@b> c@d",
            "A b@c <d@e>",
            "=?utf-8?Q?x@y=2C?=a@b",
            "\"=?utf-8?Q?x?=\"@b",
            "a@=?utf-8?Q?x?=",
            "a..b@c",
            ".a@b",
            ". a@b",
            "a@b, <.>",
            "<a.b.@c>",
            "a\u{1}@b",
            "\"a\u{0}\"@b",
            "a@\"b\"",
            "<a@b:c@d>",
            "]",
            "=?utf-8?Q?\"?= <a@b>",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn one_address_and_nothing_else() {
        assert_eq!(address(b"a@b"), Some(b"a@b".to_vec()));
        assert_eq!(address(b"\"a<\"@b"), Some(b"\"a<\"@b".to_vec()));
        for text in ["", "a", "a@b, c@d", "A <a@b>", "a@b (x)", "g:a@b;", "<a@b>"] {
            assert_eq!(address(text.as_bytes()), None, "{text}");
        }
    }

    /// A mailbox as some program might write it, and its address.
    fn written() -> impl Strategy<Value = (String, String)> {
        let blank = || prop::sample::select(vec!["", " ", "\t ", " (c) ", " (a(b)\\)@x)"]);
        let local = prop_oneof!["[a-z0-9+_-]{1,8}(\\.[a-z]{1,4}){0,2}"];
        let name = prop_oneof![Just(String::new()), "[A-Z][a-z]{0,6}( [A-Z][a-z]{1,4})?", "\"[a-z ,@<>;:.]{0,10}\""];
        (local, "[a-z]{1,6}(\\.[a-z]{2,5}){1,2}", name, any::<bool>(), blank(), blank()).prop_map(
            |(local, domain, name, quoted, before, behind)| {
                let address = format!("{local}@{domain}");
                let spec = if quoted { format!("\"{local}\"@{domain}") } else { address.clone() };
                let text = if name.is_empty() {
                    format!("{before}{spec}{behind}")
                } else {
                    format!("{before}{name} <{spec}>{behind}")
                };
                (text, address)
            },
        )
    }

    proptest! {
        #![proptest_config(cases(500))]

        #[test]
        fn property_lists_give_back_what_was_written(all in prop::collection::vec(written(), 0..6), group in any::<bool>()) {
            let texts: Vec<_> = all.iter().map(|(text, _)| text.as_str()).collect();
            let text = if group { format!("Group:{};", texts.join(",")) } else { texts.join(",") };
            let list = parse(text.as_bytes()).unwrap();
            prop_assert_eq!(list.has_group, group);
            let addresses: Vec<_> = all.iter().map(|(_, address)| address.clone().into_bytes()).collect();
            prop_assert_eq!(list.mailboxes, addresses, "{}", text);
        }

        #[test]
        fn property_what_was_read_reads_as_itself(text in hostile(80)) {
            for mailbox in parse(&text).map(|list| list.mailboxes).unwrap_or_default() {
                let shown = String::from_utf8_lossy(&mailbox).into_owned();
                prop_assert_eq!(parse(&mailbox).map(|list| list.mailboxes), Ok(vec![mailbox]), "{}", shown);
            }
        }
    }
}
