//! Grok patterns as authors write them, and texts before them: definitions, a pattern, a text. What the scanner finds must be
//! what the regex finds.
#![no_main]

use cordon_fuzz::{library, parts};
use libfuzzer_sys::fuzz_target;
use parsers::grok::{Matching, Patterns};
use regex_automata::meta::Regex;
use regex_automata::util::syntax;

/// Longest expansion that is tried, in bytes.
const LONGEST: usize = 4 << 10;

fuzz_target!(|input: &str| {
    let [definitions, pattern, texts] = parts(input);
    let mut library = library().clone();
    let _ = library.add_file(definitions);
    let Ok(expansion) = library.expand(pattern, 1) else { return };
    // Building matchers for the largest patterns takes longer than all the rest, and teaches nothing new.
    if expansion.text.len() > LONGEST {
        return;
    }
    let Ok(compiled) = Patterns::default().compile(&expansion, 1) else { return };
    let Ok(rewritten) = expr::regex_dialect::rewrite(&expansion.text) else { return };
    let regex = Regex::builder()
        .syntax(syntax::Config::new().utf8(false))
        .configure(Regex::config().nfa_size_limit(Some(4 << 20)))
        .build(&rewritten);
    let mut matching = Matching::default();
    for text in texts.lines().take(8) {
        // A pattern that is too large for a matcher of its own says so.
        let Ok(found) = compiled.search(text, &mut matching) else { return };
        let Ok(regex) = &regex else { continue };
        let mut captures = regex.create_captures();
        regex.captures(text, &mut captures);
        // A grok that names nothing gives nothing.
        let expected = captures.is_match() && !expansion.aliases().is_empty();
        assert_eq!(found.is_some(), expected, "`{pattern}` on `{text}`");
        let Some(found) = found else { continue };
        assert_eq!(Some(found.range()), captures.get_match().map(|whole| whole.range()), "`{pattern}` on `{text}`");
        for ((alias, place), (_, group)) in compiled.aliases().iter().zip(expansion.aliases()) {
            let one = place.and_then(|place| found.get(place));
            let two = group.and_then(|group| captures.get_group(group as usize)).map(|span| span.range());
            assert_eq!(one, two, "`{alias}` of `{pattern}` on `{text}`");
        }
    }
});
