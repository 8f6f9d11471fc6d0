//! Text that must be there for a test to hold.
//!
//! Most tests of rules look for a few rare words in a field. Whoever has many rules looks for all the words at once and asks
//! only the rules whose words are there. Words are compared without regard to case, so that one search serves tests of
//! `Upper(x)`, `Lower(x)` and `x`; that and unescaping make a condition weaker than its test, never stronger.

use regex_syntax::hir::literal::{ExtractKind, Extractor};
use regex_syntax::hir::{Hir, HirKind};

use crate::analyze::{is_false, safe_in, safe_node};
use crate::builtins::string::{lower_text, upper_text};
use crate::files::Files;
use crate::program::{BoolNode, Const, Fold, LineOp, LineTest, Node, TextNode};
use crate::regex_dialect;
use crate::types::FieldId;

/// A text field of variable 0 and what may have to be found in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mention {
    /// The field.
    pub field: FieldId,
    /// What to find.
    pub needle: Needle,
}

/// What to find: text, or a data file's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needle(Source);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Text(String),
    Line(String, Fold),
    Regex(String),
}

impl Needle {
    /// The words of which one must be found, in lower case and in ASCII; none if nothing in ASCII can be meant. `None` when
    /// the data file is not there, or something else than words could be meant.
    pub fn words(&self, files: &Files) -> Option<Vec<String>> {
        match &self.0 {
            Source::Text(text) => Some(ascii(text.clone()).into_iter().collect()),
            Source::Line(file, fold) => {
                let lines = files.lines(file)?.iter().map(|line| match fold {
                    Fold::Keep => line.to_string(),
                    Fold::Upper => upper_text(line),
                    Fold::Lower => lower_text(line),
                });
                Some(lines.filter_map(ascii).collect())
            }
            Source::Regex(file) => {
                let mut words = Vec::new();
                for pattern in files.patterns(file)? {
                    words.extend(literals(&regex_dialect::check(pattern).ok()?)?);
                }
                Some(words)
            }
        }
    }
}

/// Texts that are not ASCII are not found in a text that is.
fn ascii(mut text: String) -> Option<String> {
    text.make_ascii_lowercase();
    text.is_ascii().then_some(text)
}

