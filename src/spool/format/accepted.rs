//! PURE. An accepted message: written as a record, and read in place.

use super::{Kind, Outcome, RECORD_HEADER, begin, finish, split, u16_at, u32_at, u64_at};
use crate::message::params::Params;
use crate::message::{Envelope, MessageId};
use crate::rt::buffer::Buffer;
use crate::time::Wall;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::Range;

/// Octets in front of the envelope.
const ACCEPTED_FIXED: usize = 48;

/// The body that comes with an Accepted record.
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    /// All of it, in wire form: dot-stuffed, CRLF, with the final dot or without as the caller wishes it sent.
    Whole(&'a [u8]),
    /// It went ahead, by `stream_chunk`.
    Streamed,
}

/// What an Accepted record is made from.
#[derive(Clone, Copy, Debug)]
pub struct NewMessage<'a> {
    /// From `Log::next_id`.
    pub id: MessageId,
    /// Reverse-path and forward-paths.
    pub envelope: &'a Envelope,
    /// When it was accepted.
    pub accepted: Wall,
    /// The client it came from.
    pub peer: IpAddr,
    /// Parameters of MAIL and RCPT, from `Envelope::write_params`.
    pub params: &'a [u8],
    /// The trace header, in wire form; stands in front of the body.
    pub trace: &'a [u8],
    /// The body.
    pub body: Body<'a>,
}

/// Payload bytes of the Accepted record of `message`.
pub fn accepted_bytes(message: &NewMessage<'_>) -> usize {
    let envelope = message.envelope.recipients().map(|r| 5 + r.address.len()).sum::<usize>() + message.params.len();
    let body = if let Body::Whole(body) = message.body { body.len() } else { 0 };
    ACCEPTED_FIXED + message.envelope.sender().len() + envelope + message.trace.len() + body
}

/// Appends the Accepted record of `message`; returns its bytes. `chunks` and `chunk_bytes` are what was streamed ahead.
pub fn write_accepted(buffer: &mut Buffer, message: &NewMessage<'_>, chunks: u32, chunk_bytes: u64) -> usize {
    let at = begin(buffer, Kind::Accepted, message.id.0);
    let envelope = message.envelope;
    let body = if let Body::Whole(body) = message.body { body } else { &[] };
    let addresses = envelope.sender().len() + envelope.recipients().map(|r| 5 + r.address.len()).sum::<usize>();
    let envelope_bytes = addresses + message.params.len();
    let peer = match message.peer {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let trace_bytes = if planted!(TraceNotCounted) { 0 } else { message.trace.len() };
    let data_bytes = (trace_bytes + body.len()) as u64 + chunk_bytes;
    let bounded = "limits.rs bounds addresses, recipients and records";
    let mut fixed = [0; ACCEPTED_FIXED];
    fixed[..8].copy_from_slice(&message.accepted.0.to_le_bytes());
    fixed[8..16].copy_from_slice(&data_bytes.to_le_bytes());
    fixed[16..32].copy_from_slice(&peer.octets());
    fixed[32..36].copy_from_slice(&chunks.to_le_bytes());
    fixed[36..40].copy_from_slice(&u32::try_from(envelope_bytes).expect(bounded).to_le_bytes());
    fixed[40..42].copy_from_slice(&u16::try_from(envelope.sender().len()).expect(bounded).to_le_bytes());
    fixed[42..44].copy_from_slice(&u16::try_from(envelope.recipient_count()).expect(bounded).to_le_bytes());
    fixed[44] = u8::from(envelope.is_eight_bit());
    buffer.extend(&fixed);
    buffer.extend(envelope.sender());
    for recipient in envelope.recipients() {
        let length = u16::try_from(recipient.address.len()).expect(bounded).to_le_bytes();
        let domain_at = u16::try_from(recipient.address.len() - recipient.domain.len()).expect(bounded).to_le_bytes();
        buffer.extend(&[length[0], length[1], domain_at[0], domain_at[1], 0]);
        buffer.extend(recipient.address);
    }
    buffer.extend(message.params);
    buffer.extend(message.trace);
    buffer.extend(body);
    finish(buffer, at)
}

/// One recipient of a [`RecordView`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecipientView<'a> {
    /// Position in the envelope, from 0: the `recipient_index` of `Log::settle`.
    pub index: u16,
    /// `local-part@domain`.
    pub address: &'a [u8],
    /// The part behind the last `@`.
    pub domain: &'a [u8],
    /// The outcome recorded in this record; later ones stand in Progress records, and the log knows them all.
    pub done: Option<Outcome>,
}

