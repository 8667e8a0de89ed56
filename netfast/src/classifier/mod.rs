//! The filter's compiler: from ordered rules to decision trees in cells that the program walks.
//!
//! Pure code, no aya, no clock. [`compile()`] makes trees of [`Rule`]s, [`Compiled::update`] changes few of them,
//! [`host::Host`] asks the program's own matcher. What cells look like stands in [`netfast_common::abi::FilterCell`], the
//! walk through them in [`netfast_common::classify`].
//!
//! How it works: rules are boxes (a range per field). They are grouped by wide source and wide destination, since a tree over
//! wide and narrow boxes together cuts the wide ones into very many pieces; each group gets a tree. A box that is cut too
//! often is spilled into one more tree. A part of the space holds the rules up to the first that covers it: what is hidden
//! costs nothing.

mod boxes;
pub mod classbench;
mod compile;
mod delta;
pub mod host;
mod image;
mod rule;
mod search;
mod tree;

pub use boxes::Kind;
pub use compile::{Compiled, Effort, Limits, Refused, Report, compile, compile_while, head};
pub use image::{Tree, moved};
pub use rule::{Action, Addresses, Ports, Rule};

#[cfg(test)]
mod tests;
