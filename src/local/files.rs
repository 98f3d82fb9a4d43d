//! PURE. The two files of a `[[local]]` block: mailboxes, a local part a line, and aliases(5).
//!
//! In: their text. Out: what they say, and every [`Problem`] with its line. Refuses what would run a program, write a file
//! or read another one: mail comes from anybody, and this process has the spool.

use super::{Problem, key, shown, unquoted};
use crate::limits::{LOCAL_PART_BYTES, LOCAL_PROBLEMS};
use crate::smtp::address;
use std::collections::{BTreeMap, BTreeSet};

/// What one name of an aliases file leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Alias {
    /// Its first line.
    pub line: usize,
    pub targets: Vec<AliasTarget>,
}

/// One target of an alias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AliasTarget {
    /// `name`: an alias or mailbox of the same domain, unquoted.
    Name(Vec<u8>),
    /// `\name`: the mailbox, whatever aliases there are.
    Mailbox(Vec<u8>),
    /// `local-part@domain`, valid by RFC 5321 §4.1.2; and where its domain begins.
    Address(Vec<u8>, usize),
}

/// An aliases file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Aliases {
    pub by_name: BTreeMap<Box<[u8]>, Alias>,
    /// The entry `@`: what no other entry and no mailbox takes.
    pub catch_all: Option<Alias>,
}

/// Collects what is wrong with one file.
pub(super) struct Problems<'a> {
    pub file: &'a str,
    pub found: &'a mut Vec<Problem>,
}

impl Problems<'_> {
    pub fn add(&mut self, line: usize, message: String) {
        if self.found.len() < LOCAL_PROBLEMS {
            self.found.push(Problem { file: self.file.to_owned(), line, message });
        }
    }
}

/// Reads a mailboxes file: `#` begins a comment line.
pub(super) fn mailboxes(text: &str, problems: &mut Problems<'_>) -> BTreeSet<Box<[u8]>> {
    let mut names = BTreeSet::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match name(line) {
            Ok(name) => {
                names.insert(key(&name));
            }
            Err(why) => problems.add(at + 1, why),
        }
    }
    names
}

/// Reads an aliases file.
pub(super) fn aliases(text: &str, problems: &mut Problems<'_>) -> Aliases {
    let mut aliases = Aliases::default();
    for (line, entry) in logical_lines(text) {
        let Some((name_text, targets_text)) = split_entry(&entry) else {
            problems
                .add(line, format!("`{}` is no alias: write `name: target, target`", shown(entry.trim().as_bytes())));
            continue;
        };
        let targets = targets(targets_text, line + count_lines(name_text), problems);
        let is_catch_all = name_text.trim() == "@";
        let name = if is_catch_all { Ok(b"@".to_vec()) } else { name(name_text.trim()) };
        match name {
            Err(why) => problems.add(line, why),
            Ok(_) if targets.is_empty() => {}
            Ok(name) => {
                let alias = Alias { line, targets };
                let first = if is_catch_all {
                    aliases.catch_all.get_or_insert(alias.clone()).line
                } else {
                    aliases.by_name.entry(key(&name)).or_insert(alias).line
                };
                if first != line {
                    let name = shown(&name);
                    problems.add(
                        line,
                        format!("`{name}` stands in line {first} already: join the two (case does not matter)"),
                    );
                }
            }
        }
    }
    aliases
}

/// Entries with their first line: a line that begins with white space goes on with the one before, whatever comments
/// and empty lines are between (which stay as empty lines here, for the count).
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut entries: Vec<(usize, String)> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let blank = line.trim().is_empty() || line.trim_start().starts_with('#');
        let goes_on = blank || line.starts_with([' ', '\t']);
        match entries.last_mut() {
            Some((_, entry)) if goes_on => {
                entry.push('\n');
                entry.push_str(if blank { "" } else { line });
            }
            _ if blank => {}
            _ => entries.push((at + 1, line.to_owned())),
        }
    }
    entries
}

/// Splits at the first colon outside of quotes.
fn split_entry(entry: &str) -> Option<(&str, &str)> {
    let colon = outside_quotes(entry).find(|at| entry.as_bytes()[*at] == b':')?;
    Some((&entry[..colon], &entry[colon + 1..]))
}

