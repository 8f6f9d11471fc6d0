//! A grok expansion as a matcher: what it must contain, where its groups are.
//!
//! At load a regex is parsed and checked, no more; its matcher is built when a text first holds the literals that every
//! match needs. Only groups that are read stay groups. A [`Scanner`] looks first; what it leaves open the regex decides.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use expr::regex_dialect;
use model::yaml::Fault;
use regex_automata::meta::{Cache, Regex};
use regex_automata::util::primitives::NonMaxUsize;
use regex_automata::{Anchored, Input};
use regex_syntax::hir::{self, Hir, HirKind};

use crate::literals::Literals;
use crate::patterns::Expansion;
use crate::scanner::{Automata, Marks, Scanner, Verdict};

/// A checked pattern whose matcher is built when it is first needed.
pub struct Pattern {
    regex: String,
    /// Numbers of the groups to keep, ascending.
    groups: Vec<u32>,
    /// For each alias which of the kept groups holds its text; `None` where no group can.
    aliases: Vec<(Arc<str>, Option<usize>)>,
    literals: Literals,
    starts_at_start: bool,
    id: usize,
    automata: Arc<Automata>,
    scanner: OnceLock<Option<Scanner>>,
    matcher: OnceLock<Result<Regex, String>>,
}

/// Patterns under construction, so that equal expansions share one matcher.
#[derive(Debug, Default)]
pub struct Patterns {
    known: HashMap<String, Vec<Arc<Pattern>>>,
    automata: Arc<Automata>,
}

/// What matching needs beside the pattern; one per worker, reused.
#[derive(Debug, Default)]
pub struct Matching {
    slots: Vec<Option<NonMaxUsize>>,
    marks: Marks,
    /// By number of the pattern.
    patterns: Vec<Local>,
    /// Searches until the caches are measured.
    until_measured: u32,
}

/// What one worker has of one pattern.
#[derive(Debug, Default)]
struct Local {
    cache: Option<Box<Cache>>,
    /// Scans that gave an answer, and scans that did not.
    scans: [u32; 2],
}

/// Bytes of matcher caches that one worker keeps.
const CACHES: usize = 32 << 20;
/// Searches between two looks at what the caches take.
const MEASURE_EVERY: u32 = 4096;
/// Scans without an answer after which a pattern is judged.
const TRIALS: u32 = 64;
/// Why no cache outgrows its share: two automata at most have this each.
const CACHE: usize = regex_dialect::CACHE_LIMIT;

static NEXT_ID: AtomicUsize = AtomicUsize::new(0);

impl Patterns {
    /// Checks an expansion. Errors lack the path.
    pub fn compile(&mut self, expansion: &Expansion, line: u32) -> Result<Arc<Pattern>, Fault> {
        let aliases = expansion.aliases();
        let known = self.known.get(&expansion.text).into_iter().flatten();
        for pattern in known {
            let same = |(own, _): &(Arc<str>, Option<usize>), (other, _): &(Arc<str>, Option<u32>)| own == other;
            if pattern.aliases.len() == aliases.len() && pattern.aliases.iter().zip(&aliases).all(|(a, b)| same(a, b)) {
                return Ok(Arc::clone(pattern));
            }
        }
        let refused = |error: regex_dialect::RegexError| {
            Fault::new(line, error.to_string())
                .hint("brackets and signs that are meant as text need a backslash: `\\(`, `\\[`, `\\*`")
        };
        let regex = regex_dialect::rewrite(&expansion.text).map_err(refused)?;
        let hir = regex_dialect::check(&expansion.text).map_err(refused)?;
        let mut groups: Vec<u32> = aliases.iter().filter_map(|(_, group)| *group).collect();
        groups.sort_unstable();
        groups.dedup();
        let place = |group: Option<u32>| group.and_then(|group| groups.binary_search(&group).ok());
        let aliases = aliases.into_iter().map(|(alias, group)| (alias, place(group))).collect();
        let pattern = Arc::new(Pattern {
            literals: Literals::of(&hir),
            starts_at_start: hir.properties().look_set_prefix().contains(hir::Look::Start),
            regex,
            groups,
            aliases,
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            automata: Arc::clone(&self.automata),
            scanner: OnceLock::new(),
            matcher: OnceLock::new(),
        });
        self.known.entry(expansion.text.clone()).or_default().push(Arc::clone(&pattern));
        Ok(pattern)
    }
}

