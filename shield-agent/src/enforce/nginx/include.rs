//! nginx's lines: the names of a client, and the look for their files.
//!
//! A look for a file that is not there is most of what the lines cost a request. Nearly all bans are of IPv4 addresses and IPv6
//! /64s, so one look finds them. What takes more looks, networks, single IPv6 addresses and exemptions, is looked for while
//! there is any: the file [`FEW_LOOKS`] says that there is none. Missing, it makes requests dearer and lets nobody through.
//!
//! nginx writes an IPv6 address compressed, with the longest run of two or more zero groups as `::`. The maps list every
//! place that the run can have, so that the first groups come out whole.

use std::path::Path;

use super::map::files::Part;
use super::settings::maps_in;
use super::{Backend, EXEMPT_FOLDER, Settings, folder::FEW_LOOKS};
use crate::text::nginx;

/// A look that needs more than the first name.
struct Look {
    /// The variable with its path, empty while there is nothing to look for.
    path: &'static str,
    inside: &'static str,
    name: &'static str,
    denies: bool,
}

const MORE_LOOKS: [Look; 5] = [
    Look { path: "shield_look_network", inside: "", name: "shield_network", denies: true },
    Look { path: "shield_look_address", inside: "", name: "shield_address", denies: true },
    Look { path: "shield_look_free", inside: EXEMPT_FOLDER, name: "shield_client", denies: false },
    Look { path: "shield_look_free_network", inside: EXEMPT_FOLDER, name: "shield_network", denies: false },
    Look { path: "shield_look_free_address", inside: EXEMPT_FOLDER, name: "shield_address", denies: false },
];

const NAMES: &str = r#"# The names under which a client can be denied. Include this once, in the http section.
map $remote_addr $shield_client {
    default                                                                      "";
    "~^[0-9]+\."                                                                 $remote_addr;
    "~^::ffff:(?<shield_v4>[0-9.]+)$"                                            $shield_v4;
    "~^(?<shield_a>[^:]+:[^:]+:[^:]+:[^:]+):"                                     "$shield_a-64";
    "~^(?<shield_b>[^:]+:[^:]+:[^:]+)::"                                          "$shield_b:0-64";
    "~^(?<shield_c>[^:]+:[^:]+)::"                                                "$shield_c:0:0-64";
    "~^(?<shield_d>[^:]+)::(?<shield_d4>[^:]+)(:[^:]+){4}$"                       "$shield_d:0:0:$shield_d4-64";
    "~^(?<shield_e>[^:]+)::"                                                      "$shield_e:0:0:0-64";
    "~^::(?<shield_f>[^:]+:[^:]+)(:[^:]+){4}$"                                    "0:0:$shield_f-64";
    "~^::(?<shield_g>[^:]+)(:[^:]+){4}$"                                          "0:0:0:$shield_g-64";
    "~^::"                                                                        "0:0:0:0-64";
}
map $remote_addr $shield_network {
    default                                                                      "";
    "~^(?:::ffff:)?(?<shield_v4a>[0-9]+\.[0-9]+\.[0-9]+)\.[0-9]+$"                "$shield_v4a.0-24";
    "~^(?<shield_h>[^:]+:[^:]+:[^:]+):"                                           "$shield_h-48";
    "~^(?<shield_i>[^:]+:[^:]+)::"                                                "$shield_i:0-48";
    "~^(?<shield_j>[^:]+)::"                                                      "$shield_j:0:0-48";
    "~^::(?<shield_k>[^:]+)(:[^:]+){5}$"                                          "0:0:$shield_k-48";
    "~^::"                                                                        "0:0:0-48";
}
map $remote_addr $shield_address {
    default                                   $remote_addr;
    "~^::ffff:(?<shield_v4b>[0-9.]+)$"        $shield_v4b;
}
"#;

/// The variable that says whether the included maps count now.
pub(super) const VALID: &str = "shield_valid";

/// Not as directives: they have to stand before the first map of the whole section, and nginx starts with none of them twice.
const ROOM: &str = "# With some thousand clients nginx warns that the maps' tables are not optimal, and goes on. Before the first map of the http section,
# `map_hash_max_size 65536;` and `map_hash_bucket_size 512;` give it room for 100,000.
";

/// The maps of the names, each with the file that it includes.
const MAPS: [(&str, &str, Part); 6] = [
    ("shield_client", "shield_map_client", Part::Clients),
    ("shield_network", "shield_map_network", Part::More),
    ("shield_address", "shield_map_address", Part::More),
    ("shield_client", "shield_free_client", Part::Exempt),
    ("shield_network", "shield_free_network", Part::Exempt),
    ("shield_address", "shield_free_address", Part::Exempt),
];

