//! Object headers, which are lists of messages (section IV.A.1).

use bytes::Bytes;

use super::super::cursor::Cursor;
use super::error::{Result, damaged, unsupported};
use super::image::Image;

/// Limit of the blocks of one header.
const BLOCKS_MAX: usize = 256;
/// Limit of the bytes of all blocks of one header.
const BYTES_MAX: u64 = 4 << 20;
/// Limit of the messages of one header. Version 1 has one for each attribute.
const MESSAGES_MAX: usize = 8192;

/// The kinds of messages that are read (section IV.A.2).
pub(super) mod kind {
    pub const DATASPACE: u16 = 0x01;
    pub const LINK_INFO: u16 = 0x02;
    pub const DATATYPE: u16 = 0x03;
    pub const LINK: u16 = 0x06;
    pub const EXTERNAL_FILES: u16 = 0x07;
    pub const LAYOUT: u16 = 0x08;
    pub const FILTERS: u16 = 0x0b;
    pub const ATTRIBUTE: u16 = 0x0c;
    pub const CONTINUATION: u16 = 0x10;
    pub const SYMBOL_TABLE: u16 = 0x11;
    pub const ATTRIBUTE_INFO: u16 = 0x15;
}

/// One message of a header.
pub(super) struct Message {
    pub kind: u16,
    /// The body is elsewhere: it is the address of another header, or in the file's table of shared messages.
    pub is_shared: bool,
    /// The address of the body.
    pub address: u64,
    pub body: Bytes,
}

/// The messages of an object, without those that are not read.
pub(super) struct ObjectHeader {
    pub messages: Vec<Message>,
}

impl ObjectHeader {
    pub fn read(image: &Image<'_>, address: u64) -> Result<Self> {
        let start = image.read_up_to(address, 4)?;
        let version_2 = start.starts_with(b"OHDR");
        let mut blocks = if version_2 {
            Blocks::version_2(image, address)?
        } else {
            Blocks::version_1(image, address)?
        };
        let mut messages = Vec::new();
        let (mut index, mut bytes) = (0, 0u64);
        while let Some(&block) = blocks.found.get(index) {
            index += 1;
            bytes = bytes.saturating_add(block.bytes);
            if index > BLOCKS_MAX || bytes > BYTES_MAX {
                return Err(unsupported("has an object with too long a header"));
            }
            blocks.read(image, block, &mut messages)?;
        }
        Ok(Self { messages })
    }

    /// Returns the first message of this kind.
    pub fn find(&self, kind: u16) -> Option<&Message> {
        self.messages.iter().find(|message| message.kind == kind)
    }

    /// Returns the body of the first message of this kind, if the body is in the header itself.
    pub fn body(&self, kind: u16) -> Option<&Bytes> {
        let message = self.find(kind)?;
        (!message.is_shared).then_some(&message.body)
    }
}

/// A range of the file that holds messages.
#[derive(Clone, Copy)]
struct Block {
    address: u64,
    bytes: u64,
}

struct Blocks {
    found: Vec<Block>,
    /// `None` in version 1; in version 2, whether messages have a creation order.
    is_ordered: Option<bool>,
}

impl Blocks {
    /// Reads the prefix of section IV.A.1.a.
    fn version_1(image: &Image<'_>, address: u64) -> Result<Self> {
        let prefix = image.read_up_to(address, 12)?;
        let mut cursor = Cursor::new(&prefix, 0);
        let first = cursor.take(8);
        match (first, cursor.u32()) {
            (Some([1, ..]), Some(bytes)) => Ok(Self {
                // The prefix is padded to a multiple of 8 bytes.
                found: vec![Block {
                    address: address + 16,
                    bytes: bytes.into(),
                }],
                is_ordered: None,
            }),
            _ => Err(damaged("an object's header is not where a link says")),
        }
    }

    /// Reads the prefix of section IV.A.1.b.
    fn version_2(image: &Image<'_>, address: u64) -> Result<Self> {
        let prefix = image.read_up_to(address, 34)?;
        let fields = version_2_fields(&prefix);
        let (flags, bytes, prefix_bytes) = fields.ok_or_else(|| damaged("an object's header is cut off"))?;
        Ok(Self {
            found: vec![Block {
                address: address + prefix_bytes as u64,
                bytes,
            }],
            is_ordered: Some(flags & 0x04 != 0),
        })
    }

    /// Reads the messages of a block, and notes the blocks that continue it.
    fn read(&mut self, image: &Image<'_>, block: Block, messages: &mut Vec<Message>) -> Result<()> {
        let bytes = image.read(block.address, block.bytes)?;
        let mut cursor = Cursor::new(&bytes, 0);
        while let Some((kind, length, flags)) = self.message_start(&mut cursor) {
            let at = cursor.at();
            if cursor.take(length).is_none() {
                return Err(damaged("a message is longer than its header"));
            }
            let message = Message {
                kind,
                is_shared: flags & 2 != 0,
                address: block.address + at as u64,
                body: bytes.slice(at..at + length),
            };
            match kind {
                kind::CONTINUATION => self.continuation(image, &message.body)?,
                kind::DATASPACE
                | kind::LINK_INFO
                | kind::DATATYPE
                | kind::LINK
                | kind::EXTERNAL_FILES
                | kind::LAYOUT
                | kind::FILTERS
                | kind::ATTRIBUTE
                | kind::SYMBOL_TABLE
                | kind::ATTRIBUTE_INFO => messages.push(message),
                _ => {}
            }
            if messages.len() > MESSAGES_MAX {
                return Err(unsupported("has an object with too many attributes"));
            }
        }
        Ok(())
    }

    /// Returns the kind, the length and the flags of the next message, or `None` in the gap at the end.
    fn message_start(&self, cursor: &mut Cursor<'_>) -> Option<(u16, usize, u8)> {
        let Some(is_ordered) = self.is_ordered else {
            let (kind, length, [flags, ..]) = (cursor.u16()?, cursor.u16()?, cursor.array::<4>()?);
            return Some((kind, length.into(), flags));
        };
        let ([kind], length, [flags]) = (cursor.array()?, cursor.u16()?, cursor.array()?);
        let _order = cursor.take(if is_ordered { 2 } else { 0 })?;
        Some((kind.into(), length.into(), flags))
    }

    fn continuation(&mut self, image: &Image<'_>, body: &[u8]) -> Result<()> {
        let mut cursor = Cursor::new(body, 0);
        let (Some(mut address), Some(mut bytes)) = (cursor.u64(), cursor.u64()) else {
            return Err(damaged("a header's continuation is cut off"));
        };
        if self.is_ordered.is_some() {
            // A signature before the messages, and a checksum after them.
            if image.read_up_to(address, 4)?[..] != *b"OCHK" || bytes < 8 {
                return Err(damaged("a header's continuation is not where the header says"));
            }
            (address, bytes) = (address + 4, bytes - 8);
        }
        self.found.push(Block { address, bytes });
        Ok(())
    }
}

/// Returns the flags, the length of the first block, and that of the prefix.
fn version_2_fields(prefix: &[u8]) -> Option<(u8, u64, usize)> {
    let mut cursor = Cursor::new(prefix, 4);
    let [version, flags] = cursor.array()?;
    (version == 2).then_some(())?;
    let _times = cursor.take(if flags & 0x20 != 0 { 16 } else { 0 })?;
    let _phase_change = cursor.take(if flags & 0x10 != 0 { 4 } else { 0 })?;
    let bytes = unsigned(cursor.take(1 << (flags & 3))?);
    Some((flags, bytes, cursor.at()))
}

/// Returns the little-endian number of at most 8 bytes.
pub(super) fn unsigned(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}
