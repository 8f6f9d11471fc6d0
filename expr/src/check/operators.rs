//! Operators: which types they take, and the cheapest node that does the same.

use std::collections::HashSet;

use memchr::memmem::Finder;

use super::{Checked, Checker, constant, error, from_bool, to_bool, to_text};
use crate::ast::{BinaryOp, Expr, Kind};
use crate::program::{self, BoolNode, Const, LazyRegex, Node, TextNode, TextSet};
use crate::types::Type;

fn number(ty: &Type) -> bool {
    matches!(ty, Type::Int | Type::Float) || integer(ty)
}

fn integer(ty: &Type) -> bool {
    match ty {
        Type::Int => true,
        Type::Sized(kind) => !kind.named(),
        _ => false,
    }
}

fn list(ty: &Type) -> bool {
    matches!(ty, Type::List(_) | Type::Generic(_) | Type::Bytes)
}

/// Whether `==` makes sense between two known types.
fn comparable(left: &Type, right: &Type) -> bool {
    let (left, right) = (left.behind(), right.behind());
    left == right
        || matches!(left, Type::Any | Type::Nil)
        || matches!(right, Type::Any | Type::Nil)
        || (number(left) && number(right))
        || (list(left) && list(right))
}

/// Whether both are of one of `kinds`, or one is and the other unknown, or both are unknown.
fn both(left: &Type, right: &Type, kinds: &[fn(&Type) -> bool]) -> bool {
    match (left, right) {
        (Type::Any, Type::Any) => true,
        (Type::Any, known) | (known, Type::Any) => kinds.iter().any(|kind| kind(known)),
        (left, right) => kinds.iter().any(|kind| kind(left) && kind(right)),
    }
}

fn bool_like(ty: &Type) -> bool {
    *ty == Type::Bool
}

fn string(ty: &Type) -> bool {
    *ty == Type::String
}

fn time(ty: &Type) -> bool {
    *ty == Type::Time
}

fn duration(ty: &Type) -> bool {
    *ty == Type::Duration
}