/// For the `http` section: makes the names from `$remote_addr`, and never from a header.
pub fn http(settings: &Settings) -> String {
    match settings.backend {
        Backend::Files => NAMES.to_owned(),
        Backend::Map => http_of_maps(&maps_in(&settings.folder)),
    }
}

/// For each `server` section: refuses a client that is denied, except where the path begins so.
pub fn server(settings: &Settings, open: &[OpenPath]) -> String {
    let mut text = match settings.backend {
        Backend::Files => server_of_files(&settings.folder),
        Backend::Map => server_of_maps(),
    };
    for OpenPath(path) in open {
        let pattern = path.replace('.', r"\.");
        text += &format!("if ($uri ~ \"^{pattern}\") {{ set $shield_denied \"\"; }}\n");
    }
    text + &format!("if ($shield_denied) {{ return {}; }}\n", settings.status)
}

/// The beginning of paths that are open to everybody. Compared with `$uri`, in which nginx has resolved what a client writes to seem
/// to be below it (`..`, `%2e`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenPath(String);

impl std::str::FromStr for OpenPath {
    type Err = String;

    fn from_str(text: &str) -> Result<OpenPath, String> {
        let is_plain = |char: char| char.is_ascii_alphanumeric() || "/._~-".contains(char);
        if !text.starts_with('/') || text.len() < 2 || !text.chars().all(is_plain) {
            return Err(nginx::NO_OPEN_PATH.to_owned());
        }
        Ok(OpenPath(text.to_owned()))
    }
}

/// The paths of the further looks are set where they are needed, because maps that yield nothing cost each request more.
fn server_of_files(folder: &Path) -> String {
    let mut text = String::from(
        "# Refuses denied clients. Include this in every server section.\nset $shield_denied \"\";\n",
    );
    let mut paths = String::new();
    for Look { path, inside, name, .. } in MORE_LOOKS {
        text += &format!("set ${path} \"\";\n");
        paths +=
            &format!("    set ${path} \"{}\";\n", folder.join(inside).join(format!("${name}")).display());
    }
    let folder = folder.display();
    text += &format!(
        "if (-f {folder}/$shield_client) {{ set $shield_denied 1; }}\nif (!-f {folder}/{FEW_LOOKS}) {{\n{paths}}}\n"
    );
    for Look { path, denies, .. } in MORE_LOOKS {
        let value = if denies { "1" } else { "\"\"" };
        text += &format!("if (-f ${path}) {{ set $shield_denied {value}; }}\n");
    }
    text
}

/// Each file is included by a pattern: a missing one is no error then, so that nginx starts without the agent.
fn http_of_maps(folder: &Path) -> String {
    let included = |part: Part| format!("include {}/{}*.map;", folder.display(), part.name());
    let mut text = format!("{NAMES}{ROOM}map $msec ${VALID} {{ default \"\"; {} }}\n", included(Part::Valid));
    for (name, map, part) in MAPS {
        text += &format!("map ${name} ${map} {{ default \"\"; {} }}\n", included(part));
    }
    text
}

fn server_of_maps() -> String {
    let mut text = String::from(
        "# Refuses denied clients. Include this in every server section.\nset $shield_denied \"\";\n",
    );
    for (_, map, part) in MAPS {
        let value = if part == Part::Exempt { "\"\"" } else { "1" };
        text += &format!("if (${map}) {{ set $shield_denied {value}; }}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_path_is_no_pattern_and_not_everything() {
        for text in ["", "/", "x", "/a b", "/a\"", "/$uri", "/(a|b)", "/a;", "/a{", "/ä", "/%2e"] {
            assert_eq!(text.parse::<OpenPath>(), Err(nginx::NO_OPEN_PATH.to_owned()), "{text}");
        }
        let open = ["/.well-known/acme-challenge/".parse().unwrap()];
        for backend in [Backend::Files, Backend::Map] {
            let settings = Settings { backend, ..Settings::default() };
            let (all, some) = (server(&settings, &[]), server(&settings, &open));
            let line = "if ($uri ~ \"^/\\.well-known/acme-challenge/\") { set $shield_denied \"\"; }\n";
            let end = "if ($shield_denied) { return 444; }\n";
            assert_eq!(some, all.replace(end, &format!("{line}{end}")));
        }
    }
}
