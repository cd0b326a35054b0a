//! The pickle machine. The opcodes are those of Python's `pickletools`, protocols 2 to 5.

use std::collections::HashMap;

use super::globals::{Global, global};
use super::input::Input;
use super::objects::{Objects, Ref, Value};
use super::stack::Stack;
use super::{malformed, rebuild};
use crate::cursor::Cursor;
use crate::error::CheckpointError;
use crate::text::excerpt;

/// Reads the pickle at `start`. Returns all its values, the one that is the result, and the end of the pickle.
pub(crate) fn read(bytes: &[u8], start: usize) -> Result<(Objects<'_>, Ref, usize), CheckpointError> {
    let mut machine = Machine {
        input: Input::new(bytes, start),
        objects: Objects::new(bytes),
        stack: Stack::default(),
        memo: HashMap::new(),
    };
    loop {
        let opcode = machine.input.field(Cursor::u8)?;
        if opcode == b'.' {
            let result = machine.stack.pop()?;
            return Ok((machine.objects, result, machine.input.at()));
        }
        machine.step(opcode)?;
    }
}

struct Machine<'a> {
    input: Input<'a>,
    objects: Objects<'a>,
    stack: Stack,
    memo: HashMap<u32, Ref>,
}

impl<'a> Machine<'a> {
    fn step(&mut self, opcode: u8) -> Result<(), CheckpointError> {
        if let Some(value) = self.leaf(opcode)? {
            return self.push_new(value);
        }
        match opcode {
            // PROTO, FRAME: their arguments are skipped.
            0x80 => self.input.field(Cursor::u8).map(drop),
            0x95 => self.input.field(Cursor::u64).map(drop),
            // MARK, POP, POP_MARK, DUP
            b'(' => {
                self.objects.charge(size_of::<usize>())?;
                self.stack.mark();
                Ok(())
            }
            b'0' => self.stack.pop().map(drop),
            b'1' => self.stack.pop_mark().map(drop),
            b'2' => {
                let top = self.stack.top()?;
                self.push(top)
            }
            // BINPUT, LONG_BINPUT, MEMOIZE
            b'q' => {
                let key = self.input.field(Cursor::u8)?;
                self.memoize(key.into())
            }
            b'r' => {
                let key = self.input.field(Cursor::u32)?;
                self.memoize(key)
            }
            0x94 => self.memoize(self.memo.len() as u32),
            // BINGET, LONG_BINGET
            b'h' => {
                let key = self.input.field(Cursor::u8)?;
                self.recall(key.into())
            }
            b'j' => {
                let key = self.input.field(Cursor::u32)?;
                self.recall(key)
            }
            _ => self.collect(opcode),
        }
    }

    /// Returns the value of an opcode that pushes one: numbers, text, empty containers. `None` for other opcodes.
    fn leaf(&mut self, opcode: u8) -> Result<Option<Value>, CheckpointError> {
        Ok(Some(match opcode {
            // NONE, NEWTRUE, NEWFALSE, EMPTY_SET
            b'N' | 0x88 | 0x89 | 0x8f => Value::Opaque,
            // BINFLOAT
            b'G' => self.input.field(Cursor::u64).map(|_| Value::Opaque)?,
            // BININT, BININT1, BININT2, LONG1, LONG4
            b'J' => Value::Int(i64::from(self.input.field(Cursor::u32)? as i32)),
            b'K' => Value::Int(self.input.field(Cursor::u8)?.into()),
            b'M' => Value::Int(self.input.field(Cursor::u16)?.into()),
            0x8a => {
                let length = self.input.field(Cursor::u8)?.into();
                self.input.long(length)?
            }
            0x8b => {
                let length = self.input.field(Cursor::u32)? as usize;
                self.input.long(length)?
            }
            // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8; Python 2's SHORT_BINSTRING and BINSTRING
            0x8c | b'U' => {
                let length = self.input.field(Cursor::u8)?.into();
                Value::Text(self.input.skip(length)?)
            }
            b'X' | b'T' => {
                let length = self.input.field(Cursor::u32)?.into();
                Value::Text(self.input.skip(length)?)
            }
            0x8d => {
                let length = self.input.field(Cursor::u64)?;
                Value::Text(self.input.skip(length)?)
            }
            // SHORT_BINBYTES, BINBYTES, BINBYTES8, BYTEARRAY8
            b'C' => {
                let length = self.input.field(Cursor::u8)?.into();
                self.input.skip(length).map(|_| Value::Opaque)?
            }
            b'B' => {
                let length = self.input.field(Cursor::u32)?.into();
                self.input.skip(length).map(|_| Value::Opaque)?
            }
            0x8e | 0x96 => {
                let length = self.input.field(Cursor::u64)?;
                self.input.skip(length).map(|_| Value::Opaque)?
            }
            // EMPTY_LIST, EMPTY_TUPLE, EMPTY_DICT
            b']' | b')' => Value::Sequence(Vec::new()),
            b'}' => Value::Dict(Vec::new()),
            _ => return Ok(None),
        }))
    }

