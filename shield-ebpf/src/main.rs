//! The XDP program: parse the packet, make its key, look the key up, return the verdict. A packet that cannot be parsed
//! passes and is counted.
//!
//! Owns the entry points. `fast_path` lets most packets pass, `packet` parses, `verdict` looks up the maps, `police` slows, `count`
//! counts.
//! The agent's side is `shield-agent/src/enforce/xdp/`; the layouts are in `shield-common`.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "the only way to the atomic-add instruction on this target")]

mod clock;
mod count;
mod entry;
mod fast_path;
mod maps;
mod packet;
mod police;
mod verdict;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use aya_log_ebpf::debug;

use crate::{
    entry::xdp_entry,
    fast_path::{FastPath, fast_path},
    packet::{Packet, Source},
    verdict::{Verdict, verdict},
};

/// XDP with multi-buffer packets, without which some drivers refuse large MTUs. The headers always lie in the first buffer.
#[xdp(frags)]
pub fn shield_frags(ctx: XdpContext) -> u32 {
    xdp_entry(&ctx)
}

/// XDP for kernels before 5.18, which refuse the multi-buffer flag.
#[xdp]
pub fn shield(ctx: XdpContext) -> u32 {
    xdp_entry(&ctx)
}

/// Traffic control ingress: the same verdict, for interfaces whose XDP hook another program holds.
#[classifier]
pub fn shield_tc(ctx: TcContext) -> i32 {
    let packet = Packet::new(ctx.data(), ctx.data_end());
    match decide(packet, u64::from(ctx.len())) {
        // Not TC_ACT_OK, which would keep the packet from the programs behind this one.
        Verdict::Pass => TC_ACT_UNSPEC,
        Verdict::Drop(source) => {
            log_drop!(&ctx, source);
            TC_ACT_SHOT
        }
    }
}

/// Writes [`clock::now`] into its packet. The agent reads the clock by a test run of this program, which is never attached.
#[xdp]
pub fn shield_clock(ctx: XdpContext) -> u32 {
    let packet = Packet::new(ctx.data(), ctx.data_end());
    packet.write(0, clock::now());
    xdp_action::XDP_PASS
}

#[inline(always)]
fn decide(packet: Packet, bytes: u64) -> Verdict {
    let source = match fast_path(packet) {
        FastPath::Pass => {
            count::passed();
            return Verdict::Pass;
        }
        _ => match packet.source() {
            Ok(source) => source,
            Err(unknown) => {
                count::not_understood(unknown);
                return Verdict::Pass;
            }
        },
    };
    verdict(packet, source, bytes)
}

/// Logs one dropped packet in `LOG_EVERY`. A macro because the logger needs the concrete context type.
macro_rules! log_drop {
    ($ctx:expr, $source:expr) => {
        if count::is_sampled() {
            match $source {
                Source::V4(address) => debug!($ctx, "dropped a packet of {:i}", u32::from_be(address)),
                Source::V6(halves) => debug!($ctx, "dropped a packet of {:i}", packet::octets(halves)),
            }
        }
    };
}
use log_drop;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
