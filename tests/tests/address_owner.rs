//! Owners and countries of banned networks, by databases that the agent reads inside the unit's sandbox.

use std::fs;
use std::time::Duration;

use shield_agent::test_support::address_owner::mmdb;
use shield_agent::test_support::api::types::PartStateName;
use shield_tests::site::Site;
use shield_tests::wait;

/// The attacker's network, 198.51.100.0/24, among the IPv6 networks.
const NETWORK: &str = "::c633:6400/120";

#[test]
fn a_ban_names_its_network_and_a_missing_database_is_a_state() {
    let folder = tempfile::Builder::new().prefix("shield-mmdb").tempdir_in("/var/lib").unwrap();
    let asn = folder.path().join("asn.mmdb");
    let record = mmdb::asn(64_500, "Example Hosting");
    fs::write(&asn, mmdb::mmdb("GeoLite2-ASN", &[(NETWORK, record)])).unwrap();
    let missing = folder.path().join("country.mmdb");
    let page = format!("[page]\nlisten = \"127.0.0.1:8080\"\nasn_db = {asn:?}\ncountry_db = {missing:?}\n");
    let site = Site::create(&page).unwrap();
    let _agent = site.start_agent(&[]).unwrap();
    site.home.command(&site.server, &["ban", "198.51.100.7", "--for", "10m"]).unwrap();
    let owner = wait::until("the database to be read", Duration::from_secs(10), || {
        Ok(site.bans()?.into_iter().find_map(|ban| ban.owner))
    })
    .unwrap();
    assert_eq!((owner.asn, owner.name.as_deref()), (Some(64_500), Some("Example Hosting")));
    assert_eq!(owner.country, None);
    let status = site.status().unwrap();
    let part = |name: &str| status.parts.iter().find(|part| part.part == name).unwrap();
    assert_eq!(part("asn_db").state, PartStateName::Active);
    assert_eq!(part("country_db").state, PartStateName::Degraded);
    let reason = &part("country_db").text;
    assert!(reason.contains("could not open") && reason.contains("countries are not shown"), "{reason}");
}