impl Checker<'_> {
    pub(super) fn visit_binary(&mut self, expr: &Expr, op: BinaryOp, left: &Expr, right: &Expr) -> Checked {
        match op {
            BinaryOp::In => return self.visit_in(expr, left, right),
            BinaryOp::Matches => return self.visit_matches(expr, left, right),
            BinaryOp::Coalesce => return self.visit_coalesce(left, right),
            _ => {}
        }
        let (left_node, left_ty) = self.visit(left)?;
        let (right_node, right_ty) = self.visit(right)?;
        let (l, r) = (left_ty.behind(), right_ty.behind());
        let mismatch = || {
            let mut error = crate::CompileError::new(
                expr.span.clone(),
                format!("invalid operation: `{}` between {left_ty} and {right_ty}", op.text()),
            );
            error.hint = match (op, l, r) {
                (BinaryOp::Equal | BinaryOp::NotEqual, Type::String, r) if number(r) => {
                    Some("compare with a string, or convert with `int(...)` or `float(...)`".to_owned())
                }
                (BinaryOp::Contains, l, _) if list(l) => Some("write `element in list`".to_owned()),
                _ => None,
            };
            Err(error)
        };
        match op {
            BinaryOp::Equal | BinaryOp::NotEqual => {
                if !comparable(l, r) {
                    return mismatch();
                }
                let test = equality(left_node, &left_ty, right_node, &right_ty);
                let test = if op == BinaryOp::NotEqual { negate(test) } else { test };
                Ok((from_bool(test), Type::Bool))
            }
            BinaryOp::Less | BinaryOp::LessEqual | BinaryOp::Greater | BinaryOp::GreaterEqual => {
                if !both(l, r, &[number, string, time, duration]) {
                    return mismatch();
                }
                Ok((from_bool(BoolNode::Compare { op, left: left_node, right: right_node }), Type::Bool))
            }
            BinaryOp::Contains | BinaryOp::StartsWith | BinaryOp::EndsWith => {
                if !both(l, r, &[string]) {
                    return mismatch();
                }
                Ok((from_bool(find(op, to_text(left_node), to_text(right_node))), Type::Bool))
            }
            BinaryOp::Range => {
                if !both(l, r, &[integer]) {
                    return mismatch();
                }
                let node = Node::Range { from: Box::new(left_node), to: Box::new(right_node) };
                Ok((node, Type::List(Box::new(Type::Int))))
            }
            _ => {
                let Some(ty) = arithmetic_type(op, l, r) else {
                    return mismatch();
                };
                if op == BinaryOp::Modulo && matches!(constant(&right_node), Some(Const::Int(0))) {
                    return error(&expr.span, "integer divide by zero");
                }
                Ok((arithmetic(op, left_node, right_node, &ty), ty))
            }
        }
    }

    pub(super) fn visit_not(&mut self, expr: &Expr, operand: &Expr) -> Checked {
        let (node, ty) = self.visit(operand)?;
        match ty.behind() {
            Type::Bool | Type::Any => Ok((from_bool(negate(to_bool(node))), Type::Bool)),
            other => {
                let mut error =
                    crate::CompileError::new(expr.span.clone(), format!("invalid operation: `not` of {other}"));
                error.hint =
                    Some("`not` binds tighter than comparisons: write `not (a in b)` or `a not in b`".to_owned());
                Err(error)
            }
        }
    }

    pub(super) fn visit_sign(&mut self, expr: &Expr, minus: bool, operand: &Expr) -> Checked {
        let (node, ty) = self.visit(operand)?;
        let result = match ty.behind() {
            Type::Any => Type::Any,
            known if number(known) => known.clone(),
            other => {
                return error(&expr.span, format!("invalid operation: `{}` of {other}", if minus { "-" } else { "+" }));
            }
        };
        Ok(match (minus, node) {
            (false, node @ Node::Const(_)) => (node, result),
            (true, Node::Const(Const::Int(value))) => (Node::Const(Const::Int(value.wrapping_neg())), result),
            (true, Node::Const(Const::Float(value))) => (Node::Const(Const::Float(-value)), result),
            (true, node) => (Node::Negate(Box::new(node)), result),
            (false, node) => (Node::Plus(Box::new(node)), result),
        })
    }

    pub(super) fn visit_logic(&mut self, expr: &Expr, and: bool, items: &[Expr]) -> Checked {
        let mut nodes: Vec<Node> = Vec::with_capacity(items.len());
        let mut before: Option<Type> = None;
        let word = if and { "and" } else { "or" };
        for item in items {
            let (node, ty) = self.visit(item)?;
            let ty = ty.behind().clone();
            if let Some(before) = &before
                && !both(before, &ty, &[bool_like])
            {
                return error(&expr.span, format!("invalid operation: `{word}` between {before} and {ty}"));
            }
            before = Some(if before.is_none() { ty } else { Type::Bool });
            // `X and true` is X, `X and false` is false, and so on: what is folded is never run
            match (constant(&node), nodes.as_slice()) {
                (Some(Const::Bool(value)), [_, ..]) if *value == and => {}
                (Some(Const::Bool(_)), _) => nodes = vec![node],
                (_, [Node::Const(Const::Bool(value))]) if *value == and => nodes = vec![node],
                (_, [Node::Const(Const::Bool(_))]) => {}
                _ => nodes.push(node),
            }
        }
        let Some(last) = nodes.pop() else {
            return Ok((Node::Const(Const::Bool(and)), Type::Bool));
        };
        if nodes.is_empty() {
            return Ok((last, Type::Bool));
        }
        let mut tests: Vec<BoolNode> = nodes.into_iter().map(to_bool).collect();
        let join = |tests: Vec<BoolNode>| {
            if and { BoolNode::And(tests.into()) } else { BoolNode::Or(tests.into()) }
        };
        if matches!(last, Node::Bool(_)) {
            tests.push(to_bool(last));
            return Ok((from_bool(join(tests)), Type::Bool));
        }
        Ok((Node::Logic { and, first: Box::new(join(tests)), last: Box::new(last) }, Type::Bool))
    }

    pub(super) fn visit_conditional(&mut self, condition: &Expr, then: &Expr, otherwise: &Expr) -> Checked {
        let (test, test_ty) = self.visit(condition)?;
        if !matches!(test_ty.behind(), Type::Bool | Type::Any) {
            return error(&condition.span, format!("a condition must be bool, found {test_ty}"));
        }
        let (then_node, then_ty) = self.visit(then)?;
        let (else_node, else_ty) = self.visit(otherwise)?;
        let ty = match (&then_ty, &else_ty) {
            (Type::Nil, _) => else_ty.clone(),
            (_, Type::Nil) => then_ty.clone(),
            (a, b) if a == b => then_ty.clone(),
            _ => Type::Any,
        };
        if ty == Type::Any {
            self.note_leak(&then_ty);
            self.note_leak(&else_ty);
        }
        let test = to_bool(test);
        let certain = |node: &Node| matches!(node, Node::Bool(_) | Node::Const(Const::Bool(_)));
        if certain(&then_node) && certain(&else_node) {
            let node = match (test, to_bool(then_node), to_bool(else_node)) {
                (test, then, BoolNode::Const(false)) => BoolNode::And([test, then].into()),
                (test, BoolNode::Const(false), otherwise) => BoolNode::And([negate(test), otherwise].into()),
                (test, then, BoolNode::Const(true)) => BoolNode::Or([negate(test), then].into()),
                (test, BoolNode::Const(true), otherwise) => BoolNode::Or([test, otherwise].into()),
                (test, then, otherwise) => BoolNode::Conditional {
                    condition: Box::new(test),
                    then: Box::new(then),
                    otherwise: Box::new(otherwise),
                },
            };
            return Ok((from_bool(node), Type::Bool));
        }
        let node =
            Node::Conditional { condition: Box::new(test), then: Box::new(then_node), otherwise: Box::new(else_node) };
        Ok((node, ty))
    }

    fn visit_coalesce(&mut self, left: &Expr, right: &Expr) -> Checked {
        let (left_node, left_ty) = self.visit(left)?;
        let (right_node, right_ty) = self.visit(right)?;
        let ty = match (&left_ty, &right_ty) {
            (Type::Nil, other) | (other, Type::Nil) => other.clone(),
            (left, right) if left == right => left.clone(),
            _ => Type::Any,
        };
        if ty == Type::Any {
            self.note_leak(&left_ty);
            self.note_leak(&right_ty);
        }
        Ok((Node::Coalesce { left: Box::new(left_node), right: Box::new(right_node) }, ty))
    }

    fn visit_matches(&mut self, expr: &Expr, left: &Expr, right: &Expr) -> Checked {
        let (outer, saved) = self.enter();
        let (text, text_ty) = self.visit(left)?;
        let (pattern, pattern_ty) = self.visit(right)?;
        let bytes = |ty: &Type| *ty == Type::Bytes;
        let (l, r) = (text_ty.behind(), pattern_ty.behind());
        let fits = both(l, r, &[string]) || (bytes(l) && matches!(r, Type::String | Type::Any));
        if !fits {
            return error(&expr.span, format!("invalid operation: `matches` between {text_ty} and {pattern_ty}"));
        }
        let node = match pattern {
            Node::Const(Const::Text(pattern)) => {
                let regex = LazyRegex::new(&pattern).map_err(|message| {
                    let mut error = crate::CompileError::new(right.span.clone(), message);
                    if matches!(right.kind, Kind::Str(_)) && pattern.contains('\u{8}') {
                        error.hint = Some("in a quoted string `\\b` is a backspace: write `\\\\b`".to_owned());
                    } else {
                        error.hint =
                            Some("brackets and signs that are meant as text need `\\\\` before them".to_owned());
                    }
                    error
                })?;
                BoolNode::Matches { text, regex: Box::new(regex) }
            }
            pattern => BoolNode::MatchesComputed { text, pattern: to_text(pattern) },
        };
        let flow = self.leave(saved);
        Ok((self.share(expr, from_bool(node), &Type::Bool, flow, outer), Type::Bool))
    }

    fn visit_in(&mut self, expr: &Expr, left: &Expr, right: &Expr) -> Checked {
        let (left_node, left_ty) = self.visit(left)?;
        if let Kind::Array(items) = &right.kind {
            return self.visit_in_array(expr, left_node, &left_ty, right, items);
        }
        let (right_node, right_ty) = self.visit_place(right)?;
        let l = left_ty.behind();
        match right_ty.behind() {
            Type::Any => {}
            Type::Map(_) => {
                if !matches!(l, Type::String | Type::Any | Type::Nil) {
                    return error(&left.span, format!("cannot use {left_ty} as a key of {right_ty}"));
                }
            }
            Type::List(element) | Type::Generic(element) => {
                if !comparable(l, element) {
                    return error(&left.span, format!("cannot look for {left_ty} in {right_ty}"));
                }
            }
            Type::Bytes if integer(l) || *l == Type::Any => {}
            Type::Class(_) if matches!(l, Type::String | Type::Any) => {}
            _ => {
                let mut error = crate::CompileError::new(
                    expr.span.clone(),
                    format!("invalid operation: `in` between {left_ty} and {right_ty}"),
                );
                if *right_ty.behind() == Type::String {
                    error.hint = Some("write `text contains part`".to_owned());
                }
                return Err(error);
            }
        }
        if let Node::SlotMap { base, map, optional } = right_node {
            return Ok(match left_node {
                Node::Const(Const::Text(key)) if !optional => self.presence(*base, map, &key),
                left_node => {
                    self.note_map(&base, map);
                    let right_node = Node::SlotMap { base, map, optional };
                    (from_bool(BoolNode::In(left_node, right_node)), Type::Bool)
                }
            });
        }
        Ok((from_bool(BoolNode::In(left_node, right_node)), Type::Bool))
    }

    /// Literal lists: all text or all integers make a set, others are compared one by one.
    fn visit_in_array(&mut self, expr: &Expr, left: Node, left_ty: &Type, right: &Expr, items: &[Expr]) -> Checked {
        let (array, array_ty) = self.visit(right)?;
        let element = match &array_ty {
            Type::Generic(element) => (**element).clone(),
            _ => Type::Any,
        };
        if !comparable(left_ty, &element) {
            return error(&expr.span, format!("cannot look for {left_ty} in a list of {element}"));
        }
        let texts: Option<Vec<Box<str>>> = items
            .iter()
            .map(|item| match &item.kind {
                Kind::Str(text) => Some(text.as_str().into()),
                _ => None,
            })
            .collect();
        let ints: Option<HashSet<i64>> = items
            .iter()
            .map(|item| match &item.kind {
                Kind::Int(value) => Some(*value),
                _ => None,
            })
            .collect();
        let test = match (texts, ints, array) {
            (Some(texts), _, _) if !texts.is_empty() => {
                BoolNode::InTexts { text: to_text(left), set: TextSet::new(texts) }
            }
            (_, Some(set), _) if !set.is_empty() && *left_ty == Type::Int => BoolNode::InInts { node: left, set },
            (_, _, Node::Array(nodes)) => BoolNode::InArray(left, nodes),
            (_, _, array) => BoolNode::In(left, array),
        };
        Ok((from_bool(test), Type::Bool))
    }
}

