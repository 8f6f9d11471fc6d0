//! `cordon backup` and `cordon restore`: what a server cannot make again, taken and put back whole, in one file.
//!
//! The file is a tar archive: the database as it was at one moment, the archives of its audit trail, the site's certificates
//! with their keys, and the keys of tokens. Modes are kept, owners are those of the state folder.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, bail};
use api::server::service::{Author, Origin};
use api::store::StoreError;
use api::store::sqlite::{self, Replaced};
use jiff::Timestamp;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, chownat, openat, statat};
use rustix::process::{Gid, Uid, geteuid, getuid};
use serde_json::json;
use tar::{Archive, Builder, EntryType, HeaderMode};

use crate::args::{Format, Global};
use crate::config::Config;
use crate::output;
use crate::remote;
use crate::run;

/// The database in a backup.
const DATABASE: &str = "cordon.db";
/// What lies beside the database and goes with it.
const BESIDE: &[&str] = &["audit", "pki", "token.keys"];
/// How many folders lie in each other at most in what is given to its owner.
const MAX_DEPTH: usize = 4;
/// With what a file begins that is a database itself: backups were once nothing else.
const SQLITE: &[u8] = b"SQLite format 3\0";

pub(crate) fn backup(global: &Global, file: &Path) -> anyhow::Result<()> {
    let config = Config::load(global)?;
    let made = OpenOptions::new().create_new(true).write(true).mode(0o600).open(file);
    let made = match made {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!(
                "`{}` is there already\nhint: name a file that does not exist yet; nothing is overwritten",
                file.display()
            )
        }
        made => made.with_context(|| format!("cannot write `{}`", file.display()))?,
    };
    let written = write(&config, file, made).context("cannot make a backup");
    if written.is_err() {
        // The failure is told; half a backup must not be taken for a whole one.
        let _ = fs::remove_file(file);
    }
    let parts = written?;
    remote::note(global, "backup", &file.to_string_lossy());
    let size = fs::metadata(file).map(|data| data.len()).unwrap_or_default();
    match global.output {
        Format::Json => output::json(&json!({ "file": file, "bytes": size, "parts": parts })),
        Format::Human | Format::Raw => output::line(&format!(
            "{}: {size} bytes ({}); whoever has it can become an administrator and reads what was logged about people: keep it safe",
            file.display(),
            parts.join(", ")
        )),
    }
}

/// Fills the backup `made`; answers what is in it.
fn write(config: &Config, file: &Path, made: File) -> anyhow::Result<Vec<&'static str>> {
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let scratch = tempfile::Builder::new().prefix(".cordon-backup").tempdir_in(folder)?;
    let copy = scratch.path().join(DATABASE);
    sqlite::backup(&config.database(), &copy)?;
    let mut archive = Builder::new(made);
    archive.mode(HeaderMode::Complete);
    archive.follow_symlinks(false);
    archive.append_path_with_name(&copy, DATABASE)?;
    let mut parts = vec![DATABASE];
    for part in BESIDE {
        let path = config.state.join(part);
        match fs::symlink_metadata(&path) {
            Ok(data) if data.is_dir() => archive.append_dir_all(part, &path),
            Ok(_) => archive.append_path_with_name(&path, part),
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => Err(error),
        }
        .with_context(|| format!("cannot read `{}`", path.display()))?;
        parts.push(part);
    }
    archive.into_inner()?.sync_all()?;
    Ok(parts)
}

