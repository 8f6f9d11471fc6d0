//! Real proxies with the configuration that `cordon bouncer setup` prints.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use bouncers::config::OnLoss;
use bouncers::forward::Forward;
use bouncers::forward::config::{Config, RawConfig};
use bouncers::forward::metrics::Metrics;
use bouncers::forward::reference::Reference;
use bouncers::forward::setup::{Proxy, sample};
use bouncers::serve::config::On;

use crate::support::{Program, Seen, application, ban, find, free_port, get, load, silence, user, wait_for};

/// Banned addresses on this host's own loopback: a client that comes from one of them needs no forged header.
const BANNED: &str = "127.0.0.66";

const PROFILES: &str = "profiles:\n  web: { paths: [/.git] }\n  nginx: { proxy: nginx, paths: [/.git] }\n  \
    users: { identity: X-User }\n  nginx_users: { proxy: nginx, identity: X-User }";

fn config(listen: &str) -> Config {
    let raw: RawConfig = serde_saphyr::from_str(&format!("{listen}\n{PROFILES}")).expect("valid test YAML");
    raw.check(&[]).expect("a valid test configuration")
}

/// A service with bans in it, and the configuration that proxies get.
struct Service {
    target: Option<Forward>,
    config: Config,
}

impl Service {
    fn on(listen: &str) -> Self {
        let mut config = config(listen);
        let mut target = Forward::open(&config, OnLoss::Keep, Metrics::default()).expect("it can be opened");
        load(&mut target, &[ban(BANNED), ban("203.0.113.9"), ban("2001:db8:1::/64"), user("mallory")]);
        if let Some(address) = target.local_addr() {
            config.listen.on = On::Tcp(address);
        }
        Self { target: Some(target), config }
    }

    fn on_socket(folder: &Path) -> Self {
        Self::on(&format!("listen: unix:{}/forward.sock", folder.display()))
    }

    fn on_address() -> Self {
        Self::on("listen: 127.0.0.1:0\ntrusted_proxies: [127.0.0.1]")
    }

    /// The configuration of one that takes questions and answers none.
    fn silent() -> Config {
        let mut config = config("listen: 127.0.0.1:0\ntrusted_proxies: [127.0.0.1]");
        config.listen.on = On::Tcp(silence());
        config
    }
}

/// A proxy in a folder of its own.
struct Running {
    _program: Program,
    _folder: tempfile::TempDir,
    address: SocketAddr,
}

impl Running {
    fn start(command: &mut Command, folder: tempfile::TempDir, port: u16) -> Self {
        let log = folder.path().join("log");
        let program = Program::start(command, &log);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        wait_for(address, &log);
        Self { _program: program, _folder: folder, address }
    }

    fn get(&self, path: &str, headers: &[(&str, &str)]) -> u16 {
        get(self.address, path, headers).map_or(0, |seen| seen.status)
    }

    /// The same from another address of the loopback.
    fn get_from(&self, from: &str, headers: &[&str]) -> Option<Seen> {
        let mut command = Command::new("curl");
        command.args(["--silent", "--max-time", "20", "--interface", from, "--write-out", "\n%{http_code}"]);
        for header in headers {
            command.args(["--header", header]);
        }
        let output = command
            .arg(format!("http://{}/", self.address))
            .output()
            .expect("curl is installed: make test installs it");
        let text = String::from_utf8(output.stdout).ok()?;
        let (body, status) = text.rsplit_once('\n')?;
        Some(Seen { status: status.parse().ok()?, body: body.to_owned() })
    }
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // the proxies' workers may be other users
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).expect("a folder of ours");
    folder
}

fn write(folder: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).expect("a writable folder");
    path
}

