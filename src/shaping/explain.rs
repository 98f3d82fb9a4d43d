//! PURE. Which rules give a destination its limits, in words for an operator.
