//! Connections that end so that others get their place: which one, and when.
//!
//! Inputs: that a destination has none and its site's lane or its sources are full, or that other lanes want more. Lives on its
//! shard. It refuses to end one before its first message while there is mail for it.

use super::Deliverer;
use crate::lease::Scope;
use crate::limits;
use crate::queue::DestinationId;
use crate::rt::ConnId;
use crate::shard::Turn;

/// The first of [`Deliverer::rank_to_end`]: a connection that nobody needs.
pub(super) const UNUSED: u8 = 0;

/// Behind all of them: one that has carried nothing, and is needed.
pub(super) const NEEDED: u8 = 3;

impl Deliverer {
    /// A destination of a site has no connection, and the others have all that the site's lane may have: one of them ends one that
    /// has carried something, or is not needed.
    pub(super) fn change_over(&mut self, scope: &Scope, destination: DestinationId, turn: &mut Turn<'_>) {
        let Some(lane) = self.lanes.get(scope) else { return };
        if !lane.members.iter().any(|member| member.destination == destination && member.connections > 0) {
            // It is a source that it waits for.
            return self.change_source_over(scope, destination, turn);
        }
        let others = lane.members.iter().map(|member| member.destination).filter(|d| *d != destination);
        let mut best: Option<(u8, ConnId)> = None;
        let mut any = false;
        for other in others {
            let Some(pool) = self.pools.get(&other) else { continue };
            if pool.leaving > 0 {
                return;
            }
            for &conn in &pool.connections {
                let Some(connection) = self.connections.get(conn) else { continue };
                if connection.ends_soon() {
                    return;
                }
                any = true;
                if connection.retires {
                    continue;
                }
                let Some(rank) = self.rank_to_end(conn) else { continue };
                if best.is_none_or(|(least, _)| rank < least) {
                    best = Some((rank, conn));
                }
            }
        }
        match best {
            Some((_, conn)) => self.end_for_others(conn, turn),
            // Those there have carried nothing yet. Nothing else may come that has it asked again.
            None if any => self.lanes.wake_at(turn.now.mono + limits::LEASE_TURN, scope),
            None => {}
        }
    }

    /// How far a connection is from being the first that ends for others; `None`: it has carried nothing, and is needed.
    pub(super) fn rank_to_end(&self, conn: ConnId) -> Option<u8> {
        let connection = self.connections.get(conn)?;
        match (connection.is_idle(), self.waiting(connection.destination) > 0) {
            (true, false) => Some(UNUSED),
            (true, true) if connection.done > 0 => Some(1),
            (false, _) if connection.begun > 0 => Some(2),
            _ => None,
        }
    }

    /// A connection ends, behind the message that it carries, or behind its first if one waits for it: where turns are short and
    /// hosts slow, nobody would come to a message otherwise.
    pub(super) fn end_for_others(&mut self, conn: ConnId, turn: &mut Turn<'_>) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        connection.retires = true;
        let (begun, destination, idles) = (connection.begun, connection.destination, connection.is_idle());
        if begun == 0 && self.waiting(destination) > 0 {
            self.pools.make(destination).awaits_first = true;
        } else if idles && self.connections.get(conn).is_some_and(|c| c.ready) {
            self.quit(conn, turn);
        } else if begun == 0 {
            self.forget(conn, turn);
        }
    }

    /// Connections that were to end behind their first message end without one if no mail is left at their destination: it has
    /// gone over another one, or has an outcome by other ways.
    pub(super) fn end_unused(&mut self, destination: DestinationId, turn: &mut Turn<'_>) {
        if self.pools.get(&destination).is_none_or(|pool| !pool.awaits_first) || self.waiting(destination) > 0 {
            return;
        }
        let pool = self.pools.make(destination);
        pool.awaits_first = false;
        for conn in pool.connections.clone() {
            if self.connections.get(conn).is_some_and(|c| c.retires && c.begun == 0) && !planted!(UnusedStays) {
                self.end_for_others(conn, turn);
            }
        }
    }

    /// Closes what others wait for: what idles at once, the rest behind its message, what is about to have one behind that.
    pub(super) fn retire(&mut self, scope: &Scope, turn: &mut Turn<'_>) {
        let Some(lane) = self.lanes.get(scope) else { return };
        let Some(closing) = lane.share.closing() else { return };
        let pools = || lane.members.iter().filter_map(|member| self.pools.get(&member.destination));
        let mut rest: Vec<ConnId> = pools().flat_map(|pool| pool.connections.iter().copied()).collect();
        let retiring = rest.iter().filter(|conn| self.connections.get(**conn).is_some_and(|c| c.retires)).count();
        let leaving: usize = pools().map(|pool| pool.leaving).sum();
        let mut over = (closing.connections as usize).saturating_sub(leaving + retiring);
        // Those that carry nothing first.
        let carries = |conn: &ConnId| self.connections.get(*conn).is_some_and(|c| c.ready && !c.is_idle());
        rest.sort_by_key(carries);
        for conn in rest {
            if over == 0 {
                break;
            }
            if self.connections.get(conn).is_some_and(|c| !c.retires) {
                over -= 1;
                self.end_for_others(conn, turn);
            }
        }
    }

    /// A connection has nothing to do any more: others may wait for its place.
    pub(super) fn idles(&mut self, conn: ConnId, turn: &mut Turn<'_>) {
        if !self.is_awaited(conn) {
            return;
        }
        if let Some(scope) = self.connections.get(conn).and_then(|connection| connection.scope.clone()) {
            self.spare_places(&scope, turn);
        }
    }

    /// Whether lanes, this one or others, wait for the place of a connection.
    fn is_awaited(&self, conn: ConnId) -> bool {
        let Some(connection) = self.connections.get(conn) else { return false };
        let of_site = |scope: &Scope| self.lanes.get(scope).is_some_and(|lane| lane.share.is_awaited());
        connection.scope.as_ref().is_some_and(of_site)
            || connection.source_scope.as_ref().is_some_and(|scope| self.sources.shares.are_awaited(scope))
    }

    /// Ends a connection that nobody here needs, if lanes wait for its place; one in each turn.
    pub(super) fn spare_places(&mut self, scope: &Scope, turn: &mut Turn<'_>) {
        let now = turn.now.mono;
        let Some(lane) = self.lanes.get(scope) else { return };
        let pools = lane.members.iter().filter_map(|member| self.pools.get(&member.destination));
        let is_spare = |conn: &ConnId| {
            self.is_awaited(*conn)
                && !planted!(PlacesNotSpared)
                && self.rank_to_end(*conn) == Some(UNUSED)
                && self.connections.get(*conn).is_some_and(|connection| !connection.retires)
        };
        let Some(conn) = pools.flat_map(|pool| pool.connections.iter().copied()).find(is_spare) else { return };
        let Some(lane) = self.lanes.get_mut(scope) else { return };
        if now >= lane.changes_from {
            lane.changes_from = now + limits::LEASE_TURN;
            self.end_for_others(conn, turn);
        }
        self.lanes.wake_at_change(scope);
    }
}
