//! From intent to map images: pure code, no aya, no files, no clock.

pub mod images;