pub(super) fn negate(test: BoolNode) -> BoolNode {
    match test {
        BoolNode::Const(value) => BoolNode::Const(!value),
        other => BoolNode::Not(Box::new(other)),
    }
}

fn equality(left: Node, left_ty: &Type, right: Node, right_ty: &Type) -> BoolNode {
    if let (Some(a), Some(b)) = (constant(&left), constant(&right)) {
        return BoolNode::Const(program::equal(&a.value(), &b.value()));
    }
    match (left_ty, right_ty) {
        (Type::String, Type::String) => match (left, right) {
            (Node::Const(Const::Text(to)), text) | (text, Node::Const(Const::Text(to))) => {
                BoolNode::EqualConst { text: to_text(text), to }
            }
            (left, right) => BoolNode::EqualTexts(to_text(left), to_text(right)),
        },
        (Type::Int, Type::Int) => BoolNode::EqualInts(left, right),
        _ => BoolNode::Equal(left, right),
    }
}

fn find(op: BinaryOp, text: TextNode, needle: TextNode) -> BoolNode {
    match (op, needle) {
        (BinaryOp::StartsWith, TextNode::Const(prefix)) => BoolNode::StartsWith { text, prefix },
        (BinaryOp::EndsWith, TextNode::Const(suffix)) => BoolNode::EndsWith { text, suffix },
        (BinaryOp::Contains, TextNode::Const(needle)) => {
            BoolNode::Contains { text, needle: Box::new(Finder::new(needle.as_bytes()).into_owned()) }
        }
        (op, needle) => BoolNode::Find { op, text, needle },
    }
}

