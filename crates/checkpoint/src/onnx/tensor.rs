//! A tensor of the file: its shape, and where its elements are.

use crate::CheckpointError;
use crate::entry::{NAME_BYTES_MAX, RANK_MAX};

use super::model::ints;
use super::wire::{Range, Value, Wire};

/// A tensor: its shape, and where its elements are.
#[derive(Clone, Debug, Default)]
pub(super) struct Tensor {
    pub name: String,
    pub dims: Vec<i64>,
    /// The number of `TensorProto.DataType`.
    pub data_type: i64,
    pub raw: Option<Range>,
    /// Elements in a field of their type.
    pub typed: Option<Typed>,
    /// The file beside this one that holds the elements.
    pub external: Option<String>,
    pub is_external: bool,
}

/// Elements in one of a tensor's typed fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Typed {
    pub field: u64,
    /// Packed, unless the elements stand one by one or in several pieces.
    pub packed: Option<Range>,
}

impl Tensor {
    /// Reads the fields of another message of the same tensor.
    pub fn merge(&mut self, wire: &mut Wire<'_>, tensor: Value) -> Result<(), CheckpointError> {
        let mut fields = tensor.range()?.fields();
        while let Some((number, value)) = wire.next(&mut fields)? {
            match number {
                1 => ints(wire, value, RANK_MAX, &mut self.dims)?,
                2 => self.data_type = value.int()?,
                8 => self.name = wire.text(value, NAME_BYTES_MAX)?,
                9 => self.raw = Some(value.range()?),
                4 | 5 | 7 | 10 | 11 => {
                    let packed = match (self.typed, value) {
                        (None, Value::Bytes(range)) => Some(range),
                        _ => None,
                    };
                    self.typed = Some(Typed { field: number, packed });
                }
                13 => self.locate(wire, value)?,
                14 => self.is_external |= value.int()? == 1,
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads an entry of `external_data`, of which the file's name counts.
    fn locate(&mut self, wire: &mut Wire<'_>, entry: Value) -> Result<(), CheckpointError> {
        self.is_external = true;
        let mut fields = entry.range()?.fields();
        let (mut key, mut text) = (String::new(), String::new());
        while let Some((number, value)) = wire.next(&mut fields)? {
            match number {
                1 => key = wire.text(value, NAME_BYTES_MAX)?,
                2 => text = wire.text(value, NAME_BYTES_MAX)?,
                _ => {}
            }
        }
        if key == "location" {
            self.external = Some(text);
        }
        Ok(())
    }
}
