//! Functions over lists and their predicates.

use super::{Checked, Checker, Predicate, error, from_bool, to_bool, to_text};
use crate::ast::{BinaryOp, ClosureFn, Expr, Kind};
use crate::program::{Body, BoolNode, Closure, Const, Fold, LineOp, LineTest, Node, TextNode};
use crate::types::{IntKind, Type};

impl Checker<'_> {
    pub(super) fn visit_closure(
        &mut self,
        expr: &Expr,
        function: ClosureFn,
        list: &Expr,
        body: Option<&Expr>,
        extra: Option<&Expr>,
    ) -> Checked {
        let (outer, saved) = self.enter();
        if let Some(node) = self.any_line(function, list, body)? {
            let flow = self.leave(saved);
            return Ok((self.share(expr, node, &Type::Bool, flow, outer), Type::Bool));
        }
        let (list_node, list_ty) = self.visit(list)?;
        let element = match list_ty.behind() {
            Type::Any => Type::Any,
            Type::List(element) | Type::Generic(element) => (**element).clone(),
            Type::Bytes => Type::Sized(IntKind::U8),
            other => {
                return error(&list.span, format!("`{}` takes a list, found {other}", function.name()));
            }
        };
        let item = self.local();
        let index = matches!(function, ClosureFn::Map | ClosureFn::Reduce).then(|| self.local());
        let acc = (function == ClosureFn::Reduce).then(|| self.local());
        self.predicates.push(Predicate { element: element.clone(), item, index, acc, used: false });
        let visited = body.map(|body| self.visit(body)).transpose();
        let used = self.predicates.pop().is_some_and(|predicate| predicate.used);
        let visited = visited?;
        let extra = extra.map(|extra| self.visit(extra)).transpose()?;
        if let (ClosureFn::SortBy, Some((_, ty))) = (function, &extra)
            && !matches!(ty.behind(), Type::String | Type::Any)
        {
            return error(&expr.span, format!("the order of `sortBy` is \"asc\" or \"desc\", found {ty}"));
        }
        let boolean = matches!(
            function,
            ClosureFn::All
                | ClosureFn::Any
                | ClosureFn::None
                | ClosureFn::One
                | ClosureFn::Filter
                | ClosureFn::Find
                | ClosureFn::FindLast
                | ClosureFn::FindIndex
                | ClosureFn::FindLastIndex
                | ClosureFn::Count
        );
        let body_ty = match (&visited, body) {
            (Some((_, ty)), Some(body)) => {
                if boolean && !matches!(ty.behind(), Type::Bool | Type::Any) {
                    return error(
                        &body.span,
                        format!("the predicate of `{}` must be bool, found {ty}", function.name()),
                    );
                }
                ty.clone()
            }
            _ => element.clone(),
        };
        let ty = match function {
            ClosureFn::All | ClosureFn::Any | ClosureFn::None | ClosureFn::One => Type::Bool,
            ClosureFn::Count | ClosureFn::FindIndex | ClosureFn::FindLastIndex => Type::Int,
            ClosureFn::Filter | ClosureFn::SortBy => Type::Generic(Box::new(element)),
            ClosureFn::Map => Type::Generic(Box::new(body_ty)),
            ClosureFn::Find | ClosureFn::FindLast => element,
            ClosureFn::Sum => match body_ty.behind() {
                Type::Int | Type::Float | Type::Duration => body_ty.behind().clone(),
                _ => Type::Any,
            },
            ClosureFn::GroupBy => {
                self.note_leak(&list_ty);
                Type::Any
            }
            ClosureFn::Reduce => {
                self.note_leak(&list_ty);
                Type::Any
            }
        };
        let body = visited.map(|(node, _)| if boolean { Body::Test(to_bool(node)) } else { Body::Value(node) });
        // a count without a predicate still looks at the elements
        let uses_item = used || body.is_none();
        let closure = Closure {
            function,
            list: list_node,
            body,
            extra: extra.map(|(node, _)| node),
            item,
            index: index.unwrap_or(item),
            acc: acc.unwrap_or(item),
            uses_item,
            enough: None,
        };
        let node = if ty == Type::Bool {
            from_bool(BoolNode::Closure(Box::new(closure)))
        } else {
            Node::Closure(Box::new(closure))
        };
        let flow = self.leave(saved);
        Ok((self.share(expr, node, &ty, flow, outer), ty))
    }

    /// `any(File("name"), { text contains # })`, also with `Upper(#)` or `Lower(#)`, `==`, and `IpInRange(text, #)`: one
    /// look at the whole file instead of one per line.
    fn any_line(&mut self, function: ClosureFn, list: &Expr, body: Option<&Expr>) -> Checked<Option<Node>> {
        let (ClosureFn::Any, Kind::Call { name, args }, Some(body)) = (function, &list.kind, body) else {
            return Ok(None);
        };
        let ("File", [Expr { kind: Kind::Str(file), .. }]) = (name.as_str(), args.as_slice()) else {
            return Ok(None);
        };
        // the lines of a file are never empty
        let body = match &body.kind {
            Kind::Logic { and: true, items } if items.len() == 2 && not_empty(&items[0]) => &items[1],
            _ => body,
        };
        let (fold, subject, op) = match &body.kind {
            Kind::Binary { op, left, right } => match (op, line(left), line(right)) {
                (BinaryOp::Contains, None, Some(fold)) => (fold, &**left, LineOp::Contains),
                (BinaryOp::StartsWith, None, Some(fold)) => (fold, &**left, LineOp::StartsWith),
                (BinaryOp::EndsWith, None, Some(fold)) => (fold, &**left, LineOp::EndsWith),
                (BinaryOp::Equal, None, Some(fold)) => (fold, &**left, LineOp::Equals),
                (BinaryOp::Equal, Some(fold), None) => (fold, &**right, LineOp::Equals),
                _ => return Ok(None),
            },
            Kind::Call { name, args } => match (name.as_str(), args.as_slice()) {
                ("IpInRange", [ip, range]) if line(range) == Some(Fold::Keep) => (Fold::Keep, ip, LineOp::Range),
                _ => return Ok(None),
            },
            _ => return Ok(None),
        };
        if subject.mentions_element() {
            return Ok(None);
        }
        let before = self.flow;
        let (node, ty) = self.visit(subject)?;
        // the text is looked at once instead of once a line, so it must not do anything
        if ty != Type::String || (self.flow.impure && !before.impure) || matches!(node, Node::Const(Const::Text(_))) {
            return Ok(None);
        }
        self.facts.files.push(file.clone());
        let test = LineTest { op, fold };
        Ok(Some(from_bool(BoolNode::AnyLine { file: file.as_str().into(), text: to_text(node), test })))
    }
}

