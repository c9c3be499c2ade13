//! Writes small databases in MaxMind's format, for tests: the reader is another's, and so is the format.

/// A database in MaxMind's format with one record for each of some IPv6 networks: a tree of 24-bit records.
pub fn mmdb(database_type: &str, networks: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut nodes: Vec<[Option<Next>; 2]> = vec![[None; 2]];
    let mut data: Vec<u8> = Vec::new();
    for (network, record) in networks {
        let network: ipnet::Ipv6Net = network.parse().expect("a test names IPv6 networks");
        let bits = u128::from(network.addr());
        let (mut node, len) = (0, network.prefix_len());
        for depth in 0..len {
            let side = usize::from(bits >> (127 - depth) & 1 == 1);
            if depth + 1 == len {
                nodes[node][side] = Some(Next::Data(data.len()));
            } else if let Some(Next::Node(next)) = nodes[node][side] {
                node = next;
            } else {
                nodes.push([None; 2]);
                nodes[node][side] = Some(Next::Node(nodes.len() - 1));
                node = nodes.len() - 1;
            }
        }
        data.extend_from_slice(record);
    }
    let count = nodes.len();
    let value = |next: Option<Next>| match next {
        None => count,
        Some(Next::Node(node)) => node,
        Some(Next::Data(at)) => count + 16 + at,
    };
    let mut out: Vec<u8> =
        nodes.iter().flatten().flat_map(|next| (value(*next) as u32).to_be_bytes()[1..].to_vec()).collect();
    out.extend([0; 16]);
    out.extend(data);
    out.extend(b"\xab\xcd\xefMaxMind.com");
    out.extend(map(&[
        ("binary_format_major_version", uint16(2)),
        ("binary_format_minor_version", uint16(0)),
        ("build_epoch", vec![0x04, 0x02, 0x6a, 0x94, 0x9d, 0x00]),
        ("database_type", string(database_type)),
        ("description", map(&[])),
        ("ip_version", uint16(6)),
        ("languages", vec![0x00, 0x04]),
        ("node_count", uint32(count as u32)),
        ("record_size", uint16(24)),
    ]));
    out
}

#[derive(Clone, Copy)]
enum Next {
    Node(usize),
    Data(usize),
}

fn string(text: &str) -> Vec<u8> {
    assert!(text.len() < 29 + 256);
    let head = if text.len() < 29 {
        vec![0x40 | text.len() as u8]
    } else {
        vec![0x40 | 29, (text.len() - 29) as u8]
    };
    [head, text.as_bytes().to_vec()].concat()
}

fn uint16(value: u16) -> Vec<u8> {
    [vec![0xa2], value.to_be_bytes().to_vec()].concat()
}

fn uint32(value: u32) -> Vec<u8> {
    [vec![0xc4], value.to_be_bytes().to_vec()].concat()
}

fn map(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let pairs = entries.iter().flat_map(|(key, value)| [string(key), value.clone()].concat());
    std::iter::once(0xe0 | entries.len() as u8).chain(pairs).collect()
}

pub fn asn(number: u32, name: &str) -> Vec<u8> {
    map(&[("autonomous_system_number", uint32(number)), ("autonomous_system_organization", string(name))])
}

pub fn country(code: &str) -> Vec<u8> {
    map(&[("country", map(&[("iso_code", string(code))]))])
}
