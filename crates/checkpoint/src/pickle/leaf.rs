//! The opcodes that push a new value: numbers, text and empty containers.

use super::input::Input;
use super::objects::Objects;
use super::value::{TextKind, Value};
use crate::error::CheckpointError;

/// Returns the value of an opcode that pushes one: numbers, text, empty containers. `None` for other opcodes.
pub(super) fn value(
    input: &mut Input<'_>,
    objects: &mut Objects,
    opcode: u8,
) -> Result<Option<Value>, CheckpointError> {
    Ok(Some(match opcode {
        // NONE, NEWTRUE, NEWFALSE
        b'N' => Value::None,
        0x88 => Value::Bool(true),
        0x89 => Value::Bool(false),
        // BINFLOAT, which is big-endian
        b'G' => Value::Float(f64::from_bits(input.u64()?.swap_bytes())),
        // BININT, BININT1, BININT2, LONG1, LONG4
        b'J' => Value::Int(i64::from(input.u32()? as i32)),
        b'K' => Value::Int(input.u8()?.into()),
        b'M' => Value::Int(input.u16()?.into()),
        0x8a => {
            let length = input.u8()?.into();
            input.long(length)?
        }
        0x8b => {
            let length = input.u32()?.into();
            input.long(length)?
        }
        // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8
        0x8c => {
            let length = input.u8()?.into();
            objects.read_text(input, length, TextKind::Unicode)?
        }
        b'X' => {
            let length = input.u32()?.into();
            objects.read_text(input, length, TextKind::Unicode)?
        }
        0x8d => {
            let length = input.u64()?;
            objects.read_text(input, length, TextKind::Unicode)?
        }
        // SHORT_BINBYTES, BINBYTES; Python 2's SHORT_BINSTRING and BINSTRING; BINBYTES8, BYTEARRAY8
        b'C' | b'U' => {
            let length = input.u8()?.into();
            objects.read_text(input, length, TextKind::Bytes)?
        }
        b'B' | b'T' => {
            let length = input.u32()?.into();
            objects.read_text(input, length, TextKind::Bytes)?
        }
        0x8e | 0x96 => {
            let length = input.u64()?;
            objects.read_text(input, length, TextKind::Bytes)?
        }
        // EMPTY_LIST, EMPTY_TUPLE, EMPTY_SET, EMPTY_DICT
        b']' | b')' | 0x8f => Value::Sequence(Vec::new()),
        b'}' => Value::Dict(Vec::new()),
        _ => return Ok(None),
    }))
}