fn nginx(config: &Config, profile: &str, open: bool) -> Option<Running> {
    let program = find("nginx", "NGINX_BIN", "forward-auth behind nginx")?;
    let (folder, port) = (folder(), free_port());
    let text = sample(config, Proxy::Nginx, profile, open).expect("nginx can ask");
    let (http, server) = text.split_once("# in each server block").expect("it has two parts");
    let place = folder.path().display();
    let text = format!(
        "user root;\ndaemon off;\nworker_processes 1;\npid {place}/pid;\nerror_log {place}/log;\nevents {{}}\nhttp {{\naccess_log off;\n\
         client_body_temp_path {place}/b; proxy_temp_path {place}/p; fastcgi_temp_path {place}/f; uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;\n\
         {http}\nserver {{\nlisten 127.0.0.1:{port};\n{server}\nlocation / {{ proxy_pass http://{}; }}\n\
         location = /forbidden {{ return 403; }}\n}}\n}}\n",
        application()
    );
    let file = write(&folder, "nginx.conf", &text);
    let mut command = Command::new(program);
    command.arg("-c").arg(file).arg("-p").arg(folder.path());
    Some(Running::start(&mut command, folder, port))
}

fn caddy(config: &Config, profile: &str, open: bool) -> Option<Running> {
    let program = find("caddy", "CADDY_BIN", "forward-auth behind Caddy")?;
    let (folder, port) = (folder(), free_port());
    let site = sample(config, Proxy::Caddy, profile, open).expect("Caddy can ask");
    let site = site.replace(
        "site.example {",
        &format!("http://127.0.0.1:{port}, http://site.example:{port} {{\n\tbind 127.0.0.1"),
    );
    let site = site.replace("127.0.0.1:8080", &application().to_string());
    let file = write(&folder, "Caddyfile", &format!("{{\n\tadmin off\n\tauto_https off\n}}\n{site}"));
    let mut command = Command::new(program);
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file);
    command.env("HOME", folder.path()).env("XDG_DATA_HOME", folder.path()).env("XDG_CONFIG_HOME", folder.path());
    Some(Running::start(&mut command, folder, port))
}

