//! What is known of a program without running it: what it reads and writes, and conditions that
//! must hold for it to be true.

use crate::library::Nature;
use crate::needles::Mention;
use crate::program::{BoolNode, Const, Node, TextNode};
use crate::types::{FieldId, MapId, MemberId, MethodId};

/// What is known of a program without running it.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Facts {
    /// Text fields of variable 0 that it reads by constant name.
    pub reads: Vec<FieldId>,
    /// String maps of variable 0 that it reads by computed name, or whole.
    pub reads_all: Vec<MapId>,
    /// Members of variable 0 that are not text.
    pub members: Vec<MemberId>,
    /// Methods of variable 0 that it calls; what they read is the owner's business.
    pub methods: Vec<MethodId>,
    /// Text fields that it reads from any other structure (events of a queue) by constant name.
    pub queued: Vec<FieldId>,
    /// String maps of other structures that it reads by computed name, or whole.
    pub queued_all: Vec<MapId>,
    /// Members of other structures that are not text.
    pub queued_members: Vec<MemberId>,
    /// Methods of other structures that it calls.
    pub queued_methods: Vec<MethodId>,
    /// Whether a structure is looked into where its class was forgotten (`last(queue.Queue).Meta.x`):
    /// then any field of it may be read.
    pub opaque: bool,
    /// Text fields it writes by constant name (`SetX(key, ..)` writes the string map `X`).
    pub writes: Vec<FieldId>,
    /// String maps it writes by computed name.
    pub writes_all: Vec<MapId>,
    /// Whether evaluating it changes anything (`SetMeta`, `UnmarshalJSON`, logging).
    pub effect: bool,
    /// Whether it asks the host for something that changes with time (`now`, decisions, stash, DNS).
    pub volatile: bool,
    /// Stashes it reads (`None` inside: the name is computed).
    pub stashes: Vec<Option<String>>,
    /// Data files it names.
    pub files: Vec<String>,
    /// Conditions each of which must hold for the result to be `true`; only such as come before
    /// anything that can fail or write.
    pub requires: Vec<Condition>,
    /// Whether the result is `true` whenever all of `requires` hold.
    pub decided: bool,
    /// Whether it only compares plain fields with constants: then the answer is found faster than it is remembered.
    pub quick: bool,
    /// Lists of mentions: of each list one must be found, as far as values in ASCII are concerned, for the result to be `true`.
    pub mentions: Vec<Vec<Mention>>,
}

impl Facts {
    /// The text field of variable 0 that alone decides the result, if there is one: the same text, or its absence, gives the
    /// same result whenever it is evaluated, and nothing else happens.
    pub fn only_field(&self) -> Option<FieldId> {
        match self.reads[..] {
            [field] if self.only_fields() => Some(field),
            _ => None,
        }
    }

    /// Whether the text fields of variable 0 that it reads by constant name decide the result alone, and nothing else happens.
    pub fn only_fields(&self) -> bool {
        let nothing_else = self.reads_all.is_empty()
            && self.members.is_empty()
            && self.methods.is_empty()
            && self.queued.is_empty()
            && self.queued_all.is_empty()
            && self.queued_members.is_empty()
            && self.queued_methods.is_empty()
            && self.writes.is_empty()
            && self.writes_all.is_empty()
            && self.stashes.is_empty()
            && self.files.is_empty();
        nothing_else && !self.opaque && !self.effect && !self.volatile
    }
}

/// A necessary condition on one text field of variable 0; an absent field counts as empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The field equals one of these.
    In(FieldId, Vec<String>),
    /// The field starts with one of these.
    StartsWith(FieldId, Vec<String>),
    /// The field is not empty.
    NotEmpty(FieldId),
}

impl Condition {
    /// The field that it is about.
    pub fn field(&self) -> FieldId {
        match self {
            Condition::In(field, _) | Condition::StartsWith(field, _) | Condition::NotEmpty(field) => *field,
        }
    }

