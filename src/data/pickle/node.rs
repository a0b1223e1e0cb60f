//! The values of a pickle as an arena of nodes.
//!
//! Python values share parts and may contain themselves. In an arena both are plain indices: dropping,
//! copying and comparing never recurse, so no nesting overflows the stack.

use std::borrow::Cow;

/// Index of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Id(pub u32);

#[derive(Clone, Debug)]
pub(super) enum Node<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    BigInt(Cow<'a, [u8]>),
    Bytes(Cow<'a, [u8]>),
    Str(Cow<'a, str>),
    List(Vec<Id>),
    Tuple(Box<[Id]>),
    Set(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global { module: Id, name: Id },
    Object(Box<ObjectNode>),
    PersistentId(Id),
}

#[derive(Clone, Debug)]
pub(super) struct ObjectNode {
    pub callable: Id,
    pub args: Id,
    pub keywords: Option<Id>,
    pub state: Option<Id>,
    pub items: Vec<Id>,
    pub pairs: Vec<(Id, Id)>,
}

impl<'a> Node<'a> {
    /// True when the node refers to no other.
    pub fn is_leaf(&self) -> bool {
        use Node::{BigInt, Bool, Bytes, Float, Int, None, Str};
        matches!(self, None | Bool(_) | Int(_) | Float(_) | BigInt(_) | Bytes(_) | Str(_))
    }

    pub fn into_owned(self) -> Node<'static> {
        match self {
            Node::None => Node::None,
            Node::Bool(b) => Node::Bool(b),
            Node::Int(i) => Node::Int(i),
            Node::Float(f) => Node::Float(f),
            Node::BigInt(b) => Node::BigInt(Cow::Owned(b.into_owned())),
            Node::Bytes(b) => Node::Bytes(Cow::Owned(b.into_owned())),
            Node::Str(s) => Node::Str(Cow::Owned(s.into_owned())),
            Node::List(items) => Node::List(items),
            Node::Tuple(items) => Node::Tuple(items),
            Node::Set(items) => Node::Set(items),
            Node::Dict(pairs) => Node::Dict(pairs),
            Node::Global { module, name } => Node::Global { module, name },
            Node::Object(object) => Node::Object(object),
            Node::PersistentId(id) => Node::PersistentId(id),
        }
    }
}
