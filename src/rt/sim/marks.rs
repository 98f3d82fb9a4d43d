//! How often what happened in a run: a world that never does a thing proves nothing about it.
//!
//! Inputs: names, as things happen. Output: their numbers, in the order of the names. Refuses to have a part in the run:
//! nothing reads a mark before the end.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Debug;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks(BTreeMap<Cow<'static, str>, u64>);

impl Marks {
    /// It happened once more.
    pub fn add(&mut self, what: impl Into<Cow<'static, str>>) {
        self.add_many(what, 1);
    }

    /// It happened so many times more.
    pub fn add_many(&mut self, what: impl Into<Cow<'static, str>>, times: u64) {
        *self.0.entry(what.into()).or_default() += times;
    }

    /// All names and numbers.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(what, times)| (what.as_ref(), *times))
    }

    /// Adds those of another run.
    pub fn merge(&mut self, other: &Marks) {
        for (what, times) in &other.0 {
            *self.0.entry(what.clone()).or_default() += times;
        }
    }
}

/// The name of a variant, without what it holds.
pub fn name(variant: &impl Debug) -> String {
    let text = format!("{variant:?}");
    text.split(['(', ' ', '{']).next().unwrap_or_default().to_owned()
}
