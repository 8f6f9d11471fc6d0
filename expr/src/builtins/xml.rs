//! XML: values out of a document by a short path language.
//!
//! A document is read into a tree of its own, which the memo can keep. Walking costs at most one
//! visit per node and path segment, whatever the document looks like.

use std::collections::{HashSet, VecDeque};
use std::rc::Rc;

use super::text;
use crate::library::{Function, P, R};
use crate::program::Cx;
use crate::value::Value;

pub(crate) const ROWS: &[Function] = &[
    Function::new("XMLGetNodeValue", &[P::Str, P::Str], R::Str, |cx, args| {
        let (tree, node) = find(cx, text(args, 0)?, text(args, 1)?);
        Ok(Value::owned(node.map_or("", |node| &tree.nodes[node].text)))
    }),
    Function::new("XMLGetAttributeValue", &[P::Str, P::Str, P::Str], R::Str, |cx, args| {
        let (tree, node) = find(cx, text(args, 0)?, text(args, 1)?);
        let name = Name::parse(text(args, 2)?);
        let value = node.and_then(|node| tree.nodes[node].attribute(&name));
        Ok(Value::owned(value.unwrap_or("")))
    }),
];

/// Most nodes of a document.
const MAX_NODES: u32 = 200_000;

fn find(cx: &mut Cx<'_>, source: &str, path: &str) -> (Rc<Tree>, Option<usize>) {
    let tree = match cx.env.memo {
        Some(memo) => memo.xml(source),
        None => Rc::new(Tree::parse(source)),
    };
    let node = compile(path).and_then(|path| tree.first(&path));
    (tree, node)
}

/// A document. Node 0 is the document itself; a malformed one has no other.
#[derive(Debug)]
pub(crate) struct Tree {
    source: Box<str>,
    nodes: Vec<Element>,
}

#[derive(Debug, Default)]
struct Element {
    name: Name,
    namespace: String,
    attributes: Vec<(Name, String)>,
    /// Text before the first child element.
    text: String,
    children: Vec<usize>,
    parent: Option<usize>,
}

/// A name with its prefix, which may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Name {
    prefix: String,
    local: String,
}

impl Name {
    fn parse(text: &str) -> Self {
        match text.split_once(':') {
            Some((prefix, local)) => Self { prefix: prefix.to_owned(), local: local.to_owned() },
            None => Self { prefix: String::new(), local: text.to_owned() },
        }
    }

    /// Whether this name, as asked for, is that of `found`: without a prefix any will do.
    fn fits(&self, found: &Name) -> bool {
        self.local == found.local && (self.prefix.is_empty() || self.prefix == found.prefix)
    }

    fn full(&self) -> String {
        if self.prefix.is_empty() { self.local.clone() } else { format!("{}:{}", self.prefix, self.local) }
    }
}

impl Element {
    fn attribute(&self, name: &Name) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| name.fits(known)).map(|(_, value)| value.as_str())
    }
}

impl Tree {
    /// Reads a document.
    pub(crate) fn parse(source: &str) -> Self {
        let mut tree = Self { source: source.into(), nodes: vec![Element::default()] };
        let options = roxmltree::ParsingOptions { allow_dtd: true, nodes_limit: MAX_NODES, ..Default::default() };
        if let Ok(document) = roxmltree::Document::parse_with_options(source, options) {
            tree.fill(&document);
        }
        tree
    }

    /// The text that it was read from.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    fn fill(&mut self, document: &roxmltree::Document<'_>) {
        // (node of the document, its element here), in document order
        let mut open: Vec<(roxmltree::NodeId, usize)> = vec![(document.root().id(), 0)];
        for node in document.descendants().skip(1) {
            let Some(parent) = node.parent() else { continue };
            while open.last().is_some_and(|(id, _)| *id != parent.id()) {
                open.pop();
            }
            let Some((_, parent)) = open.last().copied() else { return };
            if node.is_element() {
                let at = self.nodes.len();
                self.nodes[parent].children.push(at);
                self.nodes.push(element(document.input_text(), node, parent));
                open.push((node.id(), at));
            } else if node.is_text() && self.nodes[parent].children.is_empty() && parent != 0 {
                self.nodes[parent].text.push_str(node.text().unwrap_or(""));
            }
        }
    }

    /// The first element that `path` reaches, breadth first.
    fn first(&self, path: &[Segment]) -> Option<usize> {
        let mut queue = VecDeque::from([(0, 0)]);
        let mut seen = HashSet::from([(0, 0)]);
        while let Some((node, at)) = queue.pop_front() {
            let Some(segment) = path.get(at) else { return Some(node) };
            let mut found = match &segment.selector {
                Selector::Root => vec![0],
                Selector::Itself => vec![node],
                Selector::Parent => self.nodes[node].parent.into_iter().collect(),
                Selector::Children => self.nodes[node].children.clone(),
                Selector::Named(name) => self.nodes[node]
                    .children
                    .iter()
                    .copied()
                    .filter(|child| name.fits(&self.nodes[*child].name))
                    .collect(),
                Selector::Descendants => {
                    let pruned = segment.filters.is_empty();
                    self.descendants(node, |child| pruned && seen.contains(&(child, at + 1)))
                }
            };
            for filter in &segment.filters {
                filter.apply(self, &mut found);
            }
            for node in found {
                if seen.insert((node, at + 1)) {
                    queue.push_back((node, at + 1));
                }
            }
        }
        None
    }

    /// `node` and all below, level by level, without what lies below a node that `known` has.
    fn descendants(&self, node: usize, known: impl Fn(usize) -> bool) -> Vec<usize> {
        let mut all = vec![node];
        let mut at = 0;
        while let Some(node) = all.get(at).copied() {
            all.extend(self.nodes[node].children.iter().copied().filter(|child| !known(*child)));
            at += 1;
        }
        all
    }
}

