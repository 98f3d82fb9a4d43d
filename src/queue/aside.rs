//! PURE. Flows that are set aside: their mail may not go, for want of room in a limit of their own, and does not keep the
//! rest of the destination waiting. They cost nothing until the driver lets them go.

use super::Queue;
use super::job::{DestinationId, FlowId, JobKey};
use super::ready::End;
use super::slots::State;
use super::terms::HIGH_RANKS;

impl<B> Queue<B> {
    /// A held job was not begun, since its flow may not go: it is the first of its flow again, and no attempt is counted; and
    /// the flow is set aside until [`let_go`](Self::let_go). Mail with a priority waits with its flow's plain mail, in front of it or
    /// behind. False: there it is not the destination's mail any more, and nothing is set aside.
    ///
    /// # Panics
    /// If the driver does not hold the job.
    pub fn put_aside(&mut self, key: JobKey) -> bool {
        let before = self.destination_of(key);
        self.put_back(key);
        let Some(index) = self.slots.resolve(key) else { return false };
        if let State::Ranked(rank) = self.slots.get(index).state {
            self.unlink_ready(index, State::Waiting);
            let end = if usize::from(rank) < HIGH_RANKS { End::Front } else { End::Back };
            self.list_plain(index, end);
        }
        let flow = self.slots.get(index).job.flow();
        let Some(dest) = self.destination_of(key).filter(|dest| Some(*dest) == before) else { return false };
        self.set_flow_aside(dest, flow)
    }

    /// Sets a flow aside at a destination. False: it has no mail there.
    pub fn set_flow_aside(&mut self, dest: DestinationId, flow: FlowId) -> bool {
        let weight = self.tenants.weight(flow.tenant);
        self.destinations.get_mut(dest).is_some_and(|d| d.plain.set_aside(flow, weight, true))
    }

    /// A flow may go again. False: it has no mail there.
    pub fn let_go(&mut self, dest: DestinationId, flow: FlowId) -> bool {
        let weight = self.tenants.weight(flow.tenant);
        let there = self.destinations.get_mut(dest).is_some_and(|d| d.plain.set_aside(flow, weight, false));
        if there {
            self.touch(dest);
        }
        there
    }

    /// Whether a flow is set aside at a destination.
    pub fn is_aside(&self, dest: DestinationId, flow: FlowId) -> bool {
        self.destinations.get(dest).is_some_and(|d| d.plain.is_aside(flow))
    }

    /// The plain mail of a flow that is ready at a destination, were it set aside or not.
    pub fn flow_len(&self, dest: DestinationId, flow: FlowId) -> usize {
        self.destinations.get(dest).map_or(0, |d| d.plain.len_of(flow) as usize)
    }

    /// The flow of the job that [`take`](Self::take) would return, or about that, and the job's octets.
    pub fn next_flow(&self, dest: DestinationId) -> Option<(FlowId, u32)> {
        let d = self.destinations.get(dest)?;
        let index = d.ranked_heads(true).chain(d.plain.heads()).chain(d.ranked_heads(false)).next()?;
        let job = &self.slots.get(index).job;
        Some((job.flow(), job.size))
    }
}
