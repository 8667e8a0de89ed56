//! From intent to map images: pure code, no aya, no files, no clock.
//!
//! [`change::apply`] makes the next intent, [`validate`] says whether it makes sense, [`compile::compile`] makes the images
//! of the maps from it. [`ids`] holds what must outlive both.

pub mod analysis;
pub mod boxes;
pub mod change;
pub mod check;
pub mod compile;
pub mod diff;
pub mod formats;
pub mod ids;
pub mod images;
pub mod normal;
pub mod snat;
pub mod suggest;
pub mod tunnel;
pub mod validate;

#[cfg(test)]
pub(crate) mod tests;