pub(crate) fn restore(global: &Global, file: &Path) -> anyhow::Result<()> {
    let config = Config::load(global)?;
    run::make_folder(&config.state)?;
    let author = Author { name: format!("uid {}", getuid().as_raw()), from: Origin::Inside, proof: "none" };
    let entry = author.did("restore", &file.to_string_lossy(), Timestamp::now());
    let (database, mut kept) = (config.database(), Vec::new());
    let scratch = tempfile::Builder::new().prefix(".restoring").tempdir_in(&config.state)?;
    let is_database = begins_like_a_database(file).with_context(|| format!("cannot read `{}`", file.display()))?;
    let copy = if is_database { file.to_owned() } else { scratch.path().join(DATABASE) };
    if !is_database {
        unpack(file, scratch.path()).with_context(|| format!("`{}` is no backup that can be read", file.display()))?;
    }
    let Replaced { kept: former, untold } = match sqlite::restore(&database, &copy, &entry) {
        Err(StoreError::InUse { .. }) => bail!(
            "cordon is running on `{}`: nothing is replaced under it\nhint: stop it first (`systemctl stop cordon`), then restore, then start it",
            config.state.display()
        ),
        replaced => replaced.context("cannot restore")?,
    };
    kept.extend(former);
    if let Some(error) = untold {
        tracing::warn!(%error, "bouncers that poll keep what only the former database knew until it ends by itself");
    }
    if !is_database {
        for part in BESIDE {
            let there = config.state.join(part);
            let replaced = replace(&there, &scratch.path().join(part), *part == "audit");
            kept.extend(replaced.with_context(|| format!("cannot put `{}` back", there.display()))?);
        }
    }
    give_to_owner(&config.state);
    match global.output {
        Format::Json => output::json(&json!({ "database": database, "kept": kept })),
        Format::Human | Format::Raw => {
            output::line(&format!("{} is what it was when the backup was made", config.state.display()))?;
            kept.iter().try_for_each(|kept| output::line(&format!("what was there is kept as {}", kept.display())))
        }
    }
}

fn begins_like_a_database(file: &Path) -> std::io::Result<bool> {
    let mut begin = Vec::new();
    File::open(file)?.take(SQLITE.len() as u64).read_to_end(&mut begin)?;
    Ok(begin == SQLITE)
}

/// Unpacks a backup; refuses what `backup` does not write.
fn unpack(file: &Path, folder: &Path) -> anyhow::Result<()> {
    let mut archive = Archive::new(File::open(file)?);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        let first = path.components().next().map(|first| first.as_os_str().to_owned()).unwrap_or_default();
        let known = first == DATABASE || BESIDE.iter().any(|part| first == *part);
        let kind = entry.header().entry_type();
        if !plain || !known || !matches!(kind, EntryType::Regular | EntryType::Directory) {
            bail!("`{}` is nothing that belongs into a backup", path.display());
        }
        let mode = entry.header().mode()? & 0o777;
        let to = folder.join(&path);
        if kind == EntryType::Directory {
            fs::create_dir_all(&to)?;
        } else {
            to.parent().map_or(Ok(()), fs::create_dir_all)?;
            let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&to)?;
            std::io::copy(&mut entry, &mut file)?;
            file.sync_all()?;
        }
        fs::set_permissions(&to, fs::Permissions::from_mode(mode))?;
    }
    if folder.join(DATABASE).exists() { Ok(()) } else { bail!("it holds no database") }
}

/// Puts `new` in the place of `there`, which is kept beside it; answers where. If there is nothing new, what is there stays,
/// unless it is of no use `alone`.
fn replace(there: &Path, new: &Path, alone: bool) -> std::io::Result<Option<PathBuf>> {
    if !new.exists() && !alone {
        return Ok(None);
    }
    let mut name = there.as_os_str().to_owned();
    name.push(".before-restore");
    let kept = PathBuf::from(name);
    let had_one = there.exists();
    if had_one {
        if kept.is_dir() {
            fs::remove_dir_all(&kept)?;
        }
        fs::rename(there, &kept)?;
    }
    if new.exists() {
        fs::rename(new, there)?;
    }
    Ok(had_one.then_some(kept))
}

/// Lets the user to whom the state folder belongs have what this one, as root, put into it: the service seldom is root.
pub(crate) fn give_to_owner(state: &Path) {
    let Ok(owner) = fs::metadata(state) else { return };
    if !geteuid().is_root() || owner.uid() == 0 {
        return;
    }
    let given = File::open(state)
        .map_err(anyhow::Error::from)
        .and_then(|folder| give(&folder.into(), (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid())), MAX_DEPTH));
    if let Err(error) = given {
        tracing::warn!(%error, "cannot give the files in `{}` to its owner: cordon may not be able to read them", state.display());
    }
}

