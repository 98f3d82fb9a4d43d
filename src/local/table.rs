//! PURE. The table of local domains: built once from texts, then asked for each recipient.
//!
//! In: blocks of the configuration. Out: [`LocalTable`] and warnings, or every error of every file. Refuses a table whose
//! aliases could pass the bounds of `limits.rs`; what is loaded always resolves within them.

use super::files::{self, Alias, AliasTarget, Aliases, Problems};
use super::{Problem, Target, key, shown, unquoted};
use crate::limits::{LOCAL_ALIAS_DEPTH, LOCAL_EXPANSION_ADDRESSES, LOCAL_PROBLEMS};
use crate::message::address_list;
use crate::smtp::address::is_host_name;
use std::collections::{BTreeMap, BTreeSet};

/// A file that was read.
#[derive(Clone, Copy, Debug)]
pub struct TextFile<'a> {
    /// Its name, for messages.
    pub name: &'a str,
    /// What is in it.
    pub text: &'a str,
}

/// One `[[local]]` block.
#[derive(Clone, Debug)]
pub struct Block<'a> {
    /// `domains`.
    pub domains: &'a [String],
    /// `deliver`, read by [`Target::parse`].
    pub deliver: Target,
    /// `mailboxes`; absent: every local part is taken.
    pub mailboxes: Option<TextFile<'a>>,
    /// `aliases`.
    pub aliases: Option<TextFile<'a>>,
    /// `subaddress`: one character, or nothing for none.
    pub subaddress: &'a str,
}

/// A table, and what is suspicious in it.
#[derive(Debug)]
pub struct Loaded {
    /// The table.
    pub table: LocalTable,
    /// Warnings, in the order of blocks and lines.
    pub warnings: Vec<Problem>,
}

/// Who is local. The same on every core; replaced as a whole.
#[derive(Clone, Debug, Default)]
pub struct LocalTable {
    pub(super) sites: Vec<Site>,
    /// In lower case, with the index of their site.
    pub(super) domains: BTreeMap<Box<[u8]>, usize>,
    /// The first domain of the first block: the host's own, for `<Postmaster>`.
    first: Box<[u8]>,
}

/// What the domains of one block share.
#[derive(Clone, Debug)]
pub(super) struct Site {
    pub target: Target,
    /// `None`: every local part.
    pub mailboxes: Option<BTreeSet<Box<[u8]>>>,
    pub aliases: Aliases,
    aliases_file: String,
    subaddress: Option<u8>,
}

/// What a recipient is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Its domain is none of ours: to be relayed, or not.
    NotLocal,
    /// There is no such mailbox (550 5.1.1), or its name cannot be a Maildir's.
    Unknown,
    /// It is a mailbox.
    Mailbox(Mailbox),
    /// It is an alias or a list, of one address at least.
    Addresses(Expansion),
}

/// A mailbox of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mailbox {
    /// Its domain, in lower case; [`LocalTable::target`] says where to deliver.
    pub domain: Vec<u8>,
    /// Its name, in lower case and without quotes or subaddress: what `{mailbox}` of a Maildir stands for.
    pub name: Vec<u8>,
    /// `local-part@domain` for RCPT of LMTP: with the subaddress, in the case it was written in.
    pub address: Vec<u8>,
}

/// What an alias or list leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expansion {
    /// Each address once, in the order of the files.
    pub members: Vec<Member>,
}

/// One address of an [`Expansion`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where it goes.
    pub to: Destination,
    /// The new reverse-path, `owner-list@domain`, if it came by a list with such an entry: errors are for who keeps the
    /// list, not for who wrote to it (RFC 5321 §3.9.2). `None`: the sender stays, as for an alias (§3.9.1).
    pub reverse_path: Option<Vec<u8>>,
}

/// Where a member's mail goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A mailbox of ours.
    Mailbox(Mailbox),
    /// Another host's `local-part@domain`, to be relayed.
    Relayed(Vec<u8>),
}

impl Destination {
    /// `local-part@domain`.
    pub fn address(&self) -> &[u8] {
        match self {
            Destination::Mailbox(mailbox) => &mailbox.address,
            Destination::Relayed(address) => address,
        }
    }
}

