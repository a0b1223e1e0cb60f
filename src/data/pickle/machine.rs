//! Runs the opcodes of a pickle into an arena of nodes.
//!
//! Memory: an opcode makes at most three nodes and keeps nothing longer than its own bytes, so an arena never
//! outgrows its file by more than a constant factor, whatever lengths the file claims. Values are
//! memoised only where a first pass found that the file reads them back: picklers memoise everything.

mod memo;
mod stream;

use super::error::PickleError;
use super::node::{Id, Node, ObjectNode};
use super::opcode::{Encoding, Instruction, Op, Reader, quote};
use super::text;
use super::value::Value;
use memo::{IndexSet, indices_read_back};
use std::borrow::Cow;
use std::collections::HashMap;
pub(super) use stream::{KeepAll, Sink};

pub(super) struct Machine<'a, S> {
    nodes: Vec<Node<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack at each open MARK.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    read_back: IndexSet,
    written: IndexSet,
    sink: S,
    /// The top-level list, once elements of it went to the sink.
    streamed: Option<Id>,
    /// Nodes from here on may be dropped once their elements went to the sink.
    base: usize,
    /// Memo entries made since.
    recent: Vec<u32>,
    /// A node below `base` now refers to one above.
    pinned: bool,
}

/// What a run leaves behind.
pub(super) struct Outcome<'a> {
    pub nodes: Vec<Node<'a>>,
    pub root: Id,
    /// Bytes up to and including STOP.
    pub length: usize,
}

/// Interprets the first pickle in `data`.
pub(super) fn run<'a, S: Sink>(data: &'a [u8], sink: S) -> Result<Outcome<'a>, S::Error> {
    let mut machine = Machine {
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        read_back: indices_read_back(data)?,
        written: IndexSet::default(),
        sink,
        streamed: None,
        base: 0,
        recent: Vec::new(),
        pinned: false,
    };
    let mut reader = Reader::new(data);
    loop {
        let at = reader.next()?;
        if at.op == Op::Stop {
            let root = machine.pop(&at)?;
            machine.finish(&at, root)?;
            return Ok(Outcome { nodes: machine.nodes, root, length: reader.position() });
        }
        machine.step(&at)?;
    }
}

