//! C007: a data file that is not there.

use std::collections::BTreeSet;

use crate::check::finding::{Findings, Rule, Severity};
use crate::check::subject::Subject;

pub(super) const RULE: Rule = Rule {
    code: "C007",
    name: "missing-data",
    severity: Severity::Error,
    summary: "A data file that a rule looks into is not there, or nobody declares it.",
    page: "\
### What it does

Looks for the file of every `data` entry that has a `type`, and for a `data` entry of every file that an expression names. Without a data folder the
first part is left out.

### Why it is bad

A list that is not there is an empty list. The scenario that searches it finds nothing, the whitelist that searches it protects nobody.

### Example

```yaml
filter: any(File('bad_paths.txt'), {evt.Meta.http_path contains #})
# and no `data` with `dest_file: bad_paths.txt` anywhere
```

### Remedy

Put the file into `data/`, and declare it where it is used.",
    check,
};

fn check(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for (path, data) in &subject.data {
        let Some(find) = subject.input.data.filter(|_| data.kind.is_some()) else { continue };
        if let Err(why) = find(&data.name) {
            findings.add(path, data.line, why, "put the file into the data folder");
        }
    }
    let declared: BTreeSet<&str> = subject.data.iter().map(|(_, data)| &*data.name).collect();
    for expression in &subject.expressions {
        for file in expression.program.facts().files.iter().filter(|file| !declared.contains(&***file)) {
            findings.add(
                expression.path,
                expression.line_of(file),
                format!("no rule declares the data file `{file}`, so it is not loaded"),
                format!("add `data` with `dest_file: {file}` and its `type`"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::check::tests::table;

    #[test]
    fn a_list_must_be_there_and_declared() {
        let scenario = |file: &str, data: &str| {
            format!(
                "type: trigger\nname: a\ndescription: a\nfilter: \"any(File('{file}'), {{evt.Meta.a contains #}})\"\ndata:\n{data}"
            )
        };
        table(
            "C007",
            &[
                ("scenarios/a.yaml", &scenario("here.txt", "  - {dest_file: here.txt, type: string}\n"), &[]),
                ("scenarios/a.yaml", &scenario("gone.txt", "  - {dest_file: gone.txt, type: string}\n"), &["6"]),
                ("scenarios/a.yaml", &scenario("other.txt", "  - {dest_file: here.txt, type: string}\n"), &["4"]),
                // databases are opened by the program itself
                (
                    "scenarios/a.yaml",
                    &scenario("here.txt", "  - {dest_file: here.txt, type: string}\n  - {dest_file: x.mmdb}\n"),
                    &[],
                ),
            ],
        );
    }
}