/// What a local part is at its site, before aliases are followed.
pub(super) enum Found<'a> {
    /// With the name it was found by.
    Alias(&'a Alias, Box<[u8]>),
    Mailbox(Mailbox),
    Nothing,
}

impl LocalTable {
    /// Builds the table; all that is wrong comes at once.
    pub fn build(blocks: &[Block<'_>]) -> Result<Loaded, Vec<Problem>> {
        let mut errors = Vec::new();
        let mut table = LocalTable::default();
        for block in blocks {
            table.add(block, &mut errors);
        }
        let warnings = if errors.is_empty() { table.check(blocks, &mut errors) } else { Vec::new() };
        if errors.is_empty() { Ok(Loaded { table, warnings }) } else { Err(errors) }
    }

    fn add(&mut self, block: &Block<'_>, errors: &mut Vec<Problem>) {
        let mut of_block = Problems { file: "", found: &mut *errors };
        let subaddress = match block.subaddress.as_bytes() {
            [] => None,
            [byte] if byte.is_ascii_punctuation() && !b"@\".\\".contains(byte) => Some(*byte),
            _ => {
                let shown = shown(block.subaddress.as_bytes());
                of_block.add(
                    0,
                    format!("subaddress is one character that is neither letter nor digit (\"+\"), not `{shown}`"),
                );
                None
            }
        };
        for domain in block.domains {
            let lower: Box<[u8]> = domain.to_ascii_lowercase().into_bytes().into();
            if !is_host_name(domain.as_bytes()) {
                let shown = shown(domain.as_bytes());
                of_block.add(
                    0,
                    format!(
                        "`{shown}` is no domain name; an internationalised one is written as its A-label (xn--...)"
                    ),
                );
            } else if self.domains.contains_key(&lower) {
                of_block.add(
                    0,
                    format!("domain {domain} stands in the [[local]] blocks twice: mail for it could go to either"),
                );
            } else {
                if self.domains.is_empty() {
                    self.first = lower.clone();
                }
                self.domains.insert(lower, self.sites.len());
            }
        }
        let mailboxes = block
            .mailboxes
            .map(|file| files::mailboxes(file.text, &mut Problems { file: file.name, found: &mut *errors }));
        let aliases =
            block.aliases.map(|file| files::aliases(file.text, &mut Problems { file: file.name, found: &mut *errors }));
        self.sites.push(Site {
            target: block.deliver.clone(),
            mailboxes,
            aliases: aliases.unwrap_or_default(),
            aliases_file: block.aliases.map_or_else(String::new, |file| file.name.to_owned()),
            subaddress,
        });
    }

    /// Follows every alias once: those above the bounds are errors, those that lead nowhere are worth a warning.
    fn check(&self, blocks: &[Block<'_>], errors: &mut Vec<Problem>) -> Vec<Problem> {
        let mut warnings = Vec::new();
        let mut said = BTreeSet::new();
        for block in blocks {
            for domain in block.domains {
                let domain = domain.to_ascii_lowercase();
                let site = &self.sites[self.domains[domain.as_bytes()]];
                let named = site.aliases.by_name.iter().map(|(name, alias)| (&**name, alias));
                let mut all: Vec<_> =
                    named.chain(site.aliases.catch_all.iter().map(|alias| (&b"@"[..], alias))).collect();
                all.sort_by_key(|(_, alias)| alias.line);
                for (name, alias) in all {
                    let shown = shown(name);
                    let mut problem = |list: &mut Vec<Problem>, message: String| {
                        let problem = Problem { file: site.aliases_file.clone(), line: alias.line, message };
                        if list.len() < LOCAL_PROBLEMS && said.insert(problem.clone()) {
                            list.push(problem);
                        }
                    };
                    let mut walk = Walk::new(self);
                    match walk.follow(domain.as_bytes(), site, alias, name.into(), None) {
                        Err(bound) => problem(errors, format!("`{shown}` {}", bound.words())),
                        Ok(()) if walk.members.is_empty() => problem(
                            &mut warnings,
                            format!("`{shown}` leads to no mailbox at all: mail to it is refused until it does"),
                        ),
                        Ok(()) => {}
                    }
                    for (domain, local) in walk.unknown {
                        let (domain, local) = (super::shown(&domain), super::shown(&local));
                        problem(
                            &mut warnings,
                            format!(
                                "`{shown}` leads to `{local}`, which is no mailbox or alias of {domain}: left out until it is"
                            ),
                        );
                    }
                }
                self.check_duties(&domain, &mut warnings);
            }
            self.check_folders(block, &mut warnings);
            if block.mailboxes.is_none() && matches!(block.deliver, Target::Maildir(_)) {
                let domain = block.domains.first().map_or("", String::as_str);
                let message = format!(
                    "mail for {domain} goes to Maildirs, and no file of mailboxes is given: every name that anybody writes to \
                     gets a folder"
                );
                warnings.push(Problem { file: String::new(), line: 0, message });
            }
            if block.mailboxes.is_none()
                && let Some(aliases) = block.aliases
                && let Some(site) = block.domains.first().and_then(|d| self.site(d.to_ascii_lowercase().as_bytes()))
                && let Some(alias) = &site.aliases.catch_all
            {
                let message = "`@` is never used: without a file of mailboxes every local part is taken".to_owned();
                warnings.push(Problem { file: aliases.name.to_owned(), line: alias.line, message });
            }
        }
        warnings.truncate(LOCAL_PROBLEMS);
        warnings
    }

    /// Each mailbox of a file has a name that can be a folder's.
    fn check_folders(&self, block: &Block<'_>, warnings: &mut Vec<Problem>) {
        let (Target::Maildir(layout), Some(file), Some(domain)) =
            (&block.deliver, block.mailboxes, block.domains.first())
        else {
            return;
        };
        let domain = domain.to_ascii_lowercase();
        let Some(names) = self.site(domain.as_bytes()).and_then(|site| site.mailboxes.as_ref()) else { return };
        let bad = names.iter().filter(|name| layout.folder(domain.as_bytes(), name).is_err());
        warnings.extend(bad.take(LOCAL_PROBLEMS).map(|name| {
            let message = format!("`{}` cannot be the name of a folder, so it has no Maildir: left out", shown(name));
            Problem { file: file.name.to_owned(), line: 0, message }
        }));
    }

    /// Each domain that takes mail has a postmaster (RFC 5321 §4.5.1) and somebody for complaints (RFC 2142 §2, §4).
    fn check_duties(&self, domain: &str, warnings: &mut Vec<Problem>) {
        for (name, why) in [("postmaster", "RFC 5321 section 4.5.1"), ("abuse", "RFC 2142 section 4")] {
            if self.resolve(domain.as_bytes(), name.as_bytes()) == Resolution::Unknown {
                let message = format!("{name}@{domain} has no mailbox: {why} asks for one; add an alias `{name}`");
                warnings.push(Problem { file: String::new(), line: 0, message });
            }
        }
    }

    /// Whether there is no local domain.
    pub fn is_empty(&self) -> bool {
        self.domains.is_empty()
    }

    /// The mailbox that `local_part@domain` (as in [`resolve`](Self::resolve)) is by itself, whatever aliases there are: what
    /// they led to stands in the envelope when mail is delivered.
    pub fn mailbox(&self, domain: &[u8], local_part: &[u8]) -> Option<Mailbox> {
        let domain = domain.to_ascii_lowercase();
        self.site(&domain)?.mailbox(&domain, &unquoted(local_part)?)
    }

    /// Whether mail for `domain` (any case) is delivered here.
    pub fn is_local(&self, domain: &[u8]) -> bool {
        self.site(&domain.to_ascii_lowercase()).is_some()
    }

    /// Where mail for a local domain (lower case, as in [`Mailbox::domain`]) is delivered to.
    pub fn target(&self, domain: &[u8]) -> Option<&Target> {
        self.site(domain).map(|site| &site.target)
    }

    /// What `local_part@domain` is, both as a valid forward-path has them, in any case. An empty domain with `Postmaster` is
    /// the postmaster of the first domain (RFC 5321 §4.1.1.3).
    pub fn resolve(&self, domain: &[u8], local_part: &[u8]) -> Resolution {
        let mut domain = domain.to_ascii_lowercase();
        if domain.is_empty() && local_part.eq_ignore_ascii_case(b"postmaster") {
            domain = self.first.to_vec();
        }
        match unquoted(local_part) {
            Some(local) => self.resolve_unquoted(&domain, &local),
            None if self.site(&domain).is_none() => Resolution::NotLocal,
            None => Resolution::Unknown,
        }
    }

    /// The same, with the domain in lower case and the local part without quotes.
    pub(super) fn resolve_unquoted(&self, domain: &[u8], local: &[u8]) -> Resolution {
        let Some(site) = self.site(domain) else { return Resolution::NotLocal };
        match site.find(domain, local) {
            Found::Nothing => Resolution::Unknown,
            Found::Mailbox(mailbox) => Resolution::Mailbox(mailbox),
            Found::Alias(alias, name) => {
                let mut walk = Walk::new(self);
                let within_bounds = walk.follow(domain, site, alias, name, None).is_ok();
                // The bounds were looked at when the table was built.
                if !within_bounds || walk.members.is_empty() {
                    return Resolution::Unknown;
                }
                Resolution::Addresses(Expansion { members: walk.members })
            }
        }
    }

    pub(super) fn site(&self, domain: &[u8]) -> Option<&Site> {
        self.domains.get(domain).map(|at| &self.sites[*at])
    }
}

impl Site {
    /// Aliases come before mailboxes, whole local parts before those without their subaddress, and what is taken anyway
    /// before the catch-all.
    pub(super) fn find(&self, domain: &[u8], local: &[u8]) -> Found<'_> {
        let whole = key(local);
        let base_len = self.base_len(local);
        for name in [&whole[..], &whole[..base_len]] {
            if let Some(alias) = self.aliases.by_name.get(name) {
                return Found::Alias(alias, name.into());
            }
            if self.mailboxes.as_ref().is_some_and(|all| all.contains(name)) {
                return self.found(domain, name, local);
            }
        }
        match &self.aliases.catch_all {
            _ if self.mailboxes.is_none() => self.found(domain, &whole[..base_len], local),
            Some(alias) => Found::Alias(alias, b"@"[..].into()),
            None => Found::Nothing,
        }
    }

    /// The mailbox, whatever aliases there are.
    fn mailbox(&self, domain: &[u8], local: &[u8]) -> Option<Mailbox> {
        let whole = key(local);
        let names = [&whole[..], &whole[..self.base_len(local)]];
        let name = match &self.mailboxes {
            Some(all) => names.into_iter().find(|name| all.contains(*name))?,
            None => names[1],
        };
        match self.found(domain, name, local) {
            Found::Mailbox(mailbox) => Some(mailbox),
            _ => None,
        }
    }

    /// A mailbox by its name, unless that cannot be a Maildir's: then nobody can have mail there.
    fn found(&self, domain: &[u8], name: &[u8], local: &[u8]) -> Found<'_> {
        if let Target::Maildir(layout) = &self.target
            && layout.folder(domain, name).is_err()
        {
            return Found::Nothing;
        }
        let address = address_list::join(local, domain);
        Found::Mailbox(Mailbox { domain: domain.to_vec(), name: name.to_vec(), address })
    }

