//! The effects of a shard in the simulated world: rt's [`Io`].

use super::core::{Core, FileOp, What};
use crate::rt::buffer::Buffer;
use crate::rt::{ConnId, Event, FileNo, Io, Work};
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The world as one shard sees it.
pub(super) struct Side<'a> {
    pub(super) me: usize,
    pub(super) core: &'a mut Core,
}

impl Side<'_> {
    /// Counts an effect; false if the process did not live to have it.
    fn lives(&mut self, what: &'static str, n: u64, bytes: &[u8]) -> bool {
        let core = &mut *self.core;
        if core.dead {
            return false;
        }
        core.counts.effects += 1;
        if core.kill_at.is_some_and(|at| core.counts.effects >= at) {
            core.dead = true;
            core.trace.record(core.now.mono, &self.me, "killed", core.counts.effects, &[]);
            return false;
        }
        core.trace.record(core.now.mono, &self.me, what, n, bytes);
        true
    }

    fn disk(&mut self, op: FileOp) {
        let core = &mut *self.core;
        let (least, more) = core.pace.latency_us;
        let at = core.now.mono + Duration::from_micros(least + core.rng.below(more + 1));
        core.plan(at.max(core.pace.stalled_until), What::File(self.me, op));
    }

    fn path(&self, file: FileNo) -> PathBuf {
        self.core.cpus[self.me].files.get(&file).cloned().unwrap_or_default()
    }

    fn open(&mut self, to: SocketAddr, from: Option<IpAddr>, datagram: bool) -> io::Result<ConnId> {
        let core = &mut *self.core;
        if core.net.refuse_local > 0 && !core.dead {
            core.net.refuse_local -= 1;
            return Err(io::Error::from_raw_os_error(if datagram { libc::EMFILE } else { libc::EADDRNOTAVAIL }));
        }
        let (least, more) = core.window;
        let window = least + core.rng.below(more as u64 + 1) as usize;
        let id = core.net.link(self.me, to.ip(), to, datagram, window);
        let conn = core.net.socket(self.me, id, datagram);
        if let Some(link) = core.net.links.get_mut(&id) {
            link.from = from;
        }
        if !datagram {
            core.count_connection(to.ip(), from, true);
        }
        if !datagram && !core.dead {
            core.send_to_host(id, What::Knock(id));
        }
        Ok(conn)
    }
}

