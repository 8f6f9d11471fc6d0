//! A real sshd and a real nginx on the victim, with configuration, keys and logs of their own.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::lab::Host;

/// A program that is stopped with its value.
pub(crate) struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts sshd on port 22. Its log goes to `auth.log` in `folder`, written as syslog writes it.
pub(crate) fn sshd(host: &Host, folder: &Path) -> (Server, PathBuf) {
    let key = folder.join("host_key");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
    assert!(made.is_ok_and(|status| status.success()), "cannot make a host key");
    fs::create_dir_all("/run/sshd").expect("root may make sshd's own folder");
    let log = folder.join("auth.log");
    let mut file = OpenOptions::new().create(true).append(true).open(&log).expect("a writable folder");

    let mut command = host.command("/usr/sbin/sshd");
    command.args(["-D", "-e", "-f", "/dev/null", "-h"]).arg(&key);
    let mut options =
        vec!["UsePAM=no", "PasswordAuthentication=yes", "PermitRootLogin=yes", "MaxStartups=200", "UseDNS=no"];
    let knows_penalties = Command::new("/usr/sbin/sshd")
        .args(["-t", "-f", "/dev/null", "-o", "PerSourcePenalties=no", "-h"])
        .arg(&key)
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if knows_penalties {
        // newer ones shut attackers out by themselves, for a while
        options.push("PerSourcePenalties=no");
    }
    for option in options {
        command.args(["-o", option]);
    }
    let mut child =
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("sshd is installed: make test installs it");
    let pid = child.id();
    let said = child.stderr.take().expect("it is piped");
    std::thread::spawn(move || {
        for message in BufReader::new(said).lines().map_while(Result::ok) {
            let time = jiff::Zoned::now().strftime("%b %e %H:%M:%S").to_string();
            let line = format!("{time} victim sshd[{pid}]: {}\n", message.trim_end());
            if file.write_all(line.as_bytes()).is_err() {
                return;
            }
        }
    });
    (Server(child), log)
}

/// Starts nginx on port 80 with an access log in `folder`.
pub(crate) fn nginx(host: &Host, folder: &Path) -> (Server, PathBuf) {
    let log = folder.join("access.log");
    File::create(&log).expect("a writable folder");
    fs::create_dir_all(folder.join("www")).expect("a writable folder");
    fs::write(folder.join("www/index.html"), "hello\n").expect("a writable folder");
    let place = folder.display();
    let config = format!(
        "daemon off; master_process off; user root; pid {place}/nginx.pid; error_log {place}/error.log;\n\
         events {{}}\n\
         http {{\n\
           access_log {place}/access.log combined;\n\
           client_body_temp_path {place}/t1; proxy_temp_path {place}/t2; fastcgi_temp_path {place}/t3;\n\
           uwsgi_temp_path {place}/t4; scgi_temp_path {place}/t5;\n\
           server {{ listen 80; listen [::]:80; root {place}/www; }}\n\
         }}\n"
    );
    let path = folder.join("nginx.conf");
    fs::write(&path, config).expect("a writable folder");
    let child = host
        .command("/usr/sbin/nginx")
        .arg("-p")
        .arg(folder)
        .arg("-e")
        .arg(folder.join("error.log"))
        .arg("-c")
        .arg(&path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nginx is installed: make test installs it");
    (Server(child), log)
}

/// Tries a wrong password once. Whoever is cut off in the middle of it gives up soon.
pub(crate) fn guess_password(host: &Host, own: IpAddr, victim: IpAddr, user: &str) {
    let status = host
        .command("timeout")
        .args(["3", "sshpass", "-p", "wrong", "ssh", "-F", "/dev/null", "-b", &own.to_string(), "-l", user])
        .args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=1"])
        .args(["-o", "PreferredAuthentications=password", "-o", "NumberOfPasswordPrompts=1", "-o", "LogLevel=ERROR"])
        .args([&victim.to_string(), "true"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("sshpass is installed: make test installs it");
    assert!(!status.success(), "a wrong password was accepted");
}

/// Asks for `path` once; the status code if there is an answer.
pub(crate) fn get(host: &Host, own: IpAddr, victim: IpAddr, path: &str, agent: &str) -> Option<String> {
    let url = match victim {
        IpAddr::V4(ip) => format!("http://{ip}{path}"),
        IpAddr::V6(ip) => format!("http://[{ip}]{path}"),
    };
    let output = host
        .command("curl")
        .args(["-q", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "1", "--path-as-is", "-A", agent])
        .args(["--interface", &own.to_string(), &url])
        .stdin(Stdio::null())
        .output()
        .expect("curl is installed: make test installs it");
    let code = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.success() && code != "000").then_some(code)
}
