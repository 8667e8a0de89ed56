//! Rates of filter rules.

use netfast_common::{
    abi::{FILTER_SOURCE_BUCKETS, FilterRate, MAX_FILTER_LIMITS},
    echo::{BUCKETS_PER_SET, Bucket},
    flow, limit,
};

use crate::maps::{FILTER_BUCKETS, FILTER_RATES, FILTER_SOURCES, SCRATCH};

/// Whether the packet that the filter is asked about keeps to the limit with this index. Takes what it costs.
#[inline(never)]
pub fn within(slot: u32, index: u32) -> bool {
    let index = index & (MAX_FILTER_LIMITS - 1);
    let Some(rate) = FILTER_RATES.get(slot * MAX_FILTER_LIMITS + index) else { return true };
    let Some(memory) = SCRATCH.get_ptr_mut(0) else { return true };
    // SAFETY: the element is this CPU's alone; both fields are written before the filter is asked.
    let (question, packet) = unsafe { ((*memory).scratch.filter, &(*memory).packet) };
    let (now, hz) = (question.now, question.hz);
    if rate.per_source != 0 {
        let tag = limit::source_tag(&packet.key.source, rate.number, question.seed);
        return of_source(rate, tag, question.length, now, hz);
    }
    let Some(bucket) = FILTER_BUCKETS.get_ptr_mut(index) else { return true };
    // SAFETY: the element is shared between CPUs; a lost update lets a packet more or less through, nothing else.
    let bucket = unsafe { &mut *bucket };
    let tag = limit::rule_tag(rate.number);
    if bucket.tag != tag {
        *bucket = limit::fresh(rate, tag, now, hz);
    }
    limit::take(bucket, rate, question.length, now, hz)
}

/// The same, of one source address. See `echo::within_rate`.
#[inline(always)]
fn of_source(rate: &FilterRate, tag: u32, length: u32, now: u32, hz: u32) -> bool {
    let sets = FILTER_SOURCE_BUCKETS / BUCKETS_PER_SET as u32;
    let Some(set) = FILTER_SOURCES.get_ptr_mut((tag >> 1) & (sets - 1)) else { return true };
    // SAFETY: as above.
    let set = unsafe { &mut *set };
    let mut way = 0;
    while way < BUCKETS_PER_SET {
        if set[way].tag == tag {
            return limit::take(&mut set[way], rate, length, now, hz);
        }
        way += 1;
    }
    // A source that is new here takes a free bucket or the one that was idle for the longest time: with more sources
    // than buckets some get more than their rate, and none gets nothing because of others.
    let (mut oldest, mut idle) = (0, 0);
    way = 0;
    while way < BUCKETS_PER_SET {
        let elapsed = if set[way].tag == 0 { u32::MAX } else { flow::elapsed(now, set[way].refilled) };
        if elapsed >= idle {
            (oldest, idle) = (way, elapsed);
        }
        way += 1;
    }
    let bucket: &mut Bucket = &mut set[oldest & (BUCKETS_PER_SET - 1)];
    *bucket = limit::fresh(rate, tag, now, hz);
    limit::take(bucket, rate, length, now, hz)
}