    /// The length of a local part without its subaddress (RFC 5233 §4). What begins with the separator has none.
    fn base_len(&self, local: &[u8]) -> usize {
        let separator = self.subaddress.and_then(|byte| memchr::memchr(byte, local));
        separator.filter(|at| *at > 0).unwrap_or(local.len())
    }

    /// Whether somebody keeps the list `name`: there is an `owner-name`, by itself and not by a catch-all.
    fn owner(&self, domain: &[u8], name: &[u8]) -> Option<Vec<u8>> {
        let owner = [b"owner-", name].concat();
        let known = self.aliases.by_name.contains_key(&owner[..])
            || self.mailboxes.as_ref().is_some_and(|all| all.contains(&owner[..]));
        known.then(|| address_list::join(&owner, domain))
    }
}

/// Which bound an alias passes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Bound {
    Depth,
    Addresses,
}

impl Bound {
    fn words(self) -> String {
        match self {
            Bound::Depth => {
                format!("leads through more than {LOCAL_ALIAS_DEPTH} aliases in a row: make the chain shorter")
            }
            Bound::Addresses => {
                format!(
                    "leads to more than {LOCAL_EXPANSION_ADDRESSES} addresses or aliases: use a list manager for it"
                )
            }
        }
    }
}

/// A domain and a name in it.
type Name = (Vec<u8>, Box<[u8]>);