    /// What holds when either of two conditions on one field does.
    fn either(&self, other: &Condition) -> Option<Condition> {
        if self.field() != other.field() {
            return None;
        }
        let union = |a: &[String], b: &[String]| {
            let mut all = [a, b].concat();
            all.sort_unstable();
            all.dedup();
            all
        };
        let filled = |condition: &Condition| match condition {
            Condition::In(_, texts) | Condition::StartsWith(_, texts) => texts.iter().all(|text| !text.is_empty()),
            Condition::NotEmpty(_) => true,
        };
        match (self, other) {
            (Condition::In(field, a), Condition::In(_, b)) => Some(Condition::In(*field, union(a, b))),
            (
                Condition::In(field, a) | Condition::StartsWith(field, a),
                Condition::In(_, b) | Condition::StartsWith(_, b),
            ) => Some(Condition::StartsWith(*field, union(a, b))),
            (a, b) => (filled(a) && filled(b)).then(|| Condition::NotEmpty(a.field())),
        }
    }
}

/// The conditions without which `node` is not `true`.
pub(crate) fn requires(node: &Node) -> Vec<Condition> {
    match node {
        Node::Bool(test) => of_bool(test),
        Node::Logic { and: true, first, .. } => of_bool(first),
        Node::Chain(inner) => requires(inner),
        Node::Conditional { condition, otherwise, .. } if is_false(otherwise) => of_bool(condition),
        Node::Let { value, body, .. } if safe_node(value) => requires(body),
        _ => Vec::new(),
    }
}

/// Whether `node` is a conjunction of comparisons of plain fields with constants, which `requires` tells completely.
pub(crate) fn decided(node: &Node) -> bool {
    let Node::Bool(test) = node else { return false };
    let compared = |test: &BoolNode| match test {
        BoolNode::EqualConst { text, .. } | BoolNode::InTexts { text, .. } => field(text).is_some(),
        _ => false,
    };
    match &**test {
        BoolNode::And(tests) => tests.iter().all(compared),
        test => compared(test),
    }
}

/// Whether `node` compares plain fields with a few constants, and no more.
pub(crate) fn quick(node: &Node) -> bool {
    fn of(test: &BoolNode) -> bool {
        match test {
            BoolNode::Const(_) => true,
            BoolNode::Not(test) => of(test),
            BoolNode::And(tests) | BoolNode::Or(tests) => tests.len() <= 2 && tests.iter().all(of),
            BoolNode::EqualConst { text, .. } | BoolNode::StartsWith { text, .. } => field(text).is_some(),
            _ => false,
        }
    }
    matches!(node, Node::Bool(test) if of(test))
}

/// Whether `node` is the constant `false`.
pub(crate) fn is_false(node: &Node) -> bool {
    matches!(node, Node::Const(Const::Bool(false)))
}

fn of_bool(test: &BoolNode) -> Vec<Condition> {
    match test {
        BoolNode::And(tests) => {
            let mut conditions = Vec::new();
            for test in tests {
                conditions.extend(of_bool(test));
                if !safe(test) {
                    break;
                }
            }
            conditions
        }
        BoolNode::Or(tests) => {
            let mut tests = tests.iter();
            let mut conditions = tests.next().map(of_bool).unwrap_or_default();
            for test in tests {
                let others = of_bool(test);
                conditions = conditions
                    .iter()
                    .filter_map(|condition| others.iter().find_map(|other| condition.either(other)))
                    .collect();
            }
            conditions
        }
        BoolNode::EqualConst { text, to } => match field(text) {
            Some(field) => vec![Condition::In(field, vec![to.to_string()])],
            None if !to.is_empty() => not_empty(text),
            None => Vec::new(),
        },
        BoolNode::InTexts { text, set } => match field(text) {
            Some(field) => vec![Condition::In(field, set.to_vec())],
            None if !set.contains("") => not_empty(text),
            None => Vec::new(),
        },
        BoolNode::StartsWith { text, prefix } if !prefix.is_empty() => match field(text) {
            Some(field) => vec![Condition::StartsWith(field, vec![prefix.to_string()])],
            None => not_empty(text),
        },
        BoolNode::Matches { text: Node::Text(subject), regex } if !regex.matches_empty() => not_empty(subject),
        BoolNode::Contains { text, needle } if !needle.needle().is_empty() => not_empty(text),
        BoolNode::EndsWith { text, suffix } if !suffix.is_empty() => not_empty(text),
        BoolNode::Not(test) => match &**test {
            BoolNode::EqualConst { text, to } if to.is_empty() => not_empty(text),
            BoolNode::Not(inner) => of_bool(inner),
            _ => Vec::new(),
        },
        BoolNode::Memo { test, .. } => of_bool(test),
        BoolNode::Let { value, body, .. } if safe_node(value) => of_bool(body),
        BoolNode::Dynamic(node) => requires(node),
        _ => Vec::new(),
    }
}