/// Lists of which each must have one mention that is found, for `node` to be true. They hold for values in ASCII; of
/// other values nothing is known.
pub(crate) fn mentions(node: &Node) -> Vec<Vec<Mention>> {
    match node {
        Node::Bool(test) => of_bool(test, &[]),
        Node::Logic { and: true, first, .. } => of_bool(first, &[]),
        Node::Chain(inner) => mentions(inner),
        Node::Conditional { condition, otherwise, .. } if is_false(otherwise) => of_bool(condition, &[]),
        Node::Let { local, value, body } if safe_node(value) => match &**body {
            Node::Bool(test) => of_bool(test, &[(*local, value)]),
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// What locals stand for.
type Scope<'s> = [(usize, &'s Node)];

fn of_bool(node: &BoolNode, scope: &Scope<'_>) -> Vec<Vec<Mention>> {
    let one = |text: &TextNode, words: Vec<Source>| in_subject(text, words, scope).into_iter().collect();
    match node {
        BoolNode::And(parts) => {
            let mut found = Vec::new();
            for part in parts {
                found.extend(of_bool(part, scope));
                if !safe_in(part, scope) {
                    break;
                }
            }
            found
        }
        BoolNode::Or(parts) => {
            let mut all = Vec::new();
            for part in parts {
                // The first is as good as any.
                let Some(first) = of_bool(part, scope).into_iter().next() else { return Vec::new() };
                all.extend(first);
            }
            vec![all]
        }
        BoolNode::EqualConst { text, to: word }
        | BoolNode::StartsWith { text, prefix: word }
        | BoolNode::EndsWith { text, suffix: word }
            if !word.is_empty() =>
        {
            one(text, vec![Source::Text(word.to_string())])
        }
        BoolNode::Contains { text, needle } if !needle.needle().is_empty() => {
            one(text, vec![Source::Text(String::from_utf8_lossy(needle.needle()).into_owned())])
        }
        BoolNode::InTexts { text, set } if !set.contains("") => {
            one(text, set.to_vec().into_iter().map(Source::Text).collect())
        }
        BoolNode::Matches { text: Node::Text(text), regex } => {
            let words = regex_dialect::check(regex.pattern()).ok().and_then(|hir| literals(&hir));
            words.map_or(Vec::new(), |words| one(text, words.into_iter().map(Source::Text).collect()))
        }
        BoolNode::AnyLine { file, text, test: LineTest { op, fold } } if *op != LineOp::Range => {
            one(text, vec![Source::Line(file.to_string(), *fold)])
        }
        BoolNode::Dynamic(Node::Call { function, args }) => match (function.name, &*args.nodes) {
            ("RegexpInFile", [Node::Text(text), Node::Const(Const::Text(file))]) => {
                one(text, vec![Source::Regex(file.to_string())])
            }
            _ => Vec::new(),
        },
        BoolNode::Let { local, value, body } if safe_node(value) => {
            let scope: Vec<_> = scope.iter().copied().chain([(*local, value)]).collect();
            of_bool(body, &scope)
        }
        BoolNode::Memo { test: inner, .. } => of_bool(inner, scope),
        _ => Vec::new(),
    }
}

/// The mention of one of `words` in the field that `text` comes from, if it comes from one.
fn in_subject(text: &TextNode, words: Vec<Source>, scope: &Scope<'_>) -> Option<Vec<Mention>> {
    let mut escapes = Vec::new();
    let field = subject(text, scope, &mut escapes)?;
    let escapes = escapes.into_iter().map(|escape| Source::Text(escape.to_owned()));
    Some(words.into_iter().chain(escapes).map(|source| Mention { field, needle: Needle(source) }).collect())
}

/// The field of variable 0 that `text` comes from, changed in case and unescaped at most. Text without any of `escapes`
/// is as it was before it was unescaped.
fn subject(text: &TextNode, scope: &Scope<'_>, escapes: &mut Vec<&'static str>) -> Option<FieldId> {
    match text {
        TextNode::Field { var: 0, field } => Some(*field),
        TextNode::Memo { text, .. } => subject(text, scope, escapes),
        TextNode::Dynamic(Node::Local(local)) => {
            let (_, value) = scope.iter().rev().find(|(known, _)| known == local)?;
            match value {
                Node::Text(text) => subject(text, scope, escapes),
                _ => None,
            }
        }
        TextNode::Dynamic(Node::Call { function, args }) => {
            let [Node::Text(inner)] = &*args.nodes else { return None };
            match function.name {
                "Upper" | "Lower" | "upper" | "lower" | "TrimSpace" => {}
                "PathUnescape" => escapes.push("%"),
                "QueryUnescape" => escapes.extend(["%", "+"]),
                _ => return None,
            }
            subject(inner, scope, escapes)
        }
        _ => None,
    }
}

/// Words of which every match in ASCII holds one, in lower case: the longest that are easily found.
fn literals(hir: &Hir) -> Option<Vec<String>> {
    let ends = [ExtractKind::Prefix, ExtractKind::Suffix].into_iter().filter_map(|kind| {
        let found = Extractor::new().kind(kind).extract(hir);
        let literals = found.literals()?.iter().map(|literal| literal.as_bytes().to_vec());
        Some(literals.collect::<Vec<_>>())
    });
    let found = ends.chain(inner(hir)).filter(|words| !words.iter().any(Vec::is_empty));
    let best = found.max_by_key(|words| words.iter().map(Vec::len).min())?;
    let mut words: Vec<String> = best.into_iter().filter_map(|word| ascii(String::from_utf8(word).ok()?)).collect();
    words.sort_unstable();
    words.dedup();
    Some(words)
}

/// Literals of which every match holds one, wherever it is.
fn inner(hir: &Hir) -> Option<Vec<Vec<u8>>> {
    match hir.kind() {
        HirKind::Literal(literal) => Some(vec![literal.0.to_vec()]),
        HirKind::Capture(capture) => inner(&capture.sub),
        HirKind::Repetition(repetition) if repetition.min > 0 => inner(&repetition.sub),
        HirKind::Concat(parts) => parts.iter().filter_map(inner).max_by_key(|words| words.iter().map(Vec::len).min()),
        HirKind::Alternation(parts) => Some(parts.iter().map(inner).collect::<Option<Vec<_>>>()?.concat()),
        _ => None,
    }
}