impl<'a, S: Sink> Machine<'a, S> {
    fn step(&mut self, at: &Instruction<'a>) -> Result<(), S::Error> {
        match at.op {
            Op::Header | Op::Stop => {}
            Op::Mark => self.marks.push(self.stack.len()),
            Op::Pop => {
                // Python drops an empty mark
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop(at)?;
                }
            }
            Op::PopMark => {
                self.pop_mark(at)?;
            }
            Op::Duplicate => {
                let top = self.top(at)?;
                self.stack.push(top);
            }
            Op::None => self.push(at, Node::None)?,
            Op::Bool(b) => self.push(at, Node::Bool(b))?,
            Op::Int(i) => self.push(at, Node::Int(i))?,
            Op::Long(bytes) => self.push(at, long(bytes))?,
            Op::WideInt(i) => {
                self.push(at, Node::BigInt(Cow::Owned(i.to_le_bytes().to_vec())))?;
            }
            Op::Float(f) => self.push(at, Node::Float(f))?,
            Op::Bytes(bytes) => self.push(at, Node::Bytes(Cow::Borrowed(bytes)))?,
            Op::Text(encoding, raw) => {
                let node = string(at, encoding, raw)?;
                self.push(at, node)?;
            }
            Op::EmptyList => self.push(at, Node::List(Vec::new()))?,
            Op::EmptyTuple => self.push(at, Node::Tuple(Box::default()))?,
            Op::EmptyDict => self.push(at, Node::Dict(Vec::new()))?,
            Op::EmptySet => self.push(at, Node::Set(Vec::new()))?,
            Op::List => {
                let items = self.pop_mark(at)?;
                self.push(at, Node::List(items))?;
            }
            Op::Tuple => {
                let items = self.pop_mark(at)?;
                self.push(at, Node::Tuple(items.into()))?;
            }
            Op::TupleOf(count) => {
                let floor = self.marks.last().copied().unwrap_or(0);
                if self.stack.len() < floor + count {
                    return Err(self.underflow(at).into());
                }
                let items = self.stack.split_off(self.stack.len() - count);
                self.push(at, Node::Tuple(items.into()))?;
            }
            Op::FrozenSet => {
                let items = self.pop_mark(at)?;
                self.push(at, Node::Set(items))?;
            }
            Op::Dict => {
                let items = self.pop_mark(at)?;
                let pairs = pairs(at, &items)?;
                self.push(at, Node::Dict(pairs))?;
            }
            Op::Append => {
                let item = self.pop(at)?;
                self.extend_list(at, vec![item])?;
            }
            Op::Appends => {
                let items = self.pop_mark(at)?;
                self.extend_list(at, items)?;
            }
            Op::SetItem => {
                let value = self.pop(at)?;
                let key = self.pop(at)?;
                self.extend_dict(at, &[key, value])?;
            }
            Op::SetItems => {
                let items = self.pop_mark(at)?;
                self.extend_dict(at, &items)?;
            }
            Op::AddItems => {
                let items = self.pop_mark(at)?;
                self.extend_set(at, &items)?;
            }
            Op::Global(module, name) => {
                let callable = self.global(at, module, name)?;
                self.stack.push(callable);
            }
            Op::StackGlobal => {
                let name = self.pop(at)?;
                let module = self.pop(at)?;
                for part in [module, name] {
                    self.check(at, part, "a module and a name", |node| matches!(node, Node::Str(_)))?;
                }
                self.push(at, Node::Global { module, name })?;
            }
            Op::Reduce | Op::NewObj => {
                let args = self.pop(at)?;
                self.check(at, args, "a tuple of arguments", is_tuple)?;
                let callable = self.pop(at)?;
                self.push_object(at, callable, args, None)?;
            }
            Op::NewObjEx => {
                let keywords = self.pop(at)?;
                let args = self.pop(at)?;
                self.check(at, args, "a tuple of arguments", is_tuple)?;
                let callable = self.pop(at)?;
                self.push_object(at, callable, args, Some(keywords))?;
            }
            Op::Inst(module, name) => {
                let items = self.pop_mark(at)?;
                let callable = self.global(at, module, name)?;
                let args = self.node(at, Node::Tuple(items.into()))?;
                self.push_object(at, callable, args, None)?;
            }
            Op::Obj => {
                let mut items = self.pop_mark(at)?;
                if items.is_empty() {
                    return Err(self.underflow(at).into());
                }
                let callable = items.remove(0);
                let args = self.node(at, Node::Tuple(items.into()))?;
                self.push_object(at, callable, args, None)?;
            }
            Op::Build => {
                let state = self.pop(at)?;
                let target = self.top(at)?;
                self.touch(target);
                match &mut self.nodes[target.0 as usize] {
                    Node::Object(object) => object.state = Some(state),
                    _ => return Err(self.wrong(at, "an object", target).into()),
                }
            }
            Op::Put(index) => self.memoise(at, index)?,
            Op::Memoize => self.memoise(at, self.written.count)?,
            Op::Get(index) => match self.memo.get(&index) {
                Some(&id) if Some(id) == self.streamed => {
                    return Err(at.unexpected("records", "the top-level list inside itself").into());
                }
                Some(&id) => self.stack.push(id),
                None => {
                    let found = format!("{index}, which was never stored");
                    return Err(at.unexpected("a stored memo index", found).into());
                }
            },
            Op::PersistentText(raw) => {
                let text = string(at, Encoding::Utf8, raw)?;
                let id = self.node(at, text)?;
                self.push(at, Node::PersistentId(id))?;
            }
            Op::PersistentId => {
                let id = self.pop(at)?;
                self.push(at, Node::PersistentId(id))?;
            }
        }
        Ok(())
    }

    fn node(&mut self, at: &Instruction, node: Node<'a>) -> Result<Id, PickleError> {
        let Ok(index) = u32::try_from(self.nodes.len()) else {
            return Err(at.unexpected("fewer than 2^32 values", "more"));
        };
        self.nodes.push(node);
        Ok(Id(index))
    }

    fn push(&mut self, at: &Instruction, node: Node<'a>) -> Result<(), PickleError> {
        let id = self.node(at, node)?;
        self.stack.push(id);
        Ok(())
    }

    fn push_object(
        &mut self,
        at: &Instruction,
        callable: Id,
        args: Id,
        keywords: Option<Id>,
    ) -> Result<(), PickleError> {
        let object = ObjectNode { callable, args, keywords, state: None, items: Vec::new(), pairs: Vec::new() };
        self.push(at, Node::Object(Box::new(object)))
    }

    fn global(&mut self, at: &Instruction<'a>, module: &'a [u8], name: &'a [u8]) -> Result<Id, PickleError> {
        let module = string(at, Encoding::Utf8, module)?;
        let name = string(at, Encoding::Utf8, name)?;
        let module = self.node(at, module)?;
        let name = self.node(at, name)?;
        self.node(at, Node::Global { module, name })
    }

    /// The topmost value above the last mark.
    fn top(&self, at: &Instruction) -> Result<Id, PickleError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.last() {
            Some(&top) if self.stack.len() > floor => Ok(top),
            _ => Err(self.underflow(at)),
        }
    }

    fn pop(&mut self, at: &Instruction) -> Result<Id, PickleError> {
        let top = self.top(at)?;
        self.stack.pop();
        Ok(top)
    }

    /// All values above the last mark, and the mark.
    fn pop_mark(&mut self, at: &Instruction) -> Result<Vec<Id>, PickleError> {
        match self.marks.pop() {
            Some(height) => Ok(self.stack.split_off(height)),
            None => Err(at.unexpected("a MARK on the stack", "none")),
        }
    }

    fn underflow(&self, at: &Instruction) -> PickleError {
        at.unexpected("a value on the stack", "none")
    }

    fn describe(&self, id: Id) -> String {
        let nodes = &self.nodes;
        Value { nodes, id }.describe()
    }

    fn wrong(&self, at: &Instruction, expected: &'static str, found: Id) -> PickleError {
        at.unexpected(expected, self.describe(found))
    }

    fn check(
        &self,
        at: &Instruction,
        id: Id,
        expected: &'static str,
        fits: impl Fn(&Node) -> bool,
    ) -> Result<(), PickleError> {
        if fits(&self.nodes[id.0 as usize]) { Ok(()) } else { Err(self.wrong(at, expected, id)) }
    }

    fn touch(&mut self, target: Id) {
        self.pinned |= (target.0 as usize) < self.base;
    }

    fn extend_list(&mut self, at: &Instruction, mut items: Vec<Id>) -> Result<(), S::Error> {
        let target = self.top(at)?;
        let alone = self.stack.len() == 1 && self.marks.is_empty();
        match &mut self.nodes[target.0 as usize] {
            Node::List(list) if S::STREAMS && alone && list.is_empty() => {
                return self.stream(target, items);
            }
            Node::List(list) => list.append(&mut items),
            Node::Object(object) => object.items.append(&mut items),
            _ => return Err(self.wrong(at, "a list below", target).into()),
        }
        self.touch(target);
        Ok(())
    }

    fn extend_dict(&mut self, at: &Instruction, items: &[Id]) -> Result<(), PickleError> {
        let mut new = pairs(at, items)?;
        let target = self.top(at)?;
        self.touch(target);
        match &mut self.nodes[target.0 as usize] {
            Node::Dict(pairs) => pairs.append(&mut new),
            Node::Object(object) => object.pairs.append(&mut new),
            _ => return Err(self.wrong(at, "a dict below", target)),
        }
        Ok(())
    }

    fn extend_set(&mut self, at: &Instruction, items: &[Id]) -> Result<(), PickleError> {
        let target = self.top(at)?;
        self.touch(target);
        match &mut self.nodes[target.0 as usize] {
            Node::Set(set) => set.extend_from_slice(items),
            _ => return Err(self.wrong(at, "a set below", target)),
        }
        Ok(())
    }

    fn memoise(&mut self, at: &Instruction, index: u32) -> Result<(), PickleError> {
        let top = self.top(at)?;
        self.written.insert(index);
        if self.read_back.contains(index) {
            self.memo.insert(index, top);
            if S::STREAMS {
                self.recent.push(index);
            }
        }
        Ok(())
    }
}

