//! What follows a dot or stands in brackets.

use super::{Checked, Checker, Typed, error, from_bool, unknown};
use crate::ast::Expr;
use crate::ast::Kind;
use crate::program::{BoolNode, Const, Node, TextNode};
use crate::types::{At, IntKind, MemberId, Type};

impl Checker<'_> {
    pub(super) fn visit_member(&mut self, expr: &Expr, base: &Expr, property: &Expr, optional: bool) -> Checked {
        if matches!(&base.kind, Kind::Name(name) if name == "$env")
            && let Kind::Str(name) = &property.kind
        {
            return match self.vars.names.iter().position(|(known, _)| known == name) {
                Some(_) => self.visit_name(property, name),
                None if optional => Ok((Node::Const(Const::Nil), Type::Any)),
                None => {
                    let known = self.vars.names.iter().map(|(name, _)| *name);
                    unknown(&property.span, format!("unknown name `{name}`"), name, known)
                }
            };
        }
        let (base_node, base_ty) = self.visit_place(base)?;
        let name = match &property.kind {
            Kind::Str(name) => Some(name.as_str()),
            _ => None,
        };
        match base_ty.behind() {
            Type::Any => self.dynamic_member(base_node, property, name, optional),
            Type::Nil => error(&expr.span, "nil has no members"),
            Type::Map(element) => {
                let element = (**element).clone();
                self.map_element(base_node, property, name, optional, element)
            }
            Type::List(element) | Type::Generic(element) => {
                let element = (**element).clone();
                self.list_element(base_node, &base_ty, property, optional, element)
            }
            Type::Bytes => self.list_element(base_node, &base_ty, property, optional, Type::Sized(IntKind::U8)),
            Type::Class(class) => {
                let Some(name) = name else {
                    return error(&property.span, format!("members of {} are named by constants", class.name));
                };
                let Some(member) = class.member(name) else {
                    if class.method(name).is_some() {
                        return Ok((Node::Const(Const::Nil), Type::Func));
                    }
                    let known =
                        class.members.iter().map(|member| member.name).chain(class.methods.iter().map(|m| m.name));
                    return unknown(&property.span, format!("{} has no member `{name}`", class.name), name, known);
                };
                Ok(self.class_member(base_node, member.at, member.name, (member.ty)(), optional))
            }
            other => error(&property.span, format!("{other} has no members")),
        }
    }

    fn dynamic_member(&mut self, base: Node, property: &Expr, name: Option<&str>, optional: bool) -> Checked {
        self.facts.opaque |= self.leaks;
        let base = Box::new(base);
        let node = match name {
            Some(name) => Node::Field { base, name: name.into(), optional },
            None => Node::Index { base, key: Box::new(self.visit(property)?.0), optional },
        };
        Ok((node, Type::Any))
    }

    fn map_element(
        &mut self,
        base: Node,
        property: &Expr,
        name: Option<&str>,
        optional: bool,
        element: Type,
    ) -> Checked {
        let Some(name) = name else {
            let (key, ty) = self.visit(property)?;
            if !matches!(ty.behind(), Type::String | Type::Any) {
                return error(&property.span, format!("cannot use {ty} as a key of a map from strings"));
            }
            if let Node::SlotMap { base, map, .. } = &base {
                self.note_map(base, *map);
            }
            return Ok((Node::Index { base: Box::new(base), key: Box::new(key), optional }, element));
        };
        match base {
            Node::SlotMap { base, map, optional } => {
                let field = self.fields.intern(map, name);
                self.note_field(&base, field);
                Ok((text_field(*base, field, optional), Type::String))
            }
            base => Ok((Node::Field { base: Box::new(base), name: name.into(), optional }, element)),
        }
    }

    fn list_element(&mut self, base: Node, ty: &Type, property: &Expr, optional: bool, element: Type) -> Checked {
        let (key, key_ty) = self.visit(property)?;
        let integer = match key_ty.behind() {
            Type::Int | Type::Any => true,
            Type::Sized(kind) => !kind.named(),
            _ => false,
        };
        if !integer {
            return error(&property.span, format!("an element of {ty} is selected by an integer, found {key_ty}"));
        }
        Ok((Node::Index { base: Box::new(base), key: Box::new(key), optional }, element))
    }

    fn class_member(&mut self, base: Node, at: At, name: &'static str, ty: Type, optional: bool) -> Typed {
        let node = match at {
            At::Same => base,
            At::Slot(field) => {
                self.note_field(&base, field);
                text_field(base, field, optional)
            }
            At::Slots(map) => Node::SlotMap { base: Box::new(base), map, optional },
            At::Member(member) => {
                self.note_member(&base, member);
                Node::Member { base: Box::new(base), member, name, optional }
            }
        };
        (node, ty)
    }

    fn note_member(&mut self, base: &Node, member: MemberId) {
        let members = if super::is_first(base) { &mut self.facts.members } else { &mut self.facts.queued_members };
        if !members.contains(&member) {
            members.push(member);
        }
    }

    /// `"key" in evt.Parsed`, where presence is what counts.
    pub(super) fn presence(&mut self, base: Node, map: crate::MapId, key: &str) -> Typed {
        let field = self.fields.intern(map, key);
        self.note_field(&base, field);
        (from_bool(BoolNode::Present { base, field }), Type::Bool)
    }

    pub(super) fn visit_slice(&mut self, expr: &Expr, base: &Expr, from: Option<&Expr>, to: Option<&Expr>) -> Checked {
        let (node, ty) = self.visit(base)?;
        match ty.behind() {
            Type::Any | Type::String | Type::List(_) | Type::Generic(_) | Type::Bytes => {}
            other => return error(&expr.span, format!("cannot slice {other}")),
        }
        let mut bound = |expr: Option<&Expr>| -> Checked<Option<Box<Node>>> {
            let Some(expr) = expr else { return Ok(None) };
            let (node, ty) = self.visit(expr)?;
            match ty.behind() {
                Type::Int | Type::Sized(_) | Type::Any => Ok(Some(Box::new(node))),
                other => error(&expr.span, format!("a bound must be an integer, found {other}")),
            }
        };
        let (from, to) = (bound(from)?, bound(to)?);
        Ok((Node::Slice { base: Box::new(node), from, to }, ty.behind().clone()))
    }
}

fn text_field(base: Node, field: crate::FieldId, optional: bool) -> Node {
    Node::Text(Box::new(match base {
        Node::Var(var) if !optional => TextNode::Field { var, field },
        base => TextNode::Slot { base, field, optional },
    }))
}
