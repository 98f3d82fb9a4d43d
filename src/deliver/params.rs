//! PURE. What a message's parameters mean for one next hop: what goes on with it, which of its recipients can go together,
//! and which of them the next hop will not report of. Plain mail costs a look at an empty slice.

use crate::limits;
use crate::message::params::{BodyType, Notify};
use crate::queue::Terms;
use crate::smtp::client::{By, MailParams, Rcpt};
use crate::smtp::dots;
use crate::smtp::extensions::Capabilities;
use crate::spool::RecordView;
use crate::time::Moment;
use std::net::SocketAddr;

/// What the client machine is to know of the message.
pub(super) fn mail<'a>(view: &RecordView<'a>, indices: &[u16], terms: Option<&Terms>, now: Moment) -> MailParams<'a> {
    let plain = MailParams::new(view.total_size(), view.eight_bit());
    let params = view.params();
    if params.is_empty() {
        return plain;
    }
    let options = params.options();
    let has_list = list(view, indices).is_some();
    let by = options.deliver_by.zip(terms.and_then(|t| t.by)).map(|(by, until)| {
        let seconds = |d: std::time::Duration| i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
        let seconds = if until >= now { seconds(until.since(now)) } else { -seconds(now.since(until)) };
        By { seconds, return_late: by.return_late, trace: by.trace }
    });
    MailParams {
        body: if options.body == BodyType::Binary { BodyType::Binary } else { plain.body },
        smtputf8: options.smtputf8,
        ascii_headers: options.smtputf8 && has_ascii_headers(view),
        require_tls: options.require_tls,
        // RFC 3461 §5.2.7: what the sender asked for ends at a list.
        ret: options.ret.filter(|_| !has_list),
        envid: if has_list { b"" } else { params.envid() },
        by,
        priority: options.priority,
        ..plain
    }
}

/// Whether the message can go by BDAT, in a flight: then its size is told exactly, and how many of its dots are doubled in wire
/// form. A large one is not looked at.
pub(super) fn exact(params: &mut MailParams<'_>, view: &RecordView<'_>) -> Option<usize> {
    let is_small = view.chunk_count() == 0 && params.size <= limits::FLIGHT_BODY_BYTES;
    if !is_small || params.body == BodyType::Binary {
        return None;
    }
    let doubled = dots::doubled(view.data())?;
    (params.size, params.exact_size) = (dots::undoubled(view.data()).len() as u64 - doubled as u64, true);
    Some(doubled)
}

/// The reverse-path of a list that they have the message by. Recipients of one job have it all, or none has.
fn list<'a>(view: &RecordView<'a>, indices: &[u16]) -> Option<&'a [u8]> {
    indices.first().and_then(|index| view.params().reverse_path(*index))
}

/// Who is told of errors of these recipients, of one job.
pub(super) fn sender<'a>(view: &RecordView<'a>, indices: &[u16]) -> &'a [u8] {
    list(view, indices).unwrap_or(view.sender())
}

/// What does not hold of the way into a mailbox of our own, by an LMTP server at `remote` (`None`: a UNIX socket).
pub(super) fn to_local(params: &mut MailParams<'_>, peer: &Capabilities, remote: Option<SocketAddr>) {
    // It is on time now (RFC 2852 §4.1.4 is about passing on).
    if peer.deliver_by.is_none() {
        params.by = None;
    }
    // RFC 8689 §4.2.1 is about networks: this machine's own is none.
    if remote.is_none_or(|remote| remote.ip().to_canonical().is_loopback()) {
        params.require_tls = false;
    }
}

/// Whether the header section is there to be seen, and ASCII. That of a body in chunks is not.
fn has_ascii_headers(view: &RecordView<'_>) -> bool {
    let data = view.data();
    view.chunk_count() == 0 && data[..memchr::memmem::find(data, b"\r\n\r\n").unwrap_or(data.len())].is_ascii()
}

