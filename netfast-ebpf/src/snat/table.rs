//! The mappings' table, as `netfast_common::snat` asks for it.

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use netfast_common::{
    Reason,
    abi::{SNAT_SOURCES, SnatKey, SnatMapping, SnatRule},
    snat::{self, Insert, Refusal, Table},
};

use crate::{
    maps::{SNAT_GONE, SNAT_MADE, SNAT_MAPPINGS},
    run::Run,
};

/// `-EEXIST`
const EXISTS: i32 = -17;

/// The mapping of `work.inside_key`: see [`snat::find_or_make`].
#[inline(never)]
pub fn map(run: &Run, work: &mut snat::Work, rule: &SnatRule, external: &[u8; 16]) -> Result<(), Reason> {
    let config = run.config;
    let ports = match rule.ports {
        [0, 0] => [config.nat_port_low as u16, config.nat_port_high as u16],
        ports => ports,
    };
    snat::find_or_make(&mut Maps { run }, work, rule, ports, external, config.seed, run.now).map_err(
        |refusal| match refusal {
            Refusal::Exhausted => Reason::PortsExhausted,
            Refusal::Quota => Reason::FlowQuota,
            Refusal::Full => Reason::FlowTableFull,
        },
    )
}

/// The maps as [`snat::find_or_make`] wants them.
struct Maps<'a, 'b> {
    run: &'a Run<'b>,
}

impl Maps<'_, '_> {
    #[inline(always)]
    fn source(&self, inside: &[u8; 16]) -> u32 {
        snat::source_hash(inside, self.run.config.seed) & (SNAT_SOURCES - 1)
    }
}

impl Table for Maps<'_, '_> {
    #[inline(always)]
    fn read(&self, key: &SnatKey, value: &mut SnatMapping) -> bool {
        let Some(entry) = SNAT_MAPPINGS.get_ptr(key) else { return false };
        // SAFETY: the element stays mapped while the program runs; copied once.
        *value = unsafe { *entry };
        true
    }

    #[inline(always)]
    fn insert_new(&mut self, key: &SnatKey, value: &SnatMapping) -> Insert {
        match SNAT_MAPPINGS.insert(key, value, BPF_NOEXIST as u64) {
            Ok(()) => Insert::Done,
            Err(EXISTS) => Insert::Taken,
            Err(_) => Insert::Full,
        }
    }

    #[inline(always)]
    fn insert(&mut self, key: &SnatKey, value: &SnatMapping) -> bool {
        SNAT_MAPPINGS.insert(key, value, BPF_ANY as u64).is_ok()
    }

    #[inline(always)]
    fn remove(&mut self, key: &SnatKey) {
        let _ = SNAT_MAPPINGS.remove(key);
    }

    #[inline(always)]
    fn admit(&mut self, inside: &[u8; 16], limit: u32) -> bool {
        let source = self.source(inside);
        let (Some(made), Some(gone)) = (SNAT_MADE.get_ptr_mut(source), SNAT_GONE.get(source)) else {
            return false;
        };
        // SAFETY: array elements live as long as the program. Two CPUs may count at once for inside addresses of one
        // counter and one of the updates be lost: the agent's next sweep puts that right.
        let made = unsafe { &mut *made };
        if made.wrapping_sub(*gone) as i32 >= limit as i32 {
            return false;
        }
        *made = made.wrapping_add(1);
        true
    }

    #[inline(always)]
    fn dismiss(&mut self, inside: &[u8; 16]) {
        if let Some(made) = SNAT_MADE.get_ptr_mut(self.source(inside)) {
            // SAFETY: as above.
            unsafe { *made = (*made).wrapping_sub(1) };
        }
    }
}
