//! PURE. The envelope as the client machine sends it: the commands of one transaction, with the parameters that the peer
//! has announced to take, and what its announcements forbid.
//!
//! In: what is known of the message, addresses as the server machine accepted them, the peer's announcements. Out: command
//! lines, or a refusal in the form of a reply. It refuses to drop a parameter whose loss the sender has forbidden
//! (`REQUIRETLS`, `BY=…;R`), and to send what the peer would misread; a loss of another kind the driver has to tell.

use super::TlsFacts;
use crate::message::params::{BodyType, Notify, Ret};
use crate::smtp::extensions::Capabilities;
use crate::smtp::reply::{EnhancedCode, Reply};

/// What is known of a message before it is sent.
///
/// What the peer's announcements forbid is refused at once, with a reply of our own:
///
/// | the message | the peer | |
/// |---|---|---|
/// | is larger than | SIZE | 552 5.3.4, RFC 1870 §5 |
/// | is declared 8BITMIME | lacks it | 554 5.6.3, RFC 6152 §3 |
/// | is declared BINARYMIME | lacks it or CHUNKING | 554 5.6.3, RFC 3030 §3 |
/// | is declared SMTPUTF8, and an address is not ASCII | lacks it | 553 5.6.7, RFC 6531 §3.5 |
/// | is declared SMTPUTF8, and its header section is not ASCII | lacks it | 550 5.6.9, RFC 6531 §3.5 |
/// | has REQUIRETLS | is not under TLS, or not verified | 550 5.7.10, RFC 8689 §4.2.1 |
/// | has REQUIRETLS | lacks it | 550 5.7.30, RFC 8689 §4.2.1 |
/// | has DELIVERBY `R` | lacks it | 554 5.3.3, RFC 2852 §4.1.4.1 |
/// | has DELIVERBY `R` | wants more time than is left | 554 5.4.7 |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MailParams<'a> {
    /// Octets, for SIZE; 0 if unknown. Exact for a binary body: they go by BDAT.
    pub size: u64,
    /// `size` is that of the message without doubled dots and final dot: the message can go by BDAT.
    pub exact_size: bool,
    /// As declared by `BODY=`.
    pub body: BodyType,
    /// Declared `SMTPUTF8` (RFC 6531).
    pub smtputf8: bool,
    /// Of such a message: the header section is known to be ASCII, so that ASCII addresses make it plain mail.
    pub ascii_headers: bool,
    /// `REQUIRETLS` (RFC 8689).
    pub require_tls: bool,
    /// `RET=` (RFC 3461).
    pub ret: Option<Ret>,
    /// `ENVID=` in xtext, as it came; empty if it did not.
    pub envid: &'a [u8],
    /// `BY=` (RFC 2852), as of now.
    pub by: Option<By>,
    /// `MT-PRIORITY=` (RFC 6710), 0 if there was none.
    pub priority: i8,
}

impl MailParams<'_> {
    /// Of a message that asks for nothing: `size` octets, declared 8BITMIME or not.
    pub fn new(size: u64, eight_bit: bool) -> Self {
        let body = if eight_bit { BodyType::EightBit } else { BodyType::SevenBit };
        MailParams { size, body, ..MailParams::default() }
    }

    pub(super) fn is_binary(&self) -> bool {
        self.body == BodyType::Binary
    }

    /// Whether BDAT can tell its octets.
    pub(super) fn is_exact(&self) -> bool {
        self.exact_size || self.is_binary()
    }
}

/// What is left of the time a message was given (RFC 2852 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct By {
    /// Seconds; negative if it has passed.
    pub seconds: i64,
    /// `R`, not `N`.
    pub return_late: bool,
    /// `T`
    pub trace: bool,
}

/// One forward-path and what was said of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rcpt<'a> {
    /// `local-part@domain`
    pub address: &'a [u8],
    /// `NOTIFY=` (RFC 3461 §4.1).
    pub notify: Notify,
    /// `ORCPT=` (RFC 3461 §4.2), as it came; empty if it did not.
    pub orcpt: &'a [u8],
}

