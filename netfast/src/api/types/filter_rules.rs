//! The list of filter rules.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

use super::*;

/// Filter rules in order. There may be 100,000 of them: a clone shares list and rules with the original until one of the two
/// changes, and lists that are the same one are equal without being compared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FilterRules(Arc<Vec<Arc<FilterRule>>>);

impl FilterRules {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many rules at the beginning and behind them at the end are the very same ones as in `other`.
    pub fn same_ends(&self, other: &Self) -> [usize; 2] {
        if Arc::ptr_eq(&self.0, &other.0) {
            return [self.len(), 0];
        }
        let same = |(a, b): &(&Arc<FilterRule>, &Arc<FilterRule>)| Arc::ptr_eq(a, b);
        let head = self.iter().zip(other.iter()).take_while(same).count();
        let tail = self[head..].iter().rev().zip(other[head..].iter().rev()).take_while(same).count();
        [head, tail]
    }
}

impl Deref for FilterRules {
    type Target = Vec<Arc<FilterRule>>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for FilterRules {
    fn deref_mut(&mut self) -> &mut Self::Target {
        Arc::make_mut(&mut self.0)
    }
}

impl From<Vec<Arc<FilterRule>>> for FilterRules {
    fn from(rules: Vec<Arc<FilterRule>>) -> Self {
        Self(Arc::new(rules))
    }
}

impl FromIterator<Arc<FilterRule>> for FilterRules {
    fn from_iter<I: IntoIterator<Item = Arc<FilterRule>>>(rules: I) -> Self {
        rules.into_iter().collect::<Vec<_>>().into()
    }
}

impl IntoIterator for FilterRules {
    type Item = Arc<FilterRule>;
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        Arc::unwrap_or_clone(self.0).into_iter()
    }
}

impl<'a> IntoIterator for &'a FilterRules {
    type Item = &'a Arc<FilterRule>;
    type IntoIter = std::slice::Iter<'a, Arc<FilterRule>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_copied_when_it_changes_and_knows_what_is_the_same() {
        let rules: FilterRules = (0..5).map(|_| Arc::new(FilterRule::default())).collect();
        let mut other = rules.clone();
        assert!(Arc::ptr_eq(&rules.0, &other.0));
        assert_eq!([5, 0], other.same_ends(&rules));
        other.remove(2);
        assert_eq!((5, 4), (rules.len(), other.len()));
        assert_eq!(
            [2, 2],
            other.same_ends(&rules),
            "equal ones, but not the same: the removed one is told apart"
        );
        other.push(Arc::new(FilterRule::default()));
        assert_eq!([2, 0], other.same_ends(&rules));
        assert_eq!([0, 0], FilterRules::default().same_ends(&rules));
    }
}
