//! Attributes of text: their messages (section IV.A.2.m), and those that are stored densely (section IV.A.2.v).

use super::super::cursor::Cursor;
use super::btree_v2::Btree;
use super::dataspace;
use super::datatype::{Class, Datatype};
use super::error::{Hdf5Error, Result, damaged, unsupported};
use super::fractal_heap::FractalHeap;
use super::image::{Image, defined};
use super::object_header::{ObjectHeader, kind};

/// Limit of the bytes that are read of a text's name.
const NAME_BYTES_MAX: usize = 512;

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    Text(String),
    /// A list, or another array in row-major order.
    Texts(Vec<String>),
}

/// Returns an object's attributes of text by name. Others, such as numbers, are left out.
pub(super) fn attributes(image: &Image<'_>, header: &ObjectHeader) -> Result<Vec<(String, Attribute)>> {
    let mut attributes = Vec::new();
    for message in header.messages.iter().filter(|message| message.kind == kind::ATTRIBUTE) {
        if message.is_shared {
            return Err(unsupported("has attributes in a table of shared messages"));
        }
        attributes.extend(parse(image, &message.body)?);
    }
    let info = header.body(kind::ATTRIBUTE_INFO).map(|info| dense(info));
    let info = info.map(|info| info.ok_or_else(|| damaged("an object's information is cut off")));
    if let Some((Some(objects), Some(index))) = info.transpose()? {
        let objects = FractalHeap::open(image, objects)?;
        Btree::open(image, index)?.for_each(image, |record| {
            let id = record.get(..8).unwrap_or_default();
            attributes.extend(parse(image, &objects.object(image, id)?)?);
            Ok(())
        })?;
    }
    Ok(attributes)
}

/// Returns the addresses of the heap of attributes and of its index by name.
fn dense(info: &[u8]) -> Option<(Option<u64>, Option<u64>)> {
    let mut cursor = Cursor::new(info, 0);
    let [_version, flags] = cursor.array()?;
    let _creation_index = cursor.take(if flags & 1 != 0 { 2 } else { 0 })?;
    Some((defined(cursor.u64()?), defined(cursor.u64()?)))
}

/// The parts of a message.
struct Parts<'a> {
    name: &'a [u8],
    datatype: &'a [u8],
    datatype_is_committed: bool,
    dataspace: &'a [u8],
    value: &'a [u8],
}

fn parse(image: &Image<'_>, body: &[u8]) -> Result<Option<(String, Attribute)>> {
    let parts = parts(body).ok_or_else(|| damaged("an attribute is cut off"))?;
    let name = parts.name.split(|byte| *byte == 0).next().unwrap_or_default();
    if name.len() > NAME_BYTES_MAX {
        return Ok(None);
    }
    let datatype = if parts.datatype_is_committed {
        Datatype::committed(image, parts.datatype)
    } else {
        Datatype::parse(parts.datatype)
    };
    let sizes = dataspace::sizes(parts.dataspace);
    let (datatype, sizes) = match (datatype, sizes) {
        // An attribute of an unknown kind is not text.
        (Err(Hdf5Error::Unsupported(_)), _) | (_, Err(Hdf5Error::Unsupported(_)) | Ok(None)) => return Ok(None),
        (datatype, sizes) => (datatype?, sizes?.unwrap_or_default()),
    };
    if !matches!(datatype.class, Class::FixedText | Class::VariableText) {
        return Ok(None);
    }
    let item = (datatype.bytes as usize).max(1);
    let count = sizes.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
    let bytes = count.and_then(|count| count.checked_mul(item));
    let elements = bytes.and_then(|bytes| parts.value.get(..bytes));
    let elements = elements.ok_or_else(|| damaged("an attribute's text is cut off"))?;
    let mut texts = Vec::new();
    for element in elements.chunks_exact(item) {
        texts.push(text(image, datatype.class, element)?);
    }
    image.keep(name.len() + size_of::<(String, Attribute)>())?;
    let name = String::from_utf8_lossy(name).into_owned();
    let attribute = match (sizes.is_empty(), texts.pop()) {
        (true, Some(text)) => Attribute::Text(text),
        (_, last) => {
            texts.extend(last);
            Attribute::Texts(texts)
        }
    };
    Ok(Some((name, attribute)))
}

fn text(image: &Image<'_>, class: Class, element: &[u8]) -> Result<String> {
    let bytes = match class {
        Class::VariableText => image.heap.text(image, element)?,
        _ => bytes::Bytes::copy_from_slice(element),
    };
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    image.keep(2 * end + size_of::<String>())?;
    Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
}

fn parts(body: &[u8]) -> Option<Parts<'_>> {
    let mut cursor = Cursor::new(body, 0);
    let [version, flags] = cursor.array()?;
    let lengths = [cursor.u16()?, cursor.u16()?, cursor.u16()?];
    let _character_set = cursor.take(if version >= 3 { 1 } else { 0 })?;
    let [name, datatype, dataspace] = lengths.map(usize::from).map(|length| {
        // Version 1 pads each part.
        let padded = if version == 1 {
            length.next_multiple_of(8)
        } else {
            length
        };
        cursor.take(padded)
    });
    let value = cursor.at();
    Some(Parts {
        name: name?,
        datatype: datatype?,
        datatype_is_committed: version >= 2 && flags & 1 != 0,
        dataspace: dataspace?,
        value: body.get(value..)?,
    })
}
