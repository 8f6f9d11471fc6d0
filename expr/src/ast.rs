//! The tree that the parser makes.
//!
//! Every node knows its byte range, its height and its size: the first for error messages, the
//! others so that neither recursion nor copies of subtrees can grow without bound.

use std::fmt::Write;
use std::ops::Range;

/// One node of the tree.
#[derive(Clone, Debug)]
pub(crate) struct Expr {
    pub(crate) kind: Kind,
    pub(crate) span: Range<usize>,
    /// Longest way down to a leaf.
    pub(crate) height: u32,
    /// Nodes of the subtree, this one included.
    pub(crate) size: u32,
}

/// What a node is.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    Bytes(Vec<u8>),
    Name(String),
    /// `#`, `#index`, `#acc`: the part after the sharp sign.
    Pointer(String),
    /// `base.name`, `base[property]` and their guarded forms.
    Member {
        base: Box<Expr>,
        property: Box<Expr>,
        optional: bool,
    },
    Slice {
        base: Box<Expr>,
        from: Option<Box<Expr>>,
        to: Option<Box<Expr>>,
    },
    /// The extent of `?.`: what follows inside it is skipped when a guard finds nil.
    Chain(Box<Expr>),
    /// `name(args)`; the name is a built-in, a helper or a variable.
    Call {
        name: String,
        args: Vec<Expr>,
    },
    /// `base.name(args)`.
    Method {
        base: Box<Expr>,
        name: String,
        optional: bool,
        args: Vec<Expr>,
    },
    /// A function over a list, `f(list, body, extra)`.
    Closure {
        function: ClosureFn,
        list: Box<Expr>,
        body: Option<Box<Expr>>,
        extra: Option<Box<Expr>>,
    },
    Not(Box<Expr>),
    Sign {
        minus: bool,
        operand: Box<Expr>,
    },
    Binary {
        op: BinaryOp,
        left: Box<Expr>,
        right: Box<Expr>,
    },
    /// A run of `and` (or of `or`), flat, so that long runs are not deep.
    Logic {
        and: bool,
        items: Vec<Expr>,
    },
    Conditional {
        condition: Box<Expr>,
        then: Box<Expr>,
        otherwise: Box<Expr>,
    },
    Let {
        name: String,
        value: Box<Expr>,
        body: Box<Expr>,
    },
    Sequence(Vec<Expr>),
    Array(Vec<Expr>),
    Map(Vec<(Expr, Expr)>),
}

impl Kind {
    /// The nodes directly below, in source order.
    pub(crate) fn children(&self) -> Vec<&Expr> {
        match self {
            Kind::Nil
            | Kind::Bool(_)
            | Kind::Int(_)
            | Kind::Float(_)
            | Kind::Str(_)
            | Kind::Bytes(_)
            | Kind::Name(_)
            | Kind::Pointer(_) => Vec::new(),
            Kind::Member { base, property, .. } => vec![base, property],
            Kind::Slice { base, from, to } => {
                let mut children = vec![&**base];
                children.extend(from.iter().chain(to).map(|child| &**child));
                children
            }
            Kind::Chain(child) | Kind::Not(child) | Kind::Sign { operand: child, .. } => {
                vec![child]
            }
            Kind::Call { args, .. } => args.iter().collect(),
            Kind::Method { base, args, .. } => std::iter::once(&**base).chain(args).collect(),
            Kind::Closure { list, body, extra, .. } => {
                let mut children = vec![&**list];
                children.extend(body.iter().chain(extra).map(|child| &**child));
                children
            }
            Kind::Binary { left, right, .. } => vec![left, right],
            Kind::Logic { items, .. } | Kind::Sequence(items) | Kind::Array(items) => items.iter().collect(),
            Kind::Conditional { condition, then, otherwise } => vec![condition, then, otherwise],
            Kind::Let { value, body, .. } => vec![value, body],
            Kind::Map(pairs) => pairs.iter().flat_map(|(key, value)| [key, value]).collect(),
        }
    }
}

