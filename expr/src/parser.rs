//! Tokens to tree.
//!
//! Precedence climbing by hand, so that errors point at the right place. Depth and number of
//! nodes are bounded: no source can exhaust the stack or the memory of what comes after.

use crate::ast::{BinaryOp, ClosureFn, Expr, Kind};
use crate::error::CompileError;
use crate::lexer::{Tok, Token, lex};

/// Most nodes an expression may have.
const MAX_NODES: u32 = 10_000;
/// Deepest nesting of an expression.
const MAX_DEPTH: u32 = 100;

/// Parses a whole expression.
pub(crate) fn parse(source: &str) -> Result<Expr, CompileError> {
    let mut parser = Parser { tokens: lex(source)?, at: 0, nodes: 0, depth: 0, predicates: 0 };
    let expr = parser.sequence()?;
    match parser.kind() {
        Tok::End => Ok(expr),
        _ => Err(parser.unexpected()),
    }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    nodes: u32,
    depth: u32,
    /// How many predicates enclose the current place.
    predicates: u32,
}

type Parsed = Result<Expr, CompileError>;

impl Parser {
    fn token(&self) -> &Token {
        // `lex` ends every list with `End` and `advance` never passes it
        &self.tokens[self.at]
    }

    fn kind(&self) -> &Tok {
        &self.token().kind
    }

    fn start(&self) -> usize {
        self.token().start
    }

    /// Where the last consumed token ended.
    fn end(&self) -> usize {
        self.at.checked_sub(1).map_or(0, |at| self.tokens[at].end)
    }

    fn advance(&mut self) {
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
    }

    fn is(&self, op: &str) -> bool {
        matches!(self.kind(), Tok::Op(found) if *found == op)
    }

    fn accept(&mut self, op: &str) -> bool {
        let found = self.is(op);
        if found {
            self.advance();
        }
        found
    }

    fn expect(&mut self, op: &str) -> Result<(), CompileError> {
        if self.accept(op) {
            return Ok(());
        }
        let mut error = self.unexpected();
        error.message = format!("{}, expected `{op}`", error.message);
        Err(error)
    }

    fn unexpected(&self) -> CompileError {
        let token = self.token();
        let message = match &token.kind {
            Tok::End => "unexpected end of expression".to_owned(),
            Tok::Ident(name) => format!("unexpected name `{name}`"),
            Tok::Int(value) => format!("unexpected number `{value}`"),
            Tok::Float(value) => format!("unexpected number `{value}`"),
            Tok::Str(_) | Tok::Bytes(_) => "unexpected string".to_owned(),
            Tok::Op(op) => format!("unexpected `{op}`"),
        };
        let mut error = CompileError::new(token.start..token.end, message);
        if self.is("=") {
            error.hint = Some("write `==` to compare".to_owned());
        }
        error
    }

    fn make(&mut self, start: usize, kind: Kind) -> Parsed {
        let (mut height, mut size) = (0, 1);
        for child in kind.children() {
            height = height.max(child.height + 1);
            size += child.size;
        }
        let span = start..self.end().max(start);
        if height > MAX_DEPTH {
            return Err(CompileError::new(span, "expression is nested too deeply"));
        }
        self.count(1, &span)?;
        Ok(Expr { kind, span, height, size })
    }

