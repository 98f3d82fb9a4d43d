//! PURE. The day as one page of HTML, with its pictures in it.

use super::figures::Figures;

/// See the module.
pub(super) fn page(_: &Figures) -> String {
    String::new()
}
