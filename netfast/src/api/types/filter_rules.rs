//! The list of filter rules.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

use super::*;
use crate::edit::Edit;

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

    /// How `other` becomes these rules. Rules are the same only if they are the very same ones.
    pub fn edit_of(&self, other: &Self) -> Edit {
        if Arc::ptr_eq(&self.0, &other.0) {
            return Edit::none(self.len());
        }
        Edit::between(other, self, Arc::ptr_eq, |_| 1)
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
        assert!(other.edit_of(&rules).is_empty());
        other.remove(2);
        assert_eq!((5, 4), (rules.len(), other.len()));
        let edit = other.edit_of(&rules);
        let told = "equal ones, but not the same: the removed one is told apart";
        assert_eq!((2..3, 2..2), (edit.gone, edit.new), "{told}");
        other.push(Arc::new(FilterRule::default()));
        let edit = other.edit_of(&rules);
        assert_eq!((2..3, 4..5, false), (edit.gone.clone(), edit.new.clone(), edit.is_move()), "{told}");
        let mut moved = rules.clone();
        let rule = moved.remove(0);
        moved.insert(3, rule);
        let edit = moved.edit_of(&rules);
        assert_eq!((0..1, 3..4, true), (edit.gone.clone(), edit.new.clone(), edit.is_move()));
        let edit = FilterRules::default().edit_of(&rules);
        assert_eq!((0..5, 0..0), (edit.gone, edit.new));
    }
}
