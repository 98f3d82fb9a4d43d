//! Where in the file something stands, so that every error names file, line, column and key.

use std::fmt;
use std::ops::Range;
use toml::de::{DeTable, DeValue};

/// One thing wrong with a configuration, or suspicious in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// File name, or a description of where the text came from.
    pub file: String,
    /// Line and column, from 1; nothing if it is about a key that is absent.
    pub place: Option<(usize, usize)>,
    /// The key as a dotted path (`delivery.retry.first`); empty if it is about no key.
    pub key: String,
    /// What is wrong and what is allowed.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        f.write_str(": ")?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Line and column of a byte offset, from 1.
pub fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..offset.min(text.len())];
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
    (line, 1 + String::from_utf8_lossy(&before[line_start..]).chars().count())
}

/// A key of the file and where its name and its value stand. List items have an index as the last part of their path.
struct Entry {
    path: String,
    name: Range<usize>,
    value: Range<usize>,
}

/// Every key of a text that parses as TOML.
pub struct Index(Vec<Entry>);

impl Index {
    /// Empty if the text is not TOML.
    pub fn new(text: &str) -> Index {
        let mut entries = Vec::new();
        if let Ok(table) = DeTable::parse(text) {
            walk_table(table.get_ref(), "", &mut entries);
        }
        Index(entries)
    }

    /// The place of `key` (its value for a list item, else its name), or of the nearest table around it that exists.
    pub fn locate(&self, key: &str) -> Option<usize> {
        let mut key = key;
        loop {
            if let Some(entry) = self.0.iter().find(|entry| entry.path == key) {
                return Some(entry.name.start);
            }
            key = &key[..key.rfind(['.', '['])?];
        }
    }

    /// The innermost key whose name or value spans `range`.
    pub fn key_at(&self, range: &Range<usize>) -> Option<&str> {
        let spans = |r: &Range<usize>| r.start <= range.start && range.end <= r.end;
        let inside = self.0.iter().filter(|e| spans(&e.name) || spans(&e.value));
        inside.min_by_key(|e| if spans(&e.name) { e.name.len() } else { e.value.len() }).map(|e| e.path.as_str())
    }
}

fn walk_table(table: &DeTable<'_>, path: &str, into: &mut Vec<Entry>) {
    for (key, value) in table {
        let name = key.get_ref();
        let path = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
        into.push(Entry { path: path.clone(), name: key.span(), value: value.span() });
        walk_value(value.get_ref(), &path, into);
    }
}

fn walk_value(value: &DeValue<'_>, path: &str, into: &mut Vec<Entry>) {
    match value {
        DeValue::Table(table) => walk_table(table, path, into),
        DeValue::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let path = format!("{path}[{index}]");
                into.push(Entry { path: path.clone(), name: item.span(), value: item.span() });
                walk_value(item.get_ref(), &path, into);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_by_name_and_names_by_place() {
        let text = "a = 1\n[s]\nb = [\"x\",\n  \"y\"]\n[[l]]\nc = 2\n[[l]]\nc = 3\n";
        let index = Index::new(text);
        let at = |key| index.locate(key).map(|offset| place(text, offset));
        assert_eq!(at("a"), Some((1, 1)));
        assert_eq!(at("s.b[1]"), Some((4, 3)));
        assert_eq!(at("l[1].c"), Some((8, 1)));
        assert_eq!(at("l[1].absent").map(|p| p.0), Some(7));
        assert_eq!(at("nothing"), None);
        let offset = text.find("\"y\"").unwrap();
        assert_eq!(index.key_at(&(offset..offset + 3)), Some("s.b[1]"));
    }
}
