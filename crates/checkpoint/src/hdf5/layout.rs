//! The message that says where a dataset's elements are (section IV.A.2.i).

use super::super::cursor::Cursor;
use super::error::{Result, damaged, unsupported};
use super::image::defined;
use super::object_header::{Message, unsigned};

/// Where a dataset's elements are.
pub(super) enum Layout {
    /// In one range. `None` if it was never written.
    Contiguous {
        address: Option<u64>,
        bytes: u64,
    },
    Chunked(ChunkedLayout),
}

/// In blocks of one shape.
pub(super) struct ChunkedLayout {
    pub sizes: Vec<usize>,
    /// The last of the stored sizes, which is the bytes of an element.
    pub item: usize,
    pub index: Index,
    /// The address of the index; `None` if nothing was ever written.
    pub address: Option<u64>,
    /// Blocks that reach over an edge are not compressed.
    pub edges_are_plain: bool,
}

/// How the blocks are found (section VII).
pub(super) enum Index {
    BtreeV1,
    /// One block; if it is compressed, its bytes and the mask of filters that were not applied.
    Single(Option<(u64, u32)>),
    /// One after the other.
    Implicit,
    FixedArray,
}

impl Layout {
    pub fn parse(message: &Message) -> Result<Self> {
        let mut cursor = Cursor::new(&message.body, 0);
        let layout = match cursor.array() {
            Some([3 | 4, 0]) => compact(cursor, message.address),
            Some([3 | 4, 1]) => contiguous(cursor),
            Some([3, 2]) => chunked_v3(cursor),
            Some([4, 2]) => return chunked_v4(cursor),
            Some([4, 3]) => return Err(unsupported("is a view of other datasets")),
            Some([version, _]) => return Err(unsupported(format!("has a layout of version {version}"))),
            None => None,
        };
        layout.ok_or_else(|| damaged("a dataset's layout is cut off"))
    }
}

/// The elements follow in the message.
fn compact(mut cursor: Cursor<'_>, message_address: u64) -> Option<Layout> {
    let bytes = cursor.u16()?.into();
    let address = message_address + cursor.at() as u64;
    let _elements = cursor.take(bytes)?;
    Some(Layout::Contiguous {
        address: Some(address),
        bytes: bytes as u64,
    })
}

fn contiguous(mut cursor: Cursor<'_>) -> Option<Layout> {
    Some(Layout::Contiguous {
        address: defined(cursor.u64()?),
        bytes: cursor.u64()?,
    })
}

fn chunked_v3(mut cursor: Cursor<'_>) -> Option<Layout> {
    let [rank] = cursor.array()?;
    let address = defined(cursor.u64()?);
    let mut sizes: Vec<usize> = (0..rank).map(|_| Some(cursor.u32()? as usize)).collect::<Option<_>>()?;
    Some(Layout::Chunked(ChunkedLayout {
        item: sizes.pop()?,
        sizes,
        index: Index::BtreeV1,
        address,
        edges_are_plain: false,
    }))
}

fn chunked_v4(mut cursor: Cursor<'_>) -> Result<Layout> {
    let cut_off = || damaged("a dataset's layout is cut off");
    let [flags, rank, width] = cursor.array().ok_or_else(cut_off)?;
    let width = usize::from(width).min(8);
    let sizes = (0..rank).map(|_| usize::try_from(unsigned(cursor.take(width)?)).ok());
    let mut sizes: Vec<usize> = sizes.collect::<Option<_>>().ok_or_else(cut_off)?;
    let item = sizes.pop().ok_or_else(cut_off)?;
    let [index] = cursor.array().ok_or_else(cut_off)?;
    let index = match index {
        1 if flags & 2 != 0 => match (cursor.u64(), cursor.u32()) {
            (Some(bytes), Some(mask)) => Index::Single(Some((bytes, mask))),
            _ => return Err(cut_off()),
        },
        1 => Index::Single(None),
        2 => Index::Implicit,
        3 => {
            let _page_bits = cursor.take(1);
            Index::FixedArray
        }
        _ => return Err(unsupported("can grow and was written with libver=\"latest\"")),
    };
    Ok(Layout::Chunked(ChunkedLayout {
        sizes,
        item,
        index,
        address: defined(cursor.u64().ok_or_else(cut_off)?),
        edges_are_plain: flags & 1 != 0,
    }))
}
