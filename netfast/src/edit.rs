//! How a list becomes another one by a small change: of 100,000 filter rules mostly one comes, goes or moves.

use std::ops::Range;

/// A part goes, a part comes, the rest keeps its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    /// Positions in the old list.
    pub gone: Range<usize>,
    /// Positions in the new list.
    pub new: Range<usize>,
    /// What has gone is what has come: it has moved.
    moved: bool,
}

impl Edit {
    /// What is different between two lists. `same` says whether two elements are the same, `run` how many elements at the
    /// beginning of a list move together.
    pub fn between<T>(
        old: &[T],
        new: &[T],
        same: impl Fn(&T, &T) -> bool,
        run: impl Fn(&[T]) -> usize,
    ) -> Self {
        let head = old.iter().zip(new).take_while(|(old, new)| same(old, new)).count();
        let rest = old.len().min(new.len()) - head;
        let behind = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(a, b)| same(a, b));
        let tail = behind.count();
        let (gone, come) = (head..old.len() - tail, head..new.len() - tail);
        let (o, n) = (&old[gone.clone()], &new[come.clone()]);
        if o.len() == n.len() && o.len() > 1 {
            let equal = |a: &[T], b: &[T]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b));
            let (down, up) = (run(o), run(n));
            // Of two that change places the one that goes up is the one that moves.
            if equal(&n[up..], &o[..o.len() - up]) {
                let moved = equal(&n[..up], &o[o.len() - up..]);
                return Self { gone: gone.end - up..gone.end, new: head..head + up, moved };
            }
            if equal(&o[down..], &n[..n.len() - down]) {
                let moved = equal(&o[..down], &n[n.len() - down..]);
                return Self { gone: head..head + down, new: come.end - down..come.end, moved };
            }
        }
        Self { gone, new: come, moved: false }
    }

    /// Of a list of so many elements that stays as it is.
    pub const fn none(length: usize) -> Self {
        Self { gone: length..length, new: length..length, moved: false }
    }

    /// All elements are others.
    pub const fn of_all(old: usize, new: usize) -> Self {
        Self { gone: 0..old, new: 0..new, moved: false }
    }

    /// Whether the lists are the same.
    pub const fn is_empty(&self) -> bool {
        self.gone.start == self.gone.end && self.new.start == self.new.end
    }

    /// Whether what has gone from one place has come at another one.
    pub const fn is_move(&self) -> bool {
        self.moved
    }

    /// Where the element at an old position, which stays, stands now.
    pub const fn place(&self, at: usize) -> usize {
        let at = if at >= self.gone.end { at - (self.gone.end - self.gone.start) } else { at };
        if at >= self.new.start { at + (self.new.end - self.new.start) } else { at }
    }

    /// Of the old list, or of one beside it, what stays.
    pub fn kept<'a, T>(&self, old: &'a [T]) -> impl Iterator<Item = &'a T> + Clone {
        old[..self.gone.start].iter().chain(&old[self.gone.end..])
    }

    /// Makes the new list of one beside the old one.
    pub fn apply<T: Clone>(&self, old: &[T], come: impl IntoIterator<Item = T>) -> Vec<T> {
        let mut kept = self.kept(old).cloned();
        let mut new = Vec::with_capacity(old.len() - self.gone.len() + self.new.len());
        new.extend(kept.by_ref().take(self.new.start));
        new.extend(come);
        new.extend(kept);
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(old: &[u8], new: &[u8]) -> Edit {
        Edit::between(old, new, |a, b| a == b, |_| 1)
    }

    #[test]
    fn what_comes_goes_and_moves_is_found() {
        let found = |old: &[u8], new: &[u8]| {
            let edit = edit(old, new);
            let come: Vec<u8> = new[edit.new.clone()].to_vec();
            assert_eq!(new, edit.apply(old, come), "{edit:?}");
            for (at, element) in old.iter().enumerate().filter(|(at, _)| !edit.gone.contains(at)) {
                assert_eq!(*element, new[edit.place(at)], "{edit:?}");
            }
            if edit.is_move() {
                assert_eq!(old[edit.gone.clone()], new[edit.new.clone()]);
            }
            (edit.gone.clone(), edit.new.clone(), edit.is_move())
        };
        assert_eq!((3..3, 3..3, false), found(b"abc", b"abc"));
        assert_eq!((1..1, 1..2, false), found(b"abc", b"axbc"));
        assert_eq!((3..3, 3..4, false), found(b"abc", b"abcx"));
        assert_eq!((0..1, 0..0, false), found(b"abc", b"bc"));
        assert_eq!((1..2, 1..2, false), found(b"abc", b"axc"));
        assert_eq!((1..3, 1..2, false), found(b"abcd", b"axd"));
        assert_eq!((0..1, 2..3, true), found(b"abc", b"bca"));
        assert_eq!((3..4, 1..2, true), found(b"abcde", b"adbce"));
        assert_eq!((2..3, 1..2, true), found(b"abcd", b"acbd"), "either would do: the one that goes up");
        assert_eq!((1..2, 0..1, true), found(b"xy", b"yx"));
        assert_eq!((1..3, 1..3, false), found(b"abcd", b"axyd"), "two others, no move");
        assert_eq!((2..3, 0..1, false), found(b"abc", b"xab"), "one goes, another one comes elsewhere");
        assert_eq!((0..0, 0..3, false), found(b"", b"abc"));
        assert!(edit(b"abc", b"abc").is_empty() && !edit(b"abc", b"bca").is_empty());
    }

    #[test]
    fn what_moves_together_is_told_as_one_move() {
        let run = |list: &[u8]| list.iter().take_while(|element| **element == list[0]).count();
        let edit = Edit::between(b"abbbcde", b"acdbbbe", |a, b| a == b, run);
        assert_eq!((1..4, 3..6, true), (edit.gone.clone(), edit.new.clone(), edit.is_move()));
        assert_eq!([0, 1, 2, 6], [0, 4, 5, 6].map(|at| edit.place(at)));
    }
}
