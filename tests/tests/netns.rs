//! The harness itself: namespaces are separate, connected, and gone when dropped.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::Duration;

use shield_tests::http::{Get, is_timeout};
use shield_tests::netns::{End, Namespace, connect, left_by};

#[test]
fn two_namespaces_talk_over_a_veth_pair_in_both_families_and_leave_nothing() {
    let server = Namespace::create("server").unwrap();
    let client = Namespace::create("client").unwrap();
    connect(
        End { namespace: &server, interface: "eth0", addresses: &["192.0.2.1/24", "2001:db8::1/64"] },
        End { namespace: &client, interface: "eth0", addresses: &["192.0.2.2/24", "2001:db8::2/64"] },
    )
    .unwrap();

    for (bound, from) in [("192.0.2.1:80", "192.0.2.2"), ("[2001:db8::1]:80", "2001:db8::2")] {
        let bound: SocketAddr = bound.parse().unwrap();
        let from: IpAddr = from.parse().unwrap();
        let listener = server.enter(|| TcpListener::bind(bound)).unwrap();
        let get = Get { server: bound, from: Some(from), path: "/", timeout: Duration::from_secs(2) };
        let stream = client.enter(|| get.open()).unwrap();
        assert_eq!(listener.accept().unwrap().1, stream.local_addr().unwrap());
        assert_eq!(stream.local_addr().unwrap().ip(), from);
    }
    let names = [server.name().to_owned(), client.name().to_owned()];
    drop((server, client));
    assert!(left_by(std::process::id()).unwrap().iter().all(|left| !names.contains(left)));
}

#[test]
fn what_a_firewall_drops_is_a_timeout() {
    let namespace = Namespace::create("drop").unwrap();
    namespace.run(&["iptables", "-I", "INPUT", "-i", "lo", "-j", "DROP"]).unwrap();
    let listener = namespace.enter(|| TcpListener::bind("127.0.0.1:0")).unwrap();
    let server = listener.local_addr().unwrap();
    let get = Get { server, from: None, path: "/", timeout: Duration::from_millis(200) };
    assert!(is_timeout(&namespace.enter(|| get.send()).unwrap_err()));
}

#[test]
fn dropping_a_namespace_ends_the_processes_inside() {
    let namespace = Namespace::create("process").unwrap();
    let mut child = namespace.enter(|| std::process::Command::new("sleep").arg("60").spawn()).unwrap();
    assert_eq!(namespace.processes().unwrap(), vec![i32::try_from(child.id()).unwrap()]);
    drop(namespace);
    assert!(!child.wait().unwrap().success());
}
