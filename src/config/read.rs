//! PURE. Typed values of a TOML text, each problem with its line, and what to do about it.
//!
//! In: a text that is TOML. Out: values within their ranges, or [`Problem`]s: all of a file at once, where a derived
//! deserializer stops at the first.

use super::{Problem, Size, Span};
use crate::limits::TABLE_PROBLEMS;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

/// A file's text, and what is wrong with it so far.
pub(crate) struct Reader<'a> {
    file: &'a str,
    /// Of the files that are read together, from 0.
    pub number: u16,
    text: &'a str,
    /// Where each line begins.
    lines: Vec<usize>,
    pub problems: Vec<Problem>,
}

/// A table of the file.
#[derive(Clone)]
pub(crate) struct Table<'t> {
    /// What it is called in messages: `provider.reply`.
    path: String,
    pub keys: &'t DeTable<'t>,
    /// Where it begins.
    pub at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(file: &'a str, number: u16, text: &'a str) -> Self {
        let lines = std::iter::once(0).chain(memchr::memchr_iter(b'\n', text.as_bytes()).map(|at| at + 1)).collect();
        Reader { file, number, text, lines, problems: Vec::new() }
    }

    /// The line, from 1, in which an octet stands.
    pub fn line(&self, offset: usize) -> usize {
        self.lines.partition_point(|start| *start <= offset)
    }

    /// The keys of the file, which is told if it is no TOML.
    pub fn parse(&mut self) -> Option<Spanned<DeTable<'a>>> {
        let parsed = DeTable::parse(self.text);
        parsed
            .map_err(|error| {
                let words = error.message().replace('\n', "; ");
                self.wrong(error.span().map_or(0, |span| span.start), "", words);
            })
            .ok()
    }

    pub fn wrong(&mut self, offset: usize, key: &str, message: impl Into<String>) {
        if self.problems.len() >= TABLE_PROBLEMS {
            return;
        }
        let line = self.line(offset);
        let start = self.lines[line - 1];
        let column = 1 + self.text.get(start..offset).map_or(0, |before| before.chars().count());
        let place = Some((line, column));
        self.problems.push(Problem { file: self.file.into(), place, key: key.into(), message: message.into() });
    }

    /// Tells of keys that are not among `known`.
    pub fn only(&mut self, table: &Table<'_>, known: &[&[&str]]) {
        for (key, _) in table.keys.iter() {
            let name = key.get_ref().as_ref();
            if !known.iter().any(|some| some.contains(&name)) {
                let known = known.concat().join(", ");
                self.wrong(key.span().start, &table.key(name), format!("is not known; allowed are {known}"));
            }
        }
    }

    /// The value that `read` makes of a key, if it is there and right.
    pub fn value<'t, T>(
        &mut self,
        table: &Table<'t>,
        key: &str,
        read: impl FnOnce(&'t DeValue<'t>) -> Result<T, String>,
    ) -> Option<T> {
        let value = table.keys.get(key)?;
        read(value.get_ref()).map_err(|message| self.wrong(value.span().start, &table.key(key), message)).ok()
    }

    /// A table within one.
    pub fn table<'t>(&mut self, table: &Table<'t>, key: &str) -> Option<Table<'t>> {
        let value = table.keys.get(key)?;
        let inner = self.as_table(value, table.key(key));
        if inner.is_none() {
            self.wrong(value.span().start, &table.key(key), "is to be a table: { key = value, ... }");
        }
        inner
    }

    /// The tables of `[[key]]`.
    pub fn tables<'t>(&mut self, table: &Table<'t>, key: &str) -> Vec<Table<'t>> {
        let path = table.key(key);
        let Some(items) = self.value(table, key, list) else { return Vec::new() };
        let found = items.iter().filter_map(|item| {
            let inner = self.as_table(item, path.clone());
            if inner.is_none() {
                self.wrong(item.span().start, &path, format!("is to be a table; write it as [[{path}]]"));
            }
            inner
        });
        found.collect()
    }

    fn as_table<'t>(&self, value: &'t Spanned<DeValue<'t>>, path: String) -> Option<Table<'t>> {
        value.get_ref().as_table().map(|keys| Table { path, keys, at: value.span().start })
    }

    /// The texts of a list, each with its place.
    pub fn texts<'t>(&mut self, table: &Table<'t>, key: &str) -> Vec<(&'t str, usize)> {
        let Some(items) = self.value(table, key, list) else { return Vec::new() };
        let mut texts = Vec::new();
        for item in items {
            match text(item.get_ref()) {
                Ok(text) => texts.push((text, item.span().start)),
                Err(why) => self.wrong(item.span().start, &table.key(key), why),
            }
        }
        texts
    }
}

