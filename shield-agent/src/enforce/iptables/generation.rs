//! The number that nftables counts up at every change of any rule: while it stays, nothing of ours was touched, and nothing
//! needs to be listed. Asked by netlink, in the network namespace of the calling thread.

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN`.
const GET_GENERATION: u16 = (10 << 8) | 16;
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN`.
const GENERATION: u16 = (10 << 8) | 15;
/// `NFTA_GEN_ID`.
const GENERATION_ID: u16 = 1;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct nfgenmsg`.
const FAMILY: usize = 4;
/// `struct nlattr`.
const ATTRIBUTE: usize = 4;

/// The generation now.
///
/// # Errors
/// When the kernel has no nftables, or does not say.
pub(super) fn now() -> io::Result<u32> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.send_to(&request(), &SocketAddr::new(0, 0), 0)?;
    let (answer, _) = socket.recv_from_full()?;
    parse(&answer).ok_or_else(|| io::Error::other("the kernel did not say nftables' generation"))
}

fn request() -> Vec<u8> {
    let length = (HEADER + FAMILY) as u32;
    let mut message = Vec::with_capacity(HEADER + FAMILY);
    message.extend(length.to_ne_bytes());
    message.extend(GET_GENERATION.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    message.resize(HEADER + FAMILY, 0);
    message
}

/// The id in a `NFT_MSG_NEWGEN`.
fn parse(message: &[u8]) -> Option<u32> {
    if u16_at(message, 4)? != GENERATION {
        return None;
    }
    let mut rest = message.get(HEADER + FAMILY..)?;
    loop {
        let length = usize::from(u16_at(rest, 0)?).max(ATTRIBUTE);
        if u16_at(rest, 2)? == GENERATION_ID {
            let id = rest.get(ATTRIBUTE..ATTRIBUTE + 4)?;
            return Some(u32::from_be_bytes(id.try_into().ok()?));
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_and_anything_else_is_not() {
        let attribute = |kind: u16, value: &[u8]| {
            let length = (ATTRIBUTE + value.len()) as u16;
            [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
        };
        let message = |kind: u16, attributes: &[u8]| {
            let mut message = vec![0; HEADER + FAMILY];
            message[4..6].copy_from_slice(&kind.to_ne_bytes());
            message.extend(attributes);
            message
        };
        let id = attribute(GENERATION_ID, &[0, 0, 1, 7]);
        let other = attribute(2, &[9, 9, 9, 9]);
        assert_eq!(parse(&message(GENERATION, &id)), Some(263));
        assert_eq!(parse(&message(GENERATION, &[other.clone(), id.clone()].concat())), Some(263));
        assert_eq!(parse(&message(GENERATION, &other)), None);
        assert_eq!(parse(&message(2, &id)), None, "an error message");
        assert_eq!(parse(&message(GENERATION, &id)[..22]), None);
        assert_eq!(parse(&[]), None);
    }
}