    /// Runs the opcodes that move values from the stack into a container.
    fn collect(&mut self, opcode: u8) -> Result<(), CheckpointError> {
        match opcode {
            // TUPLE, LIST
            b't' | b'l' => {
                let elements = self.stack.pop_mark()?;
                self.push_new(Value::Sequence(elements))
            }
            // TUPLE1, TUPLE2, TUPLE3
            0x85..=0x87 => {
                let elements = self.stack.pop_many(usize::from(opcode - 0x84))?;
                self.push_new(Value::Sequence(elements))
            }
            // DICT
            b'd' => {
                let entries = pairs(&self.stack.pop_mark()?);
                self.push_new(Value::Dict(entries))
            }
            // APPEND, APPENDS
            b'a' => {
                let element = self.stack.pop()?;
                self.append(&[element])
            }
            b'e' => {
                let elements = self.stack.pop_mark()?;
                self.append(&elements)
            }
            // SETITEM, SETITEMS
            b's' => {
                let entry = self.stack.pop_many(2)?;
                self.set_items(&entry)
            }
            b'u' => {
                let entries = self.stack.pop_mark()?;
                self.set_items(&entries)
            }
            // ADDITEMS, FROZENSET
            0x90 => self.stack.pop_mark().map(drop),
            0x91 => {
                self.stack.pop_mark()?;
                self.push_new(Value::Opaque)
            }
            _ => self.call(opcode),
        }
    }

    /// Runs the opcodes that name a function or class, or call it.
    fn call(&mut self, opcode: u8) -> Result<(), CheckpointError> {
        match opcode {
            // GLOBAL, and protocol 0's INST
            b'c' | b'i' => {
                let (module, name) = (self.input.line()?, self.input.line()?);
                let global = known(&module, &name)?;
                if opcode == b'i' {
                    return Err(self.unknown_opcode(opcode));
                }
                self.push_new(Value::Global(global))
            }
            // STACK_GLOBAL
            0x93 => {
                let names = self.stack.pop_many(2)?;
                match (self.objects.text(names[0]), self.objects.text(names[1])) {
                    (Some(module), Some(name)) => self.push_new(Value::Global(known(module, name)?)),
                    _ => Err(malformed("it names a function by a value that is not text")),
                }
            }
            // REDUCE, NEWOBJ, and NEWOBJ_EX with its keyword arguments
            b'R' | 0x81 | 0x92 => {
                let parts = self.stack.pop_many(if opcode == 0x92 { 3 } else { 2 })?;
                self.reduce(parts[0], parts[1])
            }
            // BUILD
            b'b' => {
                let state = self.stack.pop()?;
                let built = self.stack.top()?;
                if matches!(self.objects.get(built), Value::EmptyTensor)
                    && let Some(tensor) = rebuild::build(&self.objects, state)?
                {
                    self.objects.charge(size_of::<Value>() * 8)?;
                    *self.objects.get_mut(built) = tensor;
                }
                Ok(())
            }
            // BINPERSID
            b'Q' => {
                let id = self.stack.pop()?;
                let storage = rebuild::storage(&self.objects, id)?;
                self.push_new(storage)
            }
            _ => Err(self.unknown_opcode(opcode)),
        }
    }

    fn reduce(&mut self, function: Ref, arguments: Ref) -> Result<(), CheckpointError> {
        let Value::Global(function) = *self.objects.get(function) else {
            return Err(malformed("it calls a value that is not a function"));
        };
        let Some(arguments) = self.objects.sequence(arguments).map(<[Ref]>::to_vec) else {
            return Err(malformed("it calls a function with arguments that are not a tuple"));
        };
        // Counted, because a pickle may recall the same long tuple any number of times.
        self.objects.charge(size_of_val(&arguments[..]))?;
        let value = rebuild::call(&mut self.objects, function, &arguments)?;
        self.push_new(value)
    }

    fn append(&mut self, elements: &[Ref]) -> Result<(), CheckpointError> {
        self.objects.charge(size_of_val(elements))?;
        let list = self.stack.top()?;
        match self.objects.get_mut(list) {
            Value::Sequence(list) => list.extend_from_slice(elements),
            // A subclass of list, which is opaque.
            Value::Opaque => {}
            _ => return Err(malformed("it appends to a value that is not a list")),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Ref]) -> Result<(), CheckpointError> {
        self.objects.charge(size_of_val(items))?;
        let dict = self.stack.top()?;
        match self.objects.get_mut(dict) {
            Value::Dict(entries) => entries.extend(pairs(items)),
            Value::Opaque => {}
            _ => return Err(malformed("it sets an entry of a value that is not a dictionary")),
        }
        Ok(())
    }

    fn memoize(&mut self, key: u32) -> Result<(), CheckpointError> {
        self.objects.charge(2 * size_of::<(u32, Ref)>())?;
        let top = self.stack.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<(), CheckpointError> {
        match self.memo.get(&key) {
            Some(&value) => self.push(value),
            None => Err(malformed("it recalls a value that it has not stored")),
        }
    }

    fn push_new(&mut self, value: Value) -> Result<(), CheckpointError> {
        let value = self.objects.add(value)?;
        self.push(value)
    }

    fn push(&mut self, value: Ref) -> Result<(), CheckpointError> {
        self.objects.charge(size_of::<Ref>())?;
        self.stack.push(value);
        Ok(())
    }

    fn unknown_opcode(&self, opcode: u8) -> CheckpointError {
        malformed(&format!(
            "it has opcode {opcode:#04x} at byte {}, which protocols 2 to 5 of torch.save do not use",
            self.input.at().saturating_sub(1)
        ))
    }
}

fn known(module: &str, name: &str) -> Result<Global, CheckpointError> {
    global(module, name).ok_or_else(|| CheckpointError::Global {
        name: format!("{}.{}", excerpt(module), excerpt(name)),
    })
}

/// Pairs keys with values. An odd last element, a key without a value, is dropped.
fn pairs(elements: &[Ref]) -> Vec<(Ref, Ref)> {
    elements
        .as_chunks()
        .0
        .iter()
        .map(|[key, value]| (*key, *value))
        .collect()
}