/// An Accepted record or a chunk, read in place. Made from what `Event::Durable` and `Event::Read` hand out.
#[derive(Clone, Copy, Debug)]
pub struct RecordView<'a> {
    id: MessageId,
    payload: &'a [u8],
    sender_len: usize,
    envelope_bytes: usize,
    recipients: u16,
    params: Params<'a>,
}

impl<'a> RecordView<'a> {
    /// The view of a whole Accepted record, header included; `None` if it is none. Checksums were checked when it was
    /// read.
    pub fn parse(record: &'a [u8]) -> Option<RecordView<'a>> {
        let (kind, id, payload) = split(record)?;
        (kind == Kind::Accepted).then(|| Self::from_payload(MessageId(id), payload)).flatten()
    }

    /// The view of an Accepted record's payload, or of the front of it up to the envelope's end.
    pub fn from_payload(id: MessageId, payload: &'a [u8]) -> Option<RecordView<'a>> {
        let envelope_bytes = u32_at(payload, 36)? as usize;
        let sender_len = usize::from(u16_at(payload, 40)?);
        let recipients = u16_at(payload, 42)?;
        let mut at = ACCEPTED_FIXED.checked_add(sender_len)?;
        let end = ACCEPTED_FIXED.checked_add(envelope_bytes)?;
        payload.get(..end)?;
        for _ in 0..recipients {
            let length = usize::from(u16_at(payload, at)?);
            if usize::from(u16_at(payload, at + 2)?) > length {
                return None;
            }
            at += 5 + length;
            if at > end {
                return None;
            }
        }
        let params = Params::parse(payload.get(at..end)?)?;
        Some(RecordView { id, payload, sender_len, envelope_bytes, recipients, params })
    }

    /// The message.
    pub fn id(&self) -> MessageId {
        self.id
    }

    /// When it was accepted.
    pub fn accepted(&self) -> Wall {
        Wall(u64_at(self.payload, 0).expect("parse checked the length"))
    }

    /// Octets of the message as it will be sent: trace header and body, chunks included.
    pub fn total_size(&self) -> u64 {
        u64_at(self.payload, 8).expect("parse checked the length")
    }

    /// The client it came from.
    pub fn peer(&self) -> IpAddr {
        let octets: [u8; 16] = self.payload[16..32].try_into().expect("16 bytes");
        Ipv6Addr::from(octets).to_canonical()
    }

    /// Chunks of the body that follow [`data`](Self::data); 0 if it is all there.
    pub fn chunk_count(&self) -> u32 {
        u32_at(self.payload, 32).expect("parse checked the length")
    }

    /// `BODY=8BITMIME` was declared.
    pub fn eight_bit(&self) -> bool {
        self.payload[44] & 1 != 0
    }

    /// Parameters of MAIL and RCPT.
    pub fn params(&self) -> Params<'a> {
        self.params
    }

    /// The reverse-path; empty for the null sender.
    pub fn sender(&self) -> &'a [u8] {
        &self.payload[ACCEPTED_FIXED..ACCEPTED_FIXED + self.sender_len]
    }

    /// Forward-paths.
    pub fn recipient_count(&self) -> usize {
        usize::from(self.recipients)
    }

    /// Where in the payload the outcome of each recipient stands.
    pub(crate) fn state_places(&self) -> impl Iterator<Item = usize> + use<'a> {
        let mut at = ACCEPTED_FIXED + self.sender_len + 4;
        self.recipients().map(move |recipient| {
            let here = at;
            at += 5 + recipient.address.len();
            here
        })
    }

    /// All forward-paths in order.
    pub fn recipients(&self) -> impl Iterator<Item = RecipientView<'a>> + use<'a> {
        let payload = self.payload;
        let mut at = ACCEPTED_FIXED + self.sender_len;
        (0..self.recipients).map_while(move |index| {
            let length = usize::from(u16_at(payload, at)?);
            let domain_at = usize::from(u16_at(payload, at + 2)?);
            let done = Outcome::from_byte(*payload.get(at + 4)?);
            let address = payload.get(at + 5..at + 5 + length)?;
            at += 5 + length;
            Some(RecipientView { index, address, domain: address.get(domain_at..)?, done })
        })
    }

    /// Where [`data`](Self::data) lies within the record.
    pub fn data_range(&self) -> Range<usize> {
        RECORD_HEADER + ACCEPTED_FIXED + self.envelope_bytes..RECORD_HEADER + self.payload.len()
    }

    /// Trace header and body (or the trace header alone if the body was streamed), in wire form, to be sent as it is.
    pub fn data(&self) -> &'a [u8] {
        &self.payload[ACCEPTED_FIXED + self.envelope_bytes..]
    }

    /// The fixed part and the envelope: what `recover` keeps of a message.
    pub(crate) fn front(&self) -> &'a [u8] {
        &self.payload[..ACCEPTED_FIXED + self.envelope_bytes]
    }
}
