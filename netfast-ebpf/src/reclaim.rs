//! Source ports of flows that give way, for new flows where no port is free: see [`flow::gives_way`].

use netfast_common::flow;

use crate::{
    half_open::{self, OTHER_KEY, REPLY_KEY},
    known,
    maps::{CONFIG, FLOWS, SCRATCH},
    snat,
};

/// Takes the flow that has the tuple `Scratch::reply_key` out of the tables, if it gives way to another one; 1: the tuple is free.
/// `lines`: see [`flow::gives_way`]. A global function: the verifier looks at it once, not once for each port that is tried.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn netfast_reclaim(now: u32, lines: u32) -> u32 {
    let (Some(config), Some(memory)) = (CONFIG.get(0), SCRATCH.get_ptr_mut(0)) else { return 0 };
    // SAFETY: the working memory is this CPU's alone. What is written here is nothing that a caller has read.
    let scratch = unsafe { &mut (*memory).scratch };
    let Some((reply, confirmed)) = known::lookup(&scratch.reply_key, REPLY_KEY, true) else { return 1 };
    // SAFETY: elements stay mapped while the program runs. Another CPU may change them, or use them for another flow: they are copied
    // once and checked against each other.
    scratch.other = unsafe { *reply };
    scratch.other_key.reverse_of(&scratch.other.translated);
    let gives_way = match known::lookup(&scratch.other_key, OTHER_KEY, confirmed) {
        // SAFETY: as above.
        Some((original, _)) if flow::reverse(unsafe { &(*original).translated }) == scratch.reply_key => {
            // SAFETY: as above.
            scratch.other = unsafe { *original };
            // A mapping of source NAT has a life of its own.
            !snat::is_snat(scratch.other.target)
                && flow::gives_way(&scratch.other, now, lines, config.hz, &config.timeouts)
                && {
                    let _ = FLOWS.remove(&scratch.other_key);
                    half_open::remove(OTHER_KEY);
                    true
                }
        }
        // It leads nowhere, and is here for the cached lines of its flow.
        _ => flow::elapsed(now, scratch.other.last_seen) > lines,
    };
    if gives_way {
        let _ = FLOWS.remove(&scratch.reply_key);
        half_open::remove(REPLY_KEY);
    }
    gives_way as u32
}
