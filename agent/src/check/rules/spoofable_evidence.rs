//! C003: punishment for what anybody can send in anybody's name.

use model::fields;

use crate::check::finding::{Findings, Rule, Severity};
use crate::check::subject::{Scenario, Subject, line_of, required};

pub(super) const RULE: Rule = Rule {
    code: "C003",
    name: "spoofable-evidence",
    severity: Severity::Warning,
    summary: "A scenario asks for remediation on evidence that needs no handshake, so that its source address can be invented.",
    page: "\
### What it does

Reports a scenario with the label `remediation: true` whose own label says `spoofable: 1` or more, or whose filter demands the log of a packet filter or
of a service without connections: a single packet, with whatever sender is written on it, makes such a line.

### Why it is bad

An attacker sends packets in the name of your customers, your name server, your monitoring, and you lock them out. A TCP service that
answers has at least completed a handshake with the address.

### Example

```yaml
filter: evt.Meta.log_type == 'iptables_drop'
labels:
  remediation: true
```

### Remedy

Set `remediation: false` and let the alert be seen only, or count evidence that needs a connection. When the log is known to hold established
connections only, say so with `spoofable: 0`: what the label says wins over what the log type suggests.",
    check,
};

/// Log types whose lines one packet makes.
const PACKETS: [&str; 9] = [
    "iptables_drop",
    "nftables_drop",
    "ufw_drop",
    "pf_drop",
    "mikrotik_drop",
    "firewall_drop",
    "palo_alto",
    "wireguard_failed_auth",
    "bind9_denied",
];
/// Services that do.
const SERVICES: [&str; 11] =
    ["iptables", "nftables", "ufw", "pf", "udp", "tcp_udp", "dns", "snmp", "ntp", "tftp", "wireguard"];

fn check(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for scenario in &subject.scenarios {
        let punishes = scenario.label("remediation").is_some_and(|yaml| yaml.flag("remediation") == Ok(true));
        let spoofable = scenario.label("spoofable").and_then(|yaml| yaml.integer("spoofable").ok());
        let why = match spoofable {
            _ if !punishes => continue,
            Some(0) => continue,
            Some(degree) => format!("its own label says `spoofable: {degree}`"),
            None => match one_packet(scenario) {
                Some(what) => format!("its filter demands `{what}`, and one packet makes such a line"),
                None => continue,
            },
        };
        let line = scenario.get("labels").and_then(|labels| line_of(labels, "remediation"));
        findings.add(
            scenario.path,
            line.unwrap_or(scenario.yaml.line),
            format!("`{}` punishes an address that nobody has confirmed: {why}", scenario.name),
            "set `remediation: false`, or count something that needs a connection",
        );
    }
}

/// What the filter demands that needs no connection.
fn one_packet(scenario: &Scenario<'_>) -> Option<String> {
    required(&scenario.filter).find_map(|(field, texts)| {
        let known: &[&str] = match field {
            fields::LOG_TYPE => &PACKETS,
            fields::SERVICE => &SERVICES,
            _ => return None,
        };
        texts.iter().all(|text| known.contains(&&**text)).then(|| texts.join("`, `"))
    })
}

#[cfg(test)]
mod tests {
    use crate::check::tests::table;

    #[test]
    fn a_single_packet_punishes_nobody() {
        // (filter, labels, line)
        let cases = [
            ("evt.Meta.log_type == 'pf_drop'", "remediation: true", true),
            ("evt.Meta.log_type == 'pf_drop' && evt.Meta.x != ''", "remediation: true", true),
            ("evt.Meta.log_type in ['pf_drop', 'ssh_failed-auth']", "remediation: true", false),
            ("evt.Meta.log_type == 'pf_drop'", "remediation: false", false),
            ("evt.Meta.log_type == 'pf_drop'", "{remediation: true, spoofable: 0}", false),
            ("evt.Meta.log_type == 'ssh_failed-auth'", "{remediation: true, spoofable: 2}", true),
            ("evt.Meta.service == 'dns'", "remediation: true", true),
            ("evt.Meta.service == 'ssh'", "remediation: true", false),
        ];
        for (filter, labels, found) in cases {
            let text = format!("type: trigger\nname: a\ndescription: a\nfilter: \"{filter}\"\nlabels:\n  {labels}\n");
            table("C003", &[("scenarios/a.yaml", &text, if found { &["6"] } else { &[] })]);
        }
    }
}