fn element(source: &str, node: roxmltree::Node<'_, '_>, parent: usize) -> Element {
    // names are read from the source, where their prefixes are
    let start = source.get(node.range().start..).unwrap_or("").trim_start_matches('<');
    let end = start.find(|c: char| c.is_whitespace() || matches!(c, '/' | '>')).unwrap_or(start.len());
    let written = Name::parse(&start[..end]);
    let local = node.tag_name().name();
    let name = if written.local == local { written } else { Name { prefix: String::new(), local: local.to_owned() } };
    let attributes = node
        .attributes()
        .map(|attribute| {
            let written = source.get(attribute.range_qname()).map(Name::parse);
            let name = written.filter(|name| name.local == attribute.name());
            let name = name.unwrap_or_else(|| Name { prefix: String::new(), local: attribute.name().to_owned() });
            (name, attribute.value().to_owned())
        })
        .collect();
    Element {
        name,
        namespace: node.tag_name().namespace().unwrap_or("").to_owned(),
        attributes,
        text: String::new(),
        children: Vec::new(),
        parent: Some(parent),
    }
}

struct Segment {
    selector: Selector,
    filters: Vec<Filter>,
}

enum Selector {
    Root,
    Itself,
    Parent,
    Children,
    Named(Name),
    Descendants,
}

enum Filter {
    Position(i64),
    Attribute(Name, Option<String>),
    Child(Name, Option<String>),
    Function(Property, Option<String>),
}

#[derive(Clone, Copy)]
enum Property {
    Text,
    Name,
    LocalName,
    Prefix,
    Namespace,
}

impl Filter {
    fn apply(&self, tree: &Tree, found: &mut Vec<usize>) {
        let equal = |found: &str, wanted: &Option<String>| wanted.as_ref().is_none_or(|wanted| wanted == found);
        match self {
            Filter::Position(index) => {
                let at = if *index < 0 { index.checked_add(found.len() as i64) } else { Some(*index) };
                let kept = at.and_then(|at| found.get(usize::try_from(at).ok()?).copied());
                *found = kept.into_iter().collect();
            }
            Filter::Attribute(name, wanted) => found.retain(|node| {
                tree.nodes[*node].attributes.iter().any(|(known, value)| name.fits(known) && equal(value, wanted))
            }),
            Filter::Child(name, wanted) => found.retain(|node| {
                let mut children = tree.nodes[*node].children.iter().map(|child| &tree.nodes[*child]);
                children.any(|child| name.fits(&child.name) && equal(&child.text, wanted))
            }),
            Filter::Function(property, wanted) => found.retain(|node| {
                let element = &tree.nodes[*node];
                let value = match property {
                    Property::Text => element.text.clone(),
                    Property::Name => element.name.full(),
                    Property::LocalName => element.name.local.clone(),
                    Property::Prefix => element.name.prefix.clone(),
                    Property::Namespace => element.namespace.clone(),
                };
                match wanted {
                    Some(wanted) => *wanted == value,
                    None => !value.is_empty(),
                }
            }),
        }
    }
}

/// The segments of a path; `None` when it is not one.
fn compile(path: &str) -> Option<Vec<Segment>> {
    let mut segments = Vec::new();
    let mut rest = path.to_owned();
    if rest.ends_with("//") {
        rest.push('*');
    }
    let rest = match rest.strip_prefix('/') {
        Some(rest) => {
            segments.push(Segment { selector: Selector::Root, filters: Vec::new() });
            rest
        }
        None => &rest,
    };
    let mut quote = None;
    let mut start = 0;
    for (at, c) in rest.char_indices() {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            (None, '/') => {
                segments.push(segment(&rest[start..at])?);
                start = at + 1;
            }
            _ => {}
        }
    }
    segments.push(segment(&rest[start..])?);
    Some(segments)
}