impl<'a> From<&'a [u8]> for Rcpt<'a> {
    fn from(address: &'a [u8]) -> Self {
        Rcpt { address, notify: Notify::default(), orcpt: b"" }
    }
}

/// The reply we give ourselves in the peer's place, if its announcements forbid the message.
pub(super) fn refusal(
    sender: &[u8],
    params: &MailParams<'_>,
    peer: &Capabilities,
    tls: Option<TlsFacts>,
) -> Option<Reply<'static>> {
    let reply = |code, enhanced, text| Some(Reply { code, enhanced: Some(enhanced), text });
    // RFC 8689 §4.2.1; a notification is sent as well as can be rather than lost (§5).
    if params.require_tls && !sender.is_empty() && !planted!(RequireTlsIgnored) {
        if !tls.is_some_and(|t| t.verified) {
            return reply(
                550,
                EnhancedCode(5, 7, 10),
                "5.7.10 Encryption needed: no TLS with the receiving server as the sender requires it",
            );
        }
        if !peer.require_tls {
            return reply(
                550,
                EnhancedCode(5, 7, 30),
                "5.7.30 REQUIRETLS support required, the receiving server lacks it",
            );
        }
    }
    if !peer.allows_size(params.size) {
        return reply(
            552,
            EnhancedCode(5, 3, 4),
            "5.3.4 The message is larger than the receiving server announced to take",
        );
    }
    match params.body {
        // RFC 6152 §3 leaves conversion or this, and converting would break signatures.
        BodyType::EightBit if !peer.eight_bit_mime => {
            return reply(
                554,
                EnhancedCode(5, 6, 3),
                "5.6.3 The message has 8-bit data, the receiving server lacks 8BITMIME",
            );
        }
        // RFC 3030 §3: the same.
        BodyType::Binary if !(peer.binary_mime && peer.chunking) => {
            return reply(
                554,
                EnhancedCode(5, 6, 3),
                "5.6.3 The message has binary data, the receiving server lacks BINARYMIME or CHUNKING",
            );
        }
        _ => {}
    }
    match (params.by, peer.deliver_by) {
        (Some(By { return_late: true, .. }), None) => reply(
            554,
            EnhancedCode(5, 3, 3),
            "5.3.3 The message is to be returned if it is late, the receiving server lacks DELIVERBY",
        ),
        (Some(By { return_late: true, seconds, .. }), Some(least))
            if seconds < i64::from(least.max(1)) && !planted!(DeadlineUnchecked) =>
        {
            reply(
                554,
                EnhancedCode(5, 4, 7),
                "5.4.7 Delivery time expired, or too little is left of it for the receiving server",
            )
        }
        _ => None,
    }
}

/// For an SMTPUTF8 message to a peer without it (RFC 6531 §3.5): addresses go first, since they can be changed.
pub(super) fn utf8_refusal(ascii_addresses: bool) -> Reply<'static> {
    if ascii_addresses {
        let text = "5.6.9 The message has UTF-8 in its header section, the receiving server lacks SMTPUTF8";
        Reply { code: 550, enhanced: Some(EnhancedCode(5, 6, 9)), text }
    } else {
        let text = "5.6.7 Non-ASCII addresses not permitted: the receiving server lacks SMTPUTF8";
        Reply { code: 553, enhanced: Some(EnhancedCode(5, 6, 7)), text }
    }
}

