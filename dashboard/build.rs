//! Embeds the built page (`web/dist`, made by `cargo xtask build`) when it is there, and otherwise a page that says
//! that it is not, so that `cargo build` needs stable Rust and nothing else.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// The page's files: name in `web/dist`, path on the server, content type.
const FILES: [(&str, &str, &str); 3] = [
    ("index.html", "/", "text/html; charset=utf-8"),
    ("app.js", "/app.js", "text/javascript; charset=utf-8"),
    ("favicon.svg", "/favicon.svg", "image/svg+xml"),
];

/// What is served at `/` when the page was not built.
const NOT_BUILT: (&str, &str, &str) = ("src/not_built.html", "/", "text/html; charset=utf-8");

fn main() -> io::Result<()> {
    let here =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it for every build script"));
    let dist = here.join("web/dist");
    println!("cargo:rerun-if-changed={}", dist.display());
    println!("cargo:rerun-if-changed={}", here.join(NOT_BUILT.0).display());

    let built = FILES.iter().all(|(name, ..)| dist.join(name).is_file());
    let assets: Vec<(PathBuf, &str, &str)> = if built {
        FILES.map(|(name, at, content_type)| (dist.join(name), at, content_type)).into()
    } else {
        vec![(here.join(NOT_BUILT.0), NOT_BUILT.1, NOT_BUILT.2)]
    };

    // In the policy, which is one literal.
    let (page, ..) = assets.first().expect("each of the two lists begins with the page");
    println!("cargo:rustc-env=SHIELD_PAGE_STYLE={}", style_source(&fs::read_to_string(page)?));

    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it for every build script"));
    fs::write(out.join("assets.rs"), source(built, &assets)?)
}

/// What the policy allows as the page's style: the one in it, by the hash that the bundler put beside it.
fn style_source(page: &str) -> String {
    let hash = page.split_once("<style data-hash=\"").and_then(|(_, rest)| rest.split_once('"'));
    hash.map_or("'self'".to_owned(), |(hash, _)| format!("'{hash}'"))
}

/// The Rust source of the table of assets.
fn source(built: bool, assets: &[(PathBuf, &str, &str)]) -> io::Result<String> {
    let mut text = format!("const BUILT: bool = {built};\nconst ASSETS: &[Asset] = &[\n");
    for (file, at, content_type) in assets {
        let tag = entity_tag(file)?;
        writeln!(
            text,
            "    Asset {{ path: {at:?}, content_type: {content_type:?}, etag: {tag:?}, body: include_bytes!({:?}) }},",
            file.display().to_string()
        )
        .expect("writing to a String cannot fail");
    }
    text.push_str("];\n");
    Ok(text)
}

/// A weak entity tag (weak, because a compressed answer has other bytes): FNV-1a of the content.
fn entity_tag(file: &Path) -> io::Result<String> {
    let fnv1a = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let hash = fs::read(file)?.into_iter().fold(0xcbf2_9ce4_8422_2325, fnv1a);
    Ok(format!("W/\"{hash:016x}\""))
}