fn traefik(config: &Config, profile: &str) -> Option<Running> {
    let program = find("traefik", "TRAEFIK_BIN", "forward-auth behind Traefik")?;
    let (folder, port) = (folder(), free_port());
    let text = sample(config, Proxy::Traefik, profile, false).expect("Traefik can ask");
    let (dynamic, entry) = text.split_once("# static configuration").expect("it has two parts");
    let place = folder.path().display();
    let routes = format!(
        "  routers:\n    all:\n      rule: PathPrefix(`/`)\n      service: app\n  services:\n    app:\n      loadBalancer:\n        \
         servers: [{{ url: 'http://{}' }}]\n",
        application()
    );
    write(&folder, "dynamic.yaml", &format!("{dynamic}{routes}"));
    let entry = entry.replace("\":443\"", &format!("\"127.0.0.1:{port}\""));
    let text = format!(
        "global: {{ checkNewVersion: false, sendAnonymousUsage: false }}\n{entry}providers:\n  file: {{ filename: {place}/dynamic.yaml }}\n"
    );
    let file = write(&folder, "traefik.yaml", &text);
    let mut command = Command::new(program);
    command.arg(format!("--configFile={}", file.display())).current_dir(folder.path());
    let running = Running::start(&mut command, folder, port);
    // it listens before it knows where to
    for _ in 0..500 {
        if running.get("/", &[]) != 404 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Some(running)
}

/// What every proxy must do; `running` asks for a profile that refuses `/.git`.
fn keeps_out(name: &str, running: &Running) {
    let forged = ("X-Forwarded-For", "203.0.113.9");
    let innocent = ("X-Forwarded-For", "192.0.2.1");
    assert_eq!(
        get(running.address, "/", &[]),
        Some(Seen { status: 200, body: "application".into() }),
        "{name}: a stranger"
    );
    assert_eq!(running.get("/", &[forged]), 200, "{name}: a forged header gets nobody refused");
    assert_eq!(running.get("/.git/config", &[]), 403, "{name}: a refused path");
    assert_eq!(running.get("/%2egit/config", &[innocent]), 403, "{name}: the same in another spelling");
    let refused =
        running.get_from(BANNED, &["X-Forwarded-For: 192.0.2.1", "Accept: application/json"]).expect("an answer");
    assert_eq!(refused.status, 403, "{name}: a forged header lets nobody in");
    let json: serde_json::Value = serde_json::from_str(&refused.body).expect("the form that was asked for");
    let reference: Reference = json["reference"].as_str().expect("a reference").parse().expect("a reference");
    assert_eq!(reference.address.to_string(), BANNED, "{name}");
    let posted = ["-X", "POST", "--data", "a=b", "--output", "/dev/null", "--write-out", "%{http_code}"];
    for (from, status) in [("127.0.0.1", "200"), (BANNED, "403")] {
        let mut command = Command::new("curl");
        command.args(["--silent", "--max-time", "20", "--interface", from]).args(posted);
        let output = command.arg(format!("http://{}/", running.address)).output();
        let output = output.expect("curl is installed: make test installs it");
        assert_eq!(String::from_utf8_lossy(&output.stdout), status, "{name}: a body, from {from}");
    }
    let page = running.get_from(BANNED, &["Accept: text/html"]).expect("an answer").body;
    assert!(page.contains("<h1>Access refused</h1>") && !page.contains("ban"), "{name}: {page}");
}

#[test]
fn nginx_keeps_out() {
    let place = folder();
    let service = Service::on_socket(place.path());
    let Some(running) = nginx(&service.config, "nginx", false) else { return };
    keeps_out("nginx", &running);
    assert_eq!(running.get("/forbidden", &[]), 403, "what nginx itself refuses stays refused");
    let Some(users) = nginx(&service.config, "nginx_users", false) else { return };
    assert_eq!(users.get("/", &[("X-User", "mallory")]), 403, "who is logged in");
    assert_eq!(users.get("/", &[("X-User", "alice")]), 200);
}

#[test]
fn caddy_keeps_out() {
    let place = folder();
    for service in [Service::on_socket(place.path()), Service::on_address()] {
        let Some(running) = caddy(&service.config, "web", false) else { return };
        keeps_out("caddy", &running);
    }
}

#[test]
fn traefik_keeps_out() {
    let service = Service::on_address();
    let Some(running) = traefik(&service.config, "web") else { return };
    keeps_out("traefik", &running);
    let Some(users) = traefik(&service.config, "users") else { return };
    assert_eq!(users.get("/", &[("X-User", "mallory")]), 403, "who is logged in");
}

#[test]
fn nobody_passes_a_service_that_is_stopped_unless_that_is_asked_for() {
    let place = folder();
    let mut socket = Service::on_socket(place.path());
    let mut address = Service::on_address();
    let running = [
        ("nginx", nginx(&socket.config, "nginx", false), 500),
        ("nginx, open", nginx(&socket.config, "nginx", true), 200),
        ("caddy", caddy(&address.config, "web", false), 502),
        ("caddy, open", caddy(&address.config, "web", true), 200),
        ("traefik", traefik(&address.config, "web"), 500),
    ];
    for (name, running, _) in &running {
        let Some(running) = running else { continue };
        assert_eq!(running.get("/", &[]), 200, "{name}");
        assert_eq!(running.get("/.git", &[]), 403, "{name}");
    }
    (socket.target, address.target) = (None, None);
    std::thread::sleep(std::time::Duration::from_millis(200));
    for (name, running, status) in &running {
        let Some(running) = running else { continue };
        assert_eq!(running.get("/", &[]), *status, "{name}, stopped");
    }
}

#[test]
fn nobody_waits_long_for_a_service_that_is_slow() {
    let config = Service::silent();
    let running = [
        ("nginx", nginx(&config, "nginx", false), 500),
        ("nginx, open", nginx(&config, "nginx", true), 200),
        ("caddy", caddy(&config, "web", false), 502),
        ("caddy, open", caddy(&config, "web", true), 200),
    ];
    for (name, running, status) in running {
        let Some(running) = running else { continue };
        let began = std::time::Instant::now();
        let found = running.get("/", &[]);
        assert!(found == status || (status != 200 && found == 504), "{name}: {found}");
        assert!(began.elapsed() < std::time::Duration::from_secs(5), "{name} waits for {:?}", began.elapsed());
    }
}