/// Appends MAIL.
pub(super) fn write_mail(
    out: &mut Vec<u8>,
    sender: &[u8],
    params: &MailParams<'_>,
    peer: &Capabilities,
    tls: Option<TlsFacts>,
) {
    out.extend_from_slice(b"MAIL FROM:<");
    out.extend_from_slice(sender);
    out.push(b'>');
    if params.size > 0 && peer.size.is_some() {
        out.extend_from_slice(b" SIZE=");
        push_number(out, params.size);
    }
    match params.body {
        BodyType::SevenBit => {}
        BodyType::EightBit if planted!(EightBitUnsaid) => {}
        BodyType::EightBit => out.extend_from_slice(b" BODY=8BITMIME"),
        BodyType::Binary => out.extend_from_slice(b" BODY=BINARYMIME"),
    }
    if params.smtputf8 && peer.smtputf8 {
        out.extend_from_slice(b" SMTPUTF8");
    }
    if params.require_tls && peer.require_tls && tls.is_some_and(|t| t.verified) {
        out.extend_from_slice(b" REQUIRETLS");
    }
    if peer.dsn {
        // RFC 3461 §5.2.1 (a), (b): as it came, and nothing that did not come.
        match params.ret {
            None => {}
            Some(Ret::Full) => out.extend_from_slice(b" RET=FULL"),
            Some(Ret::Headers) => out.extend_from_slice(b" RET=HDRS"),
        }
        if !params.envid.is_empty() {
            out.extend_from_slice(b" ENVID=");
            out.extend_from_slice(params.envid);
        }
    }
    if let Some(by) = params.by
        && peer.deliver_by.is_some()
    {
        // RFC 2852 §4.1.4: nine digits at most; N goes on counting below zero.
        let seconds = by.seconds.clamp(-999_999_999, 999_999_999);
        out.extend_from_slice(if seconds < 0 { b" BY=-" } else { b" BY=" });
        push_number(out, seconds.unsigned_abs());
        out.extend_from_slice(if by.return_late { b";R" } else { b";N" });
        if by.trace {
            out.push(b'T');
        }
    }
    if params.priority != 0 && peer.mt_priority {
        out.extend_from_slice(if params.priority < 0 { b" MT-PRIORITY=-" } else { b" MT-PRIORITY=" });
        push_number(out, params.priority.unsigned_abs().into());
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends BDAT of the only chunk (RFC 3030 §2).
pub(super) fn write_bdat(out: &mut Vec<u8>, octets: u64) {
    out.extend_from_slice(b"BDAT ");
    push_number(out, octets);
    out.extend_from_slice(b" LAST\r\n");
}

/// Appends RCPT.
pub(super) fn write_rcpt(out: &mut Vec<u8>, rcpt: &Rcpt<'_>, peer: &Capabilities) {
    out.extend_from_slice(b"RCPT TO:<");
    out.extend_from_slice(rcpt.address);
    out.push(b'>');
    if peer.dsn {
        // RFC 3461 §5.2.1 (c), (d). An ORCPT that did not come is not added.
        let n = if planted!(NotifyUnsaid) { Notify::default() } else { rcpt.notify };
        let mut separator: &[u8] = b" NOTIFY=";
        let words: [(bool, &[u8]); 4] =
            [(n.never, b"NEVER"), (n.success, b"SUCCESS"), (n.failure, b"FAILURE"), (n.delay, b"DELAY")];
        for (_, word) in words.iter().filter(|(given, _)| *given) {
            out.extend_from_slice(separator);
            out.extend_from_slice(word);
            separator = b",";
        }
        if !rcpt.orcpt.is_empty() {
            out.extend_from_slice(b" ORCPT=");
            write_orcpt(out, rcpt.orcpt, peer.smtputf8);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// UTF-8 in an original recipient goes as it is only to a peer with SMTPUTF8, else as `\x{HEX}` (RFC 6533 §3).
fn write_orcpt(out: &mut Vec<u8>, orcpt: &[u8], utf8: bool) {
    if utf8 || orcpt.is_ascii() {
        return out.extend_from_slice(orcpt);
    }
    for c in String::from_utf8_lossy(orcpt).chars() {
        match u8::try_from(c) {
            Ok(byte) if byte.is_ascii() => out.push(byte),
            _ => out.extend_from_slice(format!("\\x{{{:X}}}", u32::from(c)).as_bytes()),
        }
    }
}

/// Appends a decimal number.
pub(super) fn push_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}
