//! nftables' generation: a number that every change of any rule increments. While it stays, nothing of ours was touched,
//! and nothing needs to be listed. Read over netlink, in the network namespace of the calling thread.

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use super::nfnetlink::{begin, finish, kind, messages};

/// `NFNL_SUBSYS_NFTABLES`.
const NFTABLES: u8 = 10;
/// `NFT_MSG_GETGEN`.
const GET_GENERATION: u16 = kind(NFTABLES, 16);
/// `NFT_MSG_NEWGEN`.
const GENERATION: u16 = kind(NFTABLES, 15);
/// `NFTA_GEN_ID`.
const GENERATION_ID: u16 = 1;

/// The current generation.
///
/// # Errors
/// When the kernel has no nftables.
pub(super) fn now() -> io::Result<u32> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    let mut request = Vec::new();
    begin(&mut request, GET_GENERATION, 0, 0);
    finish(&mut request);
    socket.send_to(&request, &SocketAddr::new(0, 0), 0)?;
    let (answer, _) = socket.recv_from_full()?;
    parse(&answer).ok_or_else(|| io::Error::other("the kernel's answer has no generation of nftables"))
}

/// The generation in a `NFT_MSG_NEWGEN`.
fn parse(datagram: &[u8]) -> Option<u32> {
    let message = messages(datagram).next().filter(|message| message.kind == GENERATION)?;
    let (_, id) = message.attributes().find(|(kind, _)| *kind == GENERATION_ID)?;
    Some(u32::from_be_bytes(id.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::nfnetlink::put;
    use super::*;

    #[test]
    fn an_answer_is_parsed_and_anything_else_is_not() {
        let message = |kind: u16, attributes: &[(u16, [u8; 4])]| {
            let mut message = Vec::new();
            begin(&mut message, kind, 0, 0);
            attributes.iter().for_each(|(kind, value)| put(&mut message, *kind, value));
            finish(&mut message);
            message
        };
        let (id, other) = ((GENERATION_ID, [0, 0, 1, 7]), (2, [9, 9, 9, 9]));
        assert_eq!(parse(&message(GENERATION, &[id])), Some(263));
        assert_eq!(parse(&message(GENERATION, &[other, id])), Some(263));
        assert_eq!(parse(&message(GENERATION, &[other])), None);
        assert_eq!(parse(&message(2, &[id])), None, "an error message");
        assert_eq!(parse(&message(GENERATION, &[id])[..22]), None);
        assert_eq!(parse(&[]), None);
    }
}
