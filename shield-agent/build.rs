//! Embeds the XDP object, which is committed so that building the agent needs no BPF toolchain. Without it the agent
//! still builds, and says at start that it has none.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// Where `cargo xtask build-ebpf` leaves the object, from the workspace's root.
const OBJECT: &str = "shield-ebpf/prebuilt/shield-ebpf";

fn main() {
    let object = workspace_root().join(OBJECT);
    watch(&object);
    let expression = if object.is_file() {
        format!("Some(aya::include_bytes_aligned!({object:?}))")
    } else {
        String::from("None")
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts"));
    fs::write(out.join("xdp_object.rs"), expression).expect("wrote into OUT_DIR");
}

fn workspace_root() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    Path::new(&manifest).parent().expect("the agent's folder is inside the workspace").to_owned()
}

/// Runs this again when the object appears, changes or goes. Its folder is made, because cargo takes a watched path
/// that does not exist as always changed and would rebuild the agent every time.
fn watch(object: &Path) {
    let folder = object.parent().expect("the object's path has a folder");
    // Where it cannot be created (a read-only checkout) nothing is lost but the time of a rebuild.
    let _ = fs::create_dir_all(folder);
    println!("cargo::rerun-if-changed={}", folder.display());
    println!("cargo::rerun-if-changed=build.rs");
}