fn segment(text: &str) -> Option<Segment> {
    let mut parts = text.split('[');
    let selector = match parts.next()? {
        "." => Selector::Itself,
        ".." => Selector::Parent,
        "*" => Selector::Children,
        "" => Selector::Descendants,
        name => Selector::Named(Name::parse(name)),
    };
    let filters = parts.map(|part| filter(part.strip_suffix(']')?)).collect::<Option<_>>()?;
    Some(Segment { selector, filters })
}

fn filter(text: &str) -> Option<Filter> {
    let (key, value) = match text.split_once('=') {
        Some((key, quoted)) if quoted.starts_with(['\'', '"']) => {
            let quote = quoted.chars().next()?;
            let inner = quoted[1..].strip_suffix(quote).filter(|inner| !inner.contains(quote))?;
            (key, Some(inner.to_owned()))
        }
        _ => (text, None),
    };
    if key.is_empty() {
        return None;
    }
    if let Some(name) = key.strip_prefix('@') {
        return Some(Filter::Attribute(Name::parse(name), value));
    }
    if let Some(name) = key.strip_suffix("()") {
        let property = match name {
            "text" => Property::Text,
            "name" => Property::Name,
            "local-name" => Property::LocalName,
            "namespace-prefix" => Property::Prefix,
            "namespace-uri" => Property::Namespace,
            _ => return None,
        };
        return Some(Filter::Function(property, value));
    }
    if value.is_none()
        && let Ok(position) = key.parse::<i64>()
    {
        return Some(Filter::Position(if position > 0 { position - 1 } else { position }));
    }
    Some(Filter::Child(Name::parse(key), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(source: &str, path: &str) -> String {
        let tree = Tree::parse(source);
        compile(path).and_then(|path| tree.first(&path)).map_or_else(String::new, |node| tree.nodes[node].text.clone())
    }

    #[test]
    fn paths_reach_values() {
        let order = "<?xml version='1.0'?><!-- c --><order id='7'><lines><item sku='B'>no</item></lines>\
            <lines><item sku='A7'><qty> 3 </qty><qty>4</qty></item><item sku='A7'><qty>9</qty></item></lines>\
            <note>be<!-- x -->fore<![CDATA[ <&> ]]>&amp;<b>in</b>after</note><x:tag xmlns:x='urn:x'>pre</x:tag></order>";
        let cases = [
            ("/order/lines[2]/item[@sku='A7']/qty", " 3 "),
            ("/order/lines[1]/item[@sku='A7']/qty", ""),
            ("//qty", " 3 "),
            ("//qty[2]", "4"),
            ("//item[2]/qty", "9"),
            ("//qty[-1]", "4"),
            ("//item[qty='9']/qty", "9"),
            ("/order/note", "before <&> &"),
            ("order/note/b", "in"),
            ("//b/../b", "in"),
            ("//tag", "pre"),
            ("//x:tag", "pre"),
            ("//y:tag", ""),
            ("//*[local-name()='tag']", "pre"),
            ("//*[namespace-uri()='urn:x']", "pre"),
            ("//*[name()='x:tag'][namespace-prefix()]", "pre"),
            ("//*[text()='4']", "4"),
            ("/order/*[2]/item/qty[1]", " 3 "),
            ("//nope", ""),
            ("//item[", ""),
            ("//item[]", ""),
            ("//item[foo()]", ""),
        ];
        for (path, want) in cases {
            assert_eq!(value(order, path), want, "{path}");
        }
    }

    #[test]
    fn malformed_documents_are_empty() {
        for source in ["", "<a>", "<a></b>", "text", "<a>&nope;</a>", "<a b></a>"] {
            assert_eq!(value(source, "/a"), "", "{source}");
        }
    }

    #[test]
    fn deep_documents_are_walked_once() {
        let deep = format!("{}x{}", "<a>".repeat(9000), "</a>".repeat(9000));
        assert_eq!(value(&deep, "//a//a//a//a//nope"), "");
    }

    #[test]
    fn entities_do_not_explode() {
        let bomb = "<!DOCTYPE a [<!ENTITY b 'xxxxxxxxxx'><!ENTITY c '&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;'>\
            <!ENTITY d '&c;&c;&c;&c;&c;&c;&c;&c;&c;&c;'><!ENTITY e '&d;&d;&d;&d;&d;&d;&d;&d;&d;&d;'>\
            <!ENTITY f '&e;&e;&e;&e;&e;&e;&e;&e;&e;&e;'><!ENTITY g '&f;&f;&f;&f;&f;&f;&f;&f;&f;&f;'>]><a>&g;</a>";
        assert!(value(bomb, "/a").len() < 1_000_000);
    }
}