fn is_tuple(node: &Node) -> bool {
    matches!(node, Node::Tuple(_))
}

fn pairs(at: &Instruction, items: &[Id]) -> Result<Vec<(Id, Id)>, PickleError> {
    if !items.len().is_multiple_of(2) {
        return Err(at.unexpected("keys with values", format!("{} values", items.len())));
    }
    Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

fn long(bytes: &[u8]) -> Node<'_> {
    if bytes.len() > 8 {
        return Node::BigInt(Cow::Borrowed(bytes));
    }
    let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
    let mut wide = if negative { [0xff; 8] } else { [0; 8] };
    wide[..bytes.len()].copy_from_slice(bytes);
    Node::Int(i64::from_le_bytes(wide))
}

fn string<'a>(at: &Instruction, encoding: Encoding, raw: &'a [u8]) -> Result<Node<'a>, PickleError> {
    // Python 2 has one type for text and bytes: what is valid UTF-8 we call text.
    let python2 = |bytes: Cow<'a, [u8]>| match bytes {
        Cow::Borrowed(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Node::Str(Cow::Borrowed(text)),
            Err(_) => Node::Bytes(Cow::Borrowed(bytes)),
        },
        Cow::Owned(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Node::Str(Cow::Owned(text)),
            Err(error) => Node::Bytes(Cow::Owned(error.into_bytes())),
        },
    };
    let (node, expected) = match encoding {
        Encoding::Utf8 => (text::utf8(raw).map(Node::Str), "UTF-8 text"),
        Encoding::Python2 => (Some(python2(Cow::Borrowed(raw))), "text"),
        Encoding::Quoted => (text::quoted(raw).map(python2), "a quoted string"),
        Encoding::RawUnicodeEscape => (text::raw_unicode_escape(raw).map(Node::Str), "text in raw-unicode-escape"),
    };
    node.ok_or_else(|| at.unexpected(expected, quote(raw)))
}
