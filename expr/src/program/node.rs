//! The typed program: a tree whose nodes know at load what they will yield.
//!
//! Truth values and text have trees of their own, so that the common filters run without making
//! a [`Value`](crate::Value) at all; everything else is a [`Node`].

use std::collections::HashSet;
use std::sync::OnceLock;

use memchr::memmem::Finder;

use crate::ast::{BinaryOp, ClosureFn};
use crate::library::Function;
use crate::regex_dialect;
use crate::types::{FieldId, MapId, MemberId, MethodId, Type};

/// A constant.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Const {
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Box<str>),
    Bytes(Box<[u8]>),
    /// Nanoseconds.
    Duration(i64),
}

/// Yields any value.
#[derive(Debug)]
pub(crate) enum Node {
    Const(Const),
    Bool(Box<BoolNode>),
    Text(Box<TextNode>),
    Var(usize),
    Local(usize),
    /// `$env`: names and values of the variables.
    Variables(Box<[&'static str]>),
    /// A member of a structure of known class.
    Member {
        base: Box<Node>,
        member: MemberId,
        name: &'static str,
        optional: bool,
    },
    /// A string map of a structure, as a value.
    SlotMap {
        base: Box<Node>,
        map: MapId,
        optional: bool,
    },
    /// `base.name` where only run time knows what `base` is.
    Field {
        base: Box<Node>,
        name: Box<str>,
        optional: bool,
    },
    /// `base[key]` likewise.
    Index {
        base: Box<Node>,
        key: Box<Node>,
        optional: bool,
    },
    Slice {
        base: Box<Node>,
        from: Option<Box<Node>>,
        to: Option<Box<Node>>,
    },
    Chain(Box<Node>),
    /// A method of a known class.
    Method {
        base: Box<Node>,
        method: MethodId,
        name: &'static str,
        effect: bool,
        args: Args,
    },
    /// `base.name(args)` where only run time knows what `base` is.
    DynamicMethod {
        base: Box<Node>,
        name: Box<str>,
        optional: bool,
        args: Box<[Node]>,
    },
    Call {
        function: &'static Function,
        args: Args,
    },
    /// A pointer given to a parameter of any type: it is not followed.
    Address(Box<Node>),
    Memo {
        slot: usize,
        node: Box<Node>,
    },
    Negate(Box<Node>),
    Plus(Box<Node>),
    Arithmetic {
        op: BinaryOp,
        left: Box<Node>,
        right: Box<Node>,
    },
    Range {
        from: Box<Node>,
        to: Box<Node>,
    },
    Array(Box<[Node]>),
    Map(Box<[(Node, Node)]>),
    Conditional {
        condition: Box<BoolNode>,
        then: Box<Node>,
        otherwise: Box<Node>,
    },
    Coalesce {
        left: Box<Node>,
        right: Box<Node>,
    },
    /// `and`/`or` whose last operand is not known to be a truth value: it is given back as it is.
    Logic {
        and: bool,
        first: Box<BoolNode>,
        last: Box<Node>,
    },
    Let {
        local: usize,
        value: Box<Node>,
        body: Box<Node>,
    },
    Sequence(Box<[Node]>),
    Closure(Box<Closure>),
}

/// Arguments of a call, and the types that remain to be checked at run time.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) nodes: Box<[Node]>,
    /// Index of an argument of unknown type, and the type it must have.
    pub(crate) check: Box<[(usize, Type)]>,
}

/// Yields text, or nothing where nil may occur.
#[derive(Debug)]
pub(crate) enum TextNode {
    Const(Box<str>),
    /// A text field of a variable.
    Field {
        var: usize,
        field: FieldId,
    },
    /// A text field of any other structure.
    Slot {
        base: Node,
        field: FieldId,
        optional: bool,
    },
    Concat(Box<[TextNode]>),
    Memo {
        slot: usize,
        text: Box<TextNode>,
    },
    Dynamic(Node),
}

/// Yields a truth value.
#[derive(Debug)]
pub(crate) enum BoolNode {
    Const(bool),
    Not(Box<BoolNode>),
    And(Box<[BoolNode]>),
    Or(Box<[BoolNode]>),
    EqualConst {
        text: TextNode,
        to: Box<str>,
    },
    EqualTexts(TextNode, TextNode),
    InTexts {
        text: TextNode,
        set: TextSet,
    },
    InInts {
        node: Node,
        set: HashSet<i64>,
    },
    Contains {
        text: TextNode,
        needle: Box<Finder<'static>>,
    },
    StartsWith {
        text: TextNode,
        prefix: Box<str>,
    },
    EndsWith {
        text: TextNode,
        suffix: Box<str>,
    },
    /// `contains`, `startsWith` or `endsWith` with a computed needle.
    Find {
        op: BinaryOp,
        text: TextNode,
        needle: TextNode,
    },
    Matches {
        text: Node,
        regex: Box<LazyRegex>,
    },
    MatchesComputed {
        text: Node,
        pattern: TextNode,
    },
    /// `"key" in evt.Parsed`.
    Present {
        base: Node,
        field: FieldId,
    },
    Equal(Node, Node),
    /// Both sides are integers for the checker, so nil is an error.
    EqualInts(Node, Node),
    Compare {
        op: BinaryOp,
        left: Node,
        right: Node,
    },
    In(Node, Node),
    /// A list literal that is no set: `==` against each element.
    InArray(Node, Box<[Node]>),
    Conditional {
        condition: Box<BoolNode>,
        then: Box<BoolNode>,
        otherwise: Box<BoolNode>,
    },
    Let {
        local: usize,
        value: Node,
        body: Box<BoolNode>,
    },
    Closure(Box<Closure>),
    /// `any(File(name), { text OP f(#) })` over the whole file at once.
    AnyLine {
        file: Box<str>,
        text: TextNode,
        test: LineTest,
    },
    Memo {
        slot: usize,
        test: Box<BoolNode>,
    },
    Dynamic(Node),
}

/// What each line of a data file is compared by, and how it is changed before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LineTest {
    pub(crate) op: LineOp,
    pub(crate) fold: Fold,
}

