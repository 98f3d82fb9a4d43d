//! PURE. How many connections a destination bears: a window that grows with what it takes and shrinks with what it refuses,
//! within the limits that rules give.
//!
//! After Postfix's scheduler (SCHEDULER_README, qmgr_queue.c): a message taken counts 1/window for it, a connection refused
//! or lost counts 1/window against it, and only a whole one changes the window. So a full window of successes makes it one
//! larger, a full window of failures one smaller, and what comes and goes in turn leaves it as it is.

use super::Queue;
use super::job::DestinationId;
use crate::limits;

/// A destination's window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    size: u16,
    /// Thousandths of one, for or against.
    credit: i16,
}

/// A window has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resized {
    /// Connections before.
    pub from: u32,
    /// Connections from now on.
    pub to: u32,
}

impl Window {
    pub fn new() -> Window {
        Window { size: limits::WINDOW_INITIAL, credit: 0 }
    }

    fn note(&mut self, good: bool) -> Option<Resized> {
        let share = (1000 / self.size.max(1)).max(1) as i16;
        // What it was granted for one reason is not held against the other.
        self.credit = if good { self.credit.max(0) + share } else { self.credit.min(0) - share };
        let from = self.size;
        // Thirds and sevenths do not add up to a whole.
        let whole = 1000 - share / 2;
        if self.credit >= whole {
            self.size = self.size.saturating_add(1);
            self.credit = 0;
        } else if -self.credit >= whole {
            self.size = (self.size - 1).max(1);
            self.credit = 0;
        }
        (self.size != from).then_some(Resized { from: from.into(), to: self.size.into() })
    }
}

impl<B> Queue<B> {
    /// How many connections a destination bears, as far as is known.
    pub fn window(&self, dest: DestinationId) -> u32 {
        self.destinations.get(dest).map_or(1, |d| d.window.size.into())
    }

    /// A destination took a message while it had as many connections as its window has: with fewer that says nothing.
    pub fn took(&mut self, dest: DestinationId) -> Option<Resized> {
        self.destinations.get_mut(dest)?.window.note(true)
    }

    /// A destination refused or lost a connection.
    pub fn refused(&mut self, dest: DestinationId) -> Option<Resized> {
        self.destinations.get_mut(dest)?.window.note(false)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn grown(window: &mut Window, most: u32) -> u32 {
        let mut taken = 0;
        while u32::from(window.size) < most {
            window.note(true);
            taken += 1;
        }
        taken
    }

    #[test]
    fn a_window_of_successes_makes_it_one_larger() {
        let mut window = Window::new();
        let first: u32 = limits::WINDOW_INITIAL.into();
        let expected: u32 = (first..20).sum();
        let taken = grown(&mut window, 20);
        assert!(taken.abs_diff(expected) <= 20, "{taken}, about {expected}");
        for size in [1, 2, 3, 7, 20, 100, 999] {
            let mut window = Window { size, credit: 0 };
            let needed = (1..).find(|_| window.note(true).is_some()).unwrap();
            assert!((needed - i32::from(size)).abs() <= 1 + i32::from(size) / 2, "{size}: {needed}");
        }
    }

    #[test]
    fn failures_shrink_it_to_one_and_no_further() {
        let mut window = Window { size: 20, credit: 0 };
        let mut failures = 0;
        while window.size > 1 {
            window.note(false);
            failures += 1;
        }
        assert!((190..=230).contains(&failures), "{failures}");
        assert_eq!((0..100).filter_map(|_| window.note(false)).count(), 0);
    }

    #[test]
    fn what_comes_and_goes_in_turn_leaves_it() {
        let mut window = Window { size: 10, credit: 0 };
        for round in 0..1000 {
            assert_eq!(window.note(round % 2 == 0), None);
        }
    }
}