impl Io for Side<'_> {
    fn connect(&mut self, to: SocketAddr, from: Option<IpAddr>) -> io::Result<ConnId> {
        self.lives("connect", u64::from(to.port()), to.ip().to_string().as_bytes());
        self.open(to, from, false)
    }

    fn connect_unix(&mut self, path: &Path) -> io::Result<ConnId> {
        let to = self.core.unix.get(path).copied();
        // Where nobody listens.
        let to = to.unwrap_or(SocketAddr::from(([127, 0, 0, 2], 1)));
        self.lives("connect unix", 0, path.as_os_str().as_encoded_bytes());
        self.open(to, None, false)
    }

    fn datagram(&mut self, to: SocketAddr) -> io::Result<ConnId> {
        self.lives("datagram", u64::from(to.port()), to.ip().to_string().as_bytes());
        self.open(to, None, true)
    }

    fn write(&mut self, conn: ConnId, parts: &[IoSlice<'_>]) -> usize {
        let all = parts.iter().map(|part| part.len()).sum();
        let me = self.me;
        let Some(sock) = self.core.net.tables[me].get(conn) else { return all };
        if sock.over {
            return all;
        }
        let id = sock.link;
        let Some(link) = self.core.net.links.get_mut(&id) else { return all };
        let taken = if link.datagram { all } else { all.min(link.window.saturating_sub(link.used)) };
        let mut bytes = Vec::with_capacity(taken);
        for part in parts {
            bytes.extend_from_slice(&part[..part.len().min(taken - bytes.len())]);
        }
        let datagram = link.datagram;
        if !self.lives("write", u64::from(conn.slot), &bytes) {
            return all;
        }
        let core = &mut *self.core;
        if taken < all
            && let Some(sock) = core.net.tables[me].get(conn)
        {
            sock.waiting = true;
        }
        if bytes.is_empty() {
            return taken;
        }
        if datagram {
            core.send_datagram(id, What::ToHost, true, bytes);
        } else {
            let to = core.net.links.get_mut(&id).map(|link| {
                link.used += taken;
                (link.to.ip(), link.from)
            });
            if let Some((to, from)) = to {
                let mut offset = 0;
                for part in parts {
                    // What was not taken comes again.
                    if offset >= taken {
                        break;
                    }
                    core.count_message((id, to, from), part, offset > 0);
                    offset += part.len();
                }
            }
            core.send_to_host(id, What::ToHost(id, bytes));
        }
        taken
    }

    fn pause(&mut self, conn: ConnId) {
        if let Some(sock) = self.core.net.tables[self.me].get(conn) {
            sock.paused = true;
        }
    }

    fn resume(&mut self, conn: ConnId) {
        let (me, core) = (self.me, &mut *self.core);
        if let Some(sock) = core.net.tables[me].get(conn) {
            sock.paused = false;
            core.plan(core.now.mono, What::Look(me, conn));
        }
    }

    fn shutdown(&mut self, conn: ConnId) {
        if !self.lives("shutdown", u64::from(conn.slot), &[]) {
            return;
        }
        let core = &mut *self.core;
        if let Some(id) = core.net.tables[self.me].get(conn).map(|sock| sock.link) {
            core.send_to_host(id, What::HostEnd(id));
        }
    }

    fn close(&mut self, conn: ConnId) {
        if !self.lives("close", u64::from(conn.slot), &[]) {
            return;
        }
        let core = &mut *self.core;
        let Some(sock) = core.net.tables[self.me].remove(conn) else { return };
        let id = sock.link;
        let Some(link) = core.net.links.get_mut(&id) else { return };
        link.relay_open = false;
        let from = link.from;
        let (host, made) = (link.host, link.to.port() != 0 && !link.datagram);
        let forgotten = link.datagram || link.vanished;
        if made {
            core.count_connection(host, from, false);
        }
        if forgotten {
            core.net.links.remove(&id);
        } else if !sock.received.is_empty() {
            core.send_to_host(id, What::HostFailed(id));
        } else {
            core.send_to_host(id, What::HostEnd(id));
        }
    }

    fn stop_listening(&mut self) {
        if self.lives("stop listening", 0, &[]) {
            self.core.cpus[self.me].listening = false;
        }
    }

    fn create_file(&mut self, file: FileNo, path: &Path, bytes: u64) {
        self.core.cpus[self.me].files.insert(file, path.to_owned());
        if self.lives("create", u64::from(file), &[]) {
            self.disk(FileOp::Create { file, path: path.to_owned(), bytes });
        }
    }

    fn open_file(&mut self, file: FileNo, path: &Path) -> io::Result<()> {
        self.core.cpus[self.me].files.insert(file, path.to_owned());
        Ok(())
    }

    fn write_durable(&mut self, token: u64, file: FileNo, offset: u64, buffer: Arc<Buffer>, start: usize) {
        if self.lives("write durable", offset, &buffer[start..]) {
            let path = self.path(file);
            self.disk(FileOp::Write { token, path, offset, buffer, start });
            let core = &mut *self.core;
            if let Some(left) = &mut core.kill_in_write {
                *left = left.saturating_sub(1);
                core.dead = *left == 0;
            }
        }
    }

    fn read_file(&mut self, token: u64, file: FileNo, offset: u64, buffer: Buffer) {
        if self.lives("read", offset, &[]) {
            let path = self.path(file);
            self.disk(FileOp::Read { token, path, offset, buffer });
        }
    }

    fn remove_file(&mut self, file: FileNo, path: &Path) {
        if self.lives("remove", u64::from(file), &[]) {
            self.disk(FileOp::Remove { file, path: path.to_owned() });
        }
    }

    fn work(&mut self, token: u64, work: Work) {
        if self.lives("work", token, &[]) {
            // Some milliseconds on another thread.
            let core = &mut *self.core;
            let at = core.now.mono + Duration::from_micros(500 + core.rng.below(20_000));
            let result = work();
            core.plan(at, What::File(self.me, FileOp::Done(Event::Worked { token, result })));
        }
    }

    fn wake(&mut self, shard: usize) {
        if let Some(cpu) = self.core.cpus.get_mut(shard) {
            cpu.woken = true;
        }
    }

    fn random(&mut self) -> u64 {
        self.core.rng.next()
    }
}