impl Pattern {
    /// Names that a match gives a text, with where [`Match::get`] finds it.
    pub fn aliases(&self) -> &[(Arc<str>, Option<usize>)] {
        &self.aliases
    }

    /// Texts of which every match contains at least one.
    pub fn literals(&self) -> &Literals {
        &self.literals
    }

    /// Looks for the leftmost match in `text`. `Err` says why there is no matcher.
    pub fn search<'m>(&self, text: &str, matching: &'m mut Matching) -> Result<Option<Match<'m>>, &str> {
        if self.aliases.is_empty() {
            return Ok(None);
        }
        // a scanner that is there gives up sooner than a search for literals
        if self.scanner.get().is_none() && !self.literals.may_match(text) {
            return Ok(None);
        }
        matching.measure();
        let Matching { slots, marks, patterns, .. } = matching;
        if patterns.len() <= self.id {
            patterns.resize_with(self.id + 1, Local::default);
        }
        let Some(local) = patterns.get_mut(self.id) else { return Ok(None) };
        slots.clear();
        slots.resize((self.groups.len() + 1) * 2, None);
        if local.worth_scanning()
            && let Some(scanner) =
                self.scanner.get_or_init(|| Scanner::new(&self.keep(&self.hir().ok()?), &self.automata))
        {
            let verdict = scanner.scan(text, slots, marks);
            local.count(verdict);
            match verdict {
                Verdict::Match => return Ok(Some(Match { slots })),
                Verdict::NoMatch => return Ok(None),
                Verdict::Unsure => {}
            }
            slots.fill(None);
        }
        if !self.literals.may_match(text) {
            return Ok(None);
        }
        let regex = self.matcher.get_or_init(|| self.build()).as_ref().map_err(String::as_str)?;
        let cache = local.cache.get_or_insert_with(|| Box::new(regex.create_cache()));
        let anchored = Input::new(text).anchored(Anchored::Yes);
        let mut found = regex.search_slots_with(cache, &anchored, slots).is_some();
        if !found && !self.starts_at_start {
            found = regex.search_slots_with(cache, &Input::new(text), slots).is_some();
        }
        Ok(found.then_some(Match { slots }))
    }

    fn hir(&self) -> Result<Hir, String> {
        let mut parser = regex_syntax::ParserBuilder::new();
        parser.utf8(false).build().parse(&self.regex).map_err(|error| error.to_string())
    }

    fn build(&self) -> Result<Regex, String> {
        let hir = self.hir()?;
        let config = Regex::config()
            .utf8_empty(true)
            .nfa_size_limit(Some(regex_dialect::SIZE_LIMIT))
            .hybrid_cache_capacity(CACHE)
            .onepass_size_limit(Some(CACHE));
        Regex::builder().configure(config).build_from_hir(&self.keep(&hir)).map_err(|error| error.to_string())
    }

    /// The same language with no other groups than those that are read.
    fn keep(&self, hir: &Hir) -> Hir {
        match hir.kind() {
            HirKind::Empty => Hir::empty(),
            HirKind::Literal(literal) => Hir::literal(literal.0.clone()),
            HirKind::Class(class) => Hir::class(class.clone()),
            HirKind::Look(look) => Hir::look(*look),
            HirKind::Repetition(repetition) => {
                Hir::repetition(hir::Repetition { sub: Box::new(self.keep(&repetition.sub)), ..repetition.clone() })
            }
            HirKind::Capture(capture) => match self.groups.binary_search(&capture.index) {
                Ok(place) => Hir::capture(hir::Capture {
                    index: place as u32 + 1,
                    name: None,
                    sub: Box::new(self.keep(&capture.sub)),
                }),
                Err(_) => self.keep(&capture.sub),
            },
            HirKind::Concat(parts) => Hir::concat(parts.iter().map(|part| self.keep(part)).collect()),
            HirKind::Alternation(parts) => Hir::alternation(parts.iter().map(|part| self.keep(part)).collect()),
        }
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pattern").field("regex", &self.regex).finish_non_exhaustive()
    }
}

