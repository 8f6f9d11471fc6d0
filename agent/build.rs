//! Puts the rules we ship into the binary: a table of the files under `parsers/hub` and `scenarios/hub`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or(io::ErrorKind::NotFound)?);
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    let mut table =
        String::from("/// Path in the hub's layout, and content.\npub(super) const FILES: &[(&str, &[u8])] = &[\n");
    for (hub, folder) in [("../parsers/hub", "parsers"), ("../scenarios/hub", "scenarios")] {
        let hub = here.join(hub);
        println!("cargo:rerun-if-changed={}", hub.display());
        let mut files = Vec::new();
        collect(&hub, &mut files)?;
        files.sort();
        for file in files {
            let Ok(below) = file.strip_prefix(&hub) else { continue };
            let below = below.to_string_lossy().replace('\\', "/");
            // What is no rule of the folder's own kind has a folder of its own.
            let name = match below.split_once('/') {
                Some(("patterns" | "data" | "contexts" | "postoverflows", _)) => below,
                Some(("postoverflow", rest)) => format!("postoverflows/{rest}"),
                _ => format!("{folder}/{below}"),
            };
            // writing to a String cannot fail
            let _ = writeln!(table, "    ({name:?}, include_bytes!({:?})),", file.display().to_string());
        }
    }
    table.push_str("];\n");
    fs::write(out.join("shipped.rs"), table)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { collect(&path, files)? } else { files.push(path) }
    }
    Ok(())
}
