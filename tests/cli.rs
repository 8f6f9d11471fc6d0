//! What can be typed, and what is said about mistakes.

use std::process::{Command, Output, Stdio};

fn cordon(args: &[&str]) -> Output {
    let folder = tempfile::tempdir().expect("a temporary folder");
    Command::new(env!("CARGO_BIN_EXE_cordon"))
        .args(args)
        .current_dir(folder.path())
        .env_clear()
        .env("CORDON_STATE", "state")
        .env("COLUMNS", "100")
        .stdin(Stdio::null())
        .output()
        .expect("the binary was built")
}

/// Exit code, standard output and standard error, as one text.
fn said(args: &[&str]) -> String {
    let output = cordon(args);
    let code = output.status.code().expect("it was not killed");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    format!("exit {code}\n{}\n{}", text(&output.stdout), text(&output.stderr)).trim_end().to_owned()
}

#[test]
fn mistakes_are_answered_with_the_way_out() {
    insta::assert_snapshot!(said(&["confg"]), @r"
    exit 2

    error: unrecognized subcommand 'confg'

      tip: a similar subcommand exists: 'config'

    Usage: cordon [OPTIONS] <COMMAND>

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(said(&["config", "check", "-c", "missing.yaml"]), @r"
    exit 1

    error: cannot read `missing.yaml`: No such file or directory (os error 2)
    ");
    insta::assert_snapshot!(said(&["status"]), @r"
    exit 1

    error: cordon is not running: nobody answers at `state/cordon.sock`
    hint: start it with `cordon run`, or name its state folder with --state
    ");
    insta::assert_snapshot!(said(&["run", "--state", "/proc/none"]), @r"
    exit 1

    error: cannot use `/proc/none` as state folder: No such file or directory (os error 2)
    hint: name another one with --state
    ");
}

#[test]
fn a_port_in_use_is_said_with_the_way_out() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").and_then(|taken| taken.local_addr().map(|at| (taken, at)));
    let (_taken, address) = taken.expect("loopback has a free port");
    let text = said(&["run", "--listen", &address.to_string()]).replace(&address.to_string(), "ADDRESS");
    insta::assert_snapshot!(text, @r"
    exit 1

    error: another program listens on ADDRESS
    hint: choose another address with --listen, or set `api: { listen: off }`; `ss -ltnp` shows who it is
    ");
}

#[test]
fn manual_pages_and_completions_are_made() {
    for shell in ["bash", "zsh", "fish"] {
        let output = cordon(&["completions", shell]);
        assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("cordon"), "{shell}");
    }
    assert!(cordon(&["man", "pages"]).status.success());
}
