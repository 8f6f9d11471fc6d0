//! What to paste into a reverse proxy so that it asks us.
//!
//! The texts are made from the configuration in force, so that address, certificates and profile in them are right.

use std::fmt::Write;

use super::config::Config;
use super::profile::{Code, Profile};
use crate::serve::config::On;

/// How long a proxy waits for us, in milliseconds.
const PATIENCE: u32 = 250;

/// A reverse proxy that knows how to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// Traefik, version 3.
    Traefik,
    /// Caddy, version 2.
    Caddy,
    /// nginx with `auth_request`.
    Nginx,
}

/// Why nothing can be pasted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// There is no such profile.
    #[error("there is no profile `{found}`, expected {}", known.join(" or "))]
    Profile {
        /// What was asked for.
        found: String,
        /// The ones there are.
        known: Vec<String>,
    },
    /// It cannot reach us like this.
    #[error(
        "Traefik cannot ask over a socket\nhint: `listen: 127.0.0.1:8095` and `trusted_proxies: [127.0.0.1]`, or an address with `tls`"
    )]
    Socket,
    /// It would make errors of our answers.
    #[error("nginx understands only 401 and 403\nhint: `proxy: nginx` in the profile `{0}`")]
    Codes(String),
}

/// The text for `proxy`, which is to ask for `profile`. `open` lets everybody pass while we do not answer.
pub fn sample(config: &Config, proxy: Proxy, profile: &str, open: bool) -> Result<String, SetupError> {
    let Some(known) = config.profiles.get(profile) else {
        let known = config.profiles.keys().map(|name| format!("`{name}`")).collect();
        return Err(SetupError::Profile { found: profile.to_owned(), known });
    };
    let identity = known.identity.as_deref();
    match proxy {
        Proxy::Traefik => traefik(config, profile, identity),
        Proxy::Caddy => Ok(caddy(config, profile, open)),
        Proxy::Nginx if !known.only_nginx_codes => Err(SetupError::Codes(profile.to_owned())),
        Proxy::Nginx => Ok(nginx(config, profile, known, open)),
    }
}

/// What to do besides, and what to know, a line each.
pub fn notes(proxy: Proxy, identity: bool, open: bool) -> Vec<&'static str> {
    let mut notes = match proxy {
        Proxy::Traefik => vec![
            "put the file where the file provider of Traefik reads it, and name `cordon@file` first among the middlewares of each entry point: no router is forgotten then",
            "`trustForwardHeader: false` is right unless Traefik is behind another proxy; then list that one in `forwardedHeaders.trustedIPs` of the entry point and in our `trusted_proxies`",
            "Traefik waits up to 30 s for us and cannot be told otherwise; while we do not answer it refuses every request",
        ],
        Proxy::Caddy => vec![
            "behind another proxy list that one in Caddy's global `servers { trusted_proxies static ... }` and in our `trusted_proxies`",
            "Caddy's user must be in the group of the socket",
        ],
        Proxy::Nginx => vec![
            "the first part belongs into the `http` block, the second into each `server` block that is to be guarded",
            "behind another proxy use `real_ip_header` and `set_real_ip_from`, so that `$remote_addr` is the client",
            "nginx's user must be in the group of the socket",
        ],
    };
    if identity {
        notes.push("a profile with `identity` belongs behind the program that logs people in, which must drop that header from what clients send");
    }
    if open {
        notes.push("as it stands, everybody passes while we do not answer: watch the metric `cordon_forward_requests`");
    }
    notes
}

fn traefik(config: &Config, profile: &str, identity: Option<&str>) -> Result<String, SetupError> {
    let On::Tcp(address) = &config.listen.on else { return Err(SetupError::Socket) };
    let scheme = if config.listen.tls.is_some() { "https" } else { "http" };
    let mut text = format!(
        "# dynamic configuration\nhttp:\n  middlewares:\n    cordon:\n      forwardAuth:\n        \
         address: {scheme}://{address}/v1/check/{profile}\n        trustForwardHeader: false\n        \
         authRequestHeaders: [Accept{}]\n",
        identity.map(|name| format!(", {name}")).unwrap_or_default()
    );
    if let Some(tls) = &config.listen.tls {
        text.push_str("        tls:\n          ca: /etc/traefik/cordon/ca.pem\n");
        if tls.clients.is_some() {
            text.push_str(
                "          cert: /etc/traefik/cordon/client.pem\n          key: /etc/traefik/cordon/client.key\n",
            );
        }
    }
    text.push_str(
        "\n# static configuration\nentryPoints:\n  websecure:\n    address: \":443\"\n    http:\n      middlewares: [cordon@file]\n",
    );
    Ok(text)
}

