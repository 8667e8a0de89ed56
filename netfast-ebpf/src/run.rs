//! What a program knows about the packet's surroundings before it looks at the packet.

use aya_ebpf::{helpers::generated::bpf_jiffies64, programs::XdpContext};
use netfast_common::abi::{self, Config, Interface};

use crate::{
    account::UNKNOWN_ROW,
    maps::{CONFIG, INTERFACES},
};

/// The surroundings of one packet.
pub struct Run<'a> {
    /// Live settings.
    pub config: &'a Config,
    /// Interface that the frame came in by.
    pub ifindex: u32,
    /// Whether it is one that the agent has announced.
    known: bool,
    /// Its row in the counters.
    pub row: u32,
    /// What the agent says of the interface; another one's or nothing if it is not known.
    pub interface: &'a Interface,
    /// The live rule set, read once.
    pub generation: u32,
    /// Jiffies, low 32 bits.
    pub now: u32,
    /// Jiffies in units of about a second, for what is noted by the second.
    pub stamp: u32,
}

impl Run<'_> {
    /// Slot of the double-buffered maps that this packet is decided by.
    #[inline(always)]
    pub const fn slot(&self) -> u32 {
        self.generation & 1
    }

    /// Jiffies after which no cached line acts that was made before.
    #[inline(always)]
    pub const fn line_jiffies(&self) -> u32 {
        abi::line_end(self.config.line_lifetime)
    }

    /// Whether the interface is one that the agent has announced.
    #[inline(always)]
    pub const fn is_known(&self) -> bool {
        self.known
    }
}

/// What is known before the generation is read: that is the last thing that the hot program does before it decides by a line.
pub struct Start {
    /// Interface that the frame came in by.
    ifindex: u32,
    /// See [`Run::interface`].
    pub interface: &'static Interface,
    jiffies: u64,
}

impl Start {
    /// Reads interface and clock.
    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Option<Self> {
        // First, since it is a call to the compiler: there is little to be kept yet.
        // SAFETY: a helper without preconditions.
        let jiffies = unsafe { bpf_jiffies64() };
        // SAFETY: the context is valid while the program runs.
        let ifindex = unsafe { (*ctx.ctx).ingress_ifindex };
        // SAFETY: array elements live as long as the program.
        let interface = unsafe { &*INTERFACES.get_ptr(ifindex & (abi::IFINDEX_SLOTS - 1))? };
        Some(Self { ifindex, interface, jiffies })
    }

    /// Whether the interface is one that the agent has announced.
    #[inline(always)]
    pub const fn is_known(&self) -> bool {
        self.interface.ifindex == self.ifindex
    }

    /// Index of an interface of which it [is known](Start::is_known) that the agent has announced it. Read where it is asked for: the
    /// compiler would read it early, for all that may ask, and keep it on the stack.
    #[inline(always)]
    pub fn known_ifindex(&self) -> u32 {
        // SAFETY: a valid reference.
        unsafe { (&raw const self.interface.ifindex).read_volatile() }
    }

    /// Its row in the counters, likewise.
    #[inline(always)]
    pub fn known_row(&self) -> u32 {
        // SAFETY: a valid reference.
        unsafe { (&raw const self.interface.row).read_volatile() as u32 }
    }

    /// Jiffies, low 32 bits.
    #[inline(always)]
    pub const fn now(&self) -> u32 {
        self.jiffies as u32
    }

    /// Settings as they are now. To be called once for what is decided by them.
    #[inline(always)]
    pub fn run(&self) -> Option<Run<'static>> {
        self.run_if(self.is_known())
    }

    /// The same for a frame of an interface of which it is known that the agent has announced it.
    #[inline(always)]
    pub fn run_if(&self, known: bool) -> Option<Run<'static>> {
        // SAFETY: array elements live as long as the program.
        let config: &'static Config = unsafe { &*CONFIG.get_ptr(0)? };
        Some(Run {
            config,
            // The same; what was read before a call would have to be kept over it.
            ifindex: if known { self.interface.ifindex } else { self.ifindex },
            known,
            row: if known { self.interface.row as u32 } else { UNKNOWN_ROW },
            interface: self.interface,
            generation: config.generation,
            now: self.jiffies as u32,
            stamp: (self.jiffies >> (config.stamp_shift & 31)) as u32,
        })
    }
}

/// Reads settings, interface and clock.
#[inline(always)]
pub fn begin(ctx: &XdpContext) -> Option<Run<'static>> {
    Start::new(ctx)?.run()
}
