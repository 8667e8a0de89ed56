//! The filter rules as they are listed.

use std::{collections::HashMap, sync::atomic::Ordering};

use super::state::Shared;
use crate::{
    api::types::{
        Count, ErrorBody, FilterList, FilterQuery, FilterRow, HiddenBy, PolicyRow, SCHEMA_VERSION, SetRow,
    },
    rules::{
        analysis::{self, Hidden},
        change, check,
    },
};

impl Shared {
    /// The rules that `query` asks for.
    pub(super) fn filters(&self, query: &FilterQuery) -> Result<FilterList, ErrorBody> {
        self.worked.store(true, Ordering::Relaxed);
        let snapshot = self.snapshot.load();
        let rules = &snapshot.intent.rules;
        let total = rules.filters.len();
        let found: HashMap<usize, Hidden> = if query.analysis {
            let found = analysis::hidden(&rules.filters, &rules.sets);
            found.into_iter().map(|hidden| (hidden.rule, hidden)).collect()
        } else {
            HashMap::new()
        };
        let counters = self.datapath.counters();
        let ids = snapshot.ids.filters();
        let count = |at: usize| ids.get(at).map_or_else(Count::default, |id| counters.filter(id.index));
        let from = query.from.unwrap_or(1).max(1) - 1;
        let limit = query.limit.unwrap_or(usize::MAX);
        let only = query.rule.as_deref().map(|rule| change::filter_at(&rules.filters, rule)).transpose()?;
        let wanted = (from..total)
            .filter(|at| only.is_none_or(|only| only == *at))
            .filter(|at| !query.analysis || found.contains_key(at));
        let filters = wanted
            .map(|at| (at, count(at)))
            .filter(|(_, count)| !query.unused || *count == Count::default())
            .take(limit)
            .map(|(at, count)| FilterRow {
                position: at + 1,
                rule: rules.filters[at].clone(),
                count,
                hidden: found.get(&at).map(|hidden| HiddenBy {
                    kind: hidden.kind,
                    by: hidden.by.iter().map(|at| at + 1).collect(),
                    text: check::sentence(hidden, &rules.filters),
                }),
            })
            .collect();
        let policies = rules
            .policies
            .iter()
            .enumerate()
            .map(|(at, policy)| PolicyRow { policy: policy.clone(), count: count(total + at) })
            .collect();
        let sets = rules
            .sets
            .iter()
            .map(|set| SetRow { name: set.name.clone(), addresses: set.addresses.len() })
            .collect();
        Ok(FilterList {
            schema_version: SCHEMA_VERSION,
            revision: snapshot.intent.revision,
            total,
            filters,
            policies,
            sets,
        })
    }
}