fn caddy(config: &Config, profile: &str, open: bool) -> String {
    let upstream = match &config.listen.on {
        On::Unix(path) => format!("unix/{}", path.display()),
        On::Tcp(address) => address.to_string(),
    };
    let mut tls = String::new();
    if let Some(files) = &config.listen.tls {
        tls.push_str("\t\t\ttls\n\t\t\ttls_trusted_ca_certs /etc/caddy/cordon/ca.pem\n");
        if files.clients.is_some() {
            tls.push_str("\t\t\ttls_client_auth /etc/caddy/cordon/client.pem /etc/caddy/cordon/client.key\n");
        }
    }
    let mut text = format!(
        "site.example {{\n\troute {{\n\t\tforward_auth {upstream} {{\n\t\t\turi /v1/check/{profile}\n\t\t\ttransport http {{\n\
         {}\t\t\t\tdial_timeout {PATIENCE}ms\n\t\t\t\tresponse_header_timeout {PATIENCE}ms\n\t\t\t}}\n\t\t}}\n\t\t\
         reverse_proxy 127.0.0.1:8080\n\t}}\n",
        tls.replace("\t\t\t", "\t\t\t\t")
    );
    if open {
        text.push_str(
            "\thandle_errors {\n\t\t@unanswered expression `{err.status_code} in [502, 503, 504]`\n\t\t\
             reverse_proxy @unanswered 127.0.0.1:8080\n\t}\n",
        );
    }
    text.push_str("}\n");
    text
}

fn nginx(config: &Config, profile: &str, known: &Profile, open: bool) -> String {
    let code = if known.code == Code::Unauthorized { 401 } else { 403 };
    let server = match &config.listen.on {
        On::Unix(path) => format!("unix:{}", path.display()),
        On::Tcp(address) => address.to_string(),
    };
    let scheme = if config.listen.tls.is_some() { "https" } else { "http" };
    let mut common = String::from(
        "    proxy_pass_request_body off;\n    proxy_pass_request_headers off;\n    proxy_set_header Content-Length \"\";\n    \
         proxy_set_header Accept $http_accept;\n    proxy_set_header X-Forwarded-For $remote_addr;\n    \
         proxy_set_header X-Original-URI $request_uri;\n    proxy_set_header X-Original-Method $request_method;\n    \
         proxy_http_version 1.1;\n    proxy_set_header Connection \"\";\n",
    );
    for limit in ["connect", "send", "read"] {
        // writing to a String cannot fail, here and below
        let _ = writeln!(common, "    proxy_{limit}_timeout {PATIENCE}ms;");
    }
    if let Some(identity) = &known.identity {
        let variable = identity.replace('-', "_");
        let _ = writeln!(common, "    proxy_set_header {identity} $http_{variable};");
    }
    if let Some(files) = &config.listen.tls {
        common.push_str("    proxy_ssl_trusted_certificate /etc/nginx/cordon/ca.pem;\n    proxy_ssl_verify on;\n");
        if files.clients.is_some() {
            common.push_str(
                "    proxy_ssl_certificate /etc/nginx/cordon/client.pem;\n    proxy_ssl_certificate_key /etc/nginx/cordon/client.key;\n",
            );
        }
    }
    let unanswered = if open {
        "    proxy_intercept_errors on;\n    error_page 500 502 503 504 = @cordon_unanswered;\n"
    } else {
        ""
    };
    let mut text = format!(
        "# in the http block\nupstream cordon {{\n    server {server};\n    keepalive 32;\n}}\n\n\
         # in each server block\nauth_request /_cordon;\nerror_page {code} @cordon_page;\n\n\
         location = /_cordon {{\n    internal;\n    auth_request off;\n    proxy_pass {scheme}://cordon/v1/check/{profile};\n{common}{unanswered}}}\n\n\
         location @cordon_page {{\n    auth_request off;\n    rewrite ^ /v1/page/{profile} break;\n    proxy_pass {scheme}://cordon;\n{common}}}\n"
    );
    if open {
        text.push_str("\nlocation @cordon_unanswered {\n    auth_request off;\n    return 204;\n}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::config::RawConfig;

    fn config(listen: &str) -> Config {
        let text =
            format!("{listen}\nprofiles:\n  web: {{}}\n  users: {{ identity: X-User }}\n  nginx: {{ proxy: nginx }}");
        let raw: RawConfig = serde_saphyr::from_str(&text).expect("valid test YAML");
        raw.check(&[]).expect("a valid test configuration")
    }

    #[test]
    fn what_is_pasted() {
        let socket = config("listen: unix:/run/cordon/forward.sock");
        let secure = config(
            "listen: 192.0.2.1:8095\ntls: { certificate: c.pem, key: c.key, client_authority: ca.pem, client_names: [proxy.example] }",
        );
        let text = |config, proxy, profile, open| sample(config, proxy, profile, open).expect("it can ask");
        insta::assert_snapshot!("traefik", text(&secure, Proxy::Traefik, "users", false));
        insta::assert_snapshot!("caddy", text(&secure, Proxy::Caddy, "web", true));
        insta::assert_snapshot!("caddy-socket", text(&socket, Proxy::Caddy, "web", false));
        insta::assert_snapshot!("nginx", text(&socket, Proxy::Nginx, "nginx", false));
        insta::assert_snapshot!("nginx-open", text(&secure, Proxy::Nginx, "nginx", true));
    }

    #[test]
    fn what_cannot_work_is_told() {
        let socket = config("listen: unix:/run/cordon/forward.sock");
        assert_eq!(sample(&socket, Proxy::Traefik, "web", false), Err(SetupError::Socket));
        assert_eq!(sample(&socket, Proxy::Nginx, "web", false), Err(SetupError::Codes("web".into())));
        let told = sample(&socket, Proxy::Caddy, "none", false).expect_err("no such profile").to_string();
        assert_eq!(told, "there is no profile `none`, expected `nginx` or `users` or `web`");
    }
}
