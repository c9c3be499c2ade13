//! A proxy in front of a real nginx whose log does not name it: seen by the connections of the host, a state with what to do.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use shield_agent::test_support::api::types::{PartStateName, Status};
use shield_tests::agent::{Agent, Home};
use shield_tests::netns::{End, Namespace, connect};
use shield_tests::proxied::{Connection, ProxiedNginx};
use shield_tests::wait;

const SERVER: &str = "192.0.2.80";
const PROXY: &str = "192.0.2.10";
/// Three looks, 20 s apart, and the first one a while after the start.
const PATIENCE: Duration = Duration::from_secs(150);

#[test]
fn a_proxy_that_the_log_does_not_name_is_a_state() {
    let server = Namespace::create("server").unwrap();
    let proxy = Namespace::create("proxy").unwrap();
    connect(
        End { namespace: &server, interface: "eth0", addresses: &[&format!("{SERVER}/24")] },
        End { namespace: &proxy, interface: "eth0", addresses: &[&format!("{PROXY}/24")] },
    )
    .unwrap();
    let home = Home::create().unwrap();
    let folder = home.folder().join("nginx");
    std::fs::create_dir(&folder).unwrap();
    let from: IpAddr = PROXY.parse().unwrap();
    let nginx = ProxiedNginx::start_unnamed_in(&server, &folder, &home.folder().join("deny"), from).unwrap();
    home.configure(nginx.access_log(), "", "[xdp]\nmode = \"off\"\n[page]\nenabled = false\n").unwrap();
    let _agent = Agent::start_in_unit(&server, &home, &[]).unwrap();
    let mut line = Connection::open(&proxy, SocketAddr::new(SERVER.parse().unwrap(), 80)).unwrap();
    let mut visitors = (1..=40).cycle();
    let text = wait::until("the proxy to be seen", PATIENCE, || {
        for visitor in visitors.by_ref().take(4) {
            line.get(&format!("198.51.100.{visitor}"), "/")?;
        }
        let status: Status = serde_json::from_value(home.json(&server, &["status"])?)?;
        let part = status.parts.into_iter().find(|part| part.part == "proxy");
        Ok(part.filter(|part| part.state == PartStateName::Degraded).map(|part| part.text))
    })
    .unwrap();
    for part in [PROXY, "1 connection ", "40 clients", "init nginx-deny", "$realip_remote_addr"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // It ends with the code of a degraded part.
    let shown = home.command_output(&server, &["status"]).unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout);
    assert!(shown.contains("a proxy stands in front"), "{shown}");
}