impl<'t> Table<'t> {
    /// The file itself.
    pub fn root(keys: &'t DeTable<'t>) -> Table<'t> {
        Table { path: String::new(), keys, at: 0 }
    }

    pub fn key(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    /// Where a key's value stands; where the table begins, if it is not there.
    pub fn place_of(&self, key: &str) -> usize {
        self.keys.get(key).map_or(self.at, |value| value.span().start)
    }
}

// --- kinds of values ------------------------------------------------------------------------------------------------

fn list<'t>(value: &'t DeValue<'t>) -> Result<&'t DeArray<'t>, String> {
    value.as_array().ok_or_else(|| format!("is {}, expected a list in [ ]", kind(value)))
}

pub(crate) fn text<'t>(value: &'t DeValue<'t>) -> Result<&'t str, String> {
    value.as_str().ok_or_else(|| format!("is {}, expected text in quotes", kind(value)))
}

/// `true` or `false`.
pub(crate) fn flag(value: &DeValue<'_>) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| format!("is {}, expected true or false", kind(value)))
}

/// A whole number in a range.
pub(crate) fn count(range: RangeInclusive<u32>) -> impl FnOnce(&DeValue<'_>) -> Result<u32, String> {
    move |value| {
        let number = integer(value)?;
        let inside = u32::try_from(number).ok().filter(|number| range.contains(number));
        inside.ok_or_else(|| out_of_range(number, range.start(), range.end()))
    }
}

fn integer(value: &DeValue<'_>) -> Result<i64, String> {
    let number = value.as_integer().ok_or_else(|| format!("is {}, expected a whole number", kind(value)))?;
    i64::from_str_radix(number.as_str(), number.radix()).map_err(|_| "is too large a number".to_owned())
}

/// A number in a range.
pub(crate) fn number(range: RangeInclusive<f64>) -> impl FnOnce(&DeValue<'_>) -> Result<f64, String> {
    move |value| {
        let number = match value.as_float() {
            Some(float) => float.as_str().parse().map_err(|_| "is not a number".to_owned())?,
            None => integer(value).map_err(|_| format!("is {}, expected a number", kind(value)))? as f64,
        };
        if range.contains(&number) { Ok(number) } else { Err(out_of_range(number, range.start(), range.end())) }
    }
}

/// A duration in a range.
pub(crate) fn span(range: RangeInclusive<Duration>) -> impl FnOnce(&DeValue<'_>) -> Result<Duration, String> {
    move |value| {
        let expected = "a duration in quotes with its unit, like \"30s\", \"5m\", \"4h\" or \"5d\"";
        let given = value.as_str().ok_or_else(|| format!("is {}, expected {expected}", kind(value)))?;
        let span = Span::parse(given)?.0;
        if range.contains(&span) {
            return Ok(span);
        }
        Err(out_of_range(Span(span), Span(*range.start()), Span(*range.end())))
    }
}

/// A number of octets in a range.
pub(crate) fn size(range: RangeInclusive<u64>) -> impl FnOnce(&DeValue<'_>) -> Result<u64, String> {
    move |value| {
        let size = match value.as_str() {
            Some(text) => Size::parse(text)?.0,
            None => u64::try_from(integer(value)?).map_err(|_| "a size cannot be negative".to_owned())?,
        };
        if range.contains(&size) {
            return Ok(size);
        }
        Err(out_of_range(Size(size), Size(*range.start()), Size(*range.end())))
    }
}

/// One of some words.
pub(crate) fn word<T: Copy>(words: &'static [(&'static str, T)]) -> impl FnOnce(&DeValue<'_>) -> Result<T, String> {
    move |value| {
        let given = value.as_str().unwrap_or_default();
        words.iter().find(|(word, _)| *word == given).map(|(_, meaning)| *meaning).ok_or_else(|| {
            let words: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            format!("\"{given}\" is not known; allowed are {}", words.join(", "))
        })
    }
}

fn out_of_range(given: impl Display, low: impl Display, high: impl Display) -> String {
    format!("{given} is out of range; allowed are {low} to {high}")
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