/// Where a pattern matched.
#[derive(Debug)]
pub struct Match<'m> {
    slots: &'m [Option<NonMaxUsize>],
}

impl Match<'_> {
    /// The whole match.
    pub fn range(&self) -> Range<usize> {
        self.at(0).unwrap_or(0..0)
    }

    /// The text of a group, if it took part.
    pub fn get(&self, place: usize) -> Option<Range<usize>> {
        self.at(place + 1)
    }

    fn at(&self, group: usize) -> Option<Range<usize>> {
        let slot = |index: usize| self.slots.get(index).copied().flatten().map(NonMaxUsize::get);
        Some(slot(group * 2)?..slot(group * 2 + 1)?)
    }
}

impl Matching {
    /// Drops all caches once they take too much together: a flood of odd lines must not fill the memory.
    fn measure(&mut self) {
        if let Some(left) = self.until_measured.checked_sub(1) {
            self.until_measured = left;
            return;
        }
        self.until_measured = MEASURE_EVERY;
        let caches = self.patterns.iter().filter_map(|local| local.cache.as_ref());
        if caches.map(|cache| cache.memory_usage()).sum::<usize>() > CACHES {
            self.patterns.iter_mut().for_each(|local| local.cache = None);
        }
    }
}

impl Local {
    /// Whether scanning has been of use: where most lines leave a choice open it only costs.
    fn worth_scanning(&self) -> bool {
        let [sure, unsure] = self.scans;
        unsure < TRIALS || unsure < sure
    }

    fn count(&mut self, verdict: Verdict) {
        let count = &mut self.scans[usize::from(verdict == Verdict::Unsure)];
        *count = count.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patterns::Library;

    fn captures(pattern: &str, text: &str) -> Option<Vec<(String, String)>> {
        let mut library = Library::default();
        library
            .add_file("INT [+-]?(?:[0-9]+)\nWORD \\b\\w+\\b\nDATA .*?\nGREEDYDATA .*\nOPT (%{INT:n}|%{WORD:w})\n")
            .expect("a good file");
        let expansion = library.expand(pattern, 1).expect("known names");
        let pattern = Patterns::default().compile(&expansion, 1).expect("a good regex");
        let mut matching = Matching::default();
        let found = pattern.search(text, &mut matching).expect("small enough")?;
        let text = |place: Option<usize>| place.and_then(|place| found.get(place)).map_or("", |range| &text[range]);
        Some(pattern.aliases().iter().map(|(alias, place)| (alias.to_string(), text(*place).to_owned())).collect())
    }

    #[test]
    fn groups_become_fields() {
        type Fields = Option<&'static [(&'static str, &'static str)]>;
        // (pattern, text, fields; None where the grok fails)
        let cases: &[(&str, &str, Fields)] = &[
            ("user %{WORD:user} id %{INT:id}", "x user root id 7", Some(&[("user", "root"), ("id", "7")])),
            ("%{OPT} ", "root ", Some(&[("n", ""), ("w", "root")])),
            ("%{INT:a} or %{INT:a}", "1 or 2", Some(&[("a", "2")])),
            ("(%{INT:a},)+", "1,2,3,", Some(&[("a", "3")])),
            ("^(?i)%{DATA:a}END", "some end", Some(&[("a", "some ")])),
            ("%{WORD}", "matches but names nothing", None),
            ("^b%{GREEDYDATA:a}", "ab", None),
            ("%{INT:n}", "é7é", Some(&[("n", "7")])),
            ("a%{DATA:d}", "ab", Some(&[("d", "")])),
        ];
        for (pattern, text, fields) in cases {
            let expected = fields.map(|fields| fields.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect());
            assert_eq!(captures(pattern, text), expected, "{pattern} on {text}");
        }
    }
}
