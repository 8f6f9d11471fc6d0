//! Calls of functions and methods.

use super::{Checked, Checker, Flow, constant, error, unknown};
use crate::ast::{Expr, Kind};
use crate::builtins::string::{lower_text, upper_text};
use crate::duration;
use crate::library::{self, Function, Nature, P, assignable};
use crate::program::{Args, Const, Node, TextNode};
use crate::types::{At, Class, Method, Type};

impl Checker<'_> {
    /// Starts to collect what a subtree depends on: the locals outside of it, and what was
    /// collected before.
    pub(super) fn enter(&mut self) -> (usize, Flow) {
        (self.locals, std::mem::replace(&mut self.flow, Flow::NOTHING))
    }

    /// Ends it: what the subtree depends on.
    pub(super) fn leave(&mut self, saved: Flow) -> Flow {
        let flow = self.flow;
        self.flow = saved.join(flow);
        flow
    }

    pub(super) fn visit_call(&mut self, expr: &Expr, name: &str, args: &[Expr]) -> Checked {
        if self.bindings.iter().any(|binding| binding.name == name)
            || self.vars.names.iter().any(|(known, _)| *known == name)
        {
            return error(&expr.span, format!("`{name}` is not a function"));
        }
        let Some(function) = library::find(name) else {
            return unknown(&expr.span, format!("unknown function `{name}`"), name, library::names());
        };
        let (outer, saved) = self.enter();
        let mut typed = Vec::with_capacity(args.len());
        for (index, arg) in args.iter().enumerate() {
            typed.push(if name == "get" && index == 0 { self.visit_place(arg)? } else { self.visit(arg)? });
        }
        if let ("get", [(Node::SlotMap { base, map, .. }, _), (key, _)]) = (name, typed.as_slice()) {
            match constant(key) {
                Some(Const::Text(key)) => {
                    let field = self.fields.intern(*map, key);
                    self.note_field(base, field);
                }
                _ => self.note_map(base, *map),
            }
        }
        if let ("Upper" | "Lower" | "upper" | "lower", [(Node::Const(Const::Text(text)), _)]) = (name, typed.as_slice())
        {
            let change = if name.starts_with(['U', 'u']) { upper_text } else { lower_text };
            self.leave(saved);
            return Ok((Node::Const(Const::Text(change(text).into())), Type::String));
        }
        if let ("duration", [(Node::Const(Const::Text(text)), _)]) = (name, typed.as_slice())
            && let Ok(nanos) = duration::parse(text)
        {
            self.leave(saved);
            return Ok((Node::Const(Const::Duration(nanos)), Type::Duration));
        }
        let (node, ty) = self.call(expr, function, args, typed)?;
        let flow = self.leave(saved);
        let node = match function.nature {
            Nature::Pure => self.share(expr, node, &ty, flow, outer),
            _ => node,
        };
        Ok((node, ty))
    }

    fn call(&mut self, expr: &Expr, function: &'static Function, exprs: &[Expr], typed: Vec<(Node, Type)>) -> Checked {
        let (least, most) = function.arity();
        let count = typed.len();
        if count < least || most.is_some_and(|most| count > most) {
            let wanted = match most {
                Some(most) if most == least => format!("{least}"),
                Some(most) => format!("{least} to {most}"),
                None => format!("at least {least}"),
            };
            let message = format!("`{}` takes {wanted} arguments, found {count}", function.name);
            let params = (0..most.unwrap_or(least)).map_while(|index| function.param(index)).map(P::ty);
            return Err(crate::CompileError {
                hint: Some(signature(function.name, params, most.is_none())),
                ..crate::CompileError::new(expr.span.clone(), message)
            });
        }
        let known: Vec<Type> = typed.iter().map(|(_, ty)| ty.behind().clone()).collect();
        let mut nodes = Vec::with_capacity(count);
        let mut check = Vec::new();
        for (index, ((node, ty), arg)) in typed.into_iter().zip(exprs).enumerate() {
            let param = function.param(index).unwrap_or(P::Any);
            nodes.push(self.argument(arg, node, &ty, &param.ty(), function.name, index, &mut check)?);
        }
        let ty = function.result.ty(&known).map_err(|message| crate::CompileError::new(expr.span.clone(), message))?;
        self.note_call(function, &nodes);
        Ok((Node::Call { function, args: Args { nodes: nodes.into(), check: check.into() } }, ty))
    }

    /// One argument: refused, converted, or left to run time.
    #[expect(clippy::too_many_arguments, reason = "all of them describe the one argument")]
    fn argument(
        &mut self,
        arg: &Expr,
        node: Node,
        ty: &Type,
        param: &Type,
        name: &str,
        index: usize,
        check: &mut Vec<(usize, Type)>,
    ) -> Checked<Node> {
        if !assignable(ty, param) {
            let mut error = crate::CompileError::new(
                arg.span.clone(),
                format!("cannot use {ty} as argument {} (type {param}) of `{name}`", index + 1),
            );
            error.hint = match (ty, param) {
                (Type::Generic(_), Type::List(_)) if name == "Join" => {
                    Some("the built-in `join` takes any list of strings".to_owned())
                }
                (Type::Map(_), Type::Map(_)) if name == "KeyExists" => Some("write `key in map`".to_owned()),
                (ty, Type::String) if *ty != Type::Nil => Some("convert it with `string(...)`".to_owned()),
                _ => None,
            };
            return Err(error);
        }
        self.note_leak(ty);
        if *param == Type::Any {
            let pointer = matches!(ty, Type::Pointer(inner) if !matches!(**inner, Type::Class(_)));
            return Ok(if pointer && keeps_pointers(name) { Node::Address(Box::new(node)) } else { node });
        }
        if *param == Type::Float && *ty == Type::Int {
            let (node, _) = self.visit_float(arg)?;
            check.push((index, Type::Float));
            return Ok(node);
        }
        let certain = match &node {
            Node::Const(_) => ty == param,
            Node::Text(text) => {
                *param == Type::String && !matches!(**text, TextNode::Dynamic(_) | TextNode::Slot { .. })
            }
            _ => false,
        };
        if !certain {
            check.push((index, param.clone()));
        }
        Ok(node)
    }

    /// Checks `expr` with its integer literals read as floats.
    fn visit_float(&mut self, expr: &Expr) -> Checked {
        let mut expr = expr.clone();
        literals_to_floats(&mut expr);
        self.visit(&expr)
    }

    fn note_call(&mut self, function: &'static Function, args: &[Node]) {
        match function.nature {
            Nature::Pure | Nature::Cheap => {}
            Nature::Volatile => {
                self.flow.impure = true;
                self.facts.volatile = true;
            }
            Nature::Writes => {
                self.flow.impure = true;
                self.facts.effect = true;
            }
            Nature::Acts => {
                self.flow.impure = true;
                self.facts.effect = true;
                self.facts.volatile = true;
            }
        }
        let named = |index: usize| match args.get(index).and_then(constant) {
            Some(Const::Text(text)) => Some(text.to_string()),
            _ => None,
        };
        match function.name {
            "GetFromStash" => {
                let stash = named(0);
                if !self.facts.stashes.contains(&stash) {
                    self.facts.stashes.push(stash);
                }
            }
            "File" | "FileMap" => self.facts.files.extend(named(0)),
            "RegexpInFile" | "LookupFile" => self.facts.files.extend(named(1)),
            "MatchKnownBot" => self.facts.files.extend((3..args.len()).filter_map(named)),
            _ => {}
        }
    }

    pub(super) fn visit_method(
        &mut self,
        expr: &Expr,
        base: &Expr,
        name: &str,
        optional: bool,
        args: &[Expr],
    ) -> Checked {
        if matches!(&base.kind, Kind::Name(known) if known == "$env") {
            return self.visit_call(expr, name, args);
        }
        let (base_node, base_ty) = self.visit_place(base)?;
        match base_ty.behind() {
            Type::Any => {
                self.facts.opaque |= self.leaks;
                // it may be the event, whose methods write
                self.flow.impure |= self.leaks;
                let args = args.iter().map(|arg| Ok(self.visit(arg)?.0)).collect::<Checked<Box<[Node]>>>()?;
                Ok((Node::DynamicMethod { base: Box::new(base_node), name: name.into(), optional, args }, Type::Any))
            }
            Type::Class(class) => self.class_method(expr, base_node, class, name, args),
            known => {
                let Some(function) = library::method(known, name) else {
                    return error(&expr.span, format!("{known} has no method `{name}`"));
                };
                if let Node::SlotMap { base, map, .. } = &base_node {
                    self.note_map(base, *map);
                }
                let mut typed = vec![(base_node, base_ty.clone())];
                for arg in args {
                    typed.push(self.visit(arg)?);
                }
                let exprs: Vec<Expr> = std::iter::once(base).chain(args).cloned().collect();
                self.call(expr, function, &exprs, typed)
            }
        }
    }

    fn class_method(&mut self, expr: &Expr, base: Node, class: &'static Class, name: &str, args: &[Expr]) -> Checked {
        let Some(method) = class.method(name) else {
            let known = class.methods.iter().map(|method| method.name);
            let message = if class.member(name).is_some() {
                format!("`{name}` of {} is not a method", class.name)
            } else {
                format!("{} has no method `{name}`", class.name)
            };
            return unknown(&expr.span, message, name, known);
        };
        let params = (method.params)();
        if params.len() != args.len() {
            let message = format!("`{name}` takes {} arguments, found {}", params.len(), args.len());
            return Err(crate::CompileError {
                hint: Some(signature(name, params.into_iter(), false)),
                ..crate::CompileError::new(expr.span.clone(), message)
            });
        }
        let mut nodes = Vec::with_capacity(args.len());
        let mut check = Vec::new();
        for (index, (arg, param)) in args.iter().zip(&params).enumerate() {
            let (node, ty) = self.visit(arg)?;
            nodes.push(self.argument(arg, node, &ty, param, name, index, &mut check)?);
        }
        self.note_method(&base, class, method, nodes.first());
        let args = Args { nodes: nodes.into(), check: check.into() };
        let node =
            Node::Method { base: Box::new(base), method: method.id, name: method.name, effect: method.effect, args };
        Ok((node, (method.result)()))
    }

    /// `SetX(key, ..)` writes and `GetX(key)` reads the string map `X` of its object.
    fn note_method(&mut self, base: &Node, class: &'static Class, method: &Method, key: Option<&Node>) {
        // what a method reads is the owner's business: it is not shared
        self.flow.impure = true;
        let methods = if super::is_first(base) { &mut self.facts.methods } else { &mut self.facts.queued_methods };
        if !methods.contains(&method.id) {
            methods.push(method.id);
        }
        self.facts.effect |= method.effect;
        let of = |prefix: &str| {
            let member = class.member(method.name.strip_prefix(prefix)?)?;
            if let At::Slots(map) = member.at { Some(map) } else { None }
        };
        let key = match key.and_then(constant) {
            Some(Const::Text(key)) => Some(key.to_string()),
            _ => None,
        };
        if let Some(map) = of("Get") {
            match key {
                Some(key) => {
                    let field = self.fields.intern(map, &key);
                    self.note_field(base, field);
                }
                None => self.note_map(base, map),
            }
        } else if let Some(map) = of("Set") {
            match key {
                Some(key) => {
                    let field = self.fields.intern(map, &key);
                    if !self.facts.writes.contains(&field) {
                        self.facts.writes.push(field);
                    }
                }
                None if !self.facts.writes_all.contains(&map) => self.facts.writes_all.push(map),
                None => {}
            }
        }
    }
}

/// Functions that show a pointer as one instead of following it.
fn keeps_pointers(name: &str) -> bool {
    matches!(name, "Sprintf" | "ToString" | "LogInfo" | "Flatten" | "FlattenDistinct" | "Distinct")
}

fn literals_to_floats(expr: &mut Expr) {
    match &mut expr.kind {
        Kind::Int(value) => expr.kind = Kind::Float(*value as f64),
        Kind::Sign { operand, .. } => literals_to_floats(operand),
        Kind::Binary { op, left, right } if matches!(op.text(), "+" | "-" | "*") => {
            literals_to_floats(left);
            literals_to_floats(right);
        }
        _ => {}
    }
}

/// How a function is called.
fn signature(name: &str, params: impl Iterator<Item = Type>, more: bool) -> String {
    let mut params: Vec<String> = params.map(|param| param.to_string()).collect();
    if more {
        params.push("...".into());
    }
    format!("write `{name}({})`", params.join(", "))
}
