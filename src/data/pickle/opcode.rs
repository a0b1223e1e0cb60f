//! Splits a pickle into opcodes and their arguments. Nothing is allocated: arguments borrow from the input.
//!
//! Source: the opcode table of CPython's `pickletools` (protocols 0 to 5).

use super::error::PickleError;
use super::opcode_name::opcode_name;

/// How the raw bytes of a string argument are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Utf8,
    /// Python 2 `str`: text or bytes, nobody knows.
    Python2,
    /// Python 2 `str` in quotes with escapes.
    Quoted,
    RawUnicodeEscape,
}

/// One instruction. Memo indices are below the length of the input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Op<'a> {
    Mark,
    Stop,
    Pop,
    PopMark,
    Duplicate,
    None,
    Bool(bool),
    Int(i64),
    /// Two's complement, little-endian.
    Long(&'a [u8]),
    /// Decimal digits that do not fit an `i64`.
    WideInt(i128),
    Float(f64),
    Bytes(&'a [u8]),
    Text(Encoding, &'a [u8]),
    EmptyList,
    EmptyTuple,
    EmptyDict,
    EmptySet,
    List,
    Tuple,
    /// The topmost one, two or three values.
    TupleOf(usize),
    Dict,
    FrozenSet,
    Append,
    Appends,
    SetItem,
    SetItems,
    AddItems,
    Global(&'a [u8], &'a [u8]),
    StackGlobal,
    Reduce,
    NewObj,
    NewObjEx,
    Inst(&'a [u8], &'a [u8]),
    Obj,
    Build,
    Put(u32),
    Memoize,
    Get(u32),
    PersistentText(&'a [u8]),
    PersistentId,
    /// Protocol number or frame length: nothing to do.
    Header,
}

/// One opcode of the input.
#[derive(Clone, Copy, Debug)]
pub(super) struct Instruction<'a> {
    pub offset: usize,
    pub name: &'static str,
    pub op: Op<'a>,
}

impl Instruction<'_> {
    pub fn unexpected(&self, expected: &'static str, found: impl Into<String>) -> PickleError {
        unexpected(self.offset, self.name, expected, found)
    }
}

fn unexpected(offset: usize, opcode: &'static str, expected: &'static str, found: impl Into<String>) -> PickleError {
    PickleError::Unexpected { offset, opcode, expected, found: found.into() }
}

/// Walks over the opcodes of `data`.
pub(super) struct Reader<'a> {
    data: &'a [u8],
    at: usize,
    /// Of the opcode being read.
    offset: usize,
    name: &'static str,
}

