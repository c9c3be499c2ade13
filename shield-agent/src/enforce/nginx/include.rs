//! nginx's lines: the names of a client, and the look for their files.
//!
//! nginx writes an IPv6 address compressed, with the longest run of two or more zero groups as `::`. The maps list every
//! place that the run can have, so that the first groups come out whole.

use std::path::Path;

/// For the `http` section: makes the names from `$remote_addr`, and never from a header.
pub const HTTP: &str = r#"# The names under which a client can be denied. Include this once, in the http section.
map $remote_addr $shield_address {
    default                                   $remote_addr;
    "~^::ffff:(?<shield_v4>[0-9.]+)$"         $shield_v4;
}
map $shield_address $shield_network {
    default                                                                      "";
    "~^(?<shield_v4a>[0-9]+\.[0-9]+\.[0-9]+)\.[0-9]+$"                            "$shield_v4a.0-24";
    "~^(?<shield_a>[^:]+:[^:]+:[^:]+:[^:]+):"                                     "$shield_a-64";
    "~^(?<shield_b>[^:]+:[^:]+:[^:]+)::"                                          "$shield_b:0-64";
    "~^(?<shield_c>[^:]+:[^:]+)::"                                                "$shield_c:0:0-64";
    "~^(?<shield_d>[^:]+)::(?<shield_d4>[^:]+)(:[^:]+){4}$"                       "$shield_d:0:0:$shield_d4-64";
    "~^(?<shield_e>[^:]+)::"                                                      "$shield_e:0:0:0-64";
    "~^::(?<shield_f>[^:]+:[^:]+)(:[^:]+){4}$"                                    "0:0:$shield_f-64";
    "~^::(?<shield_g>[^:]+)(:[^:]+){4}$"                                          "0:0:0:$shield_g-64";
    "~^::"                                                                        "0:0:0:0-64";
}
map $shield_address $shield_site {
    default                                                                      "";
    "~^(?<shield_h>[^:]+:[^:]+:[^:]+):"                                           "$shield_h-48";
    "~^(?<shield_i>[^:]+:[^:]+)::"                                                "$shield_i:0-48";
    "~^(?<shield_j>[^:]+)::"                                                      "$shield_j:0:0-48";
    "~^::(?<shield_k>[^:]+)(:[^:]+){5}$"                                          "0:0:$shield_k-48";
    "~^::"                                                                        "0:0:0-48";
}
"#;

/// For each `server` section: refuses a client that has a file in `folder`.
pub fn server(folder: &Path, status: u16) -> String {
    let folder = folder.display();
    let look = |inside: &str, name: &str, value: &str| {
        format!("if (-f {folder}{inside}/${name}) {{ set $shield_denied {value}; }}\n")
    };
    let mut text =
        "# Refuses denied clients. Include this in every server section.\nset $shield_denied \"\";\n"
            .to_owned();
    for name in ["shield_address", "shield_network", "shield_site"] {
        text += &look("", name, "1");
    }
    for name in ["shield_address", "shield_network", "shield_site"] {
        text += &look("/exempt", name, "\"\"");
    }
    text + &format!("if ($shield_denied) {{ return {status}; }}\n")
}