/// Where octets stand that are neither in quotes nor behind a backslash in them.
fn outside_quotes(text: &str) -> impl Iterator<Item = usize> {
    let mut quoted = false;
    let mut escaped = false;
    text.bytes().enumerate().filter_map(move |(at, byte)| {
        let inside = quoted;
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => {}
        }
        (!inside).then_some(at)
    })
}

fn count_lines(text: &str) -> usize {
    text.bytes().filter(|b| *b == b'\n').count()
}

fn targets(text: &str, first_line: usize, problems: &mut Problems<'_>) -> Vec<AliasTarget> {
    let commas: Vec<usize> = outside_quotes(text).filter(|at| text.as_bytes()[*at] == b',').collect();
    let mut targets = Vec::new();
    let mut from = 0;
    let mut any = false;
    for to in commas.into_iter().chain([text.len()]) {
        let word = text[from..to].trim();
        let indent = text[from..to].len() - text[from..to].trim_start().len();
        let line = first_line + count_lines(&text[..from + indent]);
        from = to + 1;
        // A comma too many does no harm.
        if word.is_empty() {
            continue;
        }
        any = true;
        match target(word) {
            Ok(target) => targets.push(target),
            Err(why) => problems.add(line, why),
        }
    }
    if !any {
        problems.add(first_line, "this alias leads nowhere: give it a target, or take it out".to_owned());
    }
    targets
}

fn target(word: &str) -> Result<AliasTarget, String> {
    let inside = word.strip_prefix('"').unwrap_or(word);
    let is_address = outside_quotes(word).any(|at| word.as_bytes()[at] == b'@');
    let display = shown(word.as_bytes());
    if inside.starts_with('|') {
        return Err(format!(
            "`{display}` would run a program for mail from anybody, in the process that holds the spool: not done here. \
             Let an LMTP server run it (Dovecot: Sieve with extprograms)"
        ));
    }
    if inside.starts_with('/') && !is_address {
        return Err(format!(
            "`{display}` would write to a file, which cannot be done so that no message is lost or mixed with another: not \
             done here. Use a mailbox"
        ));
    }
    if word.to_ascii_lowercase().starts_with(":include:") {
        return Err(format!(
            "`{display}` would read another file while mail comes in: not done here. Write its addresses into this file"
        ));
    }
    if word.starts_with(':') {
        return Err(format!("`{display}` is none of the forms known here: a name, \\name, or local-part@domain"));
    }
    if is_address {
        let inside = word.strip_prefix('<').and_then(|w| w.strip_suffix('>')).unwrap_or(word);
        let bracketed = format!("<{inside}>");
        return match address::path(bracketed.as_bytes()) {
            Ok((path, b"")) if path.address.len() == inside.len() => {
                Ok(AliasTarget::Address(path.address.to_vec(), path.domain_at))
            }
            _ => Err(format!(
                "`{display}` is no address (RFC 5321 section 4.1.2): write local-part@domain, without a name"
            )),
        };
    }
    match word.strip_prefix('\\') {
        Some(word) => name(word).map(AliasTarget::Mailbox),
        None => name(word).map(AliasTarget::Name),
    }
}

/// A local part, in quotes or not.
fn name(word: &str) -> Result<Vec<u8>, String> {
    let display = shown(word.as_bytes());
    if outside_quotes(word).any(|at| word.as_bytes()[at] == b'@') {
        return Err(format!(
            "`{display}`: what stands here holds for every domain of its [[local]] block, so write the local part alone (or \
             `@` in the aliases for all that is not taken); a domain with names of its own has a [[local]] block of its own"
        ));
    }
    let name = unquoted(word.as_bytes()).filter(|name| !name.is_empty());
    let name =
        name.ok_or_else(|| format!("`{display}` is no local part: one with spaces or quotes is written in quotes"))?;
    if name.len() > LOCAL_PART_BYTES {
        return Err(format!("`{display}` has more than {LOCAL_PART_BYTES} octets (RFC 5321 section 4.5.3.1.1)"));
    }
    Ok(name)
}
