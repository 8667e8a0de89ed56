//! The table of claimed addresses, and the host's clock as STAMP packets tell it.

use std::{mem::offset_of, os::fd::AsFd};

use netfast_common::abi::{Claim, ClaimKey, Config};

use super::{Datapath, DatapathError, sys};

fn failed(error: std::io::Error) -> DatapathError {
    DatapathError::Kernel { call: "update of CLAIMS", error }
}

impl Datapath {
    /// All claims with their states.
    pub fn claims(&self) -> Vec<(ClaimKey, u32)> {
        let map = self.maps.claims.as_fd();
        let keys: Vec<ClaimKey> = sys::keys(map).unwrap_or_default();
        let state = |key: &ClaimKey| Some(sys::lookup::<_, Claim>(map, key).ok()??.state);
        keys.into_iter().filter_map(|key| Some((key, state(&key)?))).collect()
    }

    /// Makes or changes a claim: `CLAIM_PROBING` or `CLAIM_HELD`.
    ///
    /// # Errors
    ///
    /// If the table is full.
    pub fn set_claim(&self, key: &ClaimKey, state: u32) -> Result<(), DatapathError> {
        let claim = Claim { state, told: 0 };
        sys::update(self.maps.claims.as_fd(), key, &claim, sys::Existing::Replace).map_err(failed)?;
        self.count_claims();
        Ok(())
    }

    /// Gives a claim up; nothing happens if there is none.
    ///
    /// # Errors
    ///
    /// If the table cannot be written.
    pub fn remove_claim(&self, key: &ClaimKey) -> Result<(), DatapathError> {
        sys::delete(self.maps.claims.as_fd(), key).map_err(failed)?;
        self.count_claims();
        Ok(())
    }

    /// Tells the program whether the table is worth a look.
    fn count_claims(&self) {
        let count = sys::keys::<ClaimKey>(self.maps.claims.as_fd()).map_or(0, |keys| keys.len() as u32);
        self.maps.config.store32(0, offset_of!(Config, claims), count);
    }

    /// Tells the program of the host's clock: seconds that CLOCK_TAI is before CLOCK_REALTIME, and its error estimate
    /// (`netfast_common::stamp::error_estimate`).
    pub fn set_clock(&self, tai_offset: u32, error: u16) {
        self.maps.config.store32(0, offset_of!(Config, tai_offset), tai_offset);
        self.maps.config.store32(0, offset_of!(Config, clock_error), u32::from(error));
    }
}
