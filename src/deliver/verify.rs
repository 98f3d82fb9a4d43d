//! Whether a domain exists and takes mail: asked by sessions of any shard, answered by the shard that owns the domain, from
//! the answers that deliveries use too.

use super::Deliverer;
use crate::dns::{Answer, Resolution, Verdict};
use crate::shard::Turn;
use crate::shard::mailbox::{DomainVerdict, Mail};

impl Deliverer {
    /// Answers with `Mail::Verified`, at once or when DNS has answered.
    pub(crate) fn verify(&mut self, domain: &str, asker: u16, token: u64, turn: &mut Turn<'_>) {
        match self.resolver.resolve(domain, turn.now.mono) {
            Answer::Ready(resolution) => tell(&resolution, asker, token, turn),
            Answer::Pending => {
                let canonical = match crate::dns::canonical(domain) {
                    Ok(name) => name.as_str().into(),
                    Err(_) => domain.into(),
                };
                self.verifying.entry(canonical).or_default().push((asker, token));
                self.dns(turn);
            }
        }
    }

    /// A domain that was asked for is resolved.
    pub(super) fn verified(&mut self, domain: &str, resolution: &Resolution, turn: &mut Turn<'_>) {
        for (asker, token) in self.verifying.remove(domain).unwrap_or_default() {
            tell(resolution, asker, token, turn);
        }
    }
}

fn tell(resolution: &Resolution, asker: u16, token: u64, turn: &mut Turn<'_>) {
    let verdict = match resolution.verdict {
        Verdict::Hosts(_) => DomainVerdict::TakesMail,
        Verdict::NullMx => DomainVerdict::NullMx,
        Verdict::NoSuchDomain => DomainVerdict::NoSuchDomain,
        Verdict::NoMailHost => DomainVerdict::NoMailHost,
        Verdict::Temporary { .. } => DomainVerdict::Unknown,
    };
    turn.post.send(usize::from(asker), Mail::Verified { token, verdict });
}