    fn count(&mut self, nodes: u32, span: &std::ops::Range<usize>) -> Result<(), CompileError> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES {
            return Err(CompileError::new(span.clone(), format!("expression has more than {MAX_NODES} nodes")));
        }
        Ok(())
    }

    fn sequence(&mut self) -> Parsed {
        let start = self.start();
        let first = self.expression(0)?;
        if !self.is(";") {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.accept(";") {
            if matches!(self.kind(), Tok::End | Tok::Op(")" | "}")) {
                break;
            }
            items.push(self.expression(0)?);
        }
        if items.len() == 1
            && let Some(item) = items.pop()
        {
            return Ok(item);
        }
        self.make(start, Kind::Sequence(items))
    }

    /// An expression whose operators bind at least as tightly as `precedence`.
    fn expression(&mut self, precedence: u32) -> Parsed {
        self.depth += 1;
        let result = if self.depth > MAX_DEPTH {
            Err(CompileError::new(self.start()..self.token().end, "expression is nested too deeply"))
        } else if precedence == 0 && self.is("let") {
            self.binding()
        } else if precedence == 0 && self.is("if") {
            self.if_else()
        } else {
            self.operators(precedence)
        };
        self.depth -= 1;
        result
    }

    fn binding(&mut self) -> Parsed {
        let start = self.start();
        self.advance();
        let Tok::Ident(name) = self.kind().clone() else {
            return Err(self.unexpected());
        };
        self.advance();
        self.expect("=")?;
        let value = Box::new(self.expression(0)?);
        self.expect(";")?;
        let body = Box::new(self.sequence()?);
        self.make(start, Kind::Let { name, value, body })
    }

    fn if_else(&mut self) -> Parsed {
        let start = self.start();
        self.advance();
        let condition = Box::new(self.expression(0)?);
        let then = Box::new(self.block()?);
        self.expect("else")?;
        let otherwise = if self.is("if") { self.expression(0)? } else { self.block()? };
        self.make(start, Kind::Conditional { condition, then, otherwise: Box::new(otherwise) })
    }

    fn block(&mut self) -> Parsed {
        self.expect("{")?;
        let body = self.sequence()?;
        self.expect("}")?;
        Ok(body)
    }

    fn operators(&mut self, precedence: u32) -> Parsed {
        let start = self.start();
        let mut left = self.primary()?;
        let mut coalesced = false;
        while let Some(infix) = self.infix(precedence, coalesced)? {
            coalesced = matches!(infix.op, Operator::Plain(BinaryOp::Coalesce));
            left = self.apply(start, left, infix)?;
        }
        if precedence == 0 { self.conditional(start, left) } else { Ok(left) }
    }

    /// Consumes the next operator if it binds at least as tightly as `precedence`.
    fn infix(&mut self, precedence: u32, coalesced: bool) -> Result<Option<Infix>, CompileError> {
        let at = self.at;
        let negated = self.accept("not");
        let found = match *self.kind() {
            Tok::Op(text) => operator(text),
            _ => None,
        };
        let Some((op, tightness)) = found else {
            return if negated { Err(self.unexpected()) } else { Ok(None) };
        };
        if tightness < precedence {
            self.at = at;
            return Ok(None);
        }
        if negated && !negatable(op) {
            return Err(self.unexpected());
        }
        if coalesced && !matches!(op, Operator::Pipe | Operator::Plain(BinaryOp::Coalesce)) {
            let token = self.token();
            let mut error = CompileError::new(
                token.start..token.end,
                "`??` cannot be mixed with other operators without parentheses",
            );
            error.hint = Some("write `(a ?? b)`".to_owned());
            return Err(error);
        }
        self.advance();
        Ok(Some(Infix { op, negated, tightness }))
    }

    /// Reads the right side of an operator.
    fn apply(&mut self, start: usize, left: Expr, infix: Infix) -> Parsed {
        let Infix { op, negated, tightness } = infix;
        match op {
            Operator::Pipe => self.pipe(start, left),
            Operator::Plain(op) if comparison(op) => self.comparisons(start, left, op),
            Operator::Logic { and } => {
                let right = self.expression(tightness + 1)?;
                self.logic(start, and, left, right)
            }
            Operator::Plain(op) => {
                let tightness = if op == BinaryOp::Power { tightness } else { tightness + 1 };
                let right = self.expression(tightness)?;
                let node = self.make(start, Kind::Binary { op, left: Box::new(left), right: Box::new(right) })?;
                if negated { self.make(start, Kind::Not(Box::new(node))) } else { Ok(node) }
            }
        }
    }

    fn logic(&mut self, start: usize, and: bool, left: Expr, right: Expr) -> Parsed {
        let items = match left.kind {
            Kind::Logic { and: same, mut items } if same == and => {
                items.push(right);
                items
            }
            _ => vec![left, right],
        };
        self.make(start, Kind::Logic { and, items })
    }

    /// `a < b < c` means `a < b && b < c`.
    fn comparisons(&mut self, start: usize, mut left: Expr, mut op: BinaryOp) -> Parsed {
        let mut result: Option<Expr> = None;
        loop {
            let right = self.expression(21)?;
            let next = match *self.kind() {
                Tok::Op(text) => operator(text),
                _ => None,
            };
            let next = match next {
                Some((Operator::Plain(op), _)) if comparison(op) => Some(op),
                _ => None,
            };
            let again = if next.is_some() {
                self.count(right.size, &right.span)?;
                Some(right.clone())
            } else {
                None
            };
            let node = self.make(start, Kind::Binary { op, left: Box::new(left), right: Box::new(right) })?;
            let whole = match result.take() {
                Some(before) => self.logic(start, true, before, node)?,
                None => node,
            };
            let (Some(next), Some(again)) = (next, again) else {
                return Ok(whole);
            };
            self.advance();
            (result, left, op) = (Some(whole), again, next);
        }
    }

    fn conditional(&mut self, start: usize, condition: Expr) -> Parsed {
        let mut condition = condition;
        while self.accept("?") {
            let then = if self.accept(":") {
                self.count(condition.size, &condition.span)?;
                condition.clone()
            } else {
                let then = self.expression(0)?;
                self.expect(":")?;
                then
            };
            let otherwise = self.expression(0)?;
            let kind = Kind::Conditional {
                condition: Box::new(condition),
                then: Box::new(then),
                otherwise: Box::new(otherwise),
            };
            condition = self.make(start, kind)?;
        }
        Ok(condition)
    }

    fn pipe(&mut self, start: usize, left: Expr) -> Parsed {
        let Tok::Ident(name) = self.kind().clone() else {
            let mut error = self.unexpected();
            error.hint = Some("a pipe is followed by a call, as in `x | upper()`".to_owned());
            return Err(error);
        };
        self.advance();
        self.call(start, name, Some(left))
    }

    fn primary(&mut self) -> Parsed {
        let start = self.start();
        let node = match *self.kind() {
            Tok::Op("not" | "!" | "-" | "+") => self.unary()?,
            Tok::Op("(") => self.group()?,
            Tok::Op("[") => self.array()?,
            Tok::Op("{") => self.map()?,
            Tok::Op("#" | "." | "::") => self.marked()?,
            _ => return self.atom(),
        };
        self.postfix(start, node)
    }

    fn unary(&mut self) -> Parsed {
        let start = self.start();
        let sign = !matches!(self.kind(), Tok::Op("not" | "!"));
        let minus = self.is("-");
        self.advance();
        let operand = Box::new(self.expression(if sign { 90 } else { 50 })?);
        self.make(start, if sign { Kind::Sign { minus, operand } } else { Kind::Not(operand) })
    }

    fn group(&mut self) -> Parsed {
        self.advance();
        let node = self.sequence()?;
        self.expect(")")?;
        Ok(node)
    }

    fn array(&mut self) -> Parsed {
        let start = self.start();
        self.advance();
        let mut items = Vec::new();
        while !self.is("]") {
            items.push(self.expression(0)?);
            if !self.is("]") {
                self.expect(",")?;
            }
        }
        self.advance();
        self.make(start, Kind::Array(items))
    }

    /// What starts with `#`, `.` or `::`.
    fn marked(&mut self) -> Parsed {
        let start = self.start();
        if self.accept("::") {
            let Tok::Ident(name) = self.kind().clone() else {
                return Err(self.unexpected());
            };
            self.advance();
            return self.call(start, name, None);
        }
        if self.is(".") {
            // the dot itself is read as what follows the element
            return if self.predicates > 0 {
                self.make(start, Kind::Pointer(String::new()))
            } else {
                Err(self.unexpected())
            };
        }
        self.advance();
        let name = match self.kind() {
            Tok::Ident(name) => name.clone(),
            _ => String::new(),
        };
        if !name.is_empty() {
            self.advance();
        }
        self.outside_predicate(start)?;
        self.make(start, Kind::Pointer(name))
    }

    /// Names, calls and literals.
    fn atom(&mut self) -> Parsed {
        let start = self.start();
        let token = self.kind().clone();
        if matches!(token, Tok::Op(_) | Tok::End) {
            return Err(self.unexpected());
        }
        self.advance();
        let node = match token {
            Tok::Int(value) => return self.make(start, Kind::Int(value)),
            Tok::Float(value) => return self.make(start, Kind::Float(value)),
            Tok::Str(value) => self.make(start, Kind::Str(value))?,
            Tok::Bytes(value) => self.make(start, Kind::Bytes(value))?,
            Tok::Ident(name) => match &*name {
                "true" => return self.make(start, Kind::Bool(true)),
                "false" => return self.make(start, Kind::Bool(false)),
                "nil" => return self.make(start, Kind::Nil),
                _ if self.is("(") => self.call(start, name, None)?,
                _ => self.make(start, Kind::Name(name))?,
            },
            Tok::Op(_) | Tok::End => return Err(self.unexpected()),
        };
        self.postfix(start, node)
    }

    fn outside_predicate(&self, start: usize) -> Result<(), CompileError> {
        if self.predicates > 0 {
            return Ok(());
        }
        Err(CompileError::new(start..self.end(), "`#` stands for an element and is known only inside a predicate"))
    }

    fn map(&mut self) -> Parsed {
        let start = self.start();
        self.advance();
        let mut pairs = Vec::new();
        while !self.is("}") {
            let at = self.start();
            let key = match self.kind().clone() {
                Tok::Op("(") => self.expression(0)?,
                Tok::Ident(text) | Tok::Str(text) => {
                    self.advance();
                    self.make(at, Kind::Str(text))?
                }
                Tok::Int(value) => {
                    self.advance();
                    self.make(at, Kind::Str(value.to_string()))?
                }
                Tok::Float(value) => {
                    self.advance();
                    self.make(at, Kind::Str(value.to_string()))?
                }
                _ => return Err(self.unexpected()),
            };
            self.expect(":")?;
            pairs.push((key, self.expression(0)?));
            if !self.is("}") {
                self.expect(",")?;
            }
        }
        self.advance();
        self.make(start, Kind::Map(pairs))
    }

    /// A call; the name has been consumed. `piped` becomes the first argument.
    fn call(&mut self, start: usize, name: String, piped: Option<Expr>) -> Parsed {
        if let Some(function) = ClosureFn::named(&name) {
            return self.closure(start, function, piped);
        }
        let mut args: Vec<Expr> = piped.into_iter().collect();
        self.arguments(&mut args)?;
        self.make(start, Kind::Call { name, args })
    }

    fn arguments(&mut self, args: &mut Vec<Expr>) -> Result<(), CompileError> {
        self.expect("(")?;
        while !self.is(")") {
            args.push(self.expression(0)?);
            if !self.is(")") {
                self.expect(",")?;
            }
        }
        self.advance();
        Ok(())
    }

    fn closure(&mut self, start: usize, function: ClosureFn, piped: Option<Expr>) -> Parsed {
        self.expect("(")?;
        let mut first = piped.is_some();
        let list = match piped {
            Some(list) => list,
            None => self.expression(0)?,
        };
        let optional_body = matches!(function, ClosureFn::Count | ClosureFn::Sum);
        let mut body = None;
        if self.more(&mut first, optional_body)? {
            body = Some(Box::new(self.predicate()?));
        }
        let mut extra = None;
        if body.is_some() && matches!(function, ClosureFn::SortBy | ClosureFn::Reduce) && self.more(&mut first, true)? {
            extra = Some(Box::new(self.expression(0)?));
        }
        self.accept(",");
        self.expect(")")?;
        self.make(start, Kind::Closure { function, list: Box::new(list), body, extra })
    }

    /// Whether another argument follows; the comma before it is consumed.
    fn more(&mut self, first: &mut bool, optional: bool) -> Result<bool, CompileError> {
        let last = |parser: &Self| parser.is(")");
        if std::mem::take(first) {
            return Ok(!(optional && last(self)));
        }
        if optional && last(self) {
            return Ok(false);
        }
        if optional && self.is(",") && self.tokens.get(self.at + 1).is_some_and(|token| token.kind == Tok::Op(")")) {
            return Ok(false);
        }
        self.expect(",")?;
        Ok(true)
    }

    fn predicate(&mut self) -> Parsed {
        self.predicates += 1;
        let body = if self.is("{") {
            self.block()
        } else {
            self.expression(0).and_then(|body| {
                if self.is(";") {
                    let mut error = self.unexpected();
                    error.hint = Some("wrap the predicate in `{ }`".to_owned());
                    return Err(error);
                }
                Ok(body)
            })
        };
        self.predicates -= 1;
        body
    }

    fn postfix(&mut self, start: usize, node: Expr) -> Parsed {
        let mut node = node;
        loop {
            let optional = self.is("?.");
            if optional || self.is(".") {
                self.advance();
                if optional && self.is("[") {
                    node = self.index(start, node, true)?;
                } else {
                    node = self.dot(start, node, optional)?;
                }
            } else if self.is("[") {
                node = self.index(start, node, false)?;
            } else {
                return Ok(node);
            }
        }
    }

    fn dot(&mut self, start: usize, node: Expr, optional: bool) -> Parsed {
        let at = self.start();
        let name = match self.kind() {
            Tok::Ident(name) => name.clone(),
            Tok::Op(word) if word.chars().all(char::is_alphabetic) => (*word).to_owned(),
            _ => {
                let mut error = self.unexpected();
                error.message = format!("{}, expected a name", error.message);
                return Err(error);
            }
        };
        self.advance();
        let (base, chained) = match node.kind {
            Kind::Chain(inner) => (inner, true),
            _ => (Box::new(node), false),
        };
        let made = if self.is("(") {
            let mut args = Vec::new();
            self.arguments(&mut args)?;
            self.make(start, Kind::Method { base, name, optional, args })?
        } else {
            let property = Box::new(self.make(at, Kind::Str(name))?);
            self.make(start, Kind::Member { base, property, optional })?
        };
        if chained || optional { self.make(start, Kind::Chain(Box::new(made))) } else { Ok(made) }
    }

    fn index(&mut self, start: usize, node: Expr, optional: bool) -> Parsed {
        self.advance();
        let base = Box::new(node);
        let from = if self.is(":") { None } else { Some(Box::new(self.expression(0)?)) };
        if self.accept(":") {
            let to = if self.is("]") { None } else { Some(Box::new(self.expression(0)?)) };
            self.expect("]")?;
            return self.make(start, Kind::Slice { base, from, to });
        }
        let Some(property) = from else {
            return Err(self.unexpected());
        };
        self.expect("]")?;
        let made = self.make(start, Kind::Member { base, property, optional })?;
        if optional { self.make(start, Kind::Chain(Box::new(made))) } else { Ok(made) }
    }
}

