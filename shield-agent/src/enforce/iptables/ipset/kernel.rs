//! The kernel's ipset, spoken to by netlink in the network namespace of the calling thread: no process, and no text to
//! read twice.
//!
//! A socket serves one operation, so that nothing of an earlier one can be left in it. The kernel does what it is told
//! within the call that tells it, so an answer that is not there at once will never be.

use std::io;

use anyhow::{Result, anyhow, bail};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use super::super::nfnetlink::{Message, messages, verdict};
use super::super::sets::{Element, all_failed};
use super::message::{self, Listed};
use super::{Header, MAX_BAD_LINES, Verb};
use crate::enforce::Failure;

/// `NLMSG_ERROR`: also the answer that all went well.
const ERROR: u16 = 2;
/// `NLMSG_DONE`.
const DONE: u16 = 3;
/// Room for an answer: the kernel fills up to 32 KiB with a listing, and sends back messages of ours that failed.
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

/// Why something was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Refusal {
    /// An errno, or a code of ipset's own.
    code: i32,
    /// Which element of the message, counted from 1; 0 for the whole of it.
    line: u32,
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        Refusal { code: error.raw_os_error().unwrap_or(libc::EIO), line: 0 }
    }
}

impl Kernel {
    /// Opens a socket and makes sure that the kernel understands us.
    ///
    /// # Errors
    /// Without netfilter's netlink, ipset in the kernel or the right to ask it, and when it speaks another protocol.
    pub(super) fn open() -> Result<Kernel> {
        let mut kernel = Kernel {
            socket: socket().map_err(|error| anyhow!("opened a netlink socket: {error}"))?,
            sequence: 0,
            sent: Vec::new(),
            received: Vec::with_capacity(RECEIVED_BYTES),
        };
        message::ask_protocol(&mut kernel.sent, kernel.sequence);
        let mut spoken = None;
        kernel
            .ask(&mut |part| spoken = Some(message::protocols(part.attributes())))
            .map_err(|refusal| anyhow!("asked the kernel's ipset for its protocol: {}", in_words(refusal)))?;
        let Some((lowest, highest)) = spoken else { bail!("the kernel's ipset named no protocol") };
        if !(lowest..=highest).contains(&message::PROTOCOL) {
            let ours = message::PROTOCOL;
            bail!("the kernel's ipset speaks the protocols {lowest} to {highest}, and we speak {ours}");
        }
        Ok(kernel)
    }

    /// The head of a set; `None` when there is no set of this name.
    pub(super) fn head(&mut self, set: &str) -> Result<Option<Header>> {
        message::list(&mut self.sent, self.sequence, set, Listed::Head);
        let mut head = None;
        match self.ask(&mut |part| head = head.take().or(message::head(part.attributes()))) {
            Ok(()) if head.is_some() => Ok(head),
            Ok(()) => bail!("asked for the head of the set {set}: the kernel sent none"),
            Err(Refusal { code: libc::ENOENT, .. }) => Ok(None),
            Err(refusal) => bail!("asked for the head of the set {set}: {}", in_words(refusal)),
        }
    }

    /// Calls `each` with every element of a set.
    pub(super) fn list(&mut self, set: &str, each: &mut dyn FnMut(Element)) -> Result<()> {
        message::list(&mut self.sent, self.sequence, set, Listed::Elements);
        let mut senseless = 0;
        self.ask(&mut |part| {
            message::elements(part.attributes(), &mut |element| match element {
                Some(element) => each(element),
                None => senseless += 1,
            });
        })
        .map_err(|refusal| anyhow!("listed the set {set}: {}", in_words(refusal)))?;
        match senseless {
            0 => Ok(()),
            n => bail!("listed the set {set}: {n} elements in it are no networks"),
        }
    }

    /// Adds or removes elements. One that fails is noted and the rest goes on, until it is plain that the trouble is not
    /// one element's.
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
            let Err(refusal) = self.ask(&mut |_| {}) else {
                rest = &rest[fitted..];
                continue;
            };
            let error = anyhow!("{} the set {set}: {}", verb.past(), in_words(refusal));
            let bad = (refusal.line as usize).checked_sub(1).filter(|at| *at < fitted);
            match bad {
                Some(at) if failures.len() < MAX_BAD_LINES => {
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

    /// Sends the message in `sent` and hands out the answer's parts until it is complete.
    fn ask(&mut self, each: &mut dyn FnMut(&Message<'_>)) -> Result<(), Refusal> {
        let sequence = self.sequence;
        self.sequence += 1;
        self.socket.send_to(&self.sent, &SocketAddr::new(0, 0), 0)?;
        loop {
            self.received.clear();
            let length = self.socket.recv(&mut self.received, libc::MSG_TRUNC)?;
            if length > self.received.len() {
                return Err(Refusal { code: libc::EMSGSIZE, line: 0 });
            }
            // A listing that could not be begun is answered twice by some kernels.
            for part in messages(&self.received).filter(|part| part.sequence == sequence) {
                match part.kind {
                    ERROR | DONE => {
                        let (code, request) = verdict(&part);
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
    // Without it (before 4.3), answers bring our whole message back: only larger.
    let _ = socket.set_cap_ack(true);
    Ok(socket)
}

fn in_words(refusal: Refusal) -> String {
    match refusal.code {
        libc::ENOENT => {
            "there is no such set any more (another program destroyed it?); the next reconcile makes it again"
                .to_owned()
        }
        libc::EAGAIN => "the kernel did not answer".to_owned(),
        BAD_LENGTH => "a hash:net set cannot hold a prefix of this length".to_owned(),
        FULL => "the set is full; raise max_bans_ipv4 or max_bans_ipv6 under [iptables]".to_owned(),
        code if code >= OWN_CODES => format!("ipset's error {code}"),
        code => io::Error::from_raw_os_error(code).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_in_words() {
        let check = |code, expected: &str| {
            let said = in_words(Refusal { code, line: 1 });
            assert!(said.starts_with(expected), "{code}: {said}");
        };
        check(libc::ENOENT, "there is no such set any more");
        check(libc::EPERM, "Operation not permitted");
        check(FULL, "the set is full");
        check(4103, "ipset's error 4103");
    }
}