/// One expansion under way.
struct Walk<'t> {
    table: &'t LocalTable,
    members: Vec<Member>,
    /// The addresses of `members`: mailboxes without their subaddress, domains in lower case.
    taken: BTreeSet<Vec<u8>>,
    /// Aliases that were met; true while they are being followed.
    met: BTreeMap<Name, bool>,
    depth: usize,
    /// Targets that are nothing, for the check.
    unknown: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<'t> Walk<'t> {
    fn new(table: &'t LocalTable) -> Walk<'t> {
        Walk { table, members: Vec::new(), taken: BTreeSet::new(), met: BTreeMap::new(), depth: 0, unknown: Vec::new() }
    }

    /// Takes in what `alias`, found by `name`, leads to; `owner` is that of the list it is part of.
    fn follow(
        &mut self,
        domain: &[u8],
        site: &'t Site,
        alias: &'t Alias,
        name: Box<[u8]>,
        owner: Option<&[u8]>,
    ) -> Result<(), Bound> {
        if self.depth >= LOCAL_ALIAS_DEPTH {
            return Err(Bound::Depth);
        }
        if self.met.len() >= LOCAL_EXPANSION_ADDRESSES {
            return Err(Bound::Addresses);
        }
        let own = site.owner(domain, &name);
        let owner = own.as_deref().or(owner);
        let here: Name = (domain.to_vec(), name);
        self.met.insert(here.clone(), true);
        self.depth += 1;
        for target in &alias.targets {
            match target {
                AliasTarget::Name(local) => self.place(domain, site, local, owner)?,
                AliasTarget::Mailbox(local) => match site.mailbox(domain, local) {
                    Some(mailbox) => self.take(Destination::Mailbox(mailbox), owner)?,
                    None => self.unknown.push((domain.to_vec(), local.clone())),
                },
                AliasTarget::Address(address, domain_at) => {
                    let domain = address[*domain_at..].to_ascii_lowercase();
                    match (self.table.site(&domain), unquoted(&address[..*domain_at - 1])) {
                        (Some(site), Some(local)) => self.place(&domain, site, &local, owner)?,
                        _ => self.take(Destination::Relayed(address.clone()), owner)?,
                    }
                }
            }
        }
        self.depth -= 1;
        self.met.insert(here, false);
        Ok(())
    }

    /// Takes in a local part of ours.
    fn place(&mut self, domain: &[u8], site: &'t Site, local: &[u8], owner: Option<&[u8]>) -> Result<(), Bound> {
        match site.find(domain, local) {
            Found::Mailbox(mailbox) => self.take(Destination::Mailbox(mailbox), owner),
            Found::Nothing => {
                self.unknown.push((domain.to_vec(), local.to_vec()));
                Ok(())
            }
            Found::Alias(alias, name) => match self.met.get(&(domain.to_vec(), name.clone())) {
                None => self.follow(domain, site, alias, name, owner),
                // It has been followed, by another way.
                Some(false) => Ok(()),
                // It leads back to itself: `alice: alice, bob@x` means the mailbox.
                Some(true) => match site.mailbox(domain, local) {
                    Some(mailbox) => self.take(Destination::Mailbox(mailbox), owner),
                    None => Ok(()),
                },
            },
        }
    }

    fn take(&mut self, to: Destination, owner: Option<&[u8]>) -> Result<(), Bound> {
        let same = match &to {
            Destination::Mailbox(mailbox) => address_list::join(&mailbox.name, &mailbox.domain),
            Destination::Relayed(address) => {
                let domain_at = memchr::memrchr(b'@', address).map_or(0, |at| at + 1);
                [&address[..domain_at], &address[domain_at..].to_ascii_lowercase()].concat()
            }
        };
        if !self.taken.insert(same) {
            return Ok(());
        }
        if self.members.len() >= LOCAL_EXPANSION_ADDRESSES {
            return Err(Bound::Addresses);
        }
        self.members.push(Member { to, reverse_path: owner.map(<[u8]>::to_vec) });
        Ok(())
    }
}