/// Most elements that are worth looking for from the end.
const ENOUGH: i64 = 1024;

/// How many elements at the end of the list called `name` say all that `expr` asks of it: it is compared in length with a
/// constant (`len(name) >= 4`), or its last ones are taken (`name[-4:]`). `None` if it asks more.
pub(super) fn enough(name: &str, expr: &Expr) -> Option<usize> {
    let is_name = |expr: &Expr| matches!(&expr.kind, Kind::Name(known) if known == name);
    let is_len = |expr: &Expr| matches!(&expr.kind, Kind::Call { name, args } if name == "len" && args.len() == 1 && is_name(&args[0]));
    let found = match &expr.kind {
        Kind::Binary { op, left, right } if is_len(left) => {
            let Kind::Int(count) = right.kind else { return None };
            match op {
                BinaryOp::GreaterEqual | BinaryOp::Less => count,
                BinaryOp::Greater | BinaryOp::LessEqual | BinaryOp::Equal | BinaryOp::NotEqual => count + 1,
                _ => return None,
            }
        }
        Kind::Slice { base, from: Some(from), to: None } if is_name(base) => match &from.kind {
            Kind::Sign { minus: true, operand } => match operand.kind {
                Kind::Int(count) => count,
                _ => return None,
            },
            Kind::Int(count) => -count,
            _ => return None,
        },
        Kind::Name(known) if known == name => return None,
        kind => {
            let mut children = kind.children().into_iter().map(|child| enough(name, child));
            return children.try_fold(0, |most, found| Some(most.max(found?)));
        }
    };
    usize::try_from(found).ok().filter(|_| found <= ENOUGH)
}

/// Whether `test` looks at nothing but text fields of the structure in `item` and can neither fail nor change anything.
pub(super) fn only_reads(test: &BoolNode, item: usize) -> bool {
    match test {
        BoolNode::Const(_) => true,
        BoolNode::Not(test) => only_reads(test, item),
        BoolNode::And(tests) | BoolNode::Or(tests) => tests.iter().all(|test| only_reads(test, item)),
        BoolNode::EqualConst { text, .. }
        | BoolNode::InTexts { text, .. }
        | BoolNode::StartsWith { text, .. }
        | BoolNode::EndsWith { text, .. } => {
            matches!(text, TextNode::Slot { base: Node::Local(local), optional: false, .. } if *local == item)
        }
        _ => false,
    }
}

/// Whether `expr` is `len(#) > 0`.
fn not_empty(expr: &Expr) -> bool {
    let Kind::Binary { op: BinaryOp::Greater, left, right } = &expr.kind else { return false };
    let length = matches!(&left.kind, Kind::Call { name, args }
        if name == "len" && args.len() == 1 && line(&args[0]) == Some(Fold::Keep));
    length && matches!(right.kind, Kind::Int(0))
}

/// How the element of the predicate is used, if `expr` is nothing else.
fn line(expr: &Expr) -> Option<Fold> {
    match &expr.kind {
        Kind::Pointer(name) if name.is_empty() => Some(Fold::Keep),
        Kind::Call { name, args } => match (name.as_str(), args.as_slice()) {
            ("Upper" | "upper", [inner]) if line(inner) == Some(Fold::Keep) => Some(Fold::Upper),
            ("Lower" | "lower", [inner]) if line(inner) == Some(Fold::Keep) => Some(Fold::Lower),
            _ => None,
        },
        _ => None,
    }
}
