//! Clients in four bytes and a bit, for tables of millions: nearly all of them are single IPv4 addresses, which are their own
//! number. The others, IPv6 clients and networks, stand in a list beside the table.

use crate::vocab::client::Client;

/// A client of a table. Means nothing to another table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Short {
    /// A single IPv4 address.
    V4(u32),
    /// A place in [`Others`].
    Other(u32),
}

impl Short {
    /// The number, and whether it is one in [`Others`].
    pub(crate) fn parts(self) -> (u32, bool) {
        match self {
            Short::V4(bits) => (bits, false),
            Short::Other(at) => (at, true),
        }
    }

    /// The inverse of [`Short::parts`].
    pub(crate) fn of_parts(number: u32, is_other: bool) -> Short {
        if is_other { Short::Other(number) } else { Short::V4(number) }
    }
}

/// The clients of a table that are not single IPv4 addresses, 17 bytes each. Places of forgotten ones are used again.
#[derive(Debug, Clone, Default)]
pub(crate) struct Others {
    clients: Vec<[u8; 17]>,
    free: Vec<u32>,
}

impl Others {
    /// Takes a client in. Each call takes a place, until [`Others::forget`].
    pub(crate) fn shorten(&mut self, client: Client) -> Short {
        if let Some(bits) = client.single_v4() {
            return Short::V4(bits);
        }
        if let Some(at) = self.free.pop() {
            self.clients[at as usize] = client.to_bytes();
            return Short::Other(at);
        }
        let at = u32::try_from(self.clients.len()).expect("4,294,967,296 bans do not fit into memory");
        self.clients.push(client.to_bytes());
        Short::Other(at)
    }

    #[inline]
    pub(crate) fn client(&self, short: Short) -> Client {
        match short {
            Short::V4(bits) => Client::from(std::net::Ipv4Addr::from_bits(bits)),
            Short::Other(at) => Client::from_bytes(self.clients[at as usize]),
        }
    }

    /// Frees the client's place.
    pub(crate) fn forget(&mut self, short: Short) {
        if let Short::Other(at) = short {
            self.free.push(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_comes_back_and_its_place_is_used_again() {
        let mut others = Others::default();
        let clients: Vec<Client> = [
            "192.0.2.7",
            "0.0.0.0",
            "255.255.255.255",
            "192.0.2.0/24",
            "2001:db8:1:2::/64",
            "::/0",
            "0.0.0.0/0",
        ]
        .map(|text| text.parse().unwrap())
        .to_vec();
        let shorts: Vec<Short> = clients.iter().map(|client| others.shorten(*client)).collect();
        let back: Vec<Client> = shorts.iter().map(|short| others.client(*short)).collect();
        assert_eq!(back, clients);
        assert!(shorts.iter().all(|short| {
            let (number, is_other) = short.parts();
            Short::of_parts(number, is_other) == *short
        }));
        assert_eq!(others.clients.len(), 4);
        others.forget(shorts[3]);
        others.forget(shorts[0]);
        assert_eq!(others.shorten("2001:db8::/32".parse().unwrap()), shorts[3]);
        assert_eq!(others.clients.len(), 4);
    }
}
