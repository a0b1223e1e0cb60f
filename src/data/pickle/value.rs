//! A cursor into the nodes of a pickle.

use super::node::{Id, Node, ObjectNode};
use super::text;
use std::borrow::Cow;

/// One value of a pickle. Cheap to copy.
#[derive(Clone, Copy)]
pub struct Value<'p> {
    pub(super) nodes: &'p [Node<'p>],
    pub(super) id: Id,
}

/// What a value is.
#[derive(Clone, Copy, Debug)]
pub enum Kind<'p> {
    None,
    Bool(bool),
    Int(i64),
    /// An integer beyond `i64`: two's complement, little-endian.
    BigInt(&'p [u8]),
    Float(f64),
    Bytes(&'p [u8]),
    Str(&'p str),
    List(Items<'p>),
    Tuple(Items<'p>),
    Set(Items<'p>),
    Dict,
    /// A class or function, by name only.
    Global {
        module: &'p str,
        name: &'p str,
    },
    /// The result of calling a global, which we never do: see [`Value::class`], [`Value::args`], [`Value::state`].
    Object,
    /// A reference to something stored outside the pickle, such as a tensor's storage.
    PersistentId(Value<'p>),
}

impl<'p> Value<'p> {
    fn at(self, id: Id) -> Value<'p> {
        Value { id, ..self }
    }

    fn items_of(self, ids: &'p [Id]) -> Items<'p> {
        Items { nodes: self.nodes, ids }
    }

    fn node(self) -> &'p Node<'p> {
        &self.nodes[self.id.0 as usize]
    }

    fn object(self) -> Option<&'p ObjectNode> {
        match self.node() {
            Node::Object(object) => Some(object),
            _ => None,
        }
    }

    /// Identifies the value within its pickle: equal for the very same Python object.
    pub fn id(self) -> u32 {
        self.id.0
    }

    pub fn kind(self) -> Kind<'p> {
        match self.node() {
            Node::None => Kind::None,
            Node::Bool(b) => Kind::Bool(*b),
            Node::Int(i) => Kind::Int(*i),
            Node::BigInt(bytes) => Kind::BigInt(bytes),
            Node::Float(f) => Kind::Float(*f),
            Node::Bytes(bytes) => Kind::Bytes(bytes),
            Node::Str(text) => Kind::Str(text),
            Node::List(ids) => Kind::List(self.items_of(ids)),
            Node::Tuple(ids) => Kind::Tuple(self.items_of(ids)),
            Node::Set(ids) => Kind::Set(self.items_of(ids)),
            Node::Dict(_) => Kind::Dict,
            Node::Global { module, name } => Kind::Global {
                module: self.at(*module).as_str().unwrap_or_default(),
                name: self.at(*name).as_str().unwrap_or_default(),
            },
            Node::Object(_) => Kind::Object,
            Node::PersistentId(id) => Kind::PersistentId(self.at(*id)),
        }
    }

    pub fn is_none(self) -> bool {
        matches!(self.node(), Node::None)
    }

    pub fn as_str(self) -> Option<&'p str> {
        match self.node() {
            Node::Str(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_bool(self) -> Option<bool> {
        match self.node() {
            Node::Bool(b) => Some(*b),
            _ => None,
        }
    }

    pub fn as_int(self) -> Option<i64> {
        match self.node() {
            Node::Int(i) => Some(*i),
            _ => None,
        }
    }

    /// A Python float or int, or a numpy scalar.
    pub fn as_f64(self) -> Option<f64> {
        match self.node() {
            Node::Float(f) => Some(*f),
            Node::Int(i) => Some(*i as f64),
            Node::Object(_) => super::numpy::scalar_f64(self),
            _ => None,
        }
    }

    /// Bytes, also in the form Python 3 writes with protocols 0 to 2 (`_codecs.encode(text, 'latin1')`).
    /// A string gives its UTF-8 bytes, for `str` of Python 2.
    pub fn as_bytes(self) -> Option<Cow<'p, [u8]>> {
        match self.node() {
            Node::Bytes(bytes) => Some(Cow::Borrowed(bytes)),
            Node::Str(text) => Some(Cow::Borrowed(text.as_bytes())),
            Node::Object(_) => match self.class()? {
                ("__builtin__" | "builtins", "bytes" | "bytearray") => match self.args()?.get(0) {
                    None => Some(Cow::Borrowed(&[])),
                    Some(inner) => match inner.node() {
                        Node::Bytes(bytes) => Some(Cow::Borrowed(bytes)),
                        _ => inner.latin1(),
                    },
                },
                _ => self.latin1(),
            },
            _ => None,
        }
    }

    /// What `_codecs.encode(text, 'latin1')` gives.
    fn latin1(self) -> Option<Cow<'p, [u8]>> {
        if self.class()? != ("_codecs", "encode") {
            return None;
        }
        let args = self.args()?;
        if args.get(1)?.as_str()? != "latin1" {
            return None;
        }
        text::latin1(args.get(0)?.as_str()?).map(Cow::Owned)
    }

    /// The elements of a list, tuple or set.
    pub fn items(self) -> Option<Items<'p>> {
        match self.node() {
            Node::List(ids) | Node::Set(ids) => Some(self.items_of(ids)),
            Node::Tuple(ids) => Some(self.items_of(ids)),
            // `set([..])`, as protocols below 4 write it, and subclasses of list
            Node::Object(object) => match self.class()? {
                ("__builtin__" | "builtins", "set" | "frozenset") => match self.args()?.get(0)?.node() {
                    Node::List(ids) => Some(self.items_of(ids)),
                    _ => None,
                },
                _ if object.items.is_empty() => None,
                _ => Some(self.items_of(&object.items)),
            },
            _ => None,
        }
    }

    /// The entries of a dict or `OrderedDict` in the order they were stored.
    pub fn pairs(self) -> Option<Vec<(Value<'p>, Value<'p>)>> {
        let stored = match self.node() {
            Node::Dict(pairs) => pairs,
            Node::Object(object) => {
                let ordered = self.class() == Some(("collections", "OrderedDict"));
                if object.pairs.is_empty() && ordered {
                    // Python 2 writes `OrderedDict([[key, value], ..])`
                    let Some(entries) = self.args()?.get(0) else {
                        return Some(Vec::new());
                    };
                    return entries
                        .items()?
                        .map(|entry| {
                            let entry = entry.items()?;
                            Some((entry.get(0)?, entry.get(1)?))
                        })
                        .collect();
                }
                if object.pairs.is_empty() {
                    return None;
                }
                &object.pairs
            }
            _ => return None,
        };
        Some(stored.iter().map(|&(key, value)| (self.at(key), self.at(value))).collect())
    }

    /// The entry of a dict or `OrderedDict` under a string key.
    pub fn get(self, key: &str) -> Option<Value<'p>> {
        let pairs = self.pairs()?;
        let found = pairs.iter().rev().find(|(k, _)| k.as_str() == Some(key));
        found.map(|&(_, value)| value)
    }

    /// Module and name of an object's class (or of the function that would have made it).
    pub fn class(self) -> Option<(&'p str, &'p str)> {
        let object = self.object()?;
        let called = self.at(object.callable).global()?;
        match called {
            // `object.__reduce_ex__` of protocols 0 and 1, and of 2 when spelled out
            ("copy_reg" | "copyreg", "_reconstructor" | "__newobj__") => self.at(object.args).items()?.get(0)?.global(),
            _ => Some(called),
        }
    }

    /// Module and name of a global.
    pub fn global(self) -> Option<(&'p str, &'p str)> {
        match self.kind() {
            Kind::Global { module, name } => Some((module, name)),
            _ => None,
        }
    }

    /// The arguments an object would have been made with.
    pub fn args(self) -> Option<Items<'p>> {
        self.at(self.object()?.args).items()
    }

    /// The keyword arguments an object would have been made with (a dict), where it has any.
    pub fn keywords(self) -> Option<Value<'p>> {
        Some(self.at(self.object()?.keywords?))
    }

    /// What `__setstate__` would have got; for most objects the dict of their attributes.
    pub fn state(self) -> Option<Value<'p>> {
        Some(self.at(self.object()?.state?))
    }

    /// An attribute of an object such as `argparse.Namespace`.
    pub fn attribute(self, name: &str) -> Option<Value<'p>> {
        self.state()?.get(name)
    }

    /// Short description for error messages.
    pub fn describe(self) -> String {
        fn shortened(text: &str) -> String {
            const SHOWN: usize = 40;
            match text.char_indices().nth(SHOWN) {
                Some((end, _)) => format!("{:?}...", &text[..end]),
                None => format!("{text:?}"),
            }
        }
        match self.kind() {
            Kind::None => "None".into(),
            Kind::Bool(b) => format!("bool {b}"),
            Kind::Int(i) => format!("int {i}"),
            Kind::BigInt(bytes) => format!("int of {} bytes", bytes.len()),
            Kind::Float(f) => format!("float {f}"),
            Kind::Bytes(bytes) => format!("bytes of length {}", bytes.len()),
            Kind::Str(text) => format!("str {}", shortened(text)),
            Kind::List(items) => format!("list of length {}", items.len()),
            Kind::Tuple(items) => format!("tuple of length {}", items.len()),
            Kind::Set(items) => format!("set of length {}", items.len()),
            Kind::Dict => "dict".into(),
            Kind::Global { module, name } => {
                format!("the name {}", shortened(&format!("{module}.{name}")))
            }
            Kind::Object => match self.class() {
                Some((module, name)) => {
                    format!("object of {}", shortened(&format!("{module}.{name}")))
                }
                None => "object of an unnamed class".into(),
            },
            Kind::PersistentId(_) => "persistent id".into(),
        }
    }
}

impl std::fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.describe())
    }
}

/// The elements of a list, tuple or set.
#[derive(Clone, Copy)]
pub struct Items<'p> {
    nodes: &'p [Node<'p>],
    ids: &'p [Id],
}

impl<'p> Items<'p> {
    pub fn get(&self, index: usize) -> Option<Value<'p>> {
        let id = *self.ids.get(index)?;
        Some(Value { nodes: self.nodes, id })
    }
}

impl<'p> Iterator for Items<'p> {
    type Item = Value<'p>;

    fn next(&mut self) -> Option<Value<'p>> {
        let (&id, rest) = self.ids.split_first()?;
        self.ids = rest;
        Some(Value { nodes: self.nodes, id })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.ids.len(), Some(self.ids.len()))
    }
}

impl ExactSizeIterator for Items<'_> {}

impl std::fmt::Debug for Items<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} items", self.ids.len())
    }
}