fn arithmetic_type(op: BinaryOp, l: &Type, r: &Type) -> Option<Type> {
    let unknown = *l == Type::Any || *r == Type::Any;
    let numbers = || {
        if integer(l) && integer(r) { Type::Int } else { Type::Float }
    };
    match op {
        BinaryOp::Add => match (l, r) {
            (Type::String, Type::String) => Some(Type::String),
            (Type::Time, Type::Duration) | (Type::Duration, Type::Time) => Some(Type::Time),
            (Type::Duration, Type::Duration) => Some(Type::Duration),
            (l, r) if number(l) && number(r) => Some(numbers()),
            (l, r) if unknown && both(l, r, &[number, string, time, duration]) => Some(Type::Any),
            _ => None,
        },
        BinaryOp::Subtract => match (l, r) {
            (Type::Time, Type::Time) | (Type::Duration, Type::Duration) => Some(Type::Duration),
            (Type::Time, Type::Duration) => Some(Type::Time),
            (l, r) if number(l) && number(r) => Some(numbers()),
            (l, r) if unknown && both(l, r, &[number, time, duration]) => Some(Type::Any),
            _ => None,
        },
        BinaryOp::Multiply => match (l, r) {
            // whether a duration or a float comes out depends on the number: only an integer keeps it
            (Type::Duration, Type::Float) | (Type::Float, Type::Duration) => Some(Type::Any),
            (Type::Duration, r) if number(r) => Some(Type::Duration),
            (l, Type::Duration) if number(l) => Some(Type::Duration),
            (Type::Duration, Type::Duration) => Some(Type::Duration),
            (l, r) if number(l) && number(r) => Some(numbers()),
            (l, r) if unknown && both(l, r, &[number, duration]) => Some(Type::Any),
            _ => None,
        },
        BinaryOp::Modulo => both(l, r, &[integer]).then_some(Type::Int),
        _ => both(l, r, &[number]).then_some(Type::Float),
    }
}

fn arithmetic(op: BinaryOp, left: Node, right: Node, ty: &Type) -> Node {
    if let (Some(a), Some(b)) = (constant(&left), constant(&right))
        && let Ok(value) = program::arithmetic(op, &a.value(), &b.value())
    {
        match value {
            crate::Value::Int(value) => return Node::Const(Const::Int(value)),
            crate::Value::Float(value) => return Node::Const(Const::Float(value)),
            crate::Value::Str(text) => return Node::Const(Const::Text(text.into())),
            _ => {}
        }
    }
    if op == BinaryOp::Add && *ty == Type::String {
        let mut parts = Vec::new();
        for part in [to_text(left), to_text(right)] {
            match part {
                TextNode::Concat(inner) => parts.extend(inner.into_vec()),
                other => parts.push(other),
            }
        }
        return Node::Text(Box::new(TextNode::Concat(parts.into())));
    }
    Node::Arithmetic { op, left: Box::new(left), right: Box::new(right) }
}