impl Expr {
    /// Writes the tree so that equal trees read equal, wherever they stand.
    pub(crate) fn write_key(&self, out: &mut String) {
        // writing to a string cannot fail
        let _ = match &self.kind {
            Kind::Nil => out.write_str("nil"),
            Kind::Bool(value) => write!(out, "{value}"),
            Kind::Int(value) => write!(out, "{value}"),
            Kind::Float(value) => write!(out, "f{:x}", value.to_bits()),
            Kind::Str(text) => write!(out, "{text:?}"),
            Kind::Bytes(bytes) => write!(out, "b{bytes:?}"),
            Kind::Name(name) => out.write_str(name),
            Kind::Pointer(name) => write!(out, "#{name}"),
            Kind::Member { optional, .. } => write!(out, ".{optional}"),
            Kind::Slice { from, to, .. } => write!(out, ":{}{}", from.is_some(), to.is_some()),
            Kind::Chain(_) => out.write_str("chain"),
            Kind::Call { name, .. } => out.write_str(name),
            Kind::Method { name, optional, .. } => write!(out, ".{name}{optional}"),
            Kind::Closure { function, extra, .. } => write!(out, "{}{}", function.name(), extra.is_some()),
            Kind::Not(_) => out.write_str("!"),
            Kind::Sign { minus, .. } => write!(out, "sign{minus}"),
            Kind::Binary { op, .. } => out.write_str(op.text()),
            Kind::Logic { and, .. } => write!(out, "logic{and}"),
            Kind::Conditional { .. } => out.write_str("?"),
            Kind::Let { name, .. } => write!(out, "let {name}"),
            Kind::Sequence(_) => out.write_str(";"),
            Kind::Array(_) => out.write_str("[]"),
            Kind::Map(_) => out.write_str("{}"),
        };
        let children = self.kind.children();
        if !children.is_empty() {
            out.push('(');
            for child in children {
                child.write_key(out);
                out.push(',');
            }
            out.push(')');
        }
    }

    /// Whether the tree looks at the element of the predicate it stands in.
    pub(crate) fn mentions_element(&self) -> bool {
        match &self.kind {
            Kind::Pointer(name) => name.is_empty(),
            Kind::Closure { list, extra, .. } => {
                list.mentions_element() || extra.as_ref().is_some_and(|extra| extra.mentions_element())
            }
            kind => kind.children().into_iter().any(Expr::mentions_element),
        }
    }
}

/// Binary operators other than `and` and `or`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum BinaryOp {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    Matches,
    Contains,
    StartsWith,
    EndsWith,
    Range,
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Power,
    Coalesce,
}

impl BinaryOp {
    /// The operator as written.
    pub(crate) fn text(self) -> &'static str {
        match self {
            BinaryOp::Equal => "==",
            BinaryOp::NotEqual => "!=",
            BinaryOp::Less => "<",
            BinaryOp::LessEqual => "<=",
            BinaryOp::Greater => ">",
            BinaryOp::GreaterEqual => ">=",
            BinaryOp::In => "in",
            BinaryOp::Matches => "matches",
            BinaryOp::Contains => "contains",
            BinaryOp::StartsWith => "startsWith",
            BinaryOp::EndsWith => "endsWith",
            BinaryOp::Range => "..",
            BinaryOp::Add => "+",
            BinaryOp::Subtract => "-",
            BinaryOp::Multiply => "*",
            BinaryOp::Divide => "/",
            BinaryOp::Modulo => "%",
            BinaryOp::Power => "**",
            BinaryOp::Coalesce => "??",
        }
    }
}

/// Functions that run a predicate over a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ClosureFn {
    All,
    Any,
    None,
    One,
    Filter,
    Map,
    Find,
    FindLast,
    FindIndex,
    FindLastIndex,
    Count,
    Sum,
    GroupBy,
    SortBy,
    Reduce,
}

impl ClosureFn {
    /// All of them with their names.
    pub(crate) const ALL: [(&'static str, ClosureFn); 15] = [
        ("all", ClosureFn::All),
        ("any", ClosureFn::Any),
        ("none", ClosureFn::None),
        ("one", ClosureFn::One),
        ("filter", ClosureFn::Filter),
        ("map", ClosureFn::Map),
        ("find", ClosureFn::Find),
        ("findLast", ClosureFn::FindLast),
        ("findIndex", ClosureFn::FindIndex),
        ("findLastIndex", ClosureFn::FindLastIndex),
        ("count", ClosureFn::Count),
        ("sum", ClosureFn::Sum),
        ("groupBy", ClosureFn::GroupBy),
        ("sortBy", ClosureFn::SortBy),
        ("reduce", ClosureFn::Reduce),
    ];

    /// The function called `name`.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, function)| *function)
    }

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, function)| *function == self).map_or("", |(name, _)| name)
    }
}
