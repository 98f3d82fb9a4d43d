//! What a simulated machine other than the relay is told and can do.

use super::core::{Core, What};
use super::net::{LinkId, Reading};
use super::rng::Rng;
use crate::time::Now;
use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A machine that is not the relay: a client, a next hop, a DNS server.
pub trait Host {
    /// Whether a connection or datagram to `port` is taken; else it is refused.
    fn listens(&self, port: u16) -> bool;
    /// Takes one event.
    fn handle(&mut self, event: HostEvent<'_>, side: &mut HostSide<'_>);
}

/// What a host is told.
#[derive(Debug)]
#[allow(missing_docs, reason = "each variant's text tells of its fields")]
pub enum HostEvent<'a> {
    /// The relay connected to `port`, from `from`.
    Accepted { link: LinkId, port: u16, from: IpAddr },
    /// The host's own connection to the relay stands.
    Connected { link: LinkId },
    /// Octets of a stream.
    Received { link: LinkId, bytes: &'a [u8] },
    /// A datagram for `port`; `link` is where an answer goes.
    Datagram { link: LinkId, port: u16, bytes: &'a [u8] },
    /// The relay closed; all it sent has been read. What the host still sends is answered by a reset.
    Ended { link: LinkId },
    /// The connection broke, or could not be made: over.
    Failed { link: LinkId },
    /// A way that was asked for by [`HostSide::dial`] stands, and is not this host's any more.
    Reached { link: LinkId },
    /// It could not be made: `refused`, or nobody is there.
    Unreached { link: LinkId, refused: bool },
    /// The time asked for by [`HostSide::timer`] has come.
    Timer { token: u64 },
}

/// What a host can do.
pub struct HostSide<'a> {
    pub(super) me: IpAddr,
    pub(super) core: &'a mut Core,
}

impl HostSide<'_> {
    /// Both clocks; the wall clock is the relay's.
    pub fn now(&self) -> Now {
        self.core.now
    }

    /// Counts something that happened.
    pub fn mark(&mut self, what: impl Into<Cow<'static, str>>) {
        self.core.marks.add(what);
    }

    /// Choices.
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.core.rng
    }

    /// The host's own address.
    pub fn address(&self) -> IpAddr {
        self.me
    }

    /// Begins a connection to the relay's listener number `listener`; `Connected` or `Failed` follows.
    pub fn connect(&mut self, listener: usize) -> LinkId {
        let core = &mut *self.core;
        let port = 1024 + core.rng.below(60_000) as u16;
        let (least, more) = core.window;
        let window = least + core.rng.below(more as u64 + 1) as usize;
        let id = core.net.link(0, self.me, SocketAddr::new(self.me, 0), false, window);
        if let Some(link) = core.net.links.get_mut(&id) {
            (link.relay_open, link.host_open) = (false, true);
        }
        let at = core.net.arrival(self.me, core.now.mono, &mut core.rng);
        if let Some(link) = core.net.links.get_mut(&id) {
            link.last_to_relay = at;
        }
        core.plan(at, What::Call(id, listener, SocketAddr::new(self.me, port)));
        id
    }

    /// As [`HostSide::connect`], to the listener of one shard: it fails if that has stopped listening.
    pub fn connect_to_shard(&mut self, listener: usize, shard: usize) -> LinkId {
        let id = self.connect(listener);
        if let Some(link) = self.core.net.links.get_mut(&id) {
            link.only = Some(shard);
        }
        id
    }

    /// Sends octets. Whatever the relay does with them, the host does not wait.
    pub fn write(&mut self, link: LinkId, bytes: &[u8]) {
        if self.core.host_end(link).is_some() && !bytes.is_empty() {
            self.core.send_to_relay(link, What::ToRelay(link, bytes.to_vec()));
        }
    }

    /// Has a connection of the relay's go on to another host, as a proxy does: to it the relay's address is `from`. `done` is sent
    /// to the relay once it stands. `Reached` or `Unreached` follows, or nothing if the host does not answer.
    pub fn dial(&mut self, link: LinkId, to: SocketAddr, from: IpAddr, done: &[u8]) {
        let core = &mut *self.core;
        let at = core.net.arrival(to.ip(), core.now.mono, &mut core.rng);
        core.plan(at, What::Dial(link, to, from, done.to_vec()));
    }

    /// Answers a datagram. `forged` ones claim to come from the host that was asked, as an attacker's do.
    pub fn datagram(&mut self, link: LinkId, bytes: &[u8]) {
        self.core.send_datagram(link, What::ToRelay, false, bytes.to_vec());
    }

    /// Closes: what was sent arrives, then the end.
    pub fn close(&mut self, link: LinkId) {
        if self.core.host_end(link).is_some() {
            self.core.send_to_relay(link, What::RelayEnd(link));
            self.gone(link);
        }
    }

    /// Resets the connection: what is under way to the relay may be lost.
    pub fn reset(&mut self, link: LinkId) {
        if self.core.host_end(link).is_some() {
            self.core.send_to_relay(link, What::RelayFailed(link, libc::ECONNRESET));
            self.gone(link);
        }
    }

    fn gone(&mut self, link: LinkId) {
        if let Some(link) = self.core.net.links.get_mut(&link) {
            link.host_open = false;
        }
        self.core.net.forget_if_over(link);
    }

    /// The host forgets the connection without a word: the relay's end stands half-open.
    pub fn vanish(&mut self, link: LinkId) {
        if let Some(link) = self.core.net.links.get_mut(&link) {
            (link.host_open, link.vanished) = (false, true);
        }
        self.core.net.forget_if_over(link);
    }

    /// Whether the relay has not closed its end, by its own clock: an end that is under way does not count.
    pub fn relay_is_open(&self, link: LinkId) -> bool {
        self.core.net.links.get(&link).is_some_and(|link| link.relay_open)
    }

    /// From now on the host reads like this.
    pub fn read(&mut self, link: LinkId, reading: Reading) {
        let core = &mut *self.core;
        if let Some(l) = core.net.links.get_mut(&link) {
            l.reading = reading;
            core.plan(core.now.mono, What::HostReads(link));
        }
    }

    /// `Timer` with `token` comes after `delay`.
    pub fn timer(&mut self, delay: Duration, token: u64) {
        let core = &mut *self.core;
        core.plan(core.now.mono + delay, What::Timer(self.me, token));
    }

    /// A remark in the trace.
    pub fn remark(&mut self, text: &str) {
        self.core.trace.remark(self.core.now.mono, text);
    }
}
