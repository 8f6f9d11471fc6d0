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

#[test]
fn rules_are_checked_with_an_exit_code_that_says_how_bad_it_is() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let check = |text: &str, args: &[&str]| {
        let path = folder.path().join("rule.yaml");
        std::fs::write(&path, text).expect("room on the disk");
        let path = path.to_string_lossy().into_owned();
        let said = said(&[&["check", &path], args].concat());
        said.replace(&path, "rule.yaml")
    };
    let warned = "name: a\nwhitelist:\n  reason: a\n  cidr: [45.0.0.0/8]\n";
    assert!(said(&["check"]).starts_with("exit 0\n"));
    assert!(check(warned, &[]).starts_with("exit 0\nrule.yaml:4: warning[C013]"));
    insta::assert_snapshot!(check(warned, &["--strict"]), @r"
    exit 1
    rule.yaml:4: warning[C013] `45.0.0.0/8` is trusted as a whole, strangers included
      | cidr: [45.0.0.0/8]
      hint: list the ranges that are yours
    0 errors, 1 warning, 0 notes in 1 file
    error: there are errors or warnings in the rules
    hint: `cordon check --explain CODE` says what a code means
    ");
    assert!(check(&warned.replace("45.0.0.0/8", "0.0.0.0/0"), &["--sarif"]).starts_with("exit 1\n{\n"));
    insta::assert_snapshot!(said(&["check", "none"]), @r"
    exit 1

    error: cannot read `none`: No such file or directory (os error 2)
    ");
    insta::assert_snapshot!(said(&["check", "--explain", "C99"]), @r"
    exit 1

    error: there is no code `C99`
    hint: the codes are C000, C001, C002, C003, C004, C005, C006, C007, C008, C009, C010, C011, C012, C013, C014, C015
    ");
    assert!(said(&["check", "--explain", "wide-whitelist"]).contains("### Remedy"));
}

#[test]
fn rules_are_tried_on_recorded_logs() {
    let root = env!("CARGO_MANIFEST_DIR");
    let flows = format!("{root}/tests/flows");
    let now = "2026-08-22T00:00:00Z";
    let told = said(&["hub", "test", "--hub", root, "--tests", &flows, "--now", now, "ssh-bf", "http-probing"]);
    assert!(told.starts_with("exit 0\n2 of 2 tests succeed, with "), "{told}");

    let tests = tempfile::tempdir().expect("a temporary folder");
    let folder = tests.path().to_str().expect("a name in UTF-8");
    let log = format!("{flows}/ssh-bf/ssh-bf.log");
    let new =
        ["hub", "test", "--hub", root, "--tests", folder, "--now", now, "--new", "mine", "--log", &log, "-t", "syslog"];
    assert!(said(&new).contains("read its assertions before you keep them"));
    let file = tests.path().join("mine/scenario.assert");
    let assertions = std::fs::read_to_string(&file).expect("it was made");
    std::fs::write(&file, assertions.replace("len(results) == 1", "len(results) == 7")).expect("room on the disk");
    let told = said(&["hub", "test", "--hub", root, "--tests", folder, "--now", now]).replace(folder, "TESTS");
    insta::assert_snapshot!(told, @r"
    exit 1
    mine: 1 of 392 assertions fail
      TESTS/mine/scenario.assert:1: len(results) == 7
        expected: 7
        actual:   1
    0 of 1 tests succeed, with 392 assertions
    error: 1 of 1 tests failed
    ");
}
