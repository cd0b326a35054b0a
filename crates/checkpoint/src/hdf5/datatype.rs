//! The message that says the type of a dataset's or an attribute's elements (section IV.A.2.d).

use safetensors::Dtype;

use super::super::cursor::Cursor;
use super::error::{Result, damaged};
use super::image::Image;
use super::object_header::{Message, ObjectHeader, kind};

/// A type of elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Datatype {
    pub class: Class,
    /// The bytes of an element.
    pub bytes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Numbers, little-endian.
    Number(Dtype),
    BigEndian,
    /// Text of a fixed length, padded with zeros or spaces.
    FixedText,
    /// Text in the global heap.
    VariableText,
    /// Two bytes without meaning, as which h5py stores NumPy's extension type bfloat16.
    Opaque2,
    /// Anything else, by a name for error messages.
    Other(&'static str),
}

impl Datatype {
    /// Reads a message, or the committed type to which it points (section IV.A.2, "shared").
    pub fn of_message(image: &Image<'_>, message: &Message) -> Result<Self> {
        if message.is_shared {
            Self::committed(image, &message.body)
        } else {
            Self::parse(&message.body)
        }
    }

    /// Reads the type that is stored under its own header.
    pub fn committed(image: &Image<'_>, reference: &[u8]) -> Result<Self> {
        let address = committed_address(reference).ok_or_else(|| damaged("a committed type is cut off"))?;
        let header = ObjectHeader::read(image, address)?;
        let body = header.body(kind::DATATYPE);
        Self::parse(body.ok_or_else(|| damaged("a committed type has no type"))?)
    }

    pub fn parse(body: &[u8]) -> Result<Self> {
        let mut cursor = Cursor::new(body, 0);
        let (Some([class, bits, ..]), Some(bytes)) = (cursor.array::<4>(), cursor.u32()) else {
            return Err(damaged("a type is cut off"));
        };
        let class = match class & 0x0f {
            0 if bits & 1 != 0 && bytes > 1 => Class::BigEndian,
            0 => integer(bits & 8 != 0, bytes, cursor),
            1 if bits & 0x41 != 0 => Class::BigEndian,
            1 => float(bytes, cursor),
            3 => Class::FixedText,
            5 if bytes == 2 => Class::Opaque2,
            5 => Class::Other("opaque bytes"),
            6 => Class::Other("records"),
            7 => Class::Other("references"),
            8 => Class::Other("an enumeration"),
            9 if bits & 0x0f == 1 && bytes == 16 => Class::VariableText,
            9 => Class::Other("lists of variable length"),
            10 => Class::Other("arrays"),
            _ => Class::Other("a type that is not known"),
        };
        Ok(Self { class, bytes })
    }
}

/// Returns the address of a committed type's header, unless the reference is into a table of shared messages.
fn committed_address(reference: &[u8]) -> Option<u64> {
    let mut cursor = Cursor::new(reference, 0);
    match cursor.array()? {
        [1, _] => {
            let _reserved = cursor.take(6)?;
        }
        [2, _] | [3, 2] => {}
        _ => return None,
    }
    cursor.u64()
}

fn integer(is_signed: bool, bytes: u32, mut properties: Cursor<'_>) -> Class {
    let whole = (Some(0), Some(bytes.saturating_mul(8)));
    if (properties.u16(), properties.u16().map(u32::from)) != whole {
        return Class::Other("integers with unused bits");
    }
    Class::Number(match (is_signed, bytes) {
        (true, 1) => Dtype::I8,
        (true, 2) => Dtype::I16,
        (true, 4) => Dtype::I32,
        (true, 8) => Dtype::I64,
        (false, 1) => Dtype::U8,
        (false, 2) => Dtype::U16,
        (false, 4) => Dtype::U32,
        (false, 8) => Dtype::U64,
        _ => return Class::Other("integers of an unusual width"),
    })
}

fn float(bytes: u32, mut properties: Cursor<'_>) -> Class {
    // The bits' offset and number, then position and width of the exponent and of the mantissa.
    let _offset = properties.u16();
    let (precision, parts) = (properties.u16(), properties.array::<4>());
    Class::Number(match (bytes, precision, parts) {
        (2, Some(16), Some([10, 5, 0, 10])) => Dtype::F16,
        (2, Some(16), Some([7, 8, 0, 7])) => Dtype::BF16,
        (4, Some(32), Some([23, 8, 0, 23])) => Dtype::F32,
        (8, Some(64), Some([52, 11, 0, 52])) => Dtype::F64,
        _ => return Class::Other("floating-point numbers of an unusual format"),
    })
}