impl<'a> Reader<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Reader { data, at: 0, offset: 0, name: "start" }
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.at
    }

    pub fn next(&mut self) -> Result<Instruction<'a>, PickleError> {
        self.offset = self.at;
        self.name = "the next opcode";
        let code = self.array::<1>()?[0];
        self.name = opcode_name(code).ok_or(PickleError::UnknownOpcode { offset: self.offset, byte: code })?;
        let op = self.argument(code)?;
        Ok(Instruction { offset: self.offset, name: self.name, op })
    }

    fn argument(&mut self, code: u8) -> Result<Op<'a>, PickleError> {
        use Encoding::{Python2, Quoted, RawUnicodeEscape, Utf8};
        Ok(match code {
            b'(' => Op::Mark,
            b'.' => Op::Stop,
            b'0' => Op::Pop,
            b'1' => Op::PopMark,
            b'2' => Op::Duplicate,
            b'N' => Op::None,
            0x88 => Op::Bool(true),
            0x89 => Op::Bool(false),
            b'I' => self.int_line()?,
            b'L' => self.long_line()?,
            b'J' => Op::Int(i64::from(i32::from_le_bytes(self.array()?))),
            b'K' => Op::Int(i64::from(self.array::<1>()?[0])),
            b'M' => Op::Int(i64::from(u16::from_le_bytes(self.array()?))),
            0x8a => Op::Long(self.sized::<1>()?),
            0x8b => Op::Long(self.sized::<4>()?),
            b'F' => self.float_line()?,
            b'G' => Op::Float(f64::from_be_bytes(self.array()?)),
            b'B' => Op::Bytes(self.sized::<4>()?),
            b'C' => Op::Bytes(self.sized::<1>()?),
            0x8e | 0x96 => Op::Bytes(self.sized::<8>()?),
            b'S' => Op::Text(Quoted, self.line()?),
            b'T' => Op::Text(Python2, self.sized::<4>()?),
            b'U' => Op::Text(Python2, self.sized::<1>()?),
            b'V' => Op::Text(RawUnicodeEscape, self.line()?),
            b'X' => Op::Text(Utf8, self.sized::<4>()?),
            0x8c => Op::Text(Utf8, self.sized::<1>()?),
            0x8d => Op::Text(Utf8, self.sized::<8>()?),
            b']' => Op::EmptyList,
            b')' => Op::EmptyTuple,
            b'}' => Op::EmptyDict,
            0x8f => Op::EmptySet,
            b'l' => Op::List,
            b't' => Op::Tuple,
            0x85 => Op::TupleOf(1),
            0x86 => Op::TupleOf(2),
            0x87 => Op::TupleOf(3),
            b'd' => Op::Dict,
            0x91 => Op::FrozenSet,
            b'a' => Op::Append,
            b'e' => Op::Appends,
            b's' => Op::SetItem,
            b'u' => Op::SetItems,
            0x90 => Op::AddItems,
            b'c' => Op::Global(self.line()?, self.line()?),
            b'i' => Op::Inst(self.line()?, self.line()?),
            0x93 => Op::StackGlobal,
            b'R' => Op::Reduce,
            0x81 => Op::NewObj,
            0x92 => Op::NewObjEx,
            b'o' => Op::Obj,
            b'b' => Op::Build,
            b'p' => Op::Put(self.index_line()?),
            b'q' => Op::Put(u32::from(self.array::<1>()?[0])),
            b'r' => {
                let index = u32::from_le_bytes(self.array()?);
                Op::Put(self.memo_index(u64::from(index))?)
            }
            0x94 => Op::Memoize,
            b'g' => Op::Get(self.index_line()?),
            b'h' => Op::Get(u32::from(self.array::<1>()?[0])),
            b'j' => {
                let index = u32::from_le_bytes(self.array()?);
                Op::Get(self.memo_index(u64::from(index))?)
            }
            b'P' => Op::PersistentText(self.line()?),
            b'Q' => Op::PersistentId,
            0x80 => {
                let version = self.array::<1>()?[0];
                if version > 5 {
                    return Err(self.bad("a protocol of 0 to 5", version.to_string()));
                }
                Op::Header
            }
            0x95 => {
                let length = u64::from_le_bytes(self.array()?);
                self.check_left(length)?;
                Op::Header
            }
            0x82..=0x84 => {
                return Err(self.bad("no extension registry", "an entry of one"));
            }
            // `opcode_name` knows no others
            _ => {
                return Err(
                    self.bad("all data inside the file", "an out-of-band buffer: pickle again without buffer_callback")
                );
            }
        })
    }

    fn bad(&self, expected: &'static str, found: impl Into<String>) -> PickleError {
        unexpected(self.offset, self.name, expected, found)
    }

    fn check_left(&self, needed: u64) -> Result<(), PickleError> {
        let available = (self.data.len() - self.at) as u64;
        if needed > available {
            return Err(PickleError::Truncated { offset: self.offset, opcode: self.name, needed, available });
        }
        Ok(())
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], PickleError> {
        self.check_left(length)?;
        let bytes = &self.data[self.at..self.at + length as usize];
        self.at += length as usize;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    /// Bytes after their own length, which is an `N`-byte little-endian number.
    fn sized<const N: usize>(&mut self) -> Result<&'a [u8], PickleError> {
        let mut length = [0; 8];
        length[..N].copy_from_slice(&self.array::<N>()?);
        self.take(u64::from_le_bytes(length))
    }

    fn line(&mut self) -> Result<&'a [u8], PickleError> {
        let rest = &self.data[self.at..];
        let Some(end) = rest.iter().position(|&b| b == b'\n') else {
            return Err(self.bad("a line end", "the end of the file"));
        };
        self.at += end + 1;
        Ok(&rest[..end])
    }

    fn number_line(&mut self, expected: &'static str) -> Result<&'a str, PickleError> {
        let line = self.line()?;
        std::str::from_utf8(line).map(str::trim).map_err(|_| self.bad(expected, quote(line)))
    }

    fn int_line(&mut self) -> Result<Op<'a>, PickleError> {
        match self.number_line("a decimal integer")? {
            "00" => Ok(Op::Bool(false)),
            "01" => Ok(Op::Bool(true)),
            digits => self.integer(digits),
        }
    }

    fn long_line(&mut self) -> Result<Op<'a>, PickleError> {
        let digits = self.number_line("a decimal integer")?;
        self.integer(digits.strip_suffix('L').unwrap_or(digits))
    }

    fn integer(&self, digits: &str) -> Result<Op<'a>, PickleError> {
        if let Ok(value) = digits.parse() {
            return Ok(Op::Int(value));
        }
        // Longer decimals would take quadratic time to convert, and nobody's weights or captions hold them.
        digits.parse().map(Op::WideInt).map_err(|_| self.bad("a decimal integer below 2^127", quote(digits.as_bytes())))
    }

    fn float_line(&mut self) -> Result<Op<'a>, PickleError> {
        let text = self.number_line("a decimal number")?;
        text.parse().map(Op::Float).map_err(|_| self.bad("a decimal number", quote(text.as_bytes())))
    }

    fn index_line(&mut self) -> Result<u32, PickleError> {
        let text = self.number_line("a memo index")?;
        let index = text.parse().map_err(|_| self.bad("a memo index", quote(text.as_bytes())))?;
        self.memo_index(index)
    }

    /// Picklers number the memo from 0, so an index beyond the file's length is damage (or an attempt
    /// to make us allocate).
    fn memo_index(&self, index: u64) -> Result<u32, PickleError> {
        match u32::try_from(index) {
            Ok(small) if index < self.data.len().max(256) as u64 => Ok(small),
            _ => Err(self.bad("a memo index below the file's length", index.to_string())),
        }
    }
}

/// The start of some bytes for an error message.
pub(super) fn quote(bytes: &[u8]) -> String {
    const SHOWN: usize = 60;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]);
    let more = if bytes.len() > SHOWN { "..." } else { "" };
    format!("{text:?}{more}")
}
