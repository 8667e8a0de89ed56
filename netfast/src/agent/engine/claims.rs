//! What the rules claim, and where.

use super::Owner;
use crate::{
    agent::claims::{self, Places},
    api::types::{ErrorBody, Rules},
};

impl Owner {
    fn planned(&self, rules: &Rules) -> (Places, Vec<String>) {
        let host = self.shared.netlink.host();
        claims::plan(&claims::addresses(rules), &host, &self.interfaces.indexes())
    }

    /// What the operator should know of the claims of `rules`.
    pub(super) fn claim_notes(&self, rules: &Rules) -> Vec<String> {
        self.planned(rules).1
    }

    /// Asks the links whether what `rules` claim is free.
    pub(super) async fn check_claims(&self, rules: &Rules) -> Result<(), ErrorBody> {
        self.shared.claims.check(self.planned(rules).0).await
    }

    /// Claims what the live rules want, on the links that are there now.
    pub(super) fn follow_claims(&mut self) {
        let (places, notes) = self.planned(&self.intent.rules);
        for note in notes.iter().filter(|note| !self.claim_notes.contains(note)) {
            tracing::warn!("{note}");
        }
        self.claim_notes = notes;
        self.shared.claims.set(places);
        self.follow_locals();
    }

    /// Writes the table of addresses that are this host's, or netfast's.
    pub(super) fn follow_locals(&self) {
        let host = self.shared.netlink.host();
        let own: Vec<_> = host.addresses.iter().map(|own| own.address).collect();
        let planned = self.planned(&self.intent.rules).0;
        let claimed: Vec<_> = planned.values().map(claims::Place::address).collect();
        if let Err(error) = self.shared.datapath.set_addresses(&own, &claimed) {
            tracing::error!(%error, "the program does not know all addresses of the host");
        }
    }
}
