//! The way of a packet through XDP, arranged so that most packets find little to do.
//!
//! The kernel saves, for every packet, each register that any path of a program keeps over a call. So this function keeps none:
//! what is needed after a call lies on the stack ([`Kept`]), which only the paths pay that use it, and whatever is rare is a function
//! of its own. A client that is banned is dropped right here, because returning from a function costs several nanoseconds
//! where the processor must not predict it (`Safe RET`).

use core::cell::UnsafeCell;

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    programs::XdpContext,
};
use aya_log_ebpf::debug;
use shield_common::{Ban, Totals};

use crate::{
    clock, count,
    fast_path::{FastPath, fast_path},
    maps::{BANS_V4, BANS_V6},
    packet::{Packet, Source, octets},
    verdict::{Verdict, client_v6, is_plainly_unbanned_v4, is_plainly_unbanned_v6, unbanned, verdict},
};

#[inline(always)]
pub fn xdp_entry(ctx: &XdpContext) -> u32 {
    let kept = Kept::new(ctx.ctx);
    match fast_path(packet(ctx.ctx)) {
        FastPath::Pass => {
            count::passed();
            xdp_action::XDP_PASS
        }
        FastPath::CandidateV4(address) => candidate_v4(&kept, address),
        FastPath::CandidateV6(offset) => candidate_v6(&kept, offset),
        FastPath::Fallback => parsed_fully(kept.get()),
    }
}

#[inline(always)]
fn candidate_v4(ctx: &Kept<*mut xdp_md>, address: u32) -> u32 {
    let source = Kept::new(address);
    match BANS_V4.get_ptr_mut(address.to_ne_bytes()) {
        Some(ban) => banned(ctx, ban, |totals| totals.dropped_v4 += 1),
        None => without_ban(ctx, is_plainly_unbanned_v4(|| source.get())),
    }
}

#[inline(always)]
fn candidate_v6(ctx: &Kept<*mut xdp_md>, offset: usize) -> u32 {
    // The fast path has read it there.
    let Ok(halves) = packet(ctx.get()).halves(offset) else { return xdp_action::XDP_PASS };
    let source = (Kept::new(halves[0]), Kept::new(halves[1]));
    match BANS_V6.get_ptr_mut(octets(client_v6(halves))) {
        Some(ban) => banned(ctx, ban, |totals| totals.dropped_v6 += 1),
        None => without_ban(ctx, is_plainly_unbanned_v6(|| [source.0.get(), source.1.get()])),
    }
}

#[inline(always)]
fn banned(ctx: &Kept<*mut xdp_md>, ban: *mut Ban, add: impl FnOnce(&mut Totals)) -> u32 {
    let kept_ban = Kept::new(ban);
    let now = clock::now();
    let ban = kept_ban.get();
    // SAFETY: points into a map value; one aligned word, which the agent replaces together with its element.
    if now >= unsafe { (*ban).ends } {
        return parsed_fully(ctx.get());
    }
    let bytes = packet(ctx.get()).len();
    count::dropped(ban, bytes);
    let kept_bytes = Kept::new(bytes);
    count::total(|totals| {
        add(totals);
        totals.dropped_bytes += kept_bytes.get();
    });
    if count::is_sampled() {
        log(ctx.get());
    }
    xdp_action::XDP_DROP
}

#[inline(always)]
fn without_ban(ctx: &Kept<*mut xdp_md>, is_plainly_unbanned: bool) -> u32 {
    if is_plainly_unbanned {
        count::passed();
        return xdp_action::XDP_PASS;
    }
    not_banned_itself(ctx.get())
}

/// Decides on a packet that the fast path does not understand, or whose ban has ended.
#[inline(never)]
fn parsed_fully(ctx: *mut xdp_md) -> u32 {
    let ctx = opaque(ctx);
    let packet = packet(ctx);
    match packet.source() {
        Ok(source) => act(ctx, verdict(packet, source, packet.len())),
        Err(unknown) => {
            count::not_understood(unknown);
            xdp_action::XDP_PASS
        }
    }
}

/// Decides on a packet whose source has no ban of its own, but may lie in a banned network or be slowed.
#[inline(never)]
fn not_banned_itself(ctx: *mut xdp_md) -> u32 {
    let ctx = opaque(ctx);
    let packet = packet(ctx);
    match packet.source() {
        Ok(source) => act(ctx, unbanned(packet, source, packet.len())),
        Err(_) => xdp_action::XDP_PASS,
    }
}

#[inline(always)]
fn act(ctx: *mut xdp_md, verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Pass => xdp_action::XDP_PASS,
        Verdict::Drop(_) => {
            if count::is_sampled() {
                log(ctx);
            }
            xdp_action::XDP_DROP
        }
    }
}

/// Logs a dropped packet.
#[inline(never)]
fn log(ctx: *mut xdp_md) {
    let ctx = XdpContext::new(opaque(ctx));
    match packet(ctx.ctx).source() {
        Ok(Source::V4(address)) => debug!(&ctx, "dropped a packet of {:i}", u32::from_be(address)),
        Ok(Source::V6(halves)) => debug!(&ctx, "dropped a packet of {:i}", octets(halves)),
        Err(_) => {}
    }
}

#[inline(always)]
fn packet(ctx: *mut xdp_md) -> Packet {
    let ctx = XdpContext::new(ctx);
    Packet::new(ctx.data(), ctx.data_end())
}

/// Hides where the context comes from. LLVM would read its fields in the caller and pass them, as numbers that the verifier does
/// not take for a packet.
#[inline(always)]
fn opaque(ctx: *mut xdp_md) -> *mut xdp_md {
    Kept::new(ctx).get()
}

/// A value on the stack, where LLVM would keep it in a register. No enum, whose unused bytes the verifier would miss.
struct Kept<T: Copy>(UnsafeCell<T>);

impl<T: Copy> Kept<T> {
    #[inline(always)]
    fn new(value: T) -> Kept<T> {
        Kept(UnsafeCell::new(value))
    }

    #[inline(always)]
    fn get(&self) -> T {
        // SAFETY: a valid `T`, which nothing changes.
        unsafe { self.0.get().read_volatile() }
    }
}
