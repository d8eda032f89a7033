//! Reading one Avro body: bounds, varints, blocks. Nothing here panics or allocates on hostile bytes.

use std::fmt;

use crate::contract::tree::{Kind, NodeId, Tree};

/// How deep values may be nested: a recursive type lets bytes choose.
const DEPTH: usize = 128;
/// How many items without bytes (nulls, empty records) one block may hold.
const EMPTY_ITEMS: u64 = 65_536;

/// Why a body did not decode: the field's path, and what was found.
pub(crate) struct Fault(Box<(String, String)>);

impl Fault {
    #[cold]
    pub fn new(what: impl Into<String>) -> Fault {
        Fault(Box::new((String::new(), what.into())))
    }

    /// Puts a field in front of the path.
    #[cold]
    pub fn within(mut self, field: &str) -> Fault {
        let path = &mut self.0.0;
        let joint = if path.is_empty() || path.starts_with(['[', '{']) { "" } else { "." };
        *path = format!("{field}{joint}{path}");
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.0.as_str() {
            "" => f.write_str(&self.0.1),
            path => write!(f, "field \"{path}\": {}", self.0.1),
        }
    }
}

pub(crate) struct Cursor<'a> {
    pub rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub fn new(body: &'a [u8]) -> Cursor<'a> {
        Cursor { rest: body }
    }

    #[inline]
    pub fn long(&mut self) -> Result<i64, Fault> {
        // Most numbers, lengths and branches are one byte.
        if let [byte, rest @ ..] = self.rest
            && *byte < 0x80
        {
            self.rest = rest;
            return Ok(i64::from(byte >> 1) ^ -i64::from(byte & 1));
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Result<i64, Fault> {
        let mut value = 0_u64;
        for (i, byte) in self.rest.iter().enumerate() {
            if i == 9 && *byte > 1 {
                return Err(Fault::new("a number of more than 64 bits"));
            }
            value |= u64::from(byte & 0x7f) << (7 * i);
            if *byte < 0x80 {
                self.rest = &self.rest[i + 1..];
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(Fault::new("the bytes end within a number"))
    }

    #[inline]
    pub fn int(&mut self) -> Result<i32, Fault> {
        let long = self.long()?;
        i32::try_from(long).map_err(|_| Fault::new(format!("{long} does not fit an int")))
    }

    #[inline]
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Fault> {
        match self.rest.split_at_checked(len) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(Fault::new(format!("{len} bytes wanted, {} are left", self.rest.len()))),
        }
    }

    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        Ok(self.take(N)?.try_into().expect("as many as were taken"))
    }

    /// Bytes or string, with their length in front.
    #[inline]
    pub fn bytes(&mut self) -> Result<&'a [u8], Fault> {
        let len = self.long()?;
        let len = usize::try_from(len).map_err(|_| Fault::new(format!("a length of {len}")))?;
        self.take(len)
    }

    #[inline]
    pub fn text(&mut self) -> Result<&'a str, Fault> {
        let bytes = self.bytes()?;
        std::str::from_utf8(bytes).map_err(|e| Fault::new(format!("not UTF-8 at byte {}", e.valid_up_to())))
    }

    #[inline]
    pub fn boolean(&mut self) -> Result<bool, Fault> {
        match self.take(1)? {
            [0] => Ok(false),
            [1] => Ok(true),
            other => Err(Fault::new(format!("a boolean of {}", other[0]))),
        }
    }

    /// The index of a branch or symbol, below `of`.
    #[inline]
    pub fn index(&mut self, of: usize) -> Result<usize, Fault> {
        let index = self.long()?;
        match usize::try_from(index) {
            Ok(index) if index < of => Ok(index),
            _ => Err(Fault::new(format!("index {index} where the writer's schema has {of} choices"))),
        }
    }

    /// Calls `item` for every item of an array or map.
    #[inline]
    pub fn blocks(&mut self, mut item: impl FnMut(&mut Self) -> Result<(), Fault>) -> Result<(), Fault> {
        loop {
            let count = self.long()?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                // The size of the block in bytes follows: a reader that skips may use it, others need not.
                self.long()?;
            }
            let count = count.unsigned_abs();
            if count > self.rest.len() as u64 + EMPTY_ITEMS {
                return Err(Fault::new(format!("a block of {count} items in {} bytes", self.rest.len())));
            }
            for _ in 0..count {
                item(self)?;
            }
        }
    }

    /// Walks over a value of the writer's type, checking it.
    pub fn skip(&mut self, tree: &Tree, id: NodeId, depth: usize) -> Result<(), Fault> {
        if depth > DEPTH {
            return Err(Fault::new(format!("nested deeper than {DEPTH}")));
        }
        match &tree.node(id).kind {
            Kind::Null => Ok(()),
            Kind::Boolean => self.boolean().map(drop),
            Kind::Int => self.int().map(drop),
            Kind::Long => self.long().map(drop),
            Kind::Float => self.take(4).map(drop),
            Kind::Double => self.take(8).map(drop),
            Kind::Bytes => self.bytes().map(drop),
            Kind::String => self.text().map(drop),
            Kind::Fixed { size, .. } => self.take(*size).map(drop),
            Kind::Enum { symbols, .. } => self.index(symbols.len()).map(drop),
            Kind::Union(branches) => {
                let branch = self.index(branches.len())?;
                self.skip(tree, branches[branch], depth + 1)
            }
            Kind::Array(items) => self.blocks(|cursor| cursor.skip(tree, *items, depth + 1)).map_err(|e| e.within("[]")),
            Kind::Map(values) => self
                .blocks(|cursor| {
                    cursor.text()?;
                    cursor.skip(tree, *values, depth + 1)
                })
                .map_err(|e| e.within("{}")),
            Kind::Record { fields, .. } => {
                for field in fields {
                    self.skip(tree, field.of, depth + 1).map_err(|e| e.within(&field.name))?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_are_bounded() {
        let long = |bytes: &[u8]| Cursor::new(bytes).long().map_err(|e| e.to_string());
        assert_eq!(long(&[0]), Ok(0));
        assert_eq!(long(&[1]), Ok(-1));
        assert_eq!(long(&[0x80, 0x01]), Ok(64));
        assert_eq!(long(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]), Ok(i64::MIN));
        assert!(long(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]).is_err());
        assert!(long(&[0x80]).is_err());
        assert!(long(&[]).is_err());
        assert!(long(&[0x80; 11]).is_err());
        assert!(Cursor::new(&[0xfe, 0xff, 0xff, 0xff, 0x1f]).int().is_err());
    }

    #[test]
    fn a_hostile_block_is_refused_before_anything_is_allocated() {
        let mut items = 0;
        let mut cursor = Cursor::new(&[0xfe, 0xff, 0xff, 0xff, 0xff, 0x1f]);
        let fault = cursor.blocks(|_| {
            items += 1;
            Ok(())
        });
        assert!(fault.is_err_and(|e| e.to_string().contains("items in 0 bytes")));
        assert_eq!(items, 0);
    }
}
