//! C015: a log that anybody on the network can write.

use std::net::IpAddr;

use model::yaml::documents;

use crate::check::finding::{Findings, Rule, Severity};
use crate::check::subject::{Subject, entry};

pub(super) const RULE: Rule = Rule {
    code: "C015",
    name: "unsigned-log",
    severity: Severity::Warning,
    summary: "A datasource takes lines from the network by UDP, where nobody proves who he is.",
    page: "\
### What it does

Looks through `acquis.yaml` and `acquis.d` for datasources of kind `syslog` that listen on more than the host's own loopback address.

### Why it is bad

A line by UDP is believed as it comes. Whoever reaches the port writes `Failed password for root from 198.51.100.1` as often as he likes, with any
sender on the packet. No pattern helps: the line is perfect. That is why such lines never ban by default, and with `spoofable: false` he gets
198.51.100.1 banned.

### Example

```yaml
source: syslog
listen_addr: 0.0.0.0
labels: {type: syslog}
```

### Remedy

Take the lines by TLS with client certificates (`protocol: tls`, `client_ca_file`), or let a firewall admit only the senders, on a
network where addresses cannot be invented.",
    check,
};

fn check(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for file in subject.input.acquisition {
        for document in documents(&file.text).unwrap_or_default() {
            let text = |key: &str| entry(&document, key).and_then(|yaml| yaml.text(key).ok());
            let Some(address) = text("listen_addr").filter(|_| text("source").is_some_and(|kind| &*kind == "syslog"))
            else {
                continue;
            };
            if text("protocol").is_some_and(|protocol| !protocol.eq_ignore_ascii_case("udp"))
                || address.is_empty()
                || address.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
                || &*address == "localhost"
            {
                continue;
            }
            findings.add(
                &file.path,
                address.line,
                format!("whoever can send a datagram to `{}` writes this log, in anybody's name", &*address),
                "take the lines by TLS (`protocol: tls` with `client_ca_file`), or listen on 127.0.0.1",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::check::tests::table;

    #[test]
    fn the_network_writes_no_log() {
        table(
            "C015",
            &[
                ("acquis.yaml", "source: syslog\nlisten_addr: 0.0.0.0\n", &["2"]),
                ("acquis.yaml", "source: syslog\nlisten_addr: '::1'\n", &[]),
                ("acquis.yaml", "source: syslog\n", &[]),
                ("acquis.yaml", "source: syslog\nlisten_addr: 0.0.0.0\nprotocol: tls\n", &[]),
                ("acquis.yaml", "source: http\nlisten_addr: 0.0.0.0\n", &[]),
                ("acquis.yaml", "filename: a\n---\nsource: syslog\nlisten_addr: 192.0.2.1\n", &["4"]),
            ],
        );
    }
}
