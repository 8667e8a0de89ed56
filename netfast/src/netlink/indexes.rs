//! Indexes that are given out: those never used first, then the one that was given back longest ago.

use std::collections::{HashSet, VecDeque};

/// The pool.
#[derive(Debug)]
pub(crate) struct Indexes {
    next: u16,
    end: u16,
    reserved: HashSet<u16>,
    returned: VecDeque<u16>,
}

impl Indexes {
    /// Indexes from `first` up to, but not including, `end`.
    pub fn new(first: u16, end: u16) -> Self {
        Self { next: first, end, reserved: HashSet::new(), returned: VecDeque::new() }
    }

    /// Takes one; `None` if all are in use.
    pub fn take(&mut self) -> Option<u16> {
        while self.next < self.end {
            let index = self.next;
            self.next += 1;
            if !self.reserved.remove(&index) {
                return Some(index);
            }
        }
        self.returned.pop_front()
    }

    /// Marks one as taken that was not taken here.
    pub fn reserve(&mut self, index: u16) {
        if index >= self.next && index < self.end {
            self.reserved.insert(index);
        } else {
            self.returned.retain(|returned| *returned != index);
        }
    }

    /// Gives one back.
    pub fn give_back(&mut self, index: u16) {
        self.reserved.remove(&index);
        if index < self.next {
            self.returned.push_back(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_comes_back_last() {
        let mut pool = Indexes::new(1, 5);
        pool.reserve(2);
        assert_eq!(pool.take(), Some(1));
        pool.give_back(1);
        assert_eq!(pool.take(), Some(3));
        assert_eq!(pool.take(), Some(4));
        assert_eq!(pool.take(), Some(1));
        assert_eq!(pool.take(), None, "2 is reserved");
        pool.give_back(2);
        assert_eq!(pool.take(), Some(2));
        assert_eq!(pool.take(), None);
    }

    #[test]
    fn a_reserved_index_given_back_early_is_free_again() {
        let mut pool = Indexes::new(1, 3);
        pool.reserve(2);
        pool.give_back(2);
        assert_eq!((pool.take(), pool.take(), pool.take()), (Some(1), Some(2), None));
    }
}