/// Gives what is in `folder` and belongs to root to `owner`. He may change what lies there meanwhile, so no link is followed, and
/// no file touched that has another name elsewhere.
fn give(folder: &OwnedFd, owner: (Uid, Gid), depth: usize) -> anyhow::Result<()> {
    let entries = Dir::read_from(folder)?.collect::<Result<Vec<_>, _>>()?;
    for entry in entries {
        let name = entry.file_name();
        if depth == 0 || name.to_bytes() == b"." || name.to_bytes() == b".." {
            continue;
        }
        let data = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(data.st_mode);
        let is_folder = kind == FileType::Directory;
        if data.st_uid == 0 && (is_folder || kind == FileType::RegularFile && data.st_nlink == 1) {
            chownat(folder, name, Some(owner.0), Some(owner.1), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if is_folder {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            give(&openat(folder, name, flags, Mode::empty())?, owner, depth - 1)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_belongs_into_a_backup_is_unpacked() {
        // (what is in the file: name and kind; whether it is taken)
        let file = EntryType::Regular;
        let cases: &[(&[(&str, EntryType)], bool)] = &[
            (&[("cordon.db", file)], true),
            (&[("cordon.db", file), ("pki", EntryType::Directory), ("pki/site.key", file), ("token.keys", file)], true),
            (&[("token.keys", file)], false),
            (&[("cordon.db", file), ("other", file)], false),
            (&[("cordon.db", file), ("pki/../../other", file)], false),
            (&[("cordon.db", file), ("/pki/other", file)], false),
            (&[("cordon.db", file), ("pki", EntryType::Symlink)], false),
            (&[("cordon.db", file), ("cordon.db", file)], false),
            (&[], false),
        ];
        for (entries, taken) in cases {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let path = folder.path().join("backup");
            let mut archive = Builder::new(File::create(&path).expect("a file"));
            for (name, kind) in *entries {
                let mut header = tar::Header::new_gnu();
                header.as_gnu_mut().expect("it is one").name[..name.len()].copy_from_slice(name.as_bytes());
                header.set_entry_type(*kind);
                header.set_mode(0o400);
                header.set_size(0);
                header.set_cksum();
                archive.append(&header, std::io::empty()).expect("it is written");
            }
            archive.finish().expect("it is written");
            let to = folder.path().join("to");
            fs::create_dir(&to).expect("a folder");
            assert_eq!(unpack(&path, &to).is_ok(), *taken, "{entries:?}");
            assert!(!folder.path().join("other").exists());
        }
    }

    #[test]
    fn what_root_put_into_a_folder_is_given_to_its_owner_and_nothing_else() {
        if !geteuid().is_root() {
            eprintln!("SKIPPED, NOT PASSED: only root has something to give");
            return;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (state, other) = (folder.path().join("state"), folder.path().join("other"));
        fs::create_dir_all(state.join("pki")).expect("a folder");
        for path in [&state.join("cordon.db"), &state.join("pki/ca.key"), &other] {
            fs::write(path, "").expect("a file");
        }
        std::os::unix::fs::symlink(&other, state.join("link")).expect("a link");
        std::os::unix::fs::symlink(folder.path(), state.join("folders")).expect("a link");
        fs::hard_link(&other, state.join("name")).expect("another name");
        std::os::unix::fs::chown(&state, Some(65534), Some(65534)).expect("it is ours");
        give_to_owner(&state);
        let owner = |path: &Path| fs::symlink_metadata(path).expect("it is there").uid();
        for (path, uid) in [("cordon.db", 65534), ("pki", 65534), ("pki/ca.key", 65534), ("name", 0), ("link", 0)] {
            assert_eq!(owner(&state.join(path)), uid, "{path}");
        }
        assert_eq!(owner(&other), 0, "no link is followed");
    }
}
