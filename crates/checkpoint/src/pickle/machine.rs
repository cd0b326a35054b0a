//! The pickle machine. The opcodes are those of Python's `pickletools`, protocols 2 to 5.

use std::collections::HashMap;

use super::globals::global;
use super::input::Input;
use super::objects::{Objects, Ref};
use super::stack::Stack;
use super::value::{Object, Value};
use super::{array, leaf, malformed, rebuild};
use crate::error::CheckpointError;

/// Reads the next pickle. Returns all its values, and the one that is the result.
pub(crate) fn read(input: &mut Input<'_>) -> Result<(Objects, Ref), CheckpointError> {
    let mut machine = Machine {
        input,
        objects: Objects::new(),
        stack: Stack::default(),
        memo: HashMap::new(),
    };
    loop {
        let opcode = machine.input.u8()?;
        if opcode == b'.' {
            let result = machine.stack.pop()?;
            return Ok((machine.objects, result));
        }
        machine.step(opcode)?;
    }
}

struct Machine<'a, 'b> {
    input: &'a mut Input<'b>,
    objects: Objects,
    stack: Stack,
    memo: HashMap<u32, Ref>,
}

impl Machine<'_, '_> {
    fn step(&mut self, opcode: u8) -> Result<(), CheckpointError> {
        if let Some(value) = leaf::value(self.input, &mut self.objects, opcode)? {
            return self.push_new(value);
        }
        match opcode {
            // PROTO, FRAME: their arguments are skipped.
            0x80 => self.input.u8().map(drop),
            0x95 => self.input.u64().map(drop),
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
                let key = self.input.u8()?;
                self.memoize(key.into())
            }
            b'r' => {
                let key = self.input.u32()?;
                self.memoize(key)
            }
            0x94 => self.memoize(self.memo.len() as u32),
            // BINGET, LONG_BINGET
            b'h' => {
                let key = self.input.u8()?;
                self.recall(key.into())
            }
            b'j' => {
                let key = self.input.u32()?;
                self.recall(key)
            }
            _ => self.collect(opcode),
        }
    }

    /// Runs the opcodes that move values from the stack into a container.
    fn collect(&mut self, opcode: u8) -> Result<(), CheckpointError> {
        match opcode {
            // TUPLE, LIST, FROZENSET
            b't' | b'l' | 0x91 => {
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
            // APPEND; APPENDS, ADDITEMS
            b'a' => {
                let element = self.stack.pop()?;
                self.append(&[element])
            }
            b'e' | 0x90 => {
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
            _ => self.call(opcode),
        }
    }

    /// Runs the opcodes that name a function or class, or call it.
    fn call(&mut self, opcode: u8) -> Result<(), CheckpointError> {
        match opcode {
            // GLOBAL, and protocol 0's INST, which calls it with the values above the mark
            b'c' | b'i' => {
                let (module, name) = (self.input.line()?, self.input.line()?);
                self.push_global(&module, &name)?;
                if opcode == b'i' {
                    let function = self.stack.pop()?;
                    let arguments = self.stack.pop_mark()?;
                    self.push_new(Value::Sequence(arguments))?;
                    let arguments = self.stack.pop()?;
                    self.reduce(function, arguments, true)?;
                }
                Ok(())
            }
            // STACK_GLOBAL
            0x93 => {
                let names = self.stack.pop_many(2)?;
                match (self.objects.text(names[0]), self.objects.text(names[1])) {
                    (Some(module), Some(name)) => {
                        let (module, name) = (module.to_owned(), name.to_owned());
                        self.push_global(&module, &name)
                    }
                    _ => Err(malformed("it names a function by a value that is not text")),
                }
            }
            // REDUCE, NEWOBJ, and NEWOBJ_EX with its keyword arguments
            b'R' | 0x81 | 0x92 => {
                let parts = self.stack.pop_many(if opcode == 0x92 { 3 } else { 2 })?;
                self.reduce(parts[0], parts[1], opcode == b'R')
            }
            // BUILD
            b'b' => {
                let state = self.stack.pop()?;
                let built = self.stack.top()?;
                self.build(built, state)
            }
            // BINPERSID
            b'Q' => {
                let id = self.stack.pop()?;
                let value = rebuild::persistent(&self.objects, id);
                self.push_new(value)
            }
            _ => Err(self.unknown_opcode(opcode)),
        }
    }

    fn push_global(&mut self, module: &str, name: &str) -> Result<(), CheckpointError> {
        let value = match global(module, name) {
            Some(global) => Value::Global(global),
            None => self.objects.name(module, name)?,
        };
        self.push_new(value)
    }

    /// Pushes what a supported function returns; what any other makes is kept as data.
    fn reduce(&mut self, function: Ref, arguments: Ref, is_called: bool) -> Result<(), CheckpointError> {
        let value = match self.objects.get(function) {
            Value::Global(global) => {
                let global = *global;
                let Some(arguments) = self.objects.sequence(arguments).map(<[Ref]>::to_vec) else {
                    return Err(malformed("it calls a function with arguments that are not a tuple"));
                };
                // Counted, because a pickle may recall the same long tuple any number of times.
                self.objects.charge(size_of_val(&arguments[..]))?;
                rebuild::call(&mut self.objects, global, &arguments)?
            }
            Value::Name(_) | Value::Object(_) | Value::Opaque => Value::Object(Box::new(Object {
                class: function,
                is_called,
                state: None,
                entries: Vec::new(),
            })),
            _ => return Err(malformed("it calls a value that is not a function")),
        };
        self.push_new(value)
    }

    /// Gives an object its state.
    fn build(&mut self, built: Ref, state: Ref) -> Result<(), CheckpointError> {
        let complete = match self.objects.get_mut(built) {
            Value::Object(object) => {
                object.state = Some(state);
                return Ok(());
            }
            Value::EmptyTensor => rebuild::build(&self.objects, state),
            Value::EmptyArray => Some(array::build(&self.objects, state)),
            Value::ArrayType(dtype, _) => {
                let dtype = *dtype;
                Some(array::build_type(&self.objects, dtype, state))
            }
            // An attribute of an OrderedDict, for example the versions of a state dict's modules.
            _ => None,
        };
        if let Some(complete) = complete {
            self.objects.charge(size_of::<Value>() * 8)?;
            *self.objects.get_mut(built) = complete;
        }
        Ok(())
    }

    fn append(&mut self, elements: &[Ref]) -> Result<(), CheckpointError> {
        self.objects.charge(size_of_val(elements))?;
        let list = self.stack.top()?;
        match self.objects.get_mut(list) {
            Value::Sequence(list) => list.extend_from_slice(elements),
            // A subclass of list.
            Value::Object(_) | Value::Opaque => {}
            _ => return Err(malformed("it appends to a value that is not a list")),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Ref]) -> Result<(), CheckpointError> {
        self.objects.charge(size_of_val(items))?;
        let dict = self.stack.top()?;
        match self.objects.get_mut(dict) {
            Value::Dict(entries) => entries.extend(pairs(items)),
            Value::Object(object) => object.entries.extend(pairs(items)),
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
        if self.stack.is_at_its_highest() {
            self.objects.charge(size_of::<Ref>())?;
        }
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

/// Pairs keys with values. An odd last element, a key without a value, is dropped.
fn pairs(elements: &[Ref]) -> Vec<(Ref, Ref)> {
    elements
        .as_chunks()
        .0
        .iter()
        .map(|[key, value]| (*key, *value))
        .collect()
}