/// How text is compared with the lines of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum LineOp {
    Contains,
    Equals,
    StartsWith,
    EndsWith,
    /// The line is a range of addresses that the text is in.
    Range,
}

/// How a line is changed before it is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fold {
    Keep,
    Upper,
    Lower,
}

/// A function over a list with its predicate.
#[derive(Debug)]
pub(crate) struct Closure {
    pub(crate) function: ClosureFn,
    pub(crate) list: Node,
    pub(crate) body: Option<Body>,
    pub(crate) extra: Option<Node>,
    /// Where the element, its index and the accumulator live.
    pub(crate) item: usize,
    pub(crate) index: usize,
    pub(crate) acc: usize,
    /// Whether the body looks at the element.
    pub(crate) uses_item: bool,
    /// Of a filter: how many elements at the end of its result are enough.
    pub(crate) enough: Option<usize>,
}

/// What is evaluated for each element.
#[derive(Debug)]
pub(crate) enum Body {
    Test(BoolNode),
    Value(Node),
}

/// A set of constants; short ones are compared one by one.
#[derive(Debug)]
pub(crate) enum TextSet {
    Few(Box<[Box<str>]>),
    Many(HashSet<Box<str>>),
}

impl TextSet {
    pub(crate) fn new(mut texts: Vec<Box<str>>) -> Self {
        texts.sort_unstable();
        texts.dedup();
        if texts.len() <= 8 { TextSet::Few(texts.into()) } else { TextSet::Many(texts.into_iter().collect()) }
    }

    pub(crate) fn contains(&self, text: &str) -> bool {
        match self {
            TextSet::Few(texts) => texts.iter().any(|known| **known == *text),
            TextSet::Many(texts) => texts.contains(text),
        }
    }

    pub(crate) fn to_vec(&self) -> Vec<String> {
        let mut texts: Vec<String> = match self {
            TextSet::Few(texts) => texts.iter().map(ToString::to_string).collect(),
            TextSet::Many(texts) => texts.iter().map(ToString::to_string).collect(),
        };
        texts.sort_unstable();
        texts
    }
}

/// A constant regex, checked at load, built when it is first asked.
#[derive(Debug)]
pub(crate) struct LazyRegex {
    pattern: Box<str>,
    matches_empty: bool,
    built: OnceLock<Result<regex::bytes::Regex, Box<str>>>,
}

impl LazyRegex {
    /// Checks `pattern`; an error says what is wrong with it.
    pub(crate) fn new(pattern: &str) -> Result<Self, String> {
        let hir = regex_dialect::check(pattern).map_err(|error| error.to_string())?;
        let matches_empty = hir.properties().minimum_len() == Some(0);
        Ok(Self { pattern: pattern.into(), matches_empty, built: OnceLock::new() })
    }

    /// The pattern, as the rule spells it.
    pub(crate) fn pattern(&self) -> &str {
        &self.pattern
    }

    /// Whether the empty text may match.
    pub(crate) fn matches_empty(&self) -> bool {
        self.matches_empty
    }

    /// The matcher; the error is one of size.
    pub(crate) fn get(&self) -> Result<&regex::bytes::Regex, &str> {
        self.built
            .get_or_init(|| regex_dialect::compile(&self.pattern).map_err(|error| error.to_string().into()))
            .as_ref()
            .map_err(|error| &**error)
    }
}