/// Those of the recipients that `indices` names, with what was said of each.
pub(super) fn recipients<'a>(view: &RecordView<'a>, indices: &'a [u16]) -> impl Iterator<Item = Rcpt<'a>> {
    let mut said = view.params().recipients().peekable();
    view.recipients().filter(|r| indices.binary_search(&r.index).is_ok()).map(move |r| {
        while said.next_if(|(at, ..)| *at < r.index).is_some() {}
        let nothing: (Notify, &[u8]) = (Notify::default(), b"");
        let (notify, orcpt) = said.next_if(|(at, ..)| *at == r.index).map_or(nothing, |(_, n, o)| (n, o));
        Rcpt { address: r.address, notify, orcpt }
    })
}

/// Which recipients go first where the peer does not take all at once, and which after them; `None` if it does.
pub(super) fn share(
    view: &RecordView<'_>,
    indices: &[u16],
    peer: &Capabilities,
    most: u32,
) -> Option<(Vec<u16>, Vec<u16>)> {
    let params = view.params();
    // RFC 6531 §3.5: a mailbox the peer cannot be told of does not keep the message from the others.
    let ascii_only =
        !params.is_empty() && !peer.smtputf8 && params.options().smtputf8 && sender(view, indices).is_ascii();
    if !ascii_only && !peer.limits.bounds_recipients() && indices.len() <= most as usize {
        return None;
    }
    let (mut kept, mut others) = (Vec::new(), Vec::new());
    // RFC 9422 §4.2, §4.3.
    let most = peer.limits.recipients.map_or(most, |n| n.min(most)) as usize;
    let most_domains = peer.limits.domains.map_or(usize::MAX, |n| n as usize);
    let mut domains: Vec<&[u8]> = Vec::new();
    let mut is_ascii = None;
    for recipient in view.recipients().filter(|r| indices.binary_search(&r.index).is_ok()) {
        let new = !domains.iter().any(|d| d.eq_ignore_ascii_case(recipient.domain));
        let alike =
            !ascii_only || *is_ascii.get_or_insert(recipient.address.is_ascii()) == recipient.address.is_ascii();
        if alike && kept.len() < most && (!new || domains.len() < most_domains) {
            kept.push(recipient.index);
            if new {
                domains.push(recipient.domain);
            }
        } else {
            others.push(recipient.index);
        }
    }
    (!others.is_empty()).then_some((kept, others))
}

/// Of the recipients whose mailbox here has the message, those whose sender is to hear that, and hears it from nobody else
/// (RFC 3461 §5.2.3).
pub(super) fn stored(view: &RecordView<'_>, indices: &[u16], peer: &Capabilities) -> Vec<u16> {
    if view.params().is_empty() || view.sender().is_empty() || peer.dsn {
        return Vec::new();
    }
    indices.iter().copied().zip(recipients(view, indices)).filter(|(_, r)| r.notify.success).map(|(at, _)| at).collect()
}

/// Of the recipients that the peer has taken, those whose sender is to hear that they were passed on, since the peer will
/// not tell: it lacks DSN, and success was asked for (RFC 3461 §5.2.2 (b)), or it lacks DELIVERBY (RFC 2852 §4.1.4.2), or
/// a trace was asked for (§4.1.4).
pub(super) fn reported(view: &RecordView<'_>, indices: &[u16], peer: &Capabilities) -> Vec<u16> {
    let params = view.params();
    if params.is_empty() || view.sender().is_empty() {
        return Vec::new();
    }
    let by = params.options().deliver_by;
    let by = by.is_some_and(|by| by.trace || (!by.return_late && peer.deliver_by.is_none()));
    let told = |n: Notify| !planted!(RelayingUntold) && ((n.success && !peer.dsn) || (by && !n.never));
    indices.iter().copied().zip(recipients(view, indices)).filter(|(_, r)| told(r.notify)).map(|(at, _)| at).collect()
}
