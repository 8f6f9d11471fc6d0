//! What happens when the disk is full, or cannot be written at all.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::cordon::Cordon;
use crate::support::eventually;

/// A disk of its own, gone with its value.
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// A small one in memory, with these options. Nothing, if disks cannot be mounted here.
    pub(crate) fn mount(path: &Path, options: &str) -> Option<Self> {
        Self::with(path, Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]))
    }

    /// The folder `of` under another name.
    pub(crate) fn bind(of: &Path, path: &Path) -> Option<Self> {
        Self::with(path, Command::new("mount").arg("--bind").arg(of))
    }

    fn with(path: &Path, mount: &mut Command) -> Option<Self> {
        fs::create_dir_all(path).expect("a writable folder");
        let status = mount.arg(path).stderr(Stdio::null()).status();
        if rustix::process::geteuid().is_root() && status.is_ok_and(|status| status.success()) {
            return Some(Self(path.into()));
        }
        eprintln!("SKIPPED, NOT PASSED: no disk can be mounted here: run the tests as root, where that is allowed");
        None
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // nothing more can be done about what refuses to go
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_acknowledges_nothing_and_loses_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let state = folder.path().join("cordon/state");
    let Some(_disk) = Disk::mount(&state, "size=4m,mode=0700") else { return };
    let mut cordon = Cordon::install(None, folder.path(), "enforcement:\n  mode: off\n", "");
    cordon.start();
    cordon.ask(&["bouncers", "add", "fw", "--key", "right"]);
    cordon.ask(&["ban", "198.51.100.1", "--for", "1h"]);

    let filler = state.join("filler");
    // it ends with an error, when there is no room left
    let _ = fs::write(&filler, vec![0; 8 << 20]);
    let ask = |key: &str| cordon.get(key, "v1/decisions?ip=198.51.100.1").0;
    // a large reason does not fit into what is left of the write-ahead log
    let reason = "x".repeat(200);
    let mut acknowledged = Vec::new();
    let mut pending = None;
    for last in 2..250 {
        let ip = format!("198.51.100.{last}");
        let mut child = cordon.spawn(&["ban", &ip, "--for", "1h", "--reason", &reason]);
        let mut tries = 0;
        let status = loop {
            if let Some(status) = child.try_wait().expect("it is our child") {
                break Some(status);
            }
            if tries == 100 {
                break None;
            }
            tries += 1;
            std::thread::sleep(std::time::Duration::from_millis(20));
        };
        if let Some(status) = status {
            assert!(status.success(), "{ip} was refused");
            acknowledged.push(format!("Ip:{ip}"));
        } else {
            pending = Some((child, format!("Ip:{ip}")));
            break;
        }
    }
    let (mut child, waiting) = pending.expect("the disk is full at some time");
    eventually("it says what is wrong", || cordon.log().contains("cannot write to the store, trying again"));
    assert_eq!(ask("wrong"), "403", "nobody is let in");
    assert_eq!(ask("right"), "200", "who may ask is answered");
    assert!(child.try_wait().expect("it is our child").is_none(), "what is not written is not acknowledged");

    fs::remove_file(&filler).expect("it was written");
    assert!(child.wait().expect("it is our child").success(), "it goes on by itself");
    cordon.kill();
    cordon.start();
    let banned = cordon.banned();
    acknowledged.extend([waiting, "Ip:198.51.100.1".to_owned()]);
    let lost: Vec<_> = acknowledged.iter().filter(|ban| !banned.contains(ban)).collect();
    assert!(lost.is_empty(), "lost {lost:?}");
}

#[test]
fn a_disk_that_cannot_be_written_is_told_at_the_start() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let state = folder.path().join("cordon/state");
    let Some(_disk) = Disk::mount(&state, "size=1m,ro") else { return };
    let cordon = Cordon::install(None, folder.path(), "enforcement:\n  mode: off\n", "");
    let output = cordon.run(&["run"]);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains("Read-only file system") && complaint.contains("state"), "{complaint}");
}

#[test]
fn a_disk_that_turns_read_only_is_told_and_what_was_acknowledged_stays() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (image, state) = (folder.path().join("image"), folder.path().join("cordon/state"));
    let file = fs::File::create(&image).expect("a writable folder");
    file.set_len(32 << 20).expect("a file with holes");
    fs::create_dir_all(&state).expect("a writable folder");
    let run = |program: &str, args: &[&str], on: &[&Path]| {
        let command = Command::new(program).args(args).args(on).stdout(Stdio::null()).stderr(Stdio::null()).status();
        rustix::process::geteuid().is_root() && command.is_ok_and(|status| status.success())
    };
    let mount = || run("mount", &["-o", "loop"], &[&image, &state]);
    if !run("mkfs.ext4", &["-q"], &[&image]) || !mount() {
        eprintln!(
            "SKIPPED, NOT PASSED: no disk can be made out of a file here: run the tests as root, where that is allowed"
        );
        return;
    }
    let _disk = Disk(state.clone());
    let mut cordon = Cordon::install(None, folder.path(), "enforcement:\n  mode: off\n", "");
    cordon.start();
    cordon.ask(&["bouncers", "add", "fw", "--key", "right"]);
    cordon.ask(&["ban", "198.51.100.1", "--for", "1h"]);

    assert!(
        run("mount", &["-o", "remount,abort"], &[&state]),
        "the file system gives up, as after an error of the disk"
    );
    let mut child = cordon.spawn(&["ban", "198.51.100.2", "--for", "1h"]);
    eventually("whoever watches is told", || {
        let output = cordon.run(&["status"]);
        output.status.code() == Some(3)
            && String::from_utf8_lossy(&output.stdout).contains("the store cannot be written")
    });
    for route in ["v1/decisions?ip=198.51.100.1", "v1/decisions/stream?startup=true"] {
        let ask = |key: &str| cordon.get(key, route).0;
        assert_eq!((ask("wrong"), ask("right")), ("403".into(), "200".into()), "{route}");
    }
    assert!(child.try_wait().expect("it is our child").is_none(), "what is not written is not acknowledged");
    child.kill().expect("it is our child");
    child.wait().expect("it is our child");

    cordon.kill();
    // the kernel may take a moment to let go of what gave up
    eventually("the disk is well again", || {
        run("umount", &[], &[&state]);
        mount() && fs::write(state.join("probe"), "").is_ok()
    });
    cordon.start();
    assert_eq!(cordon.banned(), ["Ip:198.51.100.1"]);
}