/// The field of variable 0 that `node` is, unchanged.
pub(crate) fn field_of(node: &Node) -> Option<FieldId> {
    match node {
        Node::Text(text) => field(text),
        _ => None,
    }
}

/// The field of variable 0 that `text` is, unchanged.
fn field(text: &TextNode) -> Option<FieldId> {
    match text {
        TextNode::Field { var: 0, field } => Some(*field),
        TextNode::Memo { text, .. } => field(text),
        _ => None,
    }
}

/// The field without which `text` would be empty: itself, or what only changes its letters.
fn not_empty(text: &TextNode) -> Vec<Condition> {
    source(text).map(Condition::NotEmpty).into_iter().collect()
}

fn source(text: &TextNode) -> Option<FieldId> {
    match text {
        TextNode::Field { .. } => field(text),
        TextNode::Memo { text, .. } => source(text),
        TextNode::Dynamic(Node::Call { function, args }) => match (function.name, &*args.nodes) {
            (
                "Upper" | "Lower" | "upper" | "lower" | "TrimSpace" | "PathUnescape" | "QueryUnescape" | "PathEscape"
                | "QueryEscape",
                [Node::Text(text)],
            ) => source(text),
            ("trim", [Node::Text(text), ..]) => source(text),
            _ => None,
        },
        _ => None,
    }
}

/// The same where `scope` holds locals whose values are safe.
pub(crate) fn safe_in(test: &BoolNode, scope: &[(usize, &Node)]) -> bool {
    let subject = |text: &TextNode| match text {
        TextNode::Dynamic(Node::Local(local)) => {
            let value = scope.iter().rev().find(|(known, _)| known == local);
            value.is_some_and(|(_, value)| matches!(value, Node::Text(_)))
        }
        other => safe_text(other),
    };
    match test {
        BoolNode::EqualConst { text, .. }
        | BoolNode::InTexts { text, .. }
        | BoolNode::Contains { text, .. }
        | BoolNode::StartsWith { text, .. }
        | BoolNode::EndsWith { text, .. } => subject(text),
        test => safe(test),
    }
}

/// Whether evaluating `node` can neither fail nor change anything, and gives text.
pub(crate) fn safe_node(node: &Node) -> bool {
    matches!(node, Node::Text(text) if safe_text(text))
}

/// Whether evaluating `test` can neither fail nor change anything.
fn safe(test: &BoolNode) -> bool {
    match test {
        BoolNode::Const(_) => true,
        BoolNode::Not(test) => safe(test),
        BoolNode::And(tests) | BoolNode::Or(tests) => tests.iter().all(safe),
        BoolNode::EqualConst { text, .. }
        | BoolNode::InTexts { text, .. }
        | BoolNode::Contains { text, .. }
        | BoolNode::StartsWith { text, .. }
        | BoolNode::EndsWith { text, .. }
        | BoolNode::AnyLine { text, .. } => safe_text(text),
        BoolNode::EqualTexts(left, right) => safe_text(left) && safe_text(right),
        BoolNode::Find { text, needle, .. } => safe_text(text) && safe_text(needle),
        BoolNode::Matches { text: Node::Text(subject), .. } => safe_text(subject),
        BoolNode::Present { base: Node::Var(0), .. } => true,
        BoolNode::Memo { test, .. } => safe(test),
        BoolNode::Conditional { condition, then, otherwise } => safe(condition) && safe(then) && safe(otherwise),
        BoolNode::Dynamic(Node::Call { function, args }) => {
            matches!(function.result, crate::library::R::Bool) && safe_call(function, args)
        }
        _ => false,
    }
}

fn safe_text(text: &TextNode) -> bool {
    match text {
        TextNode::Const(_) | TextNode::Field { var: 0, .. } => true,
        TextNode::Memo { text, .. } => safe_text(text),
        TextNode::Dynamic(Node::Call { function, args }) => {
            matches!(function.result, crate::library::R::Str) && safe_call(function, args)
        }
        _ => false,
    }
}

fn safe_call(function: &crate::library::Function, args: &crate::program::Args) -> bool {
    matches!(function.nature, Nature::Pure | Nature::Cheap)
        && !function.fails
        && args.check.iter().all(|(index, _)| matches!(args.nodes.get(*index), Some(Node::Text(_))))
        && args.nodes.iter().all(|arg| match arg {
            Node::Const(_) => true,
            Node::Text(text) => safe_text(text),
            _ => false,
        })
}