/// An operator between two operands, as it stands in the source.
#[derive(Clone, Copy)]
struct Infix {
    op: Operator,
    /// `not` stands before it.
    negated: bool,
    tightness: u32,
}

#[derive(Clone, Copy)]
enum Operator {
    Pipe,
    Logic { and: bool },
    Plain(BinaryOp),
}

/// The operator written `text` and how tightly it binds.
fn operator(text: &str) -> Option<(Operator, u32)> {
    use BinaryOp as Op;
    Some(match text {
        "|" => (Operator::Pipe, 0),
        "or" | "||" => (Operator::Logic { and: false }, 10),
        "and" | "&&" => (Operator::Logic { and: true }, 15),
        "==" => (Operator::Plain(Op::Equal), 20),
        "!=" => (Operator::Plain(Op::NotEqual), 20),
        "<" => (Operator::Plain(Op::Less), 20),
        ">" => (Operator::Plain(Op::Greater), 20),
        "<=" => (Operator::Plain(Op::LessEqual), 20),
        ">=" => (Operator::Plain(Op::GreaterEqual), 20),
        "in" => (Operator::Plain(Op::In), 20),
        "matches" => (Operator::Plain(Op::Matches), 20),
        "contains" => (Operator::Plain(Op::Contains), 20),
        "startsWith" => (Operator::Plain(Op::StartsWith), 20),
        "endsWith" => (Operator::Plain(Op::EndsWith), 20),
        ".." => (Operator::Plain(Op::Range), 25),
        "+" => (Operator::Plain(Op::Add), 30),
        "-" => (Operator::Plain(Op::Subtract), 30),
        "*" => (Operator::Plain(Op::Multiply), 60),
        "/" => (Operator::Plain(Op::Divide), 60),
        "%" => (Operator::Plain(Op::Modulo), 60),
        "**" | "^" => (Operator::Plain(Op::Power), 100),
        "??" => (Operator::Plain(Op::Coalesce), 500),
        _ => return None,
    })
}

fn comparison(op: BinaryOp) -> bool {
    matches!(op, BinaryOp::Less | BinaryOp::LessEqual | BinaryOp::Greater | BinaryOp::GreaterEqual)
}

fn negatable(op: Operator) -> bool {
    matches!(
        op,
        Operator::Plain(
            BinaryOp::In | BinaryOp::Matches | BinaryOp::Contains | BinaryOp::StartsWith | BinaryOp::EndsWith
        )
    )
}
