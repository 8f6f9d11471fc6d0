//! C013: trust in a part of the internet.

use ipnet::IpNet;

use crate::check::finding::{Findings, Rule, Severity};
use crate::check::subject::Subject;

pub(super) const RULE: Rule = Rule {
    code: "C013",
    name: "wide-whitelist",
    severity: Severity::Warning,
    summary: "A whitelist trusts a public range so wide that strangers are in it.",
    page: "\
### What it does

Reports `cidr` entries of whitelists that span a /8 or more of public IPv4, or a /19 or more of public IPv6; a range of length 0 is an error. Private, loopback and
link-local ranges may be as wide as they are.

### Why it is bad

A /8 is sixteen million addresses of a thousand owners. Their attacks are dropped before any scenario sees them.

### Example

```yaml
whitelist:
  reason: our provider
  cidr: [45.0.0.0/8]
```

### Remedy

List the ranges that are yours.",
    check,
};

/// Ranges that are never strangers.
const OWN: [&str; 8] = [
    "10.0.0.0/8",
    "127.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "169.254.0.0/16",
    "100.64.0.0/10",
    "fc00::/7",
    "fe80::/10",
];

fn check(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    let own: Vec<IpNet> = OWN.iter().filter_map(|net| net.parse().ok()).collect();
    for parser in &subject.parsers {
        for whitelist in parser.node.tree().into_iter().filter_map(|node| node.config.whitelist.as_ref()) {
            for text in &whitelist.cidr {
                let Ok(net) = text.parse::<IpNet>() else { continue };
                let wide = net.prefix_len() <= if net.addr().is_ipv4() { 8 } else { 19 };
                if !wide || own.iter().any(|own| own.contains(&net)) {
                    continue;
                }
                let severity = if net.prefix_len() == 0 { Severity::Error } else { RULE.severity };
                let message = format!("`{}` is trusted as a whole, strangers included", &**text);
                findings.add_as(severity, parser.path, text.line, message, "list the ranges that are yours");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::check::tests::table;

    #[test]
    fn trust_has_bounds() {
        // (range, whether it is too wide)
        let cases = [
            ("0.0.0.0/0", true),
            ("::/0", true),
            ("45.0.0.0/8", true),
            ("2000::/3", true),
            ("45.1.0.0/16", false),
            ("10.0.0.0/8", false),
            ("8.0.0.0/7", true),
            ("127.0.0.0/8", false),
            ("fc00::/7", false),
            ("2001:db8::/32", false),
        ];
        for (range, wide) in cases {
            let text = format!("name: a\nwhitelist:\n  reason: a\n  cidr:\n    - {range}\n");
            table("C013", &[("parsers/s02-enrich/a.yaml", &text, if wide { &["5"] } else { &[] })]);
        }
    }
}
