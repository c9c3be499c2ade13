//! The attacks of `cargo xtask attack`: that their list and `docs/attacks.md` agree, and those that take seconds.
//!
//! Alone: after each attack a new attacker must be banned within a second.

use std::collections::BTreeSet;
use std::path::Path;

use shield_tests::attack::ATTACKS;

#[test]
fn the_document_has_every_attack_and_no_other() {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/attacks.md")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let written: BTreeSet<&str> = rows.collect();
    let made: BTreeSet<&str> = ATTACKS.iter().map(|attack| attack.name).collect();
    assert_eq!(made.len(), ATTACKS.len(), "two attacks have one name");
    assert_eq!(written, made);
    for attack in ATTACKS {
        assert!(text.contains(attack.does) && text.contains(attack.failure), "{} differs", attack.name);
    }
}

#[test]
fn the_quick_ones_are_held_off() {
    for name in ["other-sites", "hosts", "times", "framing", "syslog-forger", "wide-import"] {
        let tried = ATTACKS.iter().find(|attack| attack.name == name).unwrap().attempt();
        assert!(tried.held, "{name}: {}", tried.note);
    }
}
