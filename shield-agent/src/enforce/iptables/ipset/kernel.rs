//! The kernel's ipset over netlink, in the network namespace of the calling thread: no process, and no text to parse.
//!
//! A socket serves one operation, so that nothing of an earlier one can be left in it. It does not block: the kernel handles
//! a request within the call that sends it, so an answer that is not there at once will never come.

use std::fmt;
use std::io;

use anyhow::{Context as _, Error, Result, bail};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use super::super::nfnetlink::{Message, messages, parse_status};
use super::super::sets::{Element, all_failed};
use super::message::{self, Listed};
use super::set::{Header, MAX_BAD_ELEMENTS, Verb};
use crate::enforce::ban::Failure;
use crate::text::plural;

/// `NLMSG_ERROR`; with code 0 it acknowledges success.
const ERROR: u16 = 2;
/// `NLMSG_DONE`.
const DONE: u16 = 3;
/// Room for an answer: the kernel fills up to 32 KiB with a listing, and returns requests that failed.
const RECEIVED_BYTES: usize = 64 * 1024;

/// `IPSET_ERR_INVALID_CIDR`.
const BAD_LENGTH: i32 = 4104;
/// `IPSET_ERR_HASH_FULL`.
const FULL: i32 = 4352;
/// Codes from here on are ipset's own.
const OWN_CODES: i32 = 4096;

/// See the module.
pub(super) struct Kernel {
    socket: Socket,
    sequence: u32,
    sent: Vec<u8>,
    received: Vec<u8>,
}

/// The kernel's error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Refusal {
    /// An errno, or a code of ipset's own.
    code: i32,
    /// The element of the message that it is about, counted from 1; 0 for the whole message.
    line: u32,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            libc::ENOENT => f.write_str(
                "there is no such set any more (another program destroyed it?); the next reconcile makes it again",
            ),
            libc::EAGAIN => f.write_str("the kernel did not answer"),
            BAD_LENGTH => f.write_str("a hash:net set cannot hold a prefix of this length"),
            FULL => f.write_str("the set is full; raise max_bans_ipv4 or max_bans_ipv6 under [iptables]"),
            code if code >= OWN_CODES => write!(f, "ipset's error {code}"),
            code => io::Error::from_raw_os_error(code).fmt(f),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        Refusal { code: error.raw_os_error().unwrap_or(libc::EIO), line: 0 }
    }
}

impl Kernel {
    /// Opens a socket and checks that the kernel speaks our protocol.
    ///
    /// # Errors
    /// Without netfilter's netlink, ipset in the kernel or the permission to use it, and when it speaks another protocol.
    pub(super) fn open() -> Result<Kernel> {
        let mut kernel = Kernel {
            socket: socket().context("could not open a netlink socket")?,
            sequence: 0,
            sent: Vec::new(),
            received: Vec::with_capacity(RECEIVED_BYTES),
        };
        message::query_protocol(&mut kernel.sent, kernel.sequence);
        let mut protocols = None;
        kernel
            .request(&mut |part| protocols = Some(message::protocols(part.attributes())))
            .context("could not query the protocol of the kernel's ipset")?;
        let Some((lowest, highest)) = protocols else { bail!("the kernel's ipset named no protocol") };
        if !(lowest..=highest).contains(&message::PROTOCOL) {
            let ours = message::PROTOCOL;
            bail!("the kernel's ipset speaks the protocols {lowest} to {highest}, the agent only {ours}");
        }
        Ok(kernel)
    }

    /// The header of a set; `None` when there is no set of this name.
    pub(super) fn header(&mut self, set: &str) -> Result<Option<Header>> {
        message::list(&mut self.sent, self.sequence, set, Listed::Header);
        let mut header = None;
        match self.request(&mut |part| header = header.take().or(message::header(part.attributes()))) {
            Ok(()) if header.is_some() => Ok(header),
            Ok(()) => bail!("could not read the header of the set {set}: the kernel sent none"),
            Err(Refusal { code: libc::ENOENT, .. }) => Ok(None),
            Err(refusal) => {
                Err(Error::new(refusal).context(format!("could not read the header of the set {set}")))
            }
        }
    }

    /// Calls `each` with every element of a set.
    pub(super) fn list(&mut self, set: &str, each: &mut dyn FnMut(Element)) -> Result<()> {
        message::list(&mut self.sent, self.sequence, set, Listed::Elements);
        let mut malformed = 0;
        self.request(&mut |part| {
            message::elements(part.attributes(), &mut |element| match element {
                Some(element) => each(element),
                None => malformed += 1,
            });
        })
        .with_context(|| format!("could not list the set {set}"))?;
        match malformed {
            0 => Ok(()),
            n => {
                bail!(
                    "could not list the set {set}: {} no network",
                    plural(n as u64, "element is", "elements are")
                )
            }
        }
    }

    /// Adds or removes elements. Goes on behind one that fails, until so many have failed that the cause cannot be a single
    /// element.
    pub(super) fn change<T>(
        &mut self,
        set: &str,
        verb: Verb,
        items: &[T],
        element: impl Fn(&T) -> Element,
    ) -> Vec<Failure> {
        let mut failures = Vec::new();
        let mut rest = items;
        while !rest.is_empty() {
            let fitted = message::change(&mut self.sent, self.sequence, verb, set, rest, &element);
            let Err(refusal) = self.request(&mut |_| {}) else {
                rest = &rest[fitted..];
                continue;
            };
            let error = Error::new(refusal).context(format!("could not {verb} the set {set}"));
            let bad = (refusal.line as usize).checked_sub(1).filter(|at| *at < fitted);
            match bad {
                Some(at) if failures.len() < MAX_BAD_ELEMENTS => {
                    failures.extend(all_failed([element(&rest[at]).client], &error));
                    rest = &rest[at + 1..];
                }
                _ => {
                    let all = rest[bad.unwrap_or(0)..].iter().map(|item| element(item).client);
                    failures.extend(all_failed(all, &error));
                    break;
                }
            }
        }
        failures
    }

    /// Sends the message in `sent`, and calls `each` with every part of the answer.
    fn request(&mut self, each: &mut dyn FnMut(&Message<'_>)) -> Result<(), Refusal> {
        let sequence = self.sequence;
        self.sequence += 1;
        self.socket.send_to(&self.sent, &SocketAddr::new(0, 0), 0)?;
        loop {
            self.received.clear();
            let length = self.socket.recv(&mut self.received, libc::MSG_TRUNC)?;
            if length > self.received.len() {
                return Err(Refusal { code: libc::EMSGSIZE, line: 0 });
            }
            // Some kernels answer twice when a listing could not be begun.
            for part in messages(&self.received).filter(|part| part.sequence == sequence) {
                match part.kind {
                    ERROR | DONE => {
                        let (code, request) = parse_status(&part);
                        let line = if part.kind == ERROR { message::stopped_at(request) } else { 0 };
                        return if code == 0 { Ok(()) } else { Err(Refusal { code, line }) };
                    }
                    _ => each(&part),
                }
            }
        }
    }
}

fn socket() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.set_non_blocking(true)?;
    // Without it (before 4.3), answers return our whole message: that only makes them larger.
    let _ = socket.set_cap_ack(true);
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_in_words() {
        let check = |code, expected: &str| {
            let text = Refusal { code, line: 1 }.to_string();
            assert!(text.starts_with(expected), "{code}: {text}");
        };
        check(libc::ENOENT, "there is no such set any more");
        check(libc::EPERM, "Operation not permitted");
        check(FULL, "the set is full");
        check(4103, "ipset's error 4103");
    }
}
